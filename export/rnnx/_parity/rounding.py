"""How near float32 comes: what may be off by more than a fixed tolerance, because rounding takes the eager module as far."""

import math
from collections.abc import Mapping
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from rnnx._axes import has_time
from rnnx._parity.compare import difference
from rnnx._parity.eager import Eager
from rnnx._parity.twins import Answer, Twins, largest

_TIMES: Final = 4.0  # as far as rounding takes the eager module
_NUDGED: Final = 6  # twins
_ENOUGH: Final = 64  # values of a feature, for its own rounding to be seen


@final
class Rounding:
    """The rounding of one module, feature by feature: a large one says nothing about a small one beside it."""

    def __init__(self, twins: Twins) -> None:
        self._twins = twins
        self._axes: dict[str, tuple[int, ...]] = {slot.name: (slot.batch_axis,) for slot in twins.lift.states}
        self._axes |= {name: (0, 1) if has_time(shape) else (0,) for name, shape in twins.lift.outputs.items()}

    def explains(
        self,
        found: tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]],
        wanted: tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]],
        eager: Eager,
        allowed: tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]],
    ) -> bool:
        """Whether every value that is further off than `allowed` is as near as rounding lets it be: large values and chaos leave it
        no nearer.

        That is: as the eager module is to float64, or as float64 is to itself where the weights are nudged by a few roundings.
        """
        twins = self._twins
        exact = twins.ask(twins.reference, eager)
        others = [twins.ask(other, eager) for other in (twins.lift, *twins.nudged(_NUDGED))]
        answers: list[Answer] = [answer for answer in others if answer is not None]
        if exact is None or not answers:
            return False
        for side, bounds in enumerate(allowed):
            for name, bound in bounds.items():
                apart = difference(found[side][name], wanted[side][name])
                if apart.shape != bound.shape:
                    return False
                if (apart <= bound).all():
                    continue
                true, axes = exact[side][name], self._axes[name]
                if true.dtype.kind != "f":
                    return False
                moved = [largest(difference(answer[side][name].astype(true.dtype), true), axes) for answer in answers]
                rounding = _of_features(np.max(moved, axis=0), true, axes)
                if not ((apart <= bound) | (apart <= _TIMES * np.expand_dims(rounding, axes))).all():
                    return False
        return True


def _of_features(moved: NDArray[np.float64], true: NDArray[Any], axes: tuple[int, ...]) -> NDArray[np.float64]:
    """How far rounding moves each feature; of few rows and steps, as far as it moves any, on the scale of each.

    Where it leads out of the finite numbers, nothing is explained.
    """
    moved = np.where(np.isfinite(moved), moved, 0.0)
    if math.prod(true.shape[axis] for axis in axes) >= _ENOUGH or not moved.size:
        return moved
    scale = largest(np.where(np.isfinite(true), true, 0), axes)
    shares = moved / np.where(scale > 0, scale, math.inf)
    found: NDArray[np.float64] = np.maximum(moved, scale * shares.max())
    return found
