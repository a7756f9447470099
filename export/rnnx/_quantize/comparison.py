"""What became of an artifact with fewer bits: both are run on the same data, and over the same steps."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from rnnx._errors import QuantizeError
from rnnx._parity.compare import difference, relative
from rnnx._quantize.data import Arrays, Data, drawn, repeated, start_of
from rnnx_runtime import Model, State
from rnnx_runtime.artifact import ScalerCodec

DRIFT: Final = 1000  # steps
_STATES: Final = 256  # random states
_VISITED: Final = (1, 10, 100, 1000)  # steps behind which a step is looked at by itself
_LEAST_BITS: Final = 0.1  # of a loss: below, its rise is counted as a share of that
_LEAST_SHARE: Final = 0.01  # of the spread of a target: the same
_ROWS: Final = 5
_STEPS: Final = 6

Unit = Literal["bits per symbol", "RMSE", "RMSE over spread"]


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        rise: by which share the loss is higher; of values without targets, the loss itself.
        drift: root of the mean squared difference of outputs in multiples of their spread, in the last tenth of `drift_steps` steps.
        rows: the largest difference between a row alone and the same row among others.
        ways: the largest difference between a sequence whole, in chunks and step by step.
    """

    unit: Unit
    before: float
    after: float
    rise: float
    one_step: float
    drift: float
    drift_steps: int
    agreement: float | None
    rows: float
    ways: float


def compare_on(data: Data, before: Model, after: Model) -> Comparison:
    """Run both.

    Raises:
        RnnxError: the data do not fit, or what was found on them is no number, which an artifact cannot say of itself.
    """
    wanted, found = _answers(before, data), _answers(after, data)
    unit, old, new, rise = _losses(before, data, wanted, found)
    drift, steps = _drift(before, data, wanted, found)
    one_step = _one_step(data, before, after)
    if not all(map(math.isfinite, (old, new, rise, drift, one_step))):
        raise QuantizeError(
            f"on {data.what}, answers are beyond what can be compared: {old:g} → {new:g} {unit}, one step off by {one_step:g}; "
            "give data that the float artifact answers with finite numbers"
        )
    rows, ways = _alone(after)
    return Comparison(unit, old, new, rise, one_step, drift, steps, _agreement(before, wanted, found), rows, ways)


def _answers(model: Model, data: Data) -> Arrays:
    return named(model, _run(model, data.inputs, data.start)[0])


def _run(model: Model, inputs: Arrays, start: State) -> tuple[Any, State]:
    if not model.manifest.streamable:
        return model.run(inputs)
    return model.run(inputs, _own(model, start))


def _own(model: Model, state: State) -> State:
    """The state of another artifact with the same states as this one's."""
    if state.digest == model.digest:
        return state
    return model.make_state(dict(state)) if model.manifest.states else model.initial_state(state.batch)


def _losses(model: Model, data: Data, wanted: Arrays, found: Arrays) -> tuple[Unit, float, float, float]:
    """The unit, the loss before and after, and its rise."""
    if data.symbols is not None:
        before, after = (_bits(model.logits(_single(model, side))[0], data.symbols) for side in (wanted, found))
        return "bits per symbol", before, after, (after - before) / max(before, _LEAST_BITS)
    if data.targets:
        before, after = (_rmse(model, side, data.targets) for side in (wanted, found))
        spread = max(float(np.std(target)) for target in data.targets.values())
        return "RMSE", before, after, (after - before) / (max(before, _LEAST_SHARE * spread) or 1.0)
    apart = max((_over_spread(found[name], array, array) for name, array in wanted.items()), default=0.0)
    return "RMSE over spread", 0.0, apart, apart


def _bits(logits: NDArray[Any], symbols: NDArray[np.int64]) -> float:
    """The mean surprise at what comes next. `logits`: `(T, V)`."""
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    chosen = scores[np.arange(len(symbols)), symbols] - np.log(np.exp(scores).sum(axis=-1))
    return float(-chosen.mean() / math.log(2))


def _rmse(model: Model, answers: Arrays, targets: Arrays) -> float:
    found = []
    for name, target in targets.items():
        answer = answers[name]
        if isinstance(model.manifest.codec, ScalerCodec):
            answer = model.manifest.codec.decode(answer)
        if answer.shape != target.shape:
            raise QuantizeError(f"the targets of {name} have the shape {target.shape}, the artifact answers {answer.shape}")
        found.append(np.square(answer.astype(np.float64) - target).mean())
    return math.sqrt(float(np.mean(found)))


def _over_spread(found: NDArray[Any], wanted: NDArray[Any], whole: NDArray[Any]) -> float:
    """Root of the mean squared difference, in multiples of the spread of what was wanted over a whole run."""
    if wanted.dtype.kind != "f":
        return float((found != wanted).mean()) if wanted.size else 0.0
    apart = math.sqrt(float(np.square(difference(found, wanted)).mean())) if wanted.size else 0.0
    finite = whole[np.isfinite(whole)]  # a symbol that is never to be chosen has the score -inf
    spread = float(np.std(finite, dtype=np.float64)) if finite.size else 0.0
    return apart / (spread or float(np.abs(finite).max(initial=0)) or 1.0)


