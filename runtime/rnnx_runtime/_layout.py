"""Arrays seen batch-first, whatever layout the module had.

Callers hand over and get `(B, T, ...)` (a chunk) or `(B, ...)` (a step). The graph keeps its module's own layout:
time-major, flattened `(T·B, V)`, with axes of size 1 in front, ... `Layout` is the view between the two. It also supplies the
axes that a graph lacks: batch, where it takes one row, and time, where it takes one step.
"""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from rnnx_runtime._manifest import BATCH, TIME, Dimension


@final
class Layout:
    """Where batch and time stand in one tensor of the graph.

    Args:
        shape: as the manifest gives it.
        one_step: the graph takes one step per call, so that a tensor without an axis for time has a value per step too.

    Attributes:
        has_time: whether it has a value per step.
        inner: the sizes behind batch and time, in graph order; axes of size 1 in front of batch and time are left out.
    """

    def __init__(self, shape: tuple[Dimension, ...], *, one_step: bool = False) -> None:
        self.shape = shape
        axes = [axis for size in shape for axis in (size.split("*") if isinstance(size, str) else [size])]
        first = next((i for i, axis in enumerate(axes) if isinstance(axis, str)), 0)
        if BATCH not in axes:
            axes.insert(first, BATCH)
        if one_step and TIME not in axes:
            axes.insert(axes.index(BATCH) + 1, TIME)
        self.has_time = TIME in axes
        front = [axes.index(BATCH), axes.index(TIME)] if self.has_time else [axes.index(BATCH)]
        inner = [i for i, axis in enumerate(axes) if i not in front and not (axis == 1 and i < first)]
        dropped = [i for i, axis in enumerate(axes) if i not in front and i not in inner]
        self._axes = axes
        self._order = (*dropped, *front, *inner)
        self._dropped = len(dropped)
        self.inner = tuple(axis for i in inner if isinstance(axis := axes[i], int))

    def graph_shape(self, batch: int, steps: int) -> tuple[int, ...]:
        """The shape that the graph has for it; for one step, where it takes no more."""
        sizes = {BATCH: batch, TIME: steps, f"{BATCH}*{TIME}": batch * steps, f"{TIME}*{BATCH}": batch * steps}
        return tuple(sizes[size] if isinstance(size, str) else size for size in self.shape)

    def batch_first(self, array: NDArray[Any], batch: int, steps: int) -> NDArray[Any]:
        """A view of the graph's C-ordered `array` as `(B, T, *inner)`, or `(B, *inner)` where there is no time."""
        sizes = {BATCH: batch, TIME: steps}
        split = array.reshape([sizes[axis] if isinstance(axis, str) else axis for axis in self._axes])
        view: NDArray[Any] = split.transpose(self._order)[(0,) * self._dropped]
        return view

    def step(self, array: NDArray[Any], batch: int) -> NDArray[Any]:
        """A view of the graph's array of one step as `(B, *inner)`."""
        view = self.batch_first(array, batch, 1)
        return view[:, 0] if self.has_time else view

    def to_graph(self, array: NDArray[Any], steps: int) -> NDArray[Any]:
        """The graph's array, C-ordered, from a batch-first one."""
        batch = array.shape[0]
        out = np.empty(self.graph_shape(batch, steps), array.dtype)
        self.batch_first(out, batch, steps)[...] = array
        return out
