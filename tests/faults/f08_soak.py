"""F8: ten thousand streams and ten million steps. Memory must not grow, and steps must not become slower.

On a machine that others use, two latencies taken minutes apart say little about each other. So a second process is forked off before
the first step, and does nothing until the end; then both step by turns, and all that differs between them is what lies behind them.
"""

import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import onnxruntime  # noqa: F401  # here and not in each child
from numpy.typing import NDArray
from tests.faults.harness import Fault, Limits, Tally, WrongAnswerError, attempt, percentile
from tests.faults.networks import Network, Reference, values
from tests.faults.process import memory

from rnnx_runtime import State, Stream, load

NETWORK: Final = Network("LSTM", 16)
FULL: Final = 10_000_000  # steps
STREAMS: Final = 10_000
FEW_STREAMS: Final = 1000
ROUNDS: Final = 25  # memory is measured behind each
WARM: Final = 5  # of these
GROWTH: Final = 0.02  # of the memory, along a straight line through the rounds after that
DRIFT: Final = 0.10  # of the 99th percentile
TURNS: Final = 41  # of either process
CALLS: Final = 500  # of a turn
TOGETHER: Final = 64  # streams of the pool that are stepped in one call
CHUNK: Final = 8
CLOSE: Final = 1e-5
WATCHED: Final = "watched"


def run(count: int, seed: int) -> Tally:
    tally, whole = Tally(), count == FULL
    streams = STREAMS if whole else FEW_STREAMS
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "figures.json"
        case = partial(_soak, count, streams, whole, seed, told)
        tally.add(f"{streams:,} streams, {count:,} steps", attempt(case, Limits(seconds=1200)), ["correct"])
        if told.exists():
            tally.figures = json.loads(told.read_text())
    return tally


