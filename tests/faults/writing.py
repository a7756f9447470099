"""The commands that write what somebody keeps, for F5 and F6: each is run up to where it writes, and from there once with every fault.

The process that runs them has imported torch and opened no session; a command runs in a child of it, and stops where it is about to
write for the first time. There it forks for each fault: a child with the fault goes on to the end of the command.
"""

import os
import pickle
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NoReturn

import onnx
import torch

import rnnx_models.train
from rnnx import _companions
from rnnx._cli import main
from rnnx._lower import lower
from rnnx._readings import lift
from rnnx_runtime import _files

for _late in "onnxruntime rnnx._adopt.adoption rnnx._quantize.quantisation rnnx_models._command rnnx_models.emb_rnn".split():
    import_module(_late)  # what would be imported in each child

GOLDEN: Final = Path(__file__).parent.parent / "golden"
WRITE: Final = _files.write_together
TEMPORARY: Final = ".tmp-rnnx-"
SECONDS: Final = 60.0  # before a command counts as hanging
NET: Final = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(3, 4, batch_first=True)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.rnn(x)[0])

def make(seed=0):
    torch.manual_seed(seed)
    return Net(), (torch.zeros(2, 5, 3),)
"""

Files = dict[str, bytes]
Fault = Callable[[], None]


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, negative for a signal, None where it hung; and the files that it left."""

    code: int | None
    said: list[str]
    files: Files
    seconds: float


@dataclass
class Job:
    """A command that writes into a folder of its own.

    Attributes:
        target: the name of the file that stands for all that it writes.
        old: what is there before, by name.
        new: what a run without a fault leaves.
        versions: all that a run without a fault, or the one before, ever has at a name.
        again: the arguments of the run after one that was killed, for what that left.
        seconds: that a run without a fault takes.
    """

    name: str
    arguments: list[str]
    folder: Path
    target: str
    again: Callable[[Files], list[str]]
    old: Files = field(default_factory=dict)
    new: Files = field(default_factory=dict)
    versions: dict[str, set[bytes]] = field(default_factory=dict)
    seconds: float = 0.0

    def put(self, files: Files | None = None) -> None:
        """Have these files in the folder, and nothing else; the old ones by default."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for name, data in (self.old if files is None else files).items():
            (self.folder / name).write_bytes(data)

    def files(self) -> Files:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}

    def is_whole(self, files: Files) -> bool:
        """Whether each file is one that was there, or is written."""
        return all(data in self.versions[name] for name, data in files.items() if not name.startswith(TEMPORARY))


Branch = Callable[..., Ended]


def make_jobs(folder: Path) -> list[Job]:
    """The commands, each with an old version of what it writes."""
    torch.set_num_threads(1)  # a child has no other threads
    rnnx_models.train._SAVE_EVERY = -1.0  # after each step
    os.chdir(folder)
    Path("net.py").write_text(NET)
    lower(lift(torch.nn.RNN(1, 1), torch.zeros(3, 2, 1), None, None), 18)  # torch imports what it needs for it
    plain = onnx.load(GOLDEN / "lstm.onnx")
    del plain.metadata_props[:]
    onnx.save(plain, "plain.onnx")
    weights = next(one for one in plain.graph.initializer if one.data_type == onnx.TensorProto.FLOAT)
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) * 0.5, weights.name))
    onnx.save(plain, "other.onnx")
    train = ["train", "--model", "emb_rnn", "--epochs", "3", "-o", "train/net.safetensors"]
    commands: dict[str, tuple[list[str], list[str], str]] = {
        "export": (
            ["export", "--module", "net.py:make", "--quick", "-o", "export/net.onnx"],
            ["export", "--module", "net.py:make", "--arg", "seed=1", "--quick", "-o", "export/net.onnx"],
            "net.onnx",
        ),
        "adopt": (
            ["adopt", "plain.onnx", "-o", "adopt/net.onnx"],
            ["adopt", "other.onnx", "-o", "adopt/net.onnx"],
            "net.onnx",
        ),
        "quantize": (
            ["quantize", str(GOLDEN / "gru.onnx"), "-o", "quantize/net.onnx"],
            ["quantize", str(GOLDEN / "gru.onnx"), "--bits", "4", "--allow-loss", "-o", "quantize/net.onnx"],
            "net.onnx",
        ),
        "train": (train, [*train, "--seed", "1"], "net.safetensors"),
    }
    jobs = []
    for name, (arguments, before, target) in commands.items():
        again = _go_on if name == "train" else lambda files, arguments=arguments: arguments
        job = Job(name, arguments, folder / name, target, again)
        job.put()
        job.old = _without_fault(job, before)[0].files
        job.put()
        done, written = _without_fault(job, arguments)
        job.new, job.seconds = done.files, done.seconds
        for files in (*written, job.old, job.new):
            for one, data in files.items():
                job.versions.setdefault(one, set()).add(data)
        jobs.append(job)
    return jobs


def branches(job: Job, plan: Callable[[Branch], Any]) -> Any:
    """What a plan finds, which is called where the command is about to write.

    It is given a function that goes on from there in a child: `(fault, kill_after=seconds, before=files) -> Ended`, from what was
    there before, or from other files.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        job.put()
        _say_to(os.open(os.devnull, os.O_WRONLY))
        planned = False

        def write(files: Any) -> None:
            nonlocal planned
            if not planned:
                planned = True  # in the children too
                try:
                    found = plan(partial(_branch, job))
                except _GoOn as go_on:
                    go_on.fault()
                else:
                    with os.fdopen(writing, "wb") as pipe:
                        pickle.dump(found, pipe)
                    os._exit(0)
            WRITE(files)

        _hook(write)
        _end(job.arguments)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    assert data, f"{job.name} ended with {status}, and wrote nothing"
    return pickle.loads(data)


