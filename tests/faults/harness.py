"""One fault at a time: in a child process, with limits on its memory and its time; and what became of it.

The process that makes the children has imported ONNX Runtime and opened no session, so that a child costs some milliseconds and has
no threads to miss. Each family of faults therefore has a process of its own; see `__main__`.
"""

import faulthandler
import json
import os
import resource
import select
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NoReturn

from rnnx_runtime import RnnxError

Kind = Literal["error", "correct", "foreign", "wrong", "signal", "hang"]

# One of our own errors; the right answer; an exception that is not ours; a wrong answer, given as if right; a crash; no end in time.
KINDS: Final[tuple[Kind, ...]] = ("error", "correct", "foreign", "wrong", "signal", "hang")
WELL: Final[tuple[Kind, ...]] = ("error", "correct")

_WIDTH: Final = 20  # digits
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class WrongAnswerError(Exception):
    """An answer that is not the reference's."""


@dataclass(frozen=True)
class Outcome:
    """What became of one case.

    Attributes:
        said: the error's type and text; the signal's name; nothing where all was right.
        seconds: from the start of the case to its end, without what the child took to begin.
        peak: bytes of memory that it had at most, above what it began with.
    """

    kind: Kind
    said: str
    seconds: float
    peak: int


@dataclass(frozen=True)
class Limits:
    """What a case may take.

    Attributes:
        seconds: of time, before it counts as hanging.
        memory: bytes of address space, above what the child begins with; None for no limit.
    """

    seconds: float = 20
    memory: int | None = 2 << 30


@dataclass
class Tally:
    """What became of the cases of one family.

    Attributes:
        broken: a line for each case, and each bar, that was not met.
        figures: what else was measured, in words.
    """

    counts: Counter[Kind] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    peak: int = 0
    broken: list[str] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, outcome: Outcome, wanted: Collection[Kind] = WELL) -> None:
        """Count a case; it is broken where it became none of what was wanted."""
        self.counts[outcome.kind] += 1
        self.seconds.append(outcome.seconds)
        self.peak = max(self.peak, outcome.peak)
        if outcome.kind not in wanted:
            self.broken.append(f"{name}: {outcome.kind}: {outcome.said}")

    def require(self, met: bool, bar: str) -> None:
        """A bar of the whole family."""
        if not met:
            self.broken.append(bar)


@dataclass(frozen=True)
class Fault:
    """A family of faults.

    Attributes:
        key: of the list in docs/faults.md: F1 to F20.
        full, reduced: how many cases `make faults` and `make test` run; `run` is given one of them, and a seed.
    """

    key: str
    name: str
    bar: str
    full: int
    reduced: int
    run: Callable[[int, int], Tally]


def attempt(case: Callable[[], object], limits: Limits = Limits()) -> Outcome:
    """Run a case in a child process. It is correct where it returns; it raises `WrongAnswerError` where an answer is."""
    reading, writing = os.pipe()
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _run(case, limits, writing)
    os.close(writing)
    said = None
    try:
        began = int(
            os.read(reading, _WIDTH)
        )  # of the child: it has less than its parent, whose files it need not have in memory
        said = _read(reading, limits.seconds)
    finally:
        os.close(reading)
        if said is None:
            os.kill(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
    peak = max(0, usage.ru_maxrss * 1024 - began)
    seconds = time.perf_counter() - started
    if said is None:
        return Outcome("hang", f"no end in {limits.seconds} s", seconds, peak)
    if os.WIFSIGNALED(status):
        return Outcome("signal", f"{signal.Signals(os.WTERMSIG(status)).name} {said}".strip(), seconds, peak)
    try:
        kind, text, seconds = json.loads(said.splitlines()[-1])
    except (ValueError, IndexError):
        return Outcome("signal", f"the process ended by itself, with {os.WEXITSTATUS(status)}: {said}", seconds, peak)
    return Outcome(kind, text, seconds, peak)


def _run(case: Callable[[], object], limits: Limits, writing: int) -> NoReturn:
    """The child: what it says goes to `writing`, as does what a library says before it ends the process."""
    os.write(writing, f"{_memory():{_WIDTH}}".encode())
    os.dup2(writing, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    faulthandler.disable()  # pytest's
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limits.memory is not None:
        room = _address_space() + limits.memory
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
    started = time.perf_counter()
    kind, said = classify(case)
    seconds = time.perf_counter() - started
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.write(writing, b"\n" + json.dumps([kind, said[:400], seconds]).encode())
    os._exit(0)


def classify(case: Callable[[], object]) -> tuple[Kind, str]:
    """What became of a case that is run here, and what it said."""
    try:
        case()
    except RnnxError as error:
        return "error", f"{type(error).__name__}: {error}"
    except WrongAnswerError as error:
        return "wrong", str(error)
    except BaseException as error:
        return "foreign", f"{type(error).__name__}: {error}"
    return "correct", ""


def _read(reading: int, seconds: float) -> str | None:
    """What comes until the end; None where no end comes in time."""
    end, data = time.monotonic() + seconds, b""
    while (left := end - time.monotonic()) > 0:
        if select.select([reading], [], [], left)[0]:
            piece = os.read(reading, 1 << 16)
            if not piece:
                return data.decode(errors="replace").strip()
            data += piece
    return None


def _memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE


def percentile(values: list[float], percent: float) -> float:
    """The value that so many percent of the values do not exceed; 0 where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0
