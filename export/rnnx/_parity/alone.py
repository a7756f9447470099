"""An artifact against itself, where its module is not at hand: whole, chunks and steps; and onnx's own evaluator on its golden trace.

No torch here. What the artifact should compute is known from the golden trace only; that stepping equals the whole sequence can be
shown all the same.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rnnx._parity.cases import Case
from rnnx._parity.compare import Arrays, compare, difference
from rnnx._parity.report import ParityReport
from rnnx._parity.tolerances import Precision, Tolerance, tolerance_of
from rnnx_runtime import Model, State
from rnnx_runtime.artifact import BATCH, Input, Output, golden_start

_BATCHES: Final = (1, 2, 5)
_STEPS: Final = 24
_NUDGED: Final = 6  # runs
_TIMES: Final = 4.0  # as far as those part
_CUTS: Final = (0, 1, 4, 5, 13, _STEPS)


def prove_alone(model: Model, data: bytes, precision: Precision | None = None) -> ParityReport:
    """Compare an artifact with itself, run in other ways.

    Args:
        model: the artifact on the execution provider that is to be proven.
        data: its bytes, for the second opinion.
        precision: that it computes in, where that is not the manifest's.
    """
    tolerance = tolerance_of(precision or model.manifest.precision, on_cpu=set(model.placement.granted) <= {"cpu"})
    start = golden_start(model)
    cases, unable = [], "the golden trace holds no step"
    if start is not None:
        cases = list(_stepping(model, *start, tolerance)) if model.manifest.streamable else []
        judged = _second_opinion(model, data, start, tolerance)
        cases, unable = (cases, judged) if isinstance(judged, str) else ([*cases, judged], "")
    return ParityReport(tuple(cases), "quick", tolerance, model.placement.granted, None, unable)


def _stepping(model: Model, chunk: Arrays, state: State, tolerance: Tolerance) -> Iterator[Case]:
    """A random sequence whole, and in chunks and steps through a stream."""
    manifest, generator = model.manifest, np.random.default_rng(0)
    every = tuple(range(_STEPS + 1))
    for batch in _BATCHES if manifest.fixed_batch is None else (manifest.fixed_batch,):
        inputs = {
            spec.name: _sampled(spec, chunk[spec.name], manifest.has_time(spec), batch, generator) for spec in manifest.inputs
        }
        begin = _repeated(model, state, batch)
        bounds = (0, _STEPS) if manifest.chunks_matter_because is None else every
        expected = _in_calls(model, inputs, begin, bounds)
        for check, cuts in (("chunks", _CUTS), ("steps", every)):
            if check == "chunks" and manifest.chunks_matter_because is not None:
                continue
            found = _streamed(model, inputs, begin, cuts)
            outputs, wrong = compare(found[0], expected[0], tolerance)
            states, wrong_states = compare(found[1], expected[1], tolerance)
            close = not wrong + wrong_states
            explained = not close and _is_chaos(model, inputs, begin, found, expected)
            yield Case(check, "onnx", batch, _STEPS, "golden", outputs, states, close or explained, explained=explained)


def _is_chaos(
    model: Model, inputs: Arrays, begin: State, found: tuple[Arrays, Arrays], expected: tuple[Arrays, Arrays]
) -> bool:
    """Whether the artifact parts from itself as far where its state after the first step is nudged by a few roundings."""
    generator = np.random.default_rng(1)
    _, after = model.run(_cut(model, inputs, 0, 1), begin)
    rest = _cut(model, inputs, 1, _STEPS)
    runs = []
    for place in range(_NUDGED + 1):
        state = after if place == 0 else model.make_state({n: _nudged(array, generator) for n, array in after.items()})
        answer, ended = model.run(rest, state)
        runs.append((_named(model, answer), dict(ended)))
    for side in range(2):
        for name, right in expected[side].items():
            moved = max(float(difference(one[side][name], runs[0][side][name]).max(initial=0.0)) for one in runs[1:])
            if not difference(found[side][name], right).max(initial=0.0) <= _TIMES * moved:
                return False
    return True


def _nudged(array: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
    if array.dtype.kind != "f":
        return array
    moved: NDArray[Any] = array * (1 + 4 * np.finfo(array.dtype).eps * generator.choice((-1, 1), array.shape))
    return moved.astype(array.dtype)


def _second_opinion(model: Model, data: bytes, start: tuple[Arrays, State], tolerance: Tolerance) -> Case | str:
    """The golden trace in onnx's own evaluator; or why that cannot be had. Of a graph of one step, the first step."""
    try:
        from rnnx._parity.second_opinion import SecondOpinion, Unable
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"
    golden, manifest = model.manifest.golden, model.manifest
    feeds = {spec.input: golden.states[spec.name].numpy() for spec in manifest.states}
    outputs = {name: array.numpy() for name, array in golden.outputs.items()}
    states = {name: array.numpy() for name, array in golden.next_states.items()}
    if manifest.one_step:
        x = {name: array[:, 0] for name, array in start[0].items()}
        answer, following = model.step(x, start[1])
        feeds |= {spec.name: _in_graph(spec, x[spec.name]) for spec in manifest.inputs}
        outputs = {spec.name: _in_graph(spec, _named(model, answer)[spec.name]) for spec in manifest.outputs}
        states = dict(following)
    else:
        feeds |= {name: array.numpy() for name, array in golden.inputs.items()}
    found = SecondOpinion(manifest, data).run(feeds)
    if isinstance(found, Unable):
        return found.because
    # There is no module whose rounding could be asked, so large values are judged on their own scale.
    apart, wrong = compare(found, outputs, tolerance, math.inf)
    ended = {spec.name: found[spec.output] for spec in manifest.states}
    states_apart, wrong_states = compare(ended, states, tolerance, math.inf)
    steps = 1 if manifest.one_step else _steps_of(model, start[0])
    return Case("reference", "onnx", start[1].batch, steps, "golden", apart, states_apart, not wrong + wrong_states)