def run(job: Job, arguments: Sequence[str], kill_after: float | None = None, before: Files | None = None) -> Ended:
    """A command from its beginning."""
    job.put(before)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _say_to(writing)
        _end(arguments)
    os.close(writing)
    return _wait(job, child, reading, kill_after)


class _GoOn(BaseException):
    """In a child: to the end of the command, with a fault."""

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self.fault = fault


def _branch(job: Job, fault: Fault = lambda: None, kill_after: float | None = None, before: Files | None = None) -> Ended:
    job.put(before)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _say_to(writing)
        raise _GoOn(fault)
    os.close(writing)
    return _wait(job, child, reading, kill_after)


def _wait(job: Job, child: int, reading: int, kill_after: float | None) -> Ended:
    started = time.monotonic()
    limit = SECONDS if kill_after is None else kill_after
    said, open_ = b"", True
    while open_ and (left := started + limit - time.monotonic()) > 0:
        if select.select([reading], [], [], left)[0]:
            piece = os.read(reading, 1 << 16)
            said, open_ = said + piece, bool(piece)
    if open_:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    code = None if open_ and kill_after is None else os.waitstatus_to_exitcode(status)
    return Ended(code, said.decode(errors="replace").splitlines(), job.files(), time.monotonic() - started)


def _without_fault(job: Job, arguments: Sequence[str]) -> tuple[Ended, list[Files]]:
    """How a command ends, and all that it writes on the way."""
    notes = job.folder.parent / "notes"
    notes.unlink(missing_ok=True)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:

        def write(files: Any) -> None:
            with notes.open("ab") as file:
                pickle.dump({Path(path).name: data for path, data in files.items() if data is not None}, file)
            WRITE(files)

        _hook(write)
        _say_to(writing)
        _end(arguments)
    os.close(writing)
    ended = _wait(job, child, reading, None)
    assert ended.code == 0, ended.said
    written = []
    with notes.open("rb") as file:
        while file.peek(1):
            written.append(pickle.load(file))
    return ended, written


def _go_on(files: Files) -> list[str]:
    """The training after one that was killed: resumed, where there is something to resume."""
    train = ["train", "--model", "emb_rnn", "-o", "train/net.safetensors"]
    return [*train, "--resume"] if "net.safetensors.resume" in files else [*train, "--epochs", "3"]


def _hook(write: Callable[[Any], None]) -> None:
    _files.write_together = write  # what `write_atomic` calls
    _companions.write_together = write


def _say_to(writing: int) -> None:
    os.dup2(writing, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _end(arguments: Sequence[str]) -> NoReturn:
    """The command, to the end of the process."""
    code = 99
    try:
        main(list(arguments), prog_name="rnnx")
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stderr.flush()
        os._exit(code)
