"""F16: a row that is given what the contract lets in at worst, among others: enormous, denormal, or growing beyond all numbers.

The others must not notice: in a batch, in a pool, however it is called, of float32 and of quantised artifacts. NaN and infinity are
refused where they come in, but a sum may grow into them.
"""

import itertools
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime  # noqa: F401  # here and not in each child
from numpy.typing import NDArray
from tests.faults.harness import Fault, Limits, Tally, WrongAnswerError, attempt
from tests.faults.networks import KINDS, Network, values
from tests.runtime.handmade import running_sum

from rnnx_runtime import InputError, Model, State, StateError, load

HIDDENS: Final = (5, 32, 100)
BITS: Final = (8, 4)
ROWS: Final = 9  # at most
STEPS: Final = 12
RNN_CLOSE: Final = 1e-6  # of the operator RNN in float32; all else is the same to the bit
LIMITS: Final = Limits(seconds=30)
LARGEST: Final = float(np.finfo(np.float32).max)

Values = NDArray[np.float32]

# What the row is given, instead of numbers of size 1.
POISONS: Final[Mapping[str, Callable[[Values], Values]]] = {
    "10,000 times as large": lambda xs: xs * np.float32(1e4),
    "the largest numbers": lambda xs: np.where(xs > 0, np.float32(LARGEST), np.float32(-LARGEST)),
    "denormal numbers": lambda xs: xs * np.float32(1e-40),
    "zeros": np.zeros_like,
    "one enormous number": lambda xs: np.where(np.arange(xs.shape[0])[:, None] == 1, np.float32(LARGEST), xs),
}
# Of its state, to begin with.
STATES: Final[tuple[float, ...]] = (0.0, 1e4, LARGEST, 1e-40)
QUANTISE: Final = f"""
import sys, numpy, rnnx
data = numpy.random.default_rng(0).standard_normal((4, 20, 3), dtype=numpy.float32)
for source in sys.argv[1:]:
    for bits in {BITS}:
        rnnx.quantize(source, source.replace(".onnx", f".{{bits}}.onnx"), bits=bits, data=data, allow_loss=True)
"""


def run(count: int, seed: int) -> Tally:
    tally, chance = Tally(), random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        models = _models(Path(folder))
        for number in range(count):
            name = list(models)[number % len(models)]
            poison, start, way = chance.choice(list(POISONS)), chance.choice(STATES), chance.choice(WAYS)
            close = RNN_CLOSE if name.startswith("RNN") and "int" not in name else 0
            case = partial(_beside, models[name], close, poison, start, way, seed + number)
            said = f"{name}: a row of {poison} from {start:g}, {way.__name__.strip('_')}"
            tally.add(said, attempt(case, LIMITS), ["correct"])
        for refused in (np.nan, np.inf, -np.inf):
            tally.add(f"{refused} refused", attempt(partial(_refused, refused), LIMITS), ["correct"])
        tally.figures["artifacts"] = ", ".join(models)
    return tally


def _models(folder: Path) -> dict[str, bytes]:
    """By name. Quantised ones are there where the exporter is installed."""
    networks = [Network(kind, hidden) for kind in KINDS for hidden in HIDDENS]
    found = {f"{one.kind} {one.hidden}": one.artifact() for one in networks}
    found["a sum"] = running_sum()
    if find_spec("rnnx"):
        sources = {f"{kind} {HIDDENS[1]}": folder / f"{kind}.onnx" for kind in KINDS}
        for name, source in sources.items():
            source.write_bytes(found[name])
        subprocess.run([sys.executable, "-c", QUANTISE, *sources.values()], check=True, capture_output=True)
        for bits, (name, source) in itertools.product(BITS, sources.items()):
            found[f"{name} int{bits}"] = source.with_suffix(f".{bits}.onnx").read_bytes()
    return found


def _beside(data: bytes, close: float, poison: str, start: float, way: "Way", seed: int) -> None:
    """Rows beside a poisoned one are answered as alone, and their states too."""
    model, chance = load(data), np.random.default_rng(seed)
    rows, features = int(chance.integers(2, ROWS + 1)), model.manifest.inputs[0].shape[-1]
    xs = chance.standard_normal((rows, STEPS, int(features)), dtype=np.float32)
    bad = int(chance.integers(rows))
    states = [_state(model, 0.0 if row != bad else start) for row in range(rows)]
    xs[bad] = POISONS[poison](xs[bad])
    answers, after = way(model, xs, states)
    for row in set(range(rows)) - {bad}:
        (alone,), (its,) = way(model, xs[row : row + 1], states[row : row + 1])
        pairs = [(answers[row], alone), *((after[row][name], its[name]) for name in its)]
        for found, wanted in pairs:
            if not (np.abs(found - wanted).max() <= close if close else found.tobytes() == wanted.tobytes()):
                raise WrongAnswerError(f"row {row} of {rows} is {np.abs(found - wanted).max():.0e} off what it is alone")