def _soak(count: int, streams: int, timed: bool, seed: int, told: Path) -> None:
    here, there = Pipe()
    if timed and os.fork() == 0:
        here.close()
        _begin_late(streams, seed, there)
    there.close()
    with closing(here):
        world, sizes = World(streams, seed), []
        for _ in range(ROUNDS):
            world.advance(count // ROUNDS)
            world.check()
            sizes.append(memory())
        growth = _growth(sizes[WARM:])
        figures = {"memory": f"{sizes[-1] >> 20} MB, {growth:+.1%} along {count:,} steps of {streams:,} streams"}
        drifts = _drifts(world, here) if timed else {}
    told.write_text(json.dumps(figures | {f"p99 of {name}": f"{drift - 1:+.1%}" for name, drift in drifts.items()}))
    if abs(growth) > GROWTH:
        raise WrongAnswerError(f"memory changes by {growth:+.1%}: {[size >> 20 for size in sizes]} MB")
    for name, drift in drifts.items():
        if drift > 1 + DRIFT:
            raise WrongAnswerError(f"the 99th percentile of {name} is {drift:.2f} times that of a process that has just begun")


class World:
    """Streams of their own and streams of a pool, as many of either, and all that streams live through."""

    def __init__(self, streams: int, seed: int) -> None:
        self._chance = random.Random(seed)
        self._xs = values(1, 4096, seed)  # (1, T, F)
        self._model = load(NETWORK.artifact())
        self._streams = [self._model.stream() for _ in range(streams // 2)]
        self._pool = self._model.pool()
        self._taken = self._rounds = 0  # steps, of all streams; rounds
        self._watched, self._reference = self._model.stream(), Reference(NETWORK, np.float64, 1)
        for stream in self._streams:  # all that a stream ever keeps is made here
            for call in (stream.feed, stream.feed, lambda xs, stream=stream: stream.step(xs[:, 0])):
                call(self._some(CHUNK))
            self._taken += 2 * CHUNK + 1
        self._keys = list(range(streams // 2))
        self._step_in_pool(self._keys)

    def advance(self, steps: int) -> None:
        """So many more, half of them by streams of either kind."""
        for visit in (self._visit_stream, self._visit_pool):
            end = self._taken + steps // 2
            while self._taken < end:
                visit()

    def check(self) -> None:
        """Raises WrongAnswerError where a step was lost or done twice, or where a state is not its stream's own any more."""
        self._rounds += 1
        xs = values(1, 64, self._rounds)
        self._reference.feed(xs)
        self._watched.feed(xs)
        self._pool.feed({WATCHED: xs[0]})
        for found in (self._watched.state, self._pool.state(WATCHED)):
            if any(np.abs(found[name] - wanted).max() > CLOSE for name, wanted in self._reference.states.items()):
                raise WrongAnswerError("a state is not where the reference is")
        behind = sum(stream.position for stream in self._streams) + sum(self._pool.state(key).position for key in self._keys)
        if behind != self._taken:
            raise WrongAnswerError(f"{self._taken} steps were taken, {behind} lie behind the streams")

    def p99(self) -> dict[str, float]:
        """Seconds, of the calls of one turn."""
        x = self._some(1)[:, 0]
        firsts = range(0, len(self._keys) - TOGETHER, TOGETHER)
        sets = [dict.fromkeys(self._keys[first : first + TOGETHER], x[0]) for first in firsts]
        found: dict[str, float] = {}
        calls: dict[str, tuple[Callable[[Any], object], list[Any]]] = {
            "a step": (lambda stream: stream.step(x), self._streams),
            f"{TOGETHER} steps in the pool": (self._pool.step, sets),
        }
        for name, (call, targets) in calls.items():
            taken = []
            for target in self._chance.choices(targets, k=CALLS):
                started = time.perf_counter()
                call(target)
                taken.append(time.perf_counter() - started)
            found[name] = percentile(taken, 99)
        return found

    def _visit_stream(self) -> None:
        stream, way = self._chance.choice(self._streams), self._chance.random()
        if way < 0.8:
            xs = self._some(CHUNK)
            for step in range(CHUNK):
                stream.step(xs[:, step])
        elif way < 0.9:
            stream.feed(self._some(CHUNK))
        else:
            self._go_there_and_back(stream)
            stream.feed(self._some(CHUNK))
        self._taken += CHUNK

    def _go_there_and_back(self, stream: Stream) -> None:
        kept, twin = stream.state.to_bytes(), stream.fork()
        twin.step(self._some(1)[:, 0])
        stream.reset()
        stream.restore(State.from_bytes(kept))

    def _visit_pool(self) -> None:
        first, way = self._chance.randrange(len(self._keys) - TOGETHER), self._chance.random()
        keys = self._keys[first : first + TOGETHER]
        if way < 0.8:
            for _ in range(CHUNK):
                self._step_in_pool(keys)
        elif way < 0.85:
            self._step_in_pool(self._keys)
        elif way < 0.9:
            self._pool.feed({key: self._some(CHUNK)[0] for key in keys})
            self._taken += CHUNK * len(keys)
        elif way < 0.95:
            for answer in [self._pool.submit(key, self._some(1)[0, 0]) for key in keys]:
                answer.result(60)
            self._taken += len(keys)
        else:
            for key in keys:
                self._pool.join(key, State.from_bytes(self._pool.leave(key).to_bytes()))

    def _step_in_pool(self, keys: list[int]) -> None:
        xs = self._some(len(keys) % 64 + 1)[0]
        self._pool.step({key: xs[key % len(xs)] for key in keys})
        self._taken += len(keys)

    def _some(self, steps: int) -> NDArray[np.float32]:
        at = self._chance.randrange(self._xs.shape[1] - steps)
        return self._xs[:, at : at + steps]


def _growth(sizes: list[int]) -> float:
    """Of a straight line through them, from the first to the last."""
    slope, start = np.polyfit(np.arange(len(sizes)), sizes, 1)
    return float(slope * (len(sizes) - 1) / start)


def _drifts(world: World, other: Connection) -> dict[str, float]:
    """How many times as long as in a process that has just begun: the median over the turns."""
    ratios: dict[str, list[float]] = {}
    other.send(None)
    other.recv()  # it is ready
    for _ in range(TURNS):
        mine = world.p99()
        other.send(None)
        for name, its in other.recv().items():
            ratios.setdefault(name, []).append(mine[name] / its)
    return {name: statistics.median(of) for name, of in ratios.items()}


def _begin_late(streams: int, seed: int, other: Connection) -> NoReturn:
    """The second process: it begins when it is first asked to, and answers each further time with the latencies of a turn."""
    try:
        other.recv()
        world = World(streams, seed)
        world.check()
        other.send(None)
        while True:
            other.recv()
            other.send(world.p99())
    finally:  # at the latest where the first one has ended, and there is nothing more to read
        os._exit(0)


FAULT: Final = Fault(
    "F8",
    "a long life",
    "Every step lies behind its stream, states are the float64 reference's, memory changes by 2 % at most; in full, where ten thousand "
    "streams take ten million steps, the 99th percentile is at most 10 % above that of a process that has just begun.",
    full=FULL,
    reduced=200_000,
    run=run,
)
