"""How far apart two answers are."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnx._parity.tolerances import Tolerance

Arrays = Mapping[str, NDArray[Any]]


def compare(
    found: Arrays, expected: Arrays, tolerance: Tolerance, largest_scale: float = 1.0
) -> tuple[dict[str, float], list[str]]:
    """The largest absolute difference of each tensor, and the tensors that do not agree over a sequence.

    Floats agree on the scale of their tensor, up to `largest_scale`, everything else exactly. A value that is not finite must be
    the same in both.
    """
    largest: dict[str, float] = {}
    wrong = []
    for name, want in expected.items():
        apart = difference(found[name], want)
        largest[name] = float(apart.max(initial=0.0))
        if not within(apart, allowed(want, tolerance, largest_scale), tolerance):
            wrong.append(name)
    return largest, wrong


def within(apart: NDArray[np.float64], bound: NDArray[np.float64], tolerance: Tolerance) -> bool:
    """Whether differences are as small as their bounds: each, or where the tolerance is of all together, their mean square."""
    if tolerance.together and bound.any():
        return float(np.square(apart).mean()) <= float(np.square(bound).mean())
    return bool(np.all(apart <= bound))


def allowed(want: NDArray[Any], tolerance: Tolerance, largest_scale: float = 1.0) -> NDArray[np.float64]:
    """How far apart each value may be: on the scale of its tensor, up to `largest_scale`; nothing where it is no float."""
    if want.dtype.kind != "f":
        return np.zeros(want.shape)
    size = np.abs(np.where(np.isfinite(want), want, 0)).astype(np.float64)
    bound: NDArray[np.float64] = (
        tolerance.absolute * min(largest_scale, float(size.max(initial=0.0))) + tolerance.relative * size
    )
    return bound


def allowed_in_one_step(want: NDArray[Any], tolerance: Tolerance) -> NDArray[np.float64]:
    """How far apart each value may be after one step, relative above 1; nothing where it is no float."""
    if want.dtype.kind != "f":
        return np.zeros(want.shape)
    bound: NDArray[np.float64] = tolerance.one_step * np.maximum(1, np.abs(np.nan_to_num(want)).astype(np.float64))
    return bound


def relative(found: Arrays, expected: Arrays) -> float:
    """The largest difference of all, relative above 1: a cell state is not bounded."""
    apart = (difference(found[name], want) / np.maximum(1, np.abs(np.nan_to_num(want))) for name, want in expected.items())
    return max((float(one.max(initial=0.0)) for one in apart), default=0.0)


def difference(have: NDArray[Any], want: NDArray[Any]) -> NDArray[np.float64]:
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
