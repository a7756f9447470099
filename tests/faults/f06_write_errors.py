"""F6: the disk is full, broken or not there, at every call that could fail, and what is to be written is no place for a file.

What was there stays whole, the command says in one line which file could not be written and what to do, its exit code says so too,
and nothing is left beside.
"""

import errno
import itertools
import os
import random
import re
import resource
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.faults.harness import Fault, Kind, Outcome, Tally
from tests.faults.writing import GOLDEN, Branch, Ended, Job, branches, make_jobs
from tests.faults.writing import run as run_job

from rnnx._companions import strangers
from rnnx_runtime.artifact import open_artifact

CALLS: Final = ("open", "write", "fsync", "replace", "mkdir", "chmod")
ERRORS: Final = ("ENOSPC", "EIO", "EDQUOT")
SIZES: Final = (0, 1, 100)  # bytes that a file may have at most, beside those drawn up to what is written
SAID: Final = re.compile(r"Error: [^:]+: [^;]+; .+")  # the file, what is wrong, what to do


def run(count: int, seed: int) -> Tally:
    """Every call fails once with each error; files may have so many bytes, `count` times for each command; and every place."""
    tally, chance = Tally(), random.Random(seed)
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        jobs = make_jobs(Path(folder))
        for job in jobs:
            most = max(map(len, job.new.values()))
            sizes = [*SIZES, *(chance.randrange(most) for _ in range(count)), most]
            for name, ended in branches(job, partial(_failing, job, sizes)):
                kind, said = _judged(job, ended)
                tally.add(f"{job.name}, {name}", Outcome(kind, said, ended.seconds, 0))
        tried = 0
        for job in (one for one in jobs if one.name in ("adopt", "train")):  # the others take seconds each, to the same call
            for place, (prepare, wanted) in PLACES.items():
                with tempfile.TemporaryDirectory() as room, _prepared(prepare, Path(room)) as target:
                    if target is not None:
                        tally.add(f"{job.name}, to {place}", _placed(job, Path(room), target), [wanted])
                        tried += 1
        os.chdir(before)
    tally.figures["kinds of places"] = f"{tried // 2} of {len(PLACES)}"
    return tally


def _failing(job: Job, sizes: list[int], branch: Branch) -> list[tuple[str, Ended]]:
    """Where the command is about to write: each call fails once, until all have passed; then files may have only so many bytes."""
    found = []
    mark = job.folder.parent / "failed"
    for error, call in itertools.product(ERRORS, CALLS):
        for number in itertools.count(1):
            mark.unlink(missing_ok=True)
            ended = branch(partial(_fail, mark, call, number, getattr(errno, error)))
            if not mark.exists():
                break
            found.append((f"{call} {number} fails with {error}", ended))
    return found + [(f"at most {size} bytes", branch(partial(_limit, size))) for size in sizes]


