"""F7: memory that ends, at loading, at the first step, in a long chunk, in a pool of many, in a self-test, in a text.

The address space of a child is limited to what it has and so much more, for one action; then the limit is taken away, and the stream
must be where it was, and go on.
"""

import random
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime  # noqa: F401  # here and not in each child, as what is imported below
from tests.faults.harness import WELL, Fault, Limits, Tally, WrongAnswerError, attempt
from tests.faults.large import FEATURES, lstm
from tests.runtime.answers import CLOSE, sample

from rnnx_runtime import ArtifactError, ExecutionError, Generation, Pool, RnnxError, SelfTest, State, load, selftest

GOLDEN: Final = Path(__file__).parent.parent / "golden"
LAZY: Final = (Generation, Pool, SelfTest, np.random.default_rng(0))
LIMITS: Final = Limits(seconds=60, memory=None)
REMEDY: Final = "memory"
PAGE: Final = 4096
STREAMS: Final = 3_000
HIDDEN: Final = 512


def run(count: int, seed: int) -> Tally:
    tally, chance = Tally(), random.Random(seed)
    refused = 0
    scenes = list(SCENES)
    for number in range(count):
        scene = scenes[number % len(scenes)]
        # From nothing at all to more than enough, and more often little: there are more places where it can end.
        room = int(SCENES[scene].enough * chance.random() ** 2) // PAGE * PAGE
        outcome = attempt(partial(_within, scene, room), LIMITS)
        tally.add(f"{scene}, {room >> 10} kB", outcome, WELL)
        refused += outcome.kind == "error"
    tally.figures["refused"] = f"{refused} of {count}"
    tally.require(0 < refused < count, "memory never ended, or always")
    return tally


class _Scene:
    """One action that takes memory, and what it must leave as it was.

    Attributes:
        enough: bytes that it never needs.
    """

    enough = 16 << 20
    model = "lstm"

    def __init__(self) -> None:
        self.loaded = load(GOLDEN / f"{self.model}.onnx")
        self.prepare()

    def prepare(self) -> None:
        pass

    def act(self) -> Any:
        raise NotImplementedError

    def bits(self) -> Any:
        """What is as before where it fails."""
        return None


class _Load(_Scene):
    def act(self) -> Any:
        return load(GOLDEN / "gru.onnx").manifest.name


class _LoadLarge(_Scene):
    enough = 96 << 20

    def prepare(self) -> None:
        self.data = lstm(HIDDEN)

    def act(self) -> Any:
        return load(self.data).stream().step(np.ones((1, FEATURES), np.float32))


class _LoadBytes(_Scene):
    def prepare(self) -> None:
        self.data = bytearray((GOLDEN / "gru.onnx").read_bytes())

    def act(self) -> Any:
        return load(self.data).manifest.name


class _Selftest(_Scene):
    def act(self) -> Any:
        return selftest(GOLDEN / "lstm.onnx").passed


class _OnStream(_Scene):
    batch = 1

    def prepare(self) -> None:
        self.stream = self.loaded.stream(self.batch)
        self.xs = sample(self.loaded, self.batch, 5)

    def bits(self) -> Any:
        return self.stream.position, self.stream.state.to_bytes()


class _Step(_OnStream):
    def act(self) -> Any:
        return self.stream.step(self.xs[:, 0])


class _StepOfMany(_Step):
    batch = 5_000
    enough = 32 << 20


class _SecondStep(_Step):
    def prepare(self) -> None:
        super().prepare()
        self.stream.step(self.xs[:, 1])


class _Feed(_OnStream):
    enough = 24 << 20

    def prepare(self) -> None:
        super().prepare()
        self.chunk = np.repeat(self.xs, 20_000, axis=1)

    def act(self) -> Any:
        return self.stream.feed(self.chunk)


