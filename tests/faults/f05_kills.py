"""F5: a process that is killed while it trains, exports, adopts or quantises, and two that write to one path at once.

Each command is killed at every call that changes the disk, the first, the second, ... until it gets through, and at random moments,
of its whole run and of its writing. What is there then is whole and passes its test; files of two makings are told apart; and the
next run ends where an undisturbed one does, with nothing left beside.
"""

import itertools
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.faults.harness import Fault, Limits, Outcome, Tally, WrongAnswerError, attempt
from tests.faults.writing import TEMPORARY, Branch, Ended, Job, branches, make_jobs
from tests.faults.writing import run as run_job

from rnnx._companions import strangers
from rnnx_models.checkpoint import CheckpointError, load_checkpoint
from rnnx_runtime import RnnxError, selftest
from rnnx_runtime.artifact import open_artifact, write_together

CALLS: Final = ("open", "write", "chmod", "fsync", "replace", "unlink")
WHOLE_RUNS: Final = 10  # one in so many random kills is of a run from its beginning
RIVALS: Final = 3
TURNS: Final = 12


def run(count: int, seed: int) -> Tally:
    """`count` random kills, beside those at every call."""
    tally, chance = Tally(), random.Random(seed)
    figures: dict[str, int] = {"at a call": 0, "at random": 0, "temporaries removed": 0, "of two makings, told apart": 0}
    with tempfile.TemporaryDirectory() as folder, _working_in(folder):
        jobs = make_jobs(Path(folder))
        for number, job in enumerate(jobs):
            here = [chance.random() for _ in range(count // len(jobs) + (number < count % len(jobs)))]
            whole = here[: len(here) // WHOLE_RUNS + 1]
            for found, name in branches(job, partial(_killed, job, here[len(whole) :])):
                _count(tally, figures, job, name, found)
            for share in whole:
                killed = run_job(job, job.arguments, kill_after=share * job.seconds)
                _count(
                    tally,
                    figures,
                    job,
                    "from the beginning",
                    (killed, run_job(job, job.again(killed.files), before=killed.files)),
                )
        for _ in range(1 + count // 20):
            tally.add("rivals", attempt(partial(_rivals, Path(folder)), Limits(memory=None)), ["correct"])
    tally.figures = {name: str(number) for name, number in figures.items()}
    return tally


def _killed(job: Job, shares: list[float], branch: Branch) -> list[tuple[tuple[Ended, Ended | None], str]]:
    """Where the command is about to write: killed at each call, and at these shares of the time that it takes from there on."""
    found = []
    for number in itertools.count(1):
        killed = branch(partial(_kill_at, number))
        found.append(((killed, _again(job, branch, killed)), f"call {number}"))
        if killed.code == 0:
            break
    undisturbed = branch()
    for share in shares:
        killed = branch(kill_after=share * undisturbed.seconds)
        found.append(((killed, _again(job, branch, killed)), "while writing"))
    return found


def _again(job: Job, branch: Branch, killed: Ended) -> Ended | None:
    """The next run; None where its arguments are others, and it begins anew."""
    return branch(before=killed.files) if job.again(killed.files) == job.arguments else None


def _kill_at(number: int) -> None:
    """End the process by the n-th call that changes the disk; a write is broken off in its middle."""
    left = number

    def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                if name == "write":
                    real(given[0], bytes(given[1])[: len(given[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given, **options)

        return call

    for name in CALLS:
        setattr(os, name, wrapped(name, getattr(os, name)))


def _count(tally: Tally, figures: dict[str, int], job: Job, name: str, found: tuple[Ended, Ended | None]) -> None:
    killed, after = found
    if after is None:
        after = run_job(job, job.again(killed.files), before=killed.files)
    figures["at a call" if name.startswith("call") else "at random"] += killed.code == -signal.SIGKILL
    figures["temporaries removed"] += sum(one.startswith(TEMPORARY) for one in killed.files)
    wrong = _what_is_wrong(job, killed, after, figures)
    tally.add(f"{job.name}, {name}", Outcome("wrong" if wrong else "correct", wrong, killed.seconds, 0), ["correct"])


def _what_is_wrong(job: Job, killed: Ended, after: Ended, figures: dict[str, int]) -> str:
    if killed.code not in (0, -signal.SIGKILL):
        return f"it ended with {killed.code}: {killed.said}"
    if not job.is_whole(killed.files):
        return "a file is neither the old one nor the new one"
    job.put(killed.files)
    if error := _unusable(job.folder / job.target):
        return f"what is left cannot be used: {error}"
    if job.name == "export" and (of_two := _of_two_makings(job, killed.files)) is not None:
        figures["of two makings, told apart"] += of_two
        if of_two != bool(strangers(job.folder / job.target, open_artifact(job.folder / job.target))):
            return f"files of {'two makings' if of_two else 'one making'} are taken for others: {sorted(killed.files)}"
    if after.code != 0 or after.files != job.new:
        return f"the next run ends with {after.code} and leaves {sorted(after.files)}: {after.said[-1:]}"
    return ""


def _of_two_makings(job: Job, files: dict[str, bytes]) -> bool:
    kept = {name: data for name, data in files.items() if not name.startswith(TEMPORARY)}
    return kept not in (job.old, job.new)


def _unusable(path: Path) -> str:
    """Why a file cannot be used; empty where it can."""
    try:
        if path.suffix == ".onnx":
            tested = selftest(path)
            return "" if tested.passed else str(tested)
        load_checkpoint(path)
    except (RnnxError, CheckpointError) as error:
        return str(error)
    return ""


def _rivals(folder: Path) -> None:
    """Several processes write two files that belong together, again and again, and this one reads: never but whole files."""
    paths = folder / "rivals" / "one", folder / "rivals" / "two"
    sizes = (300_000, 70_000)

    def contents(rival: int, turn: int) -> tuple[bytes, ...]:
        return tuple(bytes([rival, turn]) * size for size in sizes)

    children = []
    for rival in range(RIVALS):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for turn in range(TURNS):
                    write_together(dict(zip(paths, contents(rival, turn), strict=True)))
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    codes = []
    while children:
        ended, status = os.waitpid(children[0], os.WNOHANG)
        if ended:
            codes.append(status)
            children.pop(0)
        for path, size in zip(paths, sizes, strict=True):
            data = path.read_bytes() if path.exists() else b"\0\0" * size
            if data != data[:2] * size:
                raise WrongAnswerError(f"{path.name} is of two writers")
        time.sleep(0.001)
    if any(codes) or sorted(path.name for path in paths[0].parent.iterdir()) != ["one", "two"]:
        raise WrongAnswerError(f"the writers ended with {codes} and left {sorted(paths[0].parent.iterdir())}")


@contextmanager
def _working_in(folder: str) -> Iterator[None]:
    before = Path.cwd()
    try:
        yield
    finally:
        os.chdir(before)


FAULT: Final = Fault(
    "F5",
    "kill -9 while writing",
    "After every kill there is the old file or the new one, whole; it passes its test; the next run ends as an undisturbed one, and "
    "leaves nothing beside.",
    full=200,
    reduced=20,
    run=run,
)
