"""What the figures were measured on."""

import contextlib
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """A machine, and what is installed there.

    Attributes:
        processor: its name.
        cores: that this process may use.
        core: the one that everything but `threads` was timed on; None where the thread was free to move.
        versions: of Python and of the packages that took part.
    """

    processor: str
    cores: int
    core: int | None
    versions: dict[str, str]


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def this_machine(cores: int, core: int | None, packages: Sequence[str]) -> Machine:
    versions = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return Machine(_processor(), cores, core, versions)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model", "Hardware")))
    return next(named, "") or platform.processor() or platform.machine()
