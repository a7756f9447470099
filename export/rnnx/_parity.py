"""The parity gate: the artifact, run by the runtime, against the eager module. No proof, no artifact.

untouched     the module as its forward starts it, at every batch size that it accepts
whole         every shape of a grid, from the initial state and from random ones, outputs and states
one step      256 random states at once: a wrong gate order, bias or layout shows here whatever the dynamics do later
chunks, steps the same sequence in random chunks and step by step, through a stream
torchscript   the traced module on the same grid
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rnnx._axes import batch_first, has_time
from rnnx._errors import LiftError
from rnnx._lift import Lift
from rnnx_runtime import Model, State, Stream
from rnnx_runtime.artifact import ParitySummary

_ATOL: Final = 1e-5
_RTOL: Final = 1e-4
_ONE_STEP: Final = 2e-6
_BATCHES: Final = (1, 2, 5)
_STATES: Final = 256  # random states of the one-step check

Script = Callable[..., tuple[Tensor, ...]]
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """One comparison: the largest absolute differences, and whether all are within the tolerance."""

    check: str
    batch: int
    steps: int
    start: str
    outputs: float
    states: float
    passed: bool


@dataclass(frozen=True)
class ParityReport:
    """All comparisons of one export."""

    cases: tuple[Case, ...]

    @property
    def passed(self) -> bool:
        return all(case.passed for case in self.cases)

    def summary(self) -> ParitySummary:
        """What goes into the manifest."""
        stepping = [max(case.outputs, case.states) for case in self.cases if case.check in ("chunks", "steps")]
        return ParitySummary(
            passed=self.passed,
            cases=len(self.cases),
            outputs=max(case.outputs for case in self.cases),
            states=max(case.states for case in self.cases),
            stepping=max(stepping, default=0.0),
            tolerance=_ATOL,
        )

    def rows(self) -> list[tuple[str, int, int, float, float]]:
        """Per check: its name, cases, cases that failed, and the largest differences of outputs and of states."""
        checks = dict.fromkeys(case.check for case in self.cases)
        groups = {check: [case for case in self.cases if case.check == check] for check in checks}
        return [
            (check, len(cases), sum(not c.passed for c in cases), max(c.outputs for c in cases), max(c.states for c in cases))
            for check, cases in groups.items()
        ]

    def table(self) -> str:
        """The rows, and the first case that failed, as text."""
        lines = [f"  {'check':<12}{'cases':>6}{'failed':>8}{'outputs':>12}{'states':>12}"]
        lines += [
            f"  {check:<12}{n:>6}{bad:>8}{outputs:>12.1e}{states:>12.1e}" for check, n, bad, outputs, states in self.rows()
        ]
        wrong = next((case for case in self.cases if not case.passed), None)
        if wrong is not None:
            lines.append(f"  first at: {wrong.check}, batch {wrong.batch}, {wrong.steps} steps, {wrong.start} state")
        return "\n".join(lines)

    def to_json(self) -> bytes:
        """The whole report."""
        return msgspec.json.format(msgspec.json.encode({"passed": self.passed, "cases": [asdict(c) for c in self.cases]}))


def prove(lift: Lift, model: Model, script: Script | None = None) -> ParityReport:
    """Compare an artifact, loaded by the runtime, with the eager module.

    Raises:
        LiftError: the eager module itself answers NaN or infinity.
    """
    cases = [*_untouched(lift, model), *_whole(lift, model), _one_step(lift, model)]
    if lift.not_streamable_because is None:
        cases += _stepping(lift, model)
    if script is not None:
        cases += _torchscript(lift, script)
    return ParityReport(tuple(cases))


def _sizes(lift: Lift) -> list[tuple[int, int]]:
    lengths = sorted({1, 2, 3, lift.steps, 3 * lift.steps})
    return [(batch, steps) for batch in _BATCHES for steps in lengths]


def _grid(lift: Lift) -> Iterator[tuple[int, int, str, dict[str, Tensor], dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    for batch, steps in _sizes(lift):
        inputs = lift.sample(batch, steps, generator)
        yield batch, steps, "initial", inputs, lift.initial_states(inputs)
        yield batch, steps, "random", lift.sample(batch, steps, generator), _random_states(lift, batch, generator)


def _untouched(lift: Lift, model: Model) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(1)
    for batch, steps in _sizes(lift):
        inputs = lift.sample(batch, steps, generator)
        try:
            expected = lift.run_untouched(inputs)
        except Exception:  # a batch size that the module bakes in; the other checks cover it
            continue
        start = model.initial_state(batch, **_conditions(lift, inputs))
        answer, _ = model.run(_given(lift, inputs), start)
        outputs = _compare(_answers(lift, answer), _expected(lift, expected, batch, steps))
        yield Case("untouched", batch, steps, "initial", outputs[0], 0.0, outputs[1])


def _whole(lift: Lift, model: Model) -> Iterator[Case]:
    for batch, steps, start, inputs, states in _grid(lift):
        expected, following = lift.run(inputs, states)
        answer, state = model.run(_given(lift, inputs), _state(model, states))
        yield _case(
            "whole", batch, steps, start, _answers(lift, answer), state, _expected(lift, expected, batch, steps), following
        )


def _one_step(lift: Lift, model: Model) -> Case:
    generator = torch.Generator().manual_seed(2)
    inputs, states = lift.sample(_STATES, 1, generator), _random_states(lift, _STATES, generator)
    expected, following = lift.run(inputs, states)
    answer, state = model.run(_given(lift, inputs), _state(model, states))
    outputs, close = _compare(_answers(lift, answer), _expected(lift, expected, _STATES, 1))
    # Relative above 1: a cell state is not bounded.
    distance = max(
        (float((np.abs(state[n] - t.numpy()) / np.maximum(1, np.abs(t.numpy()))).max()) for n, t in following.items()),
        default=0.0,
    )
    return Case("one step", _STATES, 1, "random", outputs, distance, close and distance <= _ONE_STEP)


def _stepping(lift: Lift, model: Model) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(3)
    steps = max(3 * lift.steps, 12)
    for batch in _BATCHES:
        inputs, states = lift.sample(batch, steps, generator), _random_states(lift, batch, generator)
        expected, following = lift.run(inputs, states)
        cuts = sorted({0, steps, *torch.randint(1, steps, (4,), generator=generator).tolist()})
        for check, bounds in (("chunks", cuts), ("steps", list(range(steps + 1)))):
            stream = Stream(model, _state(model, states))
            parts = []
            for start, stop in itertools.pairwise(bounds):
                part = _given(lift, lift.chunk(inputs, start, stop))
                if check == "chunks":
                    parts.append(_answers(lift, stream.feed(part)))
                else:
                    parts.append(_answers(lift, stream.step(_only_step(lift, part)), expand=True))
            found = {
                name: np.concatenate([p[name] for p in parts], axis=1) if has_time(shape) else parts[-1][name]
                for name, shape in lift.outputs.items()
            }
            yield _case(check, batch, steps, "random", found, stream.state, _expected(lift, expected, batch, steps), following)


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
    """The largest absolute difference, and whether all values agree."""
    largest, close = 0.0, True
    for name, want in expected.items():
        if not np.isfinite(want).all():
            raise LiftError(f"{name}: the module itself answers NaN or infinity; there is nothing to compare with")
        have = found[name]
        if have.shape != want.shape:
            return float("inf"), False
        largest = max(largest, float(np.abs(have.astype(np.float64) - want).max(initial=0.0)))
        close = close and bool(np.allclose(have, want, rtol=_RTOL, atol=_ATOL))
    return largest, close


def _random_states(lift: Lift, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {slot.name: torch.rand(slot.at(batch), generator=generator) * 2 - 1 for slot in lift.states}


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
