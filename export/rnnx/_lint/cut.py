"""The values of large weights cut out of a serialised model, so that what is parsed is small, and the file is held once.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from collections.abc import Iterator
from typing import Final

import onnx

from rnnx_runtime import ArtifactError

_LARGE: Final = 1 << 14  # bytes; smaller messages are taken as they are

# The messages on the way to a tensor, by the number of their field in the message around them.
_INSIDE: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "tensor": {},
}
_VALUES: Final = (4, 9, 10)  # float_data, raw_data, double_data: as they lie in memory
_PLACE: Final = "cut out"
_BYTES: Final = 2  # the wire type of messages, texts and arrays
_FIXED: Final = {1: 8, 5: 4}  # bytes by wire type
_MOST_BITS: Final = 64

Buffer = bytes | memoryview


def cut(data: bytes) -> tuple[bytes, list[memoryview]]:
    """The model without the values of large tensors, each of which says where in the list they are: `place_of`.

    Raises:
        ArtifactError: the bytes are no serialised message.
    """
    values: list[memoryview] = []
    return b"".join(_cut(memoryview(data), "model", values)), values


def place_of(tensor: onnx.TensorProto) -> int | None:
    """Where the values of a tensor are that were cut out; None where they were not."""
    return next((int(entry.value) for entry in tensor.external_data if entry.key == _PLACE and entry.value.isdecimal()), None)


def _cut(message: memoryview, kind: str, values: list[memoryview]) -> list[Buffer]:
    parts: list[Buffer] = []
    for number, wire, start, inner, end in _fields(message):
        if wire == _BYTES and end - inner > _LARGE and number in _INSIDE[kind]:
            content = _cut(message[inner:end], _INSIDE[kind][number], values)
            parts += [_head(number, sum(map(len, content))), *content]
        elif wire == _BYTES and end - inner > _LARGE and kind == "tensor" and number in _VALUES:
            place = onnx.StringStringEntryProto(key=_PLACE, value=str(len(values))).SerializeToString()
            parts += [_head(onnx.TensorProto.EXTERNAL_DATA_FIELD_NUMBER, len(place)), place]
            values.append(message[inner:end])
        else:
            parts.append(message[start:end])
    return parts


def _fields(message: memoryview) -> Iterator[tuple[int, int, int, int, int]]:
    """The fields of a message: number, wire type, and where the field, its value and what is behind it begin."""
    position = 0
    while position < len(message):
        start = position
        key, inner = _varint(message, position)
        wire = key & 7
        if wire == 0:
            _, position = _varint(message, inner)
        elif wire == _BYTES:
            size, inner = _varint(message, inner)
            position = inner + size
        elif wire in _FIXED:
            position = inner + _FIXED[wire]
        else:
            raise ArtifactError(f"not an ONNX file: wire type {wire} does not exist")
        if position > len(message):
            raise ArtifactError("not an ONNX file: a field is longer than what is around it")
        yield key >> 3, wire, start, inner, position


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, _MOST_BITS, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ArtifactError("not an ONNX file: it ends inside a number")


def _head(number: int, size: int) -> bytes:
    """What stands in front of a value of so many bytes."""
    return _written(number << 3 | _BYTES) + _written(size)


def _written(value: int) -> bytes:
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])