def _in_graph(spec: Input | Output, step: NDArray[Any]) -> NDArray[Any]:
    """One step `(B, ...)` in the graph's own layout, where time is an axis of 1 or none."""
    sizes = [step.shape[0] if size == BATCH else 1 if isinstance(size, str) else size for size in spec.shape]
    if BATCH not in spec.shape:
        return step.reshape(sizes)
    axis = spec.shape.index(BATCH)
    return np.moveaxis(step.reshape(step.shape[0], *sizes[:axis], *sizes[axis + 1 :]), 0, axis)


def _steps_of(model: Model, chunk: Arrays) -> int:
    return next((chunk[s.name].shape[1] for s in model.manifest.inputs if model.manifest.has_time(s)), 1)


def _sampled(spec: Input, golden: NDArray[Any], timed: bool, batch: int, generator: np.random.Generator) -> NDArray[Any]:
    """Values like those of the golden trace: tokens of the vocabulary, floats of its mean and spread, else some of its own."""
    shape = (batch, _STEPS, *golden.shape[2:]) if timed else (batch, *golden.shape[1:])
    if spec.vocabulary_size is not None:
        return generator.integers(spec.vocabulary_size, size=shape, dtype=golden.dtype)
    if golden.dtype.kind == "f":
        return generator.normal(golden.mean(), golden.std() or 1.0, shape).astype(golden.dtype)
    return generator.choice(golden.ravel(), shape)


def _repeated(model: Model, state: State, batch: int) -> State:
    """The golden trace's first state, its rows repeated."""
    if model.manifest.fixed_batch is not None:
        return state
    rows = np.arange(batch) % state.batch
    axes = {spec.name: spec.batch_axis for spec in model.manifest.states}
    return model.make_state({name: np.take(array, rows, axis=axes[name]) for name, array in state.items()})


def _in_calls(model: Model, inputs: Arrays, state: State, bounds: tuple[int, ...]) -> tuple[Arrays, Arrays]:
    parts = []
    for first, last in itertools.pairwise(bounds):
        answer, state = model.run(_cut(model, inputs, first, last), state)
        parts.append(_named(model, answer))
    return _joined(model, parts), dict(state)


def _streamed(model: Model, inputs: Arrays, state: State, bounds: tuple[int, ...]) -> tuple[Arrays, Arrays]:
    stream, parts = model.stream(state=state), []
    single = len(bounds) == _STEPS + 1
    for first, last in itertools.pairwise(bounds):
        part = _cut(model, inputs, first, last)
        if single:
            x = {s.name: part[s.name][:, 0] if model.manifest.has_time(s) else part[s.name] for s in model.manifest.inputs}
            answer = _named(model, stream.step(x))
            parts.append({name: a[:, None] if name in _timed_outputs(model) else a for name, a in answer.items()})
        else:
            parts.append(_named(model, stream.feed(part)))
    return _joined(model, parts), dict(stream.state)


def _cut(model: Model, inputs: Arrays, first: int, last: int) -> dict[str, NDArray[Any]]:
    return {
        s.name: inputs[s.name][:, first:last] if model.manifest.has_time(s) else inputs[s.name] for s in model.manifest.inputs
    }


def _named(model: Model, answer: Any) -> dict[str, NDArray[Any]]:
    return answer if isinstance(answer, dict) else {model.manifest.outputs[0].name: answer}


def _timed_outputs(model: Model) -> set[str]:
    return {spec.name for spec in model.manifest.outputs if model.manifest.has_time(spec)}


def _joined(model: Model, parts: list[dict[str, NDArray[Any]]]) -> Mapping[str, NDArray[Any]]:
    timed = _timed_outputs(model)
    return {n: np.concatenate([p[n] for p in parts], axis=1) if n in timed else parts[-1][n] for n in parts[0]}
