"""The parity gate: the artifact, run by the runtime, against the eager module. No proof, no artifact.

untouched     the module as its forward starts it, at every batch size that it accepts
whole         every shape of a grid, from the initial state and from random ones, outputs and states
one step      256 random states at once: a wrong gate order, bias or layout shows here whatever the dynamics do later
chunks, steps the same sequence in random chunks and step by step, through a stream
protocol      as a caller goes on who hands the states over himself, without a hook anywhere
padding       what stands behind the lengths of a padded batch has no influence
torchscript   the traced module on the same grid
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rnnx._axes import batch_first, has_time
from rnnx._eager import first_line
from rnnx._errors import LiftError
from rnnx._lift import Lift
from rnnx._report import TOLERANCES, Case, ParityReport
from rnnx._slots import random_state
from rnnx_runtime import Model, RnnxError, State

_ONE_STEP: Final = 2e-6
_BATCHES: Final = (1, 2, 5)
_LONGEST: Final = 300  # steps; longer examples are cut to it
_STATES: Final = 256  # random states of the one-step check

Script = Callable[..., tuple[Tensor, ...]]
Arrays = Mapping[str, NDArray[Any]]


def prove(lift: Lift, model: Model) -> ParityReport:
    """Compare an artifact, loaded by the runtime, with the eager module.

    Raises:
        LiftError: the eager module does not run at a size of the grid, or never as its own `forward` starts it.
    """
    try:
        cases = [*_untouched(lift, model), *_whole(lift, model), *_padding(lift, model)]
        if lift.not_streamable_because is None:
            cases += [*_one_step(lift, model), *_stepping(lift, model), *_protocol(lift, model)]
    except RnnxError:
        raise
    except Exception as error:
        raise LiftError(f"{lift.name} does not run at every size: {first_line(error)}") from error
    return ParityReport(tuple(cases), model.manifest.precision)


def prove_torchscript(lift: Lift, script: Script) -> ParityReport:
    """Compare the traced module with the eager one, on the same grid."""
    return ParityReport(tuple(_torchscript(lift, script)))


def _sizes(lift: Lift) -> list[tuple[int, int]]:
    example = min(lift.steps, _LONGEST)
    lengths = sorted({1, 2, 3, example, min(3 * example, _LONGEST)})
    return [(batch, steps) for batch in _BATCHES for steps in lengths]


def _grid(lift: Lift) -> Iterator[tuple[int, int, str, dict[str, Tensor], dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    for batch, steps in _sizes(lift):
        inputs = lift.sample(batch, steps, generator)
        yield batch, steps, "initial", inputs, lift.initial_states(inputs)
        inputs = lift.sample(batch, steps, generator)
        yield batch, steps, "random", inputs, _random_states(lift, batch, generator)


def _untouched(lift: Lift, model: Model) -> Iterator[Case]:
    """The example itself first, then random inputs at every size that the module accepts: it may bake in a batch size."""
    generator = torch.Generator().manual_seed(1)
    batch = lift.batch_of(lift.sited.inputs)
    yield _untouched_case(lift, model, lift.sited.inputs)
    for size in (*_sizes(lift), (batch, 1), (batch, min(lift.steps, _LONGEST))):
        try:
            inputs = lift.sample(*size, generator)
            lift.run_untouched(inputs)
        except Exception:
            continue
        yield _untouched_case(lift, model, inputs)


def _untouched_case(lift: Lift, model: Model, inputs: Mapping[str, Tensor]) -> Case:
    batch, steps = lift.batch_of(inputs), lift.steps_of(inputs)
    expected = lift.run_untouched(inputs)
    answer, _ = model.run(
        _given(lift, inputs), model.initial_state(batch, **_conditions(lift, inputs)) if model.manifest.streamable else None
    )
    outputs, close = _compare(_answers(lift, answer), _expected(lift, expected, batch, steps))
    return Case("untouched", batch, steps, "initial", outputs, 0.0, close)


def _whole(lift: Lift, model: Model) -> Iterator[Case]:
    for batch, steps, start, inputs, states in _grid(lift):
        if start == "random" and not model.manifest.streamable:
            continue  # it only ever begins anew
        expected, following = lift.run(inputs, states)
        answer, state = model.run(_given(lift, inputs), _state(model, states) if model.manifest.streamable else None)
        yield _case(
            "whole", batch, steps, start, _answers(lift, answer), state, _expected(lift, expected, batch, steps), following
        )


def _padding(lift: Lift, model: Model) -> Iterator[Case]:
    """What stands in the padding of a batch with lengths must not matter."""
    lengths = next((spec.name for spec in lift.inputs if spec.lengths), None)
    if lengths is None:
        return
    generator = torch.Generator().manual_seed(6)
    for batch, steps in _sizes(lift):
        inputs, others = lift.sample(batch, steps, generator), lift.sample(batch, steps, generator)
        for spec in lift.inputs:
            if spec.axes.time is not None:
                inside = (torch.arange(steps) < inputs[lengths][:, None]).numpy()  # (B, T)
                given = batch_first(inputs[spec.name], spec.shape, batch, steps)
                other = batch_first(others[spec.name], spec.shape, batch, steps)
                mask = torch.from_numpy(inside).reshape(batch, steps, *(1,) * (given.ndim - 2))
                mixed = torch.where(mask, given, other)
                others[spec.name] = mixed.movedim((0, 1), (spec.axes.batch, spec.axes.time))
        others[lengths] = inputs[lengths]
        expected, _ = lift.run(inputs, {})
        answer, _ = model.run(_given(lift, others))
        outputs, close = _compare(_answers(lift, answer), _expected(lift, expected, batch, steps))
        yield Case("padding", batch, steps, "initial", outputs, 0.0, close)


def _one_step(lift: Lift, model: Model) -> Iterator[Case]:
    """Strict, whatever the dynamics: within 2e-6, or within four times the rounding of eager float32 itself."""
    generator = torch.Generator().manual_seed(2)
    inputs, states = lift.sample(_STATES, 1, generator), _random_states(lift, _STATES, generator)
    expected, following = lift.run(inputs, states)
    answer, state = model.run(_given(lift, inputs), _state(model, states))
    outputs, close = _compare(_answers(lift, answer), _expected(lift, expected, _STATES, 1))
    wanted = {name: tensor.numpy() for name, tensor in following.items()}
    distance = _relative(state, wanted)
    if distance > _ONE_STEP:
        exact = lift.run_exact(inputs, states)
        rounding = 0.0 if exact is None else _relative(wanted, {n: t.float().numpy() for n, t in exact.items()})
        close = close and distance <= 4 * rounding
    yield Case("one step", _STATES, 1, "random", outputs, distance, close)


def _relative(found: Arrays, wanted: Arrays) -> float:
    """The largest difference, relative above 1: a cell state is not bounded."""
    apart = (_difference(found[name], want) / np.maximum(1, np.abs(np.nan_to_num(want))) for name, want in wanted.items())
    return max((float(difference.max(initial=0.0)) for difference in apart), default=0.0)


def _stepping(lift: Lift, model: Model) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(3)
    steps = min(max(3 * lift.steps, 12), _LONGEST)
    for batch in _BATCHES:
        inputs, states = lift.sample(batch, steps, generator), _random_states(lift, batch, generator)
        cuts = sorted({0, steps, *torch.randint(1, steps, (4,), generator=generator).tolist()})
        for check, bounds in (("chunks", cuts), ("steps", list(range(steps + 1)))):
            stream = model.stream(state=_state(model, states))
            parts = []
            expected, following = _in_calls(lift, inputs, states, [0, steps] if lift.chunks_matter_because is None else bounds)
            for start, stop in itertools.pairwise(bounds):
                part = _given(lift, lift.chunk(inputs, start, stop))
                if check == "chunks":
                    parts.append(_answers(lift, stream.feed(part)))
                else:
                    parts.append(_answers(lift, stream.step(_only_step(lift, part)), expand=True))
            found = _joined(lift, parts)
            yield _case(check, batch, steps, "random", found, stream.state, expected, following)


def _in_calls(
    lift: Lift, inputs: Mapping[str, Tensor], states: dict[str, Tensor], bounds: list[int]
) -> tuple[dict[str, NDArray[Any]], dict[str, Tensor]]:
    """What the eager module answers in several calls, batch-first and joined, and where it ends."""
    parts, batch = [], lift.batch_of(inputs)
    for start, stop in itertools.pairwise(bounds):
        answer, states = lift.run(lift.chunk(inputs, start, stop), states)
        parts.append(_expected(lift, answer, batch, stop - start))
    return _joined(lift, parts), states


def _joined(lift: Lift, parts: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The answers to chunks as that to the whole: joined along time, or the last one's."""
    return {
        name: np.concatenate([p[name] for p in parts], axis=1) if has_time(shape) else parts[-1][name]
        for name, shape in lift.outputs.items()
    }


def _protocol(lift: Lift, model: Model) -> Iterator[Case]:
    """As a caller goes on who hands the states over himself: what forward returned goes back into it, three times."""
    generator = torch.Generator().manual_seed(5)
    states = _random_states(lift, 2, generator)
    stream = model.stream(state=_state(model, states))
    for steps in (1, 3, 2):
        inputs = lift.sample(2, steps, generator)
        found = lift.run_protocol(inputs, states)
        if found is None:
            return
        expected, states = found
        answer = _answers(lift, stream.feed(_given(lift, inputs)))
        yield _case("protocol", 2, steps, "random", answer, stream.state, _expected(lift, expected, 2, steps), states)


def _torchscript(lift: Lift, script: Script) -> Iterator[Case]:
    for batch, steps, start, inputs, states in _grid(lift):
        expected, following = lift.run(inputs, states)
        with torch.no_grad():
            returned = dict(
                zip(
                    (*lift.outputs, *states),
                    script(*(inputs[spec.name] for spec in lift.inputs), *states.values()),
                    strict=True,
                )
            )
        found = {name: returned[name] for name in lift.outputs}
        yield _case(
            "torchscript",
            batch,
            steps,
            start,
            _expected(lift, found, batch, steps),
            {name: returned[name].numpy() for name in states},
            _expected(lift, expected, batch, steps),
            following,
        )