Answers = tuple[list[NDArray[Any]], list[Mapping[str, NDArray[Any]]]]  # by row: of all steps, and the states behind them
Way = Callable[[Model, Values, list[State]], Answers]


def _steps_of_a_stream(model: Model, xs: Values, states: list[State]) -> Answers:
    stream = model.stream(state=_together(model, states))
    answers = np.stack([stream.step(xs[:, step]) for step in range(xs.shape[1])], axis=1)
    return list(answers), _apart(model, stream.state)


def _chunks_of_a_stream(model: Model, xs: Values, states: list[State]) -> Answers:
    stream = model.stream(state=_together(model, states))
    answers = np.concatenate([stream.feed(xs[:, first : first + 4]) for first in range(0, xs.shape[1], 4)], axis=1)
    return list(answers), _apart(model, stream.state)


def _a_run(model: Model, xs: Values, states: list[State]) -> Answers:
    answers, state = model.run(xs, _together(model, states))
    return list(answers), _apart(model, state)


def _steps_in_a_pool(model: Model, xs: Values, states: list[State]) -> Answers:
    pool = model.pool()
    for key, state in enumerate(states):
        pool.join(key, state)
    answers = [pool.step(dict(enumerate(xs[:, step]))) for step in range(xs.shape[1])]
    return [np.stack([one[key] for one in answers]) for key in range(len(xs))], [pool.state(key) for key in range(len(xs))]


def _ragged_chunks_in_a_pool(model: Model, xs: Values, states: list[State]) -> Answers:
    """The first row gives all, the others less and then the rest."""
    pool = model.pool()
    for key, state in enumerate(states):
        pool.join(key, state)
    cuts = [xs.shape[1] - key % 3 for key in range(len(xs))]
    first = pool.feed({key: xs[key, : cuts[key]] for key in range(len(xs))})
    last = pool.feed({key: xs[key, cuts[key] :] for key in range(len(xs))})
    answers = [np.concatenate([first[key], last[key]]) for key in range(len(xs))]
    return answers, [pool.state(key) for key in range(len(xs))]


WAYS: Final[tuple[Way, ...]] = (
    _steps_of_a_stream,
    _chunks_of_a_stream,
    _a_run,
    _steps_in_a_pool,
    _ragged_chunks_in_a_pool,
)


def _refused(value: float) -> None:
    """Neither an input nor a state takes it, and nothing changes."""
    model, xs = load(Network("GRU", 5).artifact()), values(2, 3, 0)
    stream, pool = model.stream(2), model.pool()
    stream.feed(xs)
    pool.feed(dict(enumerate(xs)))
    before, bad = (stream.state, pool.state(0), pool.state(1)), xs.copy()
    bad[1, 1, 1] = value
    for use in (
        lambda: stream.feed(bad),
        lambda: stream.step(bad[:, 1]),
        lambda: pool.feed(dict(enumerate(bad))),
        lambda: pool.step(dict(enumerate(bad[:, 1]))),
        lambda: pool.submit(1, bad[1, 1]),
        lambda: model.make_state({"h": np.full((1, 1, 5), value)}),
    ):
        try:
            use()
        except (InputError, StateError):
            continue
        raise WrongAnswerError(f"{value} is taken")
    if (stream.state, pool.state(0), pool.state(1)) != before:
        raise WrongAnswerError(f"{value} is refused, but a state has changed")


def _state(model: Model, size: float) -> State:
    """One row, of values up to this size, with either sign."""
    shapes = {name: array.shape for name, array in model.initial_state().items()}
    signs = np.random.default_rng(0)
    return model.make_state({name: np.float32(size) * signs.choice([-1, 1], shape) for name, shape in shapes.items()})


def _together(model: Model, states: list[State]) -> State:
    axes = {spec.name: spec.batch_axis or 0 for spec in model.manifest.states}
    return model.make_state({name: np.concatenate([one[name] for one in states], axis) for name, axis in axes.items()})


def _apart(model: Model, state: State) -> list[Mapping[str, NDArray[Any]]]:
    axes = {spec.name: spec.batch_axis or 0 for spec in model.manifest.states}
    return [{name: np.take(state[name], [row], axis) for name, axis in axes.items()} for row in range(state.batch)]


FAULT: Final = Fault(
    "F16",
    "poisoned rows",
    "Rows beside a poisoned one are answered bit for bit as alone, those of RNNs in float32 to 1e-6; NaN and infinity are refused.",
    full=1500,
    reduced=90,
    run=run,
)
