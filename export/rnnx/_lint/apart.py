"""A process of its own for trials: a plan, and a model or its path, on standard input; what the runs showed on standard output."""

import os
import sys
from typing import Final

import msgspec

from rnnx._lint.trials import Plan, run_here

_MEMORY: Final = 16 << 30  # bytes of address space


def main() -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    plan = msgspec.json.decode(sys.stdin.buffer.readline(), type=Plan)
    content = sys.stdin.buffer.read()
    trials = run_here(content if sys.argv[1] == "bytes" else os.fsdecode(content), plan)
    sys.stdout.buffer.write(msgspec.msgpack.encode(trials))  # JSON has no infinity


if __name__ == "__main__":
    main()