def _case(
    check: str,
    batch: int,
    steps: int,
    start: str,
    found: Arrays,
    state: Arrays,
    expected: Arrays,
    following: Mapping[str, Tensor],
) -> Case:
    outputs, outputs_close = _compare(found, expected)
    states, states_close = _compare(state, {name: tensor.numpy() for name, tensor in following.items()})
    return Case(check, batch, steps, start, outputs, states, outputs_close and states_close)


def _compare(found: Arrays, expected: Arrays) -> tuple[float, bool]:
    """The largest absolute difference, and whether all values agree: on the scale of each output, integers exactly.

    A value that is not finite must be the same in both.
    """
    largest, close = 0.0, True
    for name, want in expected.items():
        difference = _difference(found[name], want)
        if want.dtype.kind == "f" and math.isfinite(difference.max(initial=0.0)):
            atol, rtol = TOLERANCES[want.dtype.name]
            size = np.abs(np.where(np.isfinite(want), want, 0))
            close = close and bool((difference <= atol * min(1.0, float(size.max(initial=0.0))) + rtol * size).all())
        else:
            close = close and not difference.any()
        largest = max(largest, float(difference.max(initial=0.0)))
    return largest, close


def _difference(have: NDArray[Any], want: NDArray[Any]) -> NDArray[np.float64]:
    """How far apart each value is; infinity where only one of both is finite, or where types or shapes differ."""
    if have.shape != want.shape or have.dtype != want.dtype:
        return np.full(1, math.inf)
    if want.dtype.kind != "f":
        return np.asarray(have != want, np.float64)
    same = (have == want) | (np.isnan(have) & np.isnan(want))
    with np.errstate(invalid="ignore"):
        apart = np.empty(want.shape)
        np.abs(np.subtract(have, want, dtype=np.float64), out=apart)
    apart[same] = 0.0
    apart[np.isnan(apart)] = math.inf
    return apart


def _random_states(lift: Lift, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    """States between -1 and 1; where the module does not take those, such that it comes to by itself."""
    drawn = {slot.name: random_state(slot.at(batch), slot.dtype, generator) for slot in lift.states}
    answer, following = lift.run(lift.sample(batch, 2, generator), drawn)
    if all(t.isfinite().all() for t in (*answer.values(), *following.values()) if t.is_floating_point()):
        return drawn
    inputs = lift.sample(batch, 3, generator)
    return lift.run(inputs, lift.initial_states(inputs))[1]


def _state(model: Model, states: Mapping[str, Tensor]) -> State:
    return model.make_state({name: tensor.numpy() for name, tensor in states.items()})


def _given(lift: Lift, inputs: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """What the runtime takes: batch-first."""
    steps = lift.steps_of(inputs)
    return {s.name: batch_first(inputs[s.name], s.shape, lift.batch_of(inputs), steps).numpy() for s in lift.inputs}


def _conditions(lift: Lift, inputs: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    return {s.name: batch_first(inputs[s.name], s.shape, lift.batch_of(inputs), 1).numpy() for s in lift.conditions}


def _only_step(lift: Lift, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {s.name: inputs[s.name] if s.axes.time is None else inputs[s.name][:, 0] for s in lift.inputs}


def _answers(lift: Lift, answer: Any, *, expand: bool = False) -> dict[str, NDArray[Any]]:
    """What the runtime answered, by name; `expand` gives the answer to a step its time axis back."""
    named = answer if isinstance(answer, dict) else {next(iter(lift.outputs)): answer}
    return {name: named[name][:, None] if expand and has_time(shape) else named[name] for name, shape in lift.outputs.items()}


def _expected(lift: Lift, outputs: Mapping[str, Tensor], batch: int, steps: int) -> dict[str, NDArray[Any]]:
    return {name: batch_first(outputs[name], shape, batch, steps).numpy() for name, shape in lift.outputs.items()}
