"""Thousands of steps: the exported model and the eager module, both against float64.

A difference of one rounding stays one in a network that forgets, and grows without bound in one that does not: that is the
network's own doing. So no number bounds the difference; what rounding makes of the module itself does. At step t, each feature of
the exported model may be `envelope` times as far from float64 as the eager module, or float64 with nudged weights, is up to step 2t.

Where a module cannot be computed in float64, the eager module itself is the reference, and its nudged twins are the measure.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rnnx._axes import has_time
from rnnx._lift import Lift
from rnnx._parity.compare import difference
from rnnx._parity.eager import in_one_call
from rnnx._parity.subjects import ArtifactSubject
from rnnx._parity.task import Task, TaskMeter
from rnnx._parity.tolerances import Tolerance
from rnnx._parity.twins import Answer, Twins, largest

_ROWS: Final = 2
_CHUNK: Final = 256  # steps of one call at most
_PER_DECADE: Final = 8
_APART: Final = 1e-3  # of a tensor's scale: from here on, two runs are no longer the same
_FEWEST: Final = 100  # steps over which the measure is taken at least: a single rounding may be nought by luck
_SEED: Final = 7
_SMALL: Final = 1e-6  # of a tensor's scale: features below are held to that
FEW: Final = 1  # nudged twins
MANY: Final = 8

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Curve:
    """The error of one tensor against the reference, on the scale of each feature's values, up to each of the marked steps.

    Attributes:
        kind: whether it is an output or a state.
        exported: of the exported model, in the feature where it is largest.
        eager: of the eager module, or of a nudged twin where that is further off.
        allowed: `exported`, divided by how much of what is allowed the feature nearest to its bound takes up.
    """

    name: str
    kind: Literal["output", "state"]
    exported: tuple[float, ...]
    eager: tuple[float, ...]
    allowed: tuple[float, ...]

    @property
    def passed(self) -> bool:
        return all(error <= bound for error, bound in zip(self.exported, self.allowed, strict=True))


@dataclass(frozen=True)
class Trajectory:
    """What became of a long run.

    Attributes:
        steps: how many were taken: fewer than asked for where the states leave the finite numbers.
        reference: what the errors are against.
        marks: the steps at which the curves are given.
        horizon: the first step at which the exported model is no longer the same run as the reference; None where there is none. Of
            states, and of outputs without time, only the ends of calls are known.
        eager_horizon: the same of the eager module, or of its nudged twin.
        task: what the differences do to decisions or values, up to the nearer horizon.
    """

    steps: int
    reference: Literal["float64", "nudged"]
    marks: tuple[int, ...]
    curves: tuple[Curve, ...]
    horizon: int | None
    eager_horizon: int | None
    task: Task

    @property
    def passed(self) -> bool:
        return all(curve.passed for curve in self.curves) and self.task.passed

    @property
    def error(self) -> float:
        """The largest of the exported model."""
        return max((curve.exported[-1] for curve in self.curves if curve.exported), default=0.0)

    @property
    def eager(self) -> float:
        """The largest of the eager module."""
        return max((curve.eager[-1] for curve in self.curves if curve.eager), default=0.0)


def follow(
    lift: Lift,
    subject: ArtifactSubject,
    steps: int,
    tolerance: Tolerance,
    twins: Twins,
    nudged: int = FEW,
    progress: Progress = lambda done: None,
) -> Trajectory:
    """Take both through the same random inputs, from the initial state, with the states carried.

    Args:
        nudged: twins that are asked how far rounding leads. What is rare in a module may pass by one, and less likely by `MANY`.
    """
    runs = _Runs(lift, subject, twins, nudged, _SEED)
    marks: list[int] = []
    taken = 0
    for mark in _marks(steps):
        while taken < mark and runs.finite:
            taken = min(mark, taken + _CHUNK)
            runs.advance(taken)
            progress(taken / steps)
        if not runs.finite:
            break
        runs.mark()
        marks.append(mark)
    return Trajectory(
        marks[-1] if marks else 0,
        twins.kind,
        tuple(marks),
        tuple(errors.curve(marks, tolerance) for errors in runs.errors.values()),
        _earliest(errors.horizon for errors in runs.errors.values()),
        _earliest(errors.measure_horizon for errors in runs.errors.values()),
        runs.meter.result(tolerance),
    )


@dataclass
class _Errors:
    """Of one tensor, feature by feature: the largest so far, at each mark; and where it got too large.

    Attributes:
        axes: those of rows and steps.
        scale: the largest value of the reference, of each feature.
        whole_scale: of all features.
    """

    name: str
    kind: Literal["output", "state"]
    axes: tuple[int, ...]
    timed: bool
    whole_scale: float
    scale: Any = 0.0
    exported: Any = 0.0
    measure: Any = 0.0
    at_marks: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=list)
    horizon: int | None = None
    measure_horizon: int | None = None

    def add(self, found: NDArray[Any], true: NDArray[Any], others: Iterable[NDArray[Any]], steps: range) -> None:
        """One call: of the exported model, of the reference, and of what rounding is measured by."""
        sized = np.where(np.isfinite(true), true, 0) if true.dtype.kind == "f" else true
        self.scale = np.maximum(self.scale, largest(sized, self.axes))
        self.whole_scale = max(self.whole_scale, float(np.max(self.scale, initial=0.0)))
        apart = difference(found, true.astype(found.dtype))
        self.exported = np.maximum(self.exported, largest(apart, self.axes))
        self.horizon = self._horizon(self.horizon, apart, steps)
        for other in others:
            apart = difference(other.astype(true.dtype), true)
            self.measure = np.maximum(self.measure, largest(apart, self.axes))
            self.measure_horizon = self._horizon(self.measure_horizon, apart, steps)

    def mark(self) -> None:
        self.at_marks.append((np.array(self.exported), np.array(self.measure)))

    def curve(self, marks: list[int], tolerance: Tolerance) -> Curve:
        """The errors at the marks, and what the envelope allows."""
        scale = np.maximum(self.scale, _SMALL * self.whole_scale)
        scale = np.where(scale > 0, scale, 1.0)
        exported, eager, allowed = [], [], []
        for place, mark in enumerate(marks):
            until = max(i for i, other in enumerate(marks) if other <= max(2 * mark, _FEWEST) or i == place)
            bound = tolerance.envelope * np.maximum(tolerance.floor * scale, self.at_marks[until][1])
            mine = self.at_marks[place][0]
            exported.append(float(np.max(mine / scale, initial=0.0)))
            eager.append(float(np.max(self.at_marks[place][1] / scale, initial=0.0)))
            with np.errstate(invalid="ignore"):
                share = float(np.max(np.nan_to_num(mine / bound, nan=1.0, posinf=np.inf), initial=0.0))
            allowed.append(exported[-1] / share if 0 < share < math.inf else tolerance.envelope * tolerance.floor)
        return Curve(self.name, self.kind, tuple(exported), tuple(eager), tuple(allowed))

    def _horizon(self, before: int | None, apart: NDArray[np.float64], steps: range) -> int | None:
        if before is not None:
            return before
        if not self.timed:
            return steps[-1] if largest(apart, tuple(range(apart.ndim))) > _APART * (self.whole_scale or 1.0) else None
        per_step = apart.max(axis=(0, *range(2, apart.ndim)), initial=0.0)
        beyond = np.flatnonzero(per_step > _APART * (self.whole_scale or 1.0))
        return steps[int(beyond[0])] if beyond.size else None


class _Runs:
    """The exported model, the eager module and its twins, at the same step."""

    def __init__(self, lift: Lift, subject: ArtifactSubject, twins: Twins, nudged: int, seed: int) -> None:
        self._lift, self._subject, self._twins = lift, subject, twins
        self._generator = torch.Generator().manual_seed(seed)
        self.meter = TaskMeter(lift, subject.model.manifest)
        states = lift.initial_states(lift.sample(_ROWS, 1, self._generator))
        self._stream = subject.stream(states)
        # The eager module first, then the reference where that is another, then what rounding is measured by.
        self._all = [*dict.fromkeys([lift, twins.reference]), *twins.nudged(nudged)]
        self._states: list[Mapping[str, Tensor]] = [states for _ in self._all]
        self._step = 0
        self.finite = True
        scales = self._pilot(states)
        batch_axes = {slot.name: slot.batch_axis for slot in lift.states}
        timed = {name: has_time(shape) for name, shape in lift.outputs.items()}
        self.errors = {
            name: _Errors(name, "output", (0, 1) if timed[name] else (0,), timed[name], scales[name]) for name in lift.outputs
        }
        self.errors |= {name: _Errors(name, "state", (batch_axes[name],), False, scales[name]) for name in states}

    def advance(self, stop: int) -> None:
        """Take all of them to a step."""
        lift = self._lift
        inputs = lift.sample(_ROWS, stop - self._step, self._generator)
        answers = [self._ask(place, inputs) for place in range(len(self._all))]
        eager, reference = answers[0], answers[self._twins.kind == "float64"]
        self.finite = _finite(eager[1]) and _finite(reference[1])
        if not self.finite:
            return
        found = self._subject.feed(self._stream, inputs), dict(self._stream.state)
        taken = range(self._step + 1, stop + 1)
        others = [answer for answer in answers if answer is not reference]
        for side in range(2):
            for name, true in reference[side].items():
                self.errors[name].add(found[side][name], true, [other[side][name] for other in others], taken)
        nearest = _earliest(at for errors in self.errors.values() for at in (errors.horizon, errors.measure_horizon))
        steps = len(taken) if nearest is None else max(0, nearest - 1 - self._step)
        self.meter.add(found[0], eager[0], inputs, steps, len(taken))
        self._step = stop

    def mark(self) -> None:
        for errors in self.errors.values():
            errors.mark()

    def _ask(self, place: int, inputs: Mapping[str, Tensor]) -> Answer:
        answer = self._twins.ask(self._all[place], partial(in_one_call, inputs, self._states[place]))
        if answer is None:
            raise RuntimeError(f"{self._lift.name} does not go on from its own states")
        self._states[place] = {name: torch.from_numpy(array) for name, array in answer[1].items()}
        return answer

    def _pilot(self, states: Mapping[str, Tensor]) -> dict[str, float]:
        """How large each tensor gets in one call: until then, its first values alone would be the scale of its errors."""
        inputs = self._lift.sample(_ROWS, _CHUNK, torch.Generator().manual_seed(0))
        answer = self._twins.ask(self._lift, partial(in_one_call, inputs, states))
        sides = [] if answer is None else [*answer[0].items(), *answer[1].items()]
        found = {name: float(np.abs(np.where(np.isfinite(a), a, 0).astype(np.float64)).max(initial=0.0)) for name, a in sides}
        return {name: found.get(name, 0.0) for name in (*self._lift.outputs, *states)}


def _finite(arrays: Mapping[str, NDArray[Any]]) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays.values() if array.dtype.kind == "f")


def _marks(steps: int) -> Iterator[int]:
    """Steps, evenly spaced in their logarithm, up to the last."""
    found = {min(steps, round(10 ** (place / _PER_DECADE))) for place in range(math.ceil(_PER_DECADE * math.log10(steps)) + 1)}
    return iter(sorted(found))


def _earliest(horizons: Iterable[int | None]) -> int | None:
    return min((horizon for horizon in horizons if horizon is not None), default=None)
