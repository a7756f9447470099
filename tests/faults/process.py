"""What this process has of the system's: memory, threads, open files. On Linux."""

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def memory() -> int:
    """Bytes in memory, without what only waits to be collected."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def settled(count: Callable[[], int], wanted: int, seconds: float = 5) -> int:
    """A count, once it is no more than that, or after so long: a thread that has nothing to do takes a moment to end."""
    end = time.monotonic() + seconds
    while (found := count()) > wanted and time.monotonic() < end:
        time.sleep(0.01)
    return found
