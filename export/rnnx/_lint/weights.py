"""The weights of a model, of each as little as the rules need."""

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.external_data_helper import uses_external_data

from rnnx._lint.cut import place_of

_KEPT: Final = 4096  # values of a tensor that the rules may want to read: sizes, axes, initial states
_PACKED: Final = [number for name, number in onnx.TensorProto.DataType.items() if name.endswith(("INT2", "INT4", "E2M1"))]
_LARGEST: Final = 1 << 28  # values of a tensor that are read from another file


@dataclass(frozen=True)
class Weight:
    """One stored tensor.

    Attributes:
        dtype: as in `onnx.TensorProto.DataType`.
        values: None where it is large, cannot be read or lies elsewhere.
        finite: whether all values are numbers; a bound or a mask may be infinite where it is meant to be.
        content: the same for two tensors of the same type, shape and values; None where they cannot be read.
        location: the other file that it lies in; None where it lies in this one.
        broken_because: why its values cannot be read.
    """

    name: str
    dtype: int
    shape: tuple[int, ...]
    values: NDArray[Any] | None = None
    content: tuple[object, ...] | None = None
    finite: bool = True
    location: str | None = None
    broken_because: str | None = None


def weights_of(model: onnx.ModelProto, values: Sequence[memoryview], folder: Path | None) -> dict[str, Weight]:
    """All weights by name: initializers and constants, those of bodies too.

    Args:
        model: perhaps without the values of large ones, which are in `values` then, as `cut` puts them there.
        folder: where other files with weights lie; None where that is not known.
    """
    return {name: _weight(name, tensor, values, folder) for name, tensor in _tensors(model.graph)}


def _tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and node.output and (value := _constant(attribute)) is not None:
                yield node.output[0], value
            for body in bodies(attribute):
                yield from _tensors(body)


def bodies(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    """The graphs that a node holds in one of its attributes."""
    return [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else list(attribute.graphs)


def _constant(attribute: onnx.AttributeProto) -> onnx.TensorProto | None:
    kinds = onnx.AttributeProto
    if attribute.type == kinds.TENSOR:
        return attribute.t
    if attribute.type in (kinds.INT, kinds.INTS, kinds.FLOAT, kinds.FLOATS):
        whole = attribute.type in (kinds.INT, kinds.INTS)
        values = np.asarray(onnx.helper.get_attribute_value(attribute), np.int64 if whole else np.float32)
        return onnx.numpy_helper.from_array(values)
    return None


def _weight(name: str, tensor: onnx.TensorProto, values: Sequence[memoryview], folder: Path | None) -> Weight:
    dtype, shape, location = tensor.data_type, tuple(tensor.dims), None
    if uses_external_data(tensor):
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        if folder is None or not (folder / location).is_file() or math.prod(shape) > _LARGEST:
            return Weight(name, dtype, shape, location=location)
    place = place_of(tensor)
    try:
        if place is not None and place < len(values):
            packed = dtype in _PACKED
            kind = np.dtype(np.uint8) if packed else onnx.helper.tensor_dtype_to_np_dtype(dtype)
            array = np.frombuffer(values[place], kind).reshape(-1 if packed else shape)
        else:
            array = np.asarray(onnx.numpy_helper.to_array(tensor, str(folder or "")))
    except Exception as error:  # whatever onnx stumbles over
        return Weight(name, dtype, shape, location=location, broken_because=" ".join(str(error).split()))
    whole = None if array.dtype.hasobject else np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    content = None if whole is None else (dtype, shape, zlib.crc32(whole.data))
    finite = array.dtype.kind != "f" or not array.size or _is_finite(array)
    return Weight(name, dtype, shape, array.copy() if array.size <= _KEPT else None, content, finite, location)


def _is_finite(array: NDArray[Any]) -> bool:
    least, greatest = array.min(), array.max()  # NaN comes through both, and no copy is made
    if np.isfinite(least) and np.isfinite(greatest):
        return True
    rest = array[np.isfinite(array)]
    return not np.isnan(least) and bool((rest == rest[:1]).all())  # nothing but infinity and perhaps one other value