def _drift(model: Model, data: Data, wanted: Arrays, found: Arrays) -> tuple[float, int]:
    """In the last tenth of the first steps."""
    timed = [spec.name for spec in model.manifest.outputs if model.manifest.has_time(spec)]
    steps = min((wanted[name].shape[1] for name in timed), default=1)
    steps = min(steps, DRIFT)
    first = steps - max(1, steps // 10)
    parts = {name: (slice(None), slice(first, steps)) if name in timed else () for name in wanted}
    return max(_over_spread(found[name][at], wanted[name][at], wanted[name]) for name, at in parts.items()), steps


def _agreement(model: Model, wanted: Arrays, found: Arrays) -> float | None:
    """The share of steps with the same most likely symbol or token; None where none is chosen."""
    vocabularies = {spec.vocabulary_size for spec in model.manifest.inputs} - {None, 1}
    scores = [
        spec.name
        for spec in model.manifest.outputs
        if spec.role == "logits" or (spec.dtype.startswith("float") and spec.shape and spec.shape[-1] in vocabularies)
    ]
    if not scores:
        return None
    return float(np.mean([(wanted[name].argmax(-1) == found[name].argmax(-1)).mean() for name in scores]))


def _one_step(data: Data, before: Model, after: Model) -> float:
    """The largest difference after one step, from random states and from those that the artifact comes to by itself."""
    generator = np.random.default_rng(2)
    rows = before.manifest.fixed_batch or _STATES
    largest = 0.0
    for state in _states(data, before, rows, generator):
        inputs = drawn(before, rows, 1, generator)
        wanted, ended = _run(before, inputs, state)
        found, follows = _run(after, inputs, state)
        largest = max(largest, relative(named(after, found), named(before, wanted)), relative(dict(follows), dict(ended)))
    return largest


def _states(data: Data, model: Model, rows: int, generator: np.random.Generator) -> Iterator[State]:
    start = start_of(model, rows)
    yield start
    if not model.manifest.streamable:
        return
    yield (
        model.make_state(
            {
                name: generator.uniform(-1, 1, array.shape).astype(array.dtype) if array.dtype.kind == "f" else array
                for name, array in start.items()
            }
        )
        if model.manifest.states
        else start
    )
    state, timed = data.start, {spec.name for spec in model.manifest.inputs if model.manifest.has_time(spec)}
    steps = min((data.inputs[name].shape[1] for name in timed), default=0)
    for first, last in itertools.pairwise((0, *(mark for mark in _VISITED if mark < steps))):
        part = {name: array[:, first:last] if name in timed else array for name, array in data.inputs.items()}
        _, state = model.run(part, state)
        yield repeated(model, state, rows)


def _alone(model: Model) -> tuple[float, float]:
    """How far a row among others is from the same row alone, and steps and chunks from the whole; 0 where every bit is the same."""
    manifest, generator = model.manifest, np.random.default_rng(3)
    rows = manifest.fixed_batch or _ROWS
    inputs, start = drawn(model, rows, _STEPS, generator), start_of(model, rows)
    together, ended = _run(model, inputs, start)
    whole = {**named(model, together), **_prefixed(ended)}
    apart, ways = 0.0, 0.0
    if manifest.fixed_batch is None:
        axes = {spec.name: spec.batch_axis or 0 for spec in manifest.states}
        for row in range(rows):
            own = {name: array[row : row + 1] for name, array in inputs.items()}
            state = model.initial_state(1) if not manifest.conditions else None
            if state is None or manifest.states:
                state = model.make_state({name: np.take(array, [row], axes[name]) for name, array in start.items()})
            answer, after = _run(model, own, state)
            for name, array in named(model, answer).items():
                apart = max(apart, float(difference(array, whole[name][row : row + 1]).max(initial=0.0)))
            for name, array in after.items():
                apart = max(apart, float(difference(array, np.take(ended[name], [row], axes[name])).max(initial=0.0)))
    if manifest.streamable and manifest.chunks_matter_because is None:
        timed = {spec.name for spec in manifest.inputs if manifest.has_time(spec)}
        for cuts in ((0, 2, _STEPS), range(_STEPS + 1)):
            state, pieces = start, []
            for first, last in itertools.pairwise(cuts):
                answer, state = model.run({n: a[:, first:last] if n in timed else a for n, a in inputs.items()}, state)
                pieces.append(named(model, answer))
            over = {spec.name for spec in manifest.outputs if manifest.has_time(spec)}
            joined = {n: np.concatenate([p[n] for p in pieces], 1) if n in over else pieces[-1][n] for n in pieces[0]}
            for name, array in {**joined, **_prefixed(state)}.items():
                ways = max(ways, float(difference(array, whole[name]).max(initial=0.0)))
    return apart, ways


def _prefixed(state: State) -> Arrays:
    return {f"state {name}": array for name, array in state.items()}


def named(model: Model, answer: Any) -> Arrays:
    """An answer by the names of the outputs."""
    return answer if isinstance(answer, dict) else {model.manifest.outputs[0].name: answer}


def _single(model: Model, answers: Arrays) -> Any:
    return answers if len(answers) > 1 else answers[model.manifest.outputs[0].name]
