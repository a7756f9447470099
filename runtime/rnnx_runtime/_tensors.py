"""Between the caller and the graph: arrays are checked, and seen batch-first whatever layout the module had.

Callers hand over and get `(B, T, ...)` (a chunk) or `(B, ...)` (a step). The graph keeps its module's own layout:
time-major, flattened `(T·B, V)`, with axes of size 1 in front, ... `Layout` is the view between the two.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnnx_runtime._errors import InputError
from rnnx_runtime._manifest import BATCH, TIME, Dimension, Input


class Layout:
    """Where batch and time stand in one tensor of the graph.

    Attributes:
        has_time: whether it has a value per step.
        inner: the sizes behind batch and time, in graph order; axes of size 1 in front of batch and time are left out.
    """

    def __init__(self, shape: tuple[Dimension, ...]) -> None:
        self.shape = shape
        axes = [axis for size in shape for axis in (size.split("*") if isinstance(size, str) else [size])]
        symbols = [i for i, axis in enumerate(axes) if isinstance(axis, str)]
        self.has_time = TIME in axes
        front = [axes.index(BATCH), axes.index(TIME)] if self.has_time else [axes.index(BATCH)]
        inner = [i for i, axis in enumerate(axes) if i not in front and not (axis == 1 and i < symbols[0])]
        dropped = [i for i, axis in enumerate(axes) if i not in front and i not in inner]
        self._axes = axes
        self._order = (*dropped, *front, *inner)
        self._dropped = len(dropped)
        self.inner = tuple(axis for i in inner if isinstance(axis := axes[i], int))

    def graph_shape(self, batch: int, steps: int) -> tuple[int, ...]:
        """The shape that the graph has for it."""
        sizes = {BATCH: batch, TIME: steps, f"{BATCH}*{TIME}": batch * steps, f"{TIME}*{BATCH}": batch * steps}
        return tuple(sizes[size] if isinstance(size, str) else size for size in self.shape)

    def batch_first(self, array: NDArray[Any], batch: int, steps: int) -> NDArray[Any]:
        """A view of the graph's C-ordered `array` as `(B, T, *inner)`, or `(B, *inner)` where there is no time."""
        sizes = {BATCH: batch, TIME: steps}
        split = array.reshape([sizes[axis] if isinstance(axis, str) else axis for axis in self._axes])
        view: NDArray[Any] = split.transpose(self._order)[(0,) * self._dropped]
        return view

    def to_graph(self, array: NDArray[Any], steps: int) -> NDArray[Any]:
        """The graph's array, C-ordered, from a batch-first one."""
        batch = array.shape[0]
        out = np.empty(self.graph_shape(batch, steps), array.dtype)
        self.batch_first(out, batch, steps)[...] = array
        return out


def check_values(spec: Input, value: ArrayLike) -> NDArray[Any]:
    """`value` as an array of the type that the graph takes, its content checked; the shape is the caller's to check.

    Raises:
        InputError: another kind of number, a token outside the vocabulary, NaN or infinity.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"{spec.name}: not an array of numbers: {error}") from None
    kinds = "iu" if spec.dtype.startswith("int") else "b" if spec.dtype == "bool" else "fiu"
    if array.dtype.kind not in kinds and array.size:
        raise InputError(f"{spec.name}: expected {spec.dtype}, got {array.dtype}; convert it first")
    if spec.vocabulary_size is not None and array.size:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= spec.vocabulary_size:
            wrong = low if low < 0 else high
            raise InputError(f"{spec.name}: token {wrong} is outside the vocabulary, 0 to {spec.vocabulary_size - 1}")
    with np.errstate(over="ignore"):
        array = array.astype(spec.dtype, copy=False)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0].tolist()
        raise InputError(f"{spec.name}: {array[tuple(where)]} at {where}; every value must be finite")
    return array


def check_inputs(specs: tuple[Input, ...], value: Any) -> dict[str, NDArray[Any]]:
    """The checked arrays by input name, from one array, or from a mapping where the model has several inputs.

    Raises:
        InputError: an input is missing or unknown, or its content is not allowed.
    """
    if not isinstance(value, Mapping):
        if len(specs) > 1:
            raise InputError(f"this model has several inputs; give a mapping with {[spec.name for spec in specs]}")
        return {specs[0].name: check_values(specs[0], value)}
    names = {spec.name for spec in specs}
    if value.keys() != names:
        raise InputError(f"the inputs are {sorted(names)}, got {sorted(map(str, value))}")
    return {spec.name: check_values(spec, value[spec.name]) for spec in specs}


def named_or_single(outputs: dict[str, NDArray[Any]]) -> Any:
    """What callers get: the array where the model has one output, else the mapping."""
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs
