"""The parts of an ONNX graph as they were read, and reading the smallest of them: tensors.

Field numbers and types: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnnx_runtime._errors import ArtifactError
from rnnx_runtime._protobuf import Reader, as_text, as_view

# TensorProto.DataType
FLOAT: Final = 1
UINT8: Final = 2
HALF: Final = 10
NUMPY: Final = {
    1: "<f4",
    2: "u1",
    3: "i1",
    4: "<u2",
    5: "<i2",
    6: "<i4",
    7: "<i8",
    9: "?",
    10: "<f2",
    11: "<f8",
    12: "<u4",
    13: "<u8",
}
FLOATS: Final = frozenset([1, 10, 11, 16])  # float32, float16, float64, bfloat16
INTEGERS: Final = frozenset([2, 3, 4, 5, 6, 7, 12, 13])
_BITS: Final = {dtype: 8 * np.dtype(name).itemsize for dtype, name in NUMPY.items()} | {
    16: 16,
    17: 8,
    18: 8,
    19: 8,
    20: 8,
    21: 4,
    22: 4,
}

_RAW: Final = 9
_TYPED: Final = {
    4: (1,),
    5: (2, 3, 4, 5, 6, 9, 10, 16, 17, 18, 19, 20, 21, 22),
    7: (7,),
    10: (11,),
    11: (12, 13),
}  # field: of which types
_FIXED: Final = {4: "<f4", 10: "<f8"}  # of those, what is packed in numbers of fixed size
_REPEATED: Final = frozenset([1, *_TYPED, 6, 13, 16])

_FEW: Final = 1024  # elements whose values are read
MOST_AXES: Final = 64


class Name(NamedTuple):
    """A value by its name in the graph that gives it: 0 for the outermost, and each body has a number of its own."""

    text: str
    graph: int


class Tensor(NamedTuple):
    """A stored tensor; `dtype` as in TensorProto.DataType. `values`: what it holds, where that is little and of a type of numpy's."""

    name: str
    dtype: int
    dims: tuple[int, ...] = ()
    values: NDArray[Any] | None = None


class Node(NamedTuple):
    """A node. `attributes`: integers, lists of them, texts as bytes, tensors; None for others. `bodies`: the graphs that it holds."""

    operator: str
    inputs: Sequence[Name]
    outputs: Sequence[Name]
    attributes: Mapping[str, Any]
    bodies: "Sequence[Body]" = ()

    def integer(self, name: str, otherwise: int) -> int:
        """An attribute that is an integer; `otherwise` where there is none of the name."""
        found = self.attributes.get(name, otherwise)
        return found if isinstance(found, int) else otherwise

    def integers(self, name: str) -> list[int] | None:
        """An attribute that is a list of integers; None where there is none."""
        found = self.attributes.get(name)
        return found if isinstance(found, list) else None


@dataclass
class Body:
    """A graph: what it is given, with the type it declares, its nodes in order, and what it gives."""

    inputs: list[tuple[Name, int]]
    nodes: list[Node]
    outputs: list[Name]


def read_tensor(reader: Reader, message: memoryview) -> Tensor:
    """A TensorProto.

    Raises:
        ArtifactError: its weights lie in another file, or are not as many as it says.
    """
    name, dtype = "", 0
    dims: list[int] = []
    parts: dict[int, list[int | memoryview]] = {}
    for number, value in reader.fields(message, "a tensor", _REPEATED):
        if number == 1:
            dims += reader.integers(value)
        elif number == 2 and isinstance(value, int):
            dtype = value
        elif number == 8:
            name = as_text(as_view(value))
        elif number == 13 or (number == 14 and value != 0):
            raise ArtifactError("the weights lie in another file; an artifact is one file: export the model again")
        elif number == _RAW or number in _TYPED:
            parts.setdefault(number, []).append(value)
        elif number in (3, 6):
            raise ArtifactError(f"the weight {name!r} holds texts, or is a piece of one; an artifact's are whole, and numbers")
    if len(dims) > MOST_AXES or any(size < 0 for size in dims):
        raise ArtifactError(f"the weight {name!r} has the size {dims[:MOST_AXES]}, which no tensor has")
    return Tensor(name, dtype, tuple(dims), _values(name, dtype, dims, parts))


def _values(name: str, dtype: int, dims: list[int], parts: dict[int, list[int | memoryview]]) -> NDArray[Any] | None:
    """What a tensor holds, where that is little.

    Raises:
        ArtifactError: that are more or fewer than `dims` say.
    """
    count = math.prod(dims)
    (number, found), *others = parts.items() or [(_RAW, [])]
    if others or dtype not in _BITS or (number != _RAW and dtype not in _TYPED[number]):
        raise ArtifactError(f"the weight {name!r} is of the type {dtype}, which is not read, or not written as that type is")
    numbers: NDArray[Any] | None = None
    views = [value for value in found if not isinstance(value, int)]
    if number == _RAW or number in _FIXED:
        kind = NUMPY.get(dtype) if number == _RAW else _FIXED[number]
        have, need = sum(map(len, views)), -(-count * (_BITS[dtype] if number == _RAW else 8 * np.dtype(kind).itemsize) // 8)
        if have == need and kind is not None and count <= _FEW:
            numbers = np.frombuffer(b"".join(views), kind)
    else:
        # Each number ends with a byte without the highest bit.
        need = count if dtype not in (21, 22) else -(-count // 2)
        have = len(found) - len(views) + sum(int(np.count_nonzero(np.frombuffer(view, np.uint8) < 0x80)) for view in views)
        if have == need and count <= _FEW and dtype in NUMPY and dtype != HALF:
            whole = [part for value in found for part in Reader().integers(value)]
            numbers = (
                np.array([part & (1 << _BITS[dtype]) - 1 for part in whole], np.uint64)
                .astype(f"u{_BITS[dtype] // 8}")
                .view(NUMPY[dtype])
            )
    if have != need:
        raise ArtifactError(
            f"the weight {name!r} of the type {dtype} and the size {dims} needs {need}, not {have}, bytes or numbers"
        )
    return None if numbers is None else numbers.reshape(dims)
