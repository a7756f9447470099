"""The `rnnx` command: parse, call one library function, print.

`command` is the group; each other file is one command, or what several share: `module` (which module is meant), `given` (modules,
weights and examples in words), `values` (files of values), `progress`. Nothing here imports torch before a command needs it.
"""

from rnnx._cli.command import main

__all__ = ["main"]
