"""`python -m rnnx`: the command, where its folder is not on the search path."""

from rnnx._cli import main

main(prog_name="rnnx")
