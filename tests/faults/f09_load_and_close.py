"""F9: models that are loaded, run and closed, over and over: what a server does that changes its model, or a test suite."""

import json
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Final

import onnxruntime  # noqa: F401  # here and not in each child
from tests.faults.harness import Fault, Limits, Tally, WrongAnswerError, attempt
from tests.faults.networks import KINDS, Network, values
from tests.faults.process import files, memory, settled, threads

from rnnx_runtime import load

HIDDEN: Final = 256  # a megabyte of weights: one that is kept shows
WARM: Final = 50  # rounds
ROUNDS: Final = 15  # that memory is the median of: it depends on what the last of them freed, and where
GROWTH: Final = 0.05  # of the memory, from `WARM` on
LIMITS: Final = Limits(seconds=300)


def run(count: int, seed: int) -> Tally:
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        for closed in (True, False):
            for kind in KINDS[1:]:
                path, told = Path(folder) / f"{kind}.onnx", Path(folder) / "figures.json"
                path.write_bytes(Network(kind, HIDDEN, seed=seed).artifact())
                name = f"{kind} {'closed' if closed else 'dropped'}"
                tally.add(name, attempt(partial(_rounds, count, path, closed, told), LIMITS), ["correct"])
                if told.exists():
                    tally.figures[name] = json.loads(told.read_text())
    return tally


def _rounds(count: int, path: Path, closed: bool, told: Path) -> None:
    sizes, system = [], []
    for number in range(count):
        _once(path, closed, number)
        sizes.append(memory())
        if number + 1 in (WARM, count):
            system.append((settled(threads, 1), files()))
    before, after = (statistics.median(part) for part in (sizes[WARM - ROUNDS : WARM], sizes[-ROUNDS:]))
    told.write_text(json.dumps(f"{before / 2**20:.1f} → {after / 2**20:.1f} MB"))
    if after > (1 + GROWTH) * before:
        raise WrongAnswerError(f"memory grows from {before / 2**20:.1f} to {after / 2**20:.1f} MB in {count - WARM} rounds")
    if system[0] != system[-1]:
        raise WrongAnswerError(f"threads and open files were {system[0]}, and are {system[-1]} after {count - WARM} rounds")


def _once(path: Path, closed: bool, number: int) -> None:
    model = load(path, threads=1 + number % 2)
    xs = values(2, 4, number)
    stream = model.stream(2)
    stream.step(xs[:, 0])
    stream.feed(xs)
    stream.feed(xs)
    with model.pool() as pool:
        pool.step({"a": xs[0, 0], "b": xs[1, 0]})
        pool.submit("a", xs[0, 1]).result(60)
    if closed:
        model.close()


FAULT: Final = Fault(
    "F9",
    "load, run, close",
    "The memory after all rounds is at most 5 % above that after 50; threads and open files are as many.",
    full=400,
    reduced=80,
    run=run,
)
