"""Thousands of steps: the exported model and the eager module, both against float64.

A difference of one rounding stays one in a network that forgets, and grows without bound in one that does not: that is the
network's own doing. So no number bounds the difference; what the eager module's own rounding makes of it does. At step t the
exported model may be `envelope` times as far from float64 as the eager module is up to step 2t.

Where a module cannot be computed in float64, the eager module itself is the reference, and how far it gets from itself when its
state is nudged by a few roundings is the measure.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rnnx._axes import has_time
from rnnx._lift import Lift
from rnnx._parity.compare import Arrays
from rnnx._parity.float64 import doubled, float64_by_default, in_float64, nudged
from rnnx._parity.subjects import ArtifactSubject, as_arrays, eager_answers
from rnnx._parity.task import Task, TaskMeter
from rnnx._parity.tolerances import Tolerance

_ROWS: Final = 2
_CHUNK: Final = 256  # steps of one call at most
_PER_DECADE: Final = 8
_APART: Final = 1e-3  # of a tensor's scale: from here on, two runs are no longer the same

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Curve:
    """The error of one tensor against the reference, on the scale of its values, up to each of the marked steps.

    Attributes:
        kind: whether it is an output or a state.
        exported: of the exported model.
        eager: of the eager module, which the envelope is made of.
        allowed: how large `exported` may be.
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
        steps: how many were taken: fewer than asked for where the module itself leaves the finite numbers.
        reference: what the errors are against.
        marks: the steps at which the curves are given.
        horizon: the first step at which the exported model is no longer the same run as the reference; None where there is none.
        eager_horizon: the same of the eager module.
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


@dataclass
class _Errors:
    """Of one tensor: the largest so far, at each mark, and where it got too large."""

    scale: float = 0.0
    largest: float = 0.0
    at_marks: list[float] = field(default_factory=list)
    horizon: int | None = None

    def add(self, apart: NDArray[np.float64], steps: range) -> None:
        """`apart` per step, on no scale yet; of a tensor without steps, one value, of the last."""
        errors = np.where(np.isnan(apart), math.inf, apart) / (self.scale or 1.0)
        self.largest = max(self.largest, float(errors.max(initial=0.0)))
        beyond = np.flatnonzero(errors > _APART)
        if self.horizon is None and beyond.size:
            self.horizon = steps[int(beyond[0])] if len(errors) == len(steps) else steps[-1]


def follow(
    lift: Lift, subject: ArtifactSubject, steps: int, tolerance: Tolerance, seed: int, progress: Progress = lambda done: None
) -> Trajectory:
    """Take both through the same random inputs, from the initial state, with the states carried."""
    runs = _Runs(lift, subject, seed)
    marks = list(_marks(steps))
    taken = 0
    for mark in marks:
        while taken < mark and runs.finite:
            taken = min(mark, taken + _CHUNK)
            runs.advance(taken)
            progress(taken / steps)
        if not runs.finite:
            break
        runs.mark()
    kept = marks[: runs.marked]
    return Trajectory(
        kept[-1] if kept else 0,
        runs.reference,
        tuple(kept),
        tuple(runs.curves(kept, tolerance)),
        _earliest(errors.horizon for errors in runs.exported.values()),
        _earliest(errors.horizon for errors in runs.eager.values()),
        runs.meter.result(tolerance),
    )