def _fail(mark: Path, call: str, number: int, error: int) -> None:
    """Let the n-th call fail; a write after some of its bytes."""
    real = getattr(os, call)
    left = number

    def failing(*given: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            mark.touch()
            if call == "write":
                real(given[0], bytes(given[1])[: len(given[1]) // 2])
            raise OSError(error, os.strerror(error))
        return real(*given, **options)

    setattr(os, call, failing)


def _limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _judged(job: Job, ended: Ended) -> tuple[Kind, str]:
    kind, said = _told(ended)
    if kind == "correct" and ended.files != job.new:
        return "wrong", f"it says that all is well, and leaves {sorted(ended.files)}"
    if kind == "error" and not set(ended.files) <= {*job.old, *job.versions}:
        return "wrong", f"it leaves {sorted(ended.files)} behind"
    if kind == "error" and not job.is_whole(ended.files):
        return "wrong", "a file is neither the old one nor the new one"
    if kind == "error" and job.name != "train" and ended.files != job.old:  # a training writes more than once
        job.put(ended.files)
        artifact = job.folder / job.target
        if not strangers(artifact, open_artifact(artifact)):
            return "wrong", "files of two makings are not told apart"
    return kind, said


def _told(ended: Ended) -> tuple[Kind, str]:
    """What a command said of itself."""
    lines = [line for line in ended.said if not line.startswith("emb_rnn: epoch ")]
    said = " | ".join(lines)
    if ended.code is None:
        return "hang", said
    if ended.code < 0:
        return "signal", f"{ended.code} {said}"
    if ended.code == 0:
        return "correct", ""
    if "Traceback" in said:
        return "foreign", said[-300:]
    one_line = ended.code == 1 and len(lines) == 1 and SAID.fullmatch(lines[0])
    return ("error", lines[0]) if one_line else ("wrong", f"{ended.code}: {said}")


Prepare = Callable[[Path], str | None]


@contextmanager
def _prepared(prepare: Prepare, room: Path) -> Iterator[str | None]:
    """The path to write to; None where this system or its user cannot make such a place."""
    try:
        yield prepare(room)
    finally:
        if (room / "disk").is_mount():
            subprocess.run(["umount", room / "disk"], check=True)


def _placed(job: Job, room: Path, target: str) -> Outcome:
    """Write there: what is refused changes nothing, and else what stands there is what a run elsewhere leaves."""
    before = _seen(room)
    ended = run_job(job, [*job.arguments[:-1], target])
    kind, said = _told(ended)
    after = _seen(room)
    parts = {what for path, what in after.items() if path not in before}
    if kind == "error" and after != before and not (job.name == "train" and parts <= _versions(job)):
        return Outcome("wrong", f"{sorted(set(after) ^ set(before))} changed", ended.seconds, 0)
    if kind == "correct":
        written = Path(target).resolve()
        links = {path: what for path, what in before.items() if what[0] == stat.S_IFLNK}
        others = {path for path in after if path not in before and Path(path) != written and after[path][0] == stat.S_IFREG}
        if written.read_bytes() != job.new[job.target] or not links.items() <= after.items() or others:
            return Outcome("wrong", f"{written} is not what is written elsewhere, or {others} stand beside", ended.seconds, 0)
    return Outcome(kind, said, ended.seconds, 0)


def _versions(job: Job) -> set[tuple[int, Any]]:
    """What a training may have written before its next writing failed."""
    return {(stat.S_IFREG, data) for data in job.versions[job.target]}


def _seen(room: Path) -> dict[str, tuple[int, Any]]:
    """All that is in a folder: kind and content, links as what they say."""
    found = {}
    for path in room.rglob("*"):
        kind = stat.S_IFMT(path.lstat().st_mode)
        readers: dict[int, Callable[[], Any]] = {stat.S_IFREG: path.read_bytes, stat.S_IFLNK: path.readlink}
        found[str(path)] = kind, readers[kind]() if kind in readers else None
    return found


def _a_folder(room: Path) -> str:
    (room / "net.onnx").mkdir()
    return str(room / "net.onnx")


def _a_link(room: Path) -> str:
    (room / "there").mkdir()
    shutil.copy(GOLDEN / "lstm.onnx", room / "there" / "real.onnx")
    (room / "net.onnx").symlink_to("there/real.onnx")
    return str(room / "net.onnx")


def _a_link_to_nothing(room: Path) -> str:
    (room / "net.onnx").symlink_to("real.onnx")
    return str(room / "net.onnx")


def _a_circle(room: Path) -> str:
    (room / "a.onnx").symlink_to("b.onnx")
    (room / "b.onnx").symlink_to("a.onnx")
    return str(room / "a.onnx")


def _a_pipe(room: Path) -> str:
    os.mkfifo(room / "net.onnx")
    return str(room / "net.onnx")


def _a_full_device(room: Path) -> str:
    (room / "net.onnx").symlink_to("/dev/full")
    return str(room / "net.onnx")


def _through_a_file(room: Path) -> str:
    (room / "file").touch()
    return str(room / "file" / "net.onnx")


def _a_long_name(room: Path) -> str:
    return str(room / f"{'n' * 300}.onnx")


def _a_name_in_no_encoding(room: Path) -> str:
    return os.fsdecode(os.fsencode(room) + b"/\xff\xfe.onnx")


def _no_disk(room: Path) -> str | None:
    return "/proc/net.onnx" if Path("/proc/self").exists() else None


def _a_full_disk(room: Path) -> str | None:
    return _disk(room, "size=4k")


def _a_disk_to_read(room: Path) -> str | None:
    return _disk(room, "ro")


def _disk(room: Path, options: str) -> str | None:
    (room / "disk").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", room / "disk"]
    mounted = shutil.which("mount") and not subprocess.run(command, capture_output=True, check=False).returncode
    return str(room / "disk" / "net.onnx") if mounted else None


PLACES: Final[dict[str, tuple[Prepare, Kind]]] = {
    "a folder": (_a_folder, "error"),
    "a link": (_a_link, "correct"),
    "a link to nothing": (_a_link_to_nothing, "correct"),
    "a link to itself": (_a_circle, "error"),
    "a pipe": (_a_pipe, "error"),
    "a full device": (_a_full_device, "error"),
    "a path through a file": (_through_a_file, "error"),
    "a name that is too long": (_a_long_name, "error"),
    "a name in no encoding": (_a_name_in_no_encoding, "correct"),
    "what is no disk": (_no_disk, "error"),
    "a full disk": (_a_full_disk, "error"),
    "a disk that is only read": (_a_disk_to_read, "error"),
}
FAULT: Final = Fault(
    "F6",
    "write errors",
    "After each the old file is whole or the new one is; the command names the file and the remedy in one line and ends with 1; nothing "
    "is left beside.",
    full=60,
    reduced=4,
    run=run,
)