class _FeedOfMany(_Feed):
    batch = 1_000
    enough = 64 << 20

    def prepare(self) -> None:
        super().prepare()
        self.chunk = np.repeat(self.xs, 20, axis=1)


class _Snapshot(_OnStream):
    batch = 20_000

    def act(self) -> Any:
        return State.from_bytes(self.stream.state.to_bytes()).batch


class _OnPool(_Scene):
    enough = 48 << 20
    most: int | None = 512

    def prepare(self) -> None:
        self.pool = self.loaded.pool(max_batch=self.most)
        self.xs = sample(self.loaded, 1, 5)[0]
        self.pool.step({0: self.xs[0]})
        self.steps = dict.fromkeys(range(STREAMS), self.xs[0])
        self.chunks = dict.fromkeys(range(STREAMS), self.xs)

    def bits(self) -> Any:
        return [(key, self.pool.state(key).position, self.pool.state(key).to_bytes()) for key in self.pool]


class _PoolStep(_OnPool):
    def act(self) -> Any:
        return self.pool.step(self.steps)[STREAMS - 1]


class _PoolMeasured(_PoolStep):
    most = None


class _PoolFeed(_OnPool):
    def act(self) -> Any:
        return self.pool.feed(self.chunks)[STREAMS - 1]


class _Submit(_OnPool):
    def act(self) -> Any:
        return self.pool.submit(0, self.xs[1]).result(20)


class _Generate(_OnStream):
    model = "char_rnn"

    def act(self) -> Any:
        return "".join(self.stream.generate("hell", 100, seed=0))

    def bits(self) -> Any:
        """A text stops where memory ends, and the stream has read what there is."""
        return None


class _Score(_OnStream):
    model = "char_rnn"
    text = "hello" * 4000

    def act(self) -> Any:
        return self.loaded.score(self.text)


SCENES: Final[dict[str, type[_Scene]]] = {
    "load": _Load,
    "load a large one": _LoadLarge,
    "load bytes": _LoadBytes,
    "self-test": _Selftest,
    "the first step": _Step,
    "the first step of 5,000 rows": _StepOfMany,
    "the second step": _SecondStep,
    "a chunk of 100,000 steps": _Feed,
    "a chunk of 1,000 rows": _FeedOfMany,
    "a snapshot": _Snapshot,
    f"a pool of {STREAMS:,}": _PoolStep,
    f"a pool of {STREAMS:,} that measures": _PoolMeasured,
    f"chunks of {STREAMS:,}": _PoolFeed,
    "submit": _Submit,
    "generate": _Generate,
    "score": _Score,
}


def _within(name: str, room: int) -> None:
    scene = SCENES[name]()
    before = scene.bits()
    try:
        found = _limited(room, scene.act)
    except RnnxError as error:
        failed: RnnxError = error.with_traceback(None)
    else:
        _check_same(found, SCENES[name]().act())
        return
    if not isinstance(failed, ExecutionError | ArtifactError) or REMEDY not in str(failed):
        raise WrongAnswerError(f"{type(failed).__name__}: {failed}")
    if scene.bits() != before:
        raise WrongAnswerError("the state is another one after the failure")
    if before is not None:
        _check_same(scene.act(), SCENES[name]().act())
    raise failed


def _limited(room: int, act: Callable[[], Any]) -> Any:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + room, limits[1]))
    try:
        return act()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _check_same(found: Any, wanted: Any) -> None:
    if isinstance(found, dict):
        for key in wanted:
            _check_same(found[key], wanted[key])
    elif not (np.allclose(found, wanted, **CLOSE) if isinstance(found, np.ndarray) else found == wanted):
        raise WrongAnswerError(f"{found!r} instead of {wanted!r}"[:200])


FAULT: Final = Fault(
    "F7",
    "memory that ends",
    "The right answer, or an ExecutionError or ArtifactError that speaks of memory; then the state is bit for bit as before, and "
    "goes on once there is memory.",
    full=900,
    reduced=64,
    run=run,
)