class _Runs:
    """The exported model, the eager module and the reference, at the same step."""

    def __init__(self, lift: Lift, subject: ArtifactSubject, seed: int) -> None:
        self._lift, self._subject = lift, subject
        self.meter = TaskMeter(lift, subject.model.manifest)
        self._generator = torch.Generator().manual_seed(seed)
        states = lift.initial_states(lift.sample(_ROWS, 1, self._generator))
        self._stream = subject.stream(states)
        self._eager = states
        self._exact = self._in_float64(states)
        self.reference: Literal["float64", "nudged"] = "nudged" if self._exact is None else "float64"
        self._other = doubled(states) if self._exact is not None else nudged(states, self._generator)
        self._step = 0
        self.finite = True
        self.marked = 0
        names = [*lift.outputs, *states]
        self.exported = {name: _Errors() for name in names}
        self.eager = {name: _Errors() for name in names}

    def advance(self, stop: int) -> None:
        """Take all of them to a step."""
        lift = self._lift
        inputs = lift.sample(_ROWS, stop - self._step, self._generator)
        eager, self._eager = eager_answers(lift, inputs, self._eager)
        if self._exact is not None:
            with float64_by_default():
                other, self._other = eager_answers(self._exact, doubled(inputs), self._other)
        else:
            other, self._other = eager_answers(lift, inputs, self._other)
        self.finite = _finite(eager) and _finite(as_arrays(self._eager))
        if not self.finite:
            return
        found = self._subject.feed(self._stream, inputs)
        taken = range(self._step + 1, stop + 1)
        self._add(found, eager, other, taken)
        self._add(dict(self._stream.state), as_arrays(self._eager), as_arrays(self._other), taken)
        nearest = _earliest(errors.horizon for errors in (*self.exported.values(), *self.eager.values()))
        self.meter.add(found, eager, inputs, len(taken) if nearest is None else max(0, nearest - 1 - self._step))
        self._step = stop

    def mark(self) -> None:
        self.marked += 1
        for errors in (*self.exported.values(), *self.eager.values()):
            errors.at_marks.append(errors.largest)

    def curves(self, marks: list[int], tolerance: Tolerance) -> Iterator[Curve]:
        """The errors at the marks, and what the envelope allows."""
        later = [
            max(i for i, other in enumerate(marks) if other <= 2 * mark or i == place) for place, mark in enumerate(marks)
        ]
        for name, errors in self.exported.items():
            eager = self.eager[name].at_marks
            allowed = tuple(tolerance.envelope * max(tolerance.floor, eager[place]) for place in later)
            kind: Literal["output", "state"] = "output" if name in self._lift.outputs else "state"
            yield Curve(name, kind, tuple(errors.at_marks), tuple(eager), allowed)

    def _add(self, found: Arrays, eager: Arrays, other: Arrays, taken: range) -> None:
        """Errors of one call: where float64 is the reference both are held against it, else against the eager module."""
        for name, mine in eager.items():
            true = other[name] if self._exact is not None else mine
            size = float(np.abs(true.astype(np.float64)).max(initial=0.0))
            timed = name in self._lift.outputs and has_time(self._lift.outputs[name])
            for errors, have, want in (
                (self.exported[name], found[name], true),
                (self.eager[name], mine, other[name]),
            ):
                errors.scale = max(errors.scale, size)
                errors.add(_apart(have, want, timed), taken)

    def _in_float64(self, states: Mapping[str, Tensor]) -> Lift | None:
        """The reference; None where the module is in float64 itself, or cannot run in it."""
        lift = self._lift
        if self._subject.model.manifest.precision == "float64":
            return None
        try:
            twin = in_float64(lift)
            inputs = doubled(lift.sample(_ROWS, 2, torch.Generator().manual_seed(0)))
            with float64_by_default():
                outputs, following = twin.run(inputs, doubled(dict(states)))
        except Exception:
            return None
        tensors = (*outputs.values(), *following.values())
        return twin if all(t.dtype != torch.float32 for t in tensors) else None


def _apart(have: NDArray[np.generic], want: NDArray[np.generic], timed: bool) -> NDArray[np.float64]:
    """The largest difference per step; of a tensor without steps, one."""
    if have.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            apart = np.abs(have.astype(np.float64) - want.astype(np.float64))
    else:
        apart = np.asarray(have != want, np.float64)
    if timed:
        largest: NDArray[np.float64] = apart.max(axis=(0, *range(2, apart.ndim)), initial=0.0)
        return largest
    return np.array([apart.max(initial=0.0)])


def _finite(arrays: Arrays) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays.values() if array.dtype.kind == "f")


def _marks(steps: int) -> Iterator[int]:
    """Steps, evenly spaced in their logarithm, up to the last."""
    found = {min(steps, round(10 ** (place / _PER_DECADE))) for place in range(math.ceil(_PER_DECADE * math.log10(steps)) + 1)}
    return iter(sorted(found))


def _earliest(horizons: Iterator[int | None]) -> int | None:
    return min((horizon for horizon in horizons if horizon is not None), default=None)
