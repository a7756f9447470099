"""Small values that a graph computes from its weights and from sizes: what shapes are made of."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnnx_runtime._onnx import NUMPY, Node

FEW: Final = 1024  # elements of a value that is followed

Values = NDArray[Any]
Shape = tuple[int, ...]


class Extent(NamedTuple):
    """What is known of a value: its type and shape where they are, how many elements it has at most, and the small numbers in it.

    `fixed`: it depends on weights alone.
    """

    dtype: int = 0
    shape: Shape | None = None
    most: int = 1
    values: Values | None = None
    fixed: bool = False


_ELEMENTWISE: Final[Mapping[str, Callable[..., Any]]] = {
    "Abs": np.abs, "Add": np.add, "And": np.logical_and, "Ceil": np.ceil, "Equal": np.equal, "Floor": np.floor,
    "Greater": np.greater, "GreaterOrEqual": np.greater_equal, "Identity": np.positive, "Less": np.less,
    "LessOrEqual": np.less_equal, "Mul": np.multiply, "Neg": np.negative, "Not": np.logical_not, "Or": np.logical_or,
    "Round": np.rint, "Sign": np.sign, "Sqrt": np.sqrt, "Sub": np.subtract, "Where": np.where,
}  # fmt: skip
_OF_MANY: Final[Mapping[str, Callable[..., Any]]] = {"Max": np.maximum, "Min": np.minimum, "Sum": np.add}
_REDUCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "ReduceMax": np.max, "ReduceMin": np.min, "ReduceProd": np.prod, "ReduceSum": np.sum
}  # fmt: skip


def evaluate(node: Node, inputs: Sequence[Extent | None], shape: Shape) -> Values | None:
    """What a node gives, where what it reads is known, and it is simple; else None.

    Args:
        inputs: None for one that is left out.
        shape: of what it gives, `FEW` elements at most.
    """
    first = inputs[0] if inputs else None
    try:
        if node.operator in ("Shape", "Size"):
            sizes = None if first is None else first.shape
            if sizes is None:
                return None
            start, end = node.integer("start", 0), node.integer("end", len(sizes))
            return np.array(math.prod(sizes) if node.operator == "Size" else sizes[start:end], np.int64)
        values = [None if one is None else one.values for one in inputs]
        if any(one is not None and one.values is None for one in inputs):
            return None
        with np.errstate(all="ignore"):
            found = _evaluate(node, [value for value in values if value is not None], values, shape)
    except Exception:  # it is not what the operator needs: for ONNX Runtime to refuse
        return None
    return None if found is None or found.shape != shape or found.dtype.kind not in "fiub" else found


def _evaluate(node: Node, given: list[Values], inputs: Sequence[Values | None], shape: Shape) -> Values | None:
    operator = node.operator
    if operator == "Constant":
        value, whole = node.attributes.get("value"), node.attributes.get("value_ints", node.attributes.get("value_int"))
        return None if value is None and whole is None else np.array(whole, np.int64) if value is None else value.values
    if operator == "Identity":
        return given[0]
    if operator in _ELEMENTWISE:
        found = np.asarray(_ELEMENTWISE[operator](*given))
        return found if found.dtype.kind == "b" or operator == "Where" else found.astype(given[0].dtype)
    if operator in _OF_MANY:
        found = given[0]
        for other in given[1:]:
            found = _OF_MANY[operator](found, other)
        return found
    if operator in ("Div", "Mod"):
        return _divided(node, *given)
    if operator in _REDUCTIONS:
        axes = node.integers("axes") or (given[1].tolist() if len(given) > 1 else None)
        found = _REDUCTIONS[operator](given[0], axis=tuple(axes) if axes else None, keepdims=bool(node.integer("keepdims", 1)))
        return np.asarray(found, given[0].dtype)
    if operator == "Cast":
        return given[0].astype(NUMPY[node.integer("to", 0)])
    if operator == "Concat":
        return np.concatenate(given, node.integer("axis", 0))
    if operator == "Gather":
        return np.take(given[0], given[1].astype(np.int64), node.integer("axis", 0))
    if operator == "Slice":
        return _sliced(given[0], inputs)
    if operator in ("Reshape", "Squeeze", "Unsqueeze", "Flatten"):
        return given[0].reshape(shape)
    if operator in ("Expand", "ConstantOfShape"):
        value = node.attributes.get("value")
        filling = given[0] if operator == "Expand" else np.zeros(1, np.float32) if value is None else value.values
        return np.broadcast_to(filling, shape)
    if operator == "Range":
        return np.arange(*(value.item() for value in given), dtype=given[0].dtype)
    if operator == "Transpose":
        return np.transpose(given[0], node.integers("perm"))
    return None


def _divided(node: Node, dividend: Values, divisor: Values) -> Values:
    if dividend.dtype.kind == "f":
        return np.asarray(dividend / divisor if node.operator == "Div" else np.fmod(dividend, divisor), dividend.dtype)
    if not divisor.all():
        raise ZeroDivisionError
    if node.operator == "Mod":
        return np.asarray(np.fmod(dividend, divisor) if node.integer("fmod", 0) else np.mod(dividend, divisor))
    return np.asarray(np.sign(dividend) * np.sign(divisor) * (np.abs(dividend) // np.abs(divisor)), dividend.dtype)


def _sliced(data: Values, inputs: Sequence[Values | None]) -> Values:
    _, starts, ends, axes, steps = (*inputs, None, None, None)[:5]
    if starts is None or ends is None:
        raise ValueError
    along = range(len(starts)) if axes is None else axes.tolist()
    where = [slice(None)] * data.ndim
    for place, axis in enumerate(along):
        step = 1 if steps is None else int(steps[place])
        first, last = int(starts[place]), int(ends[place])
        if step < 0 and last < -data.shape[axis]:
            where[axis] = slice(first, None, step)
        else:
            where[axis] = slice(first, last, step)
    return data[tuple(where)]


def sliced_size(size: int, first: int, last: int, step: int) -> int:
    """How many of `size` elements a slice takes."""
    if step < 0 and last < -size:
        return len(range(*slice(first, None, step).indices(size)))
    return len(range(*slice(first, last, step).indices(size)))
