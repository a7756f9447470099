"""Reading the wire format of protobuf, bounded: no schema, no copies, no dependency.

Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator
from typing import Final, final

from rnnx_runtime._errors import ArtifactError

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5

FIELD_LIMIT: Final = 200_000  # of one file, read in about a tenth of a second; exported models have one in thirty of it

_SMALL: Final = 4096  # bytes of a message that is worth a copy: bytes are read faster than a view of them


@final
class Reader:
    """Reads the messages of one file, and at most `FIELD_LIMIT` fields of them all together."""

    def __init__(self) -> None:
        self._left = FIELD_LIMIT

    def fields(
        self, message: memoryview, what: str = "", repeated: frozenset[int] | None = None
    ) -> Iterator[tuple[int, int | memoryview]]:
        """The fields of one message in file order: (field number, value).

        Varints come as unsigned integers, strings and messages as a view of their bytes. Numbers of fixed size are passed over:
        as protobuf does where it expects something else, and none is read here.

        Args:
            what: names the message, where there are `repeated`.
            repeated: fields that may stand several times; the others once, for protobuf merges repeats in its own ways. None for all.

        Raises:
            ArtifactError: the bytes are not a well-formed message, a field stands twice, or the file has too many.
        """
        data = bytes(message) if len(message) <= _SMALL else message
        position, end = 0, len(message)
        found: set[int] = set()
        while position < end:
            self._left -= 1
            if self._left < 0:
                raise ArtifactError(f"the file has more than {FIELD_LIMIT} fields; an artifact must have fewer")
            key, position = data[position], position + 1
            if key >= 0x80:
                key, position = _varint(data, position - 1)
            number, wire_type = key >> 3, key & 7
            if number == 0:
                raise ArtifactError("not an ONNX file: a field has the number 0")
            if repeated is not None and number not in repeated:
                if number in found:
                    raise ArtifactError(f"{what}: a field of its declaration stands twice")
                found.add(number)
            if wire_type in (VARINT, BYTES):
                if position < end and (value := data[position]) < 0x80:
                    position += 1
                else:
                    value, position = _varint(data, position)
                if wire_type == VARINT:
                    yield number, value
                    continue
            elif wire_type == FIXED64:
                value = 8
            elif wire_type == FIXED32:
                value = 4
            else:
                raise ArtifactError(f"not an ONNX file: wire type {wire_type} does not exist")
            if value > end - position:
                raise ArtifactError(f"not an ONNX file: a field of {value} bytes where {end - position} are left")
            if wire_type == BYTES:
                yield number, message[position : position + value]
            position += value

    def once(self, message: memoryview, what: str, repeated: frozenset[int] = frozenset()) -> dict[int, int | memoryview]:
        """The fields by number, each of them once; of the repeated, the last."""
        return dict(self.fields(message, what, repeated))

    def integers(self, value: int | memoryview) -> list[int]:
        """What a field of a list of signed integers holds: one, or several packed into it."""
        if isinstance(value, int):
            return [signed(value)]
        self._left -= len(value) // 2
        position, found = 0, []
        while position < len(value) and self._left >= 0:
            number, position = _varint(value, position)
            found.append(signed(number))
        if self._left < 0:
            raise ArtifactError(f"the file has more than {FIELD_LIMIT} fields; an artifact must have fewer")
        return found


def signed(value: int) -> int:
    """The int64 that protobuf writes as this unsigned integer."""
    return value - (1 << 64) if value >= 1 << 63 else value


def as_view(value: int | memoryview) -> memoryview:
    """A field that must be a string or a message."""
    if isinstance(value, int):
        raise ArtifactError("not an ONNX file: a number stands where a message should")
    return value


def as_text(value: memoryview) -> str:
    """A field that must be text."""
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        raise ArtifactError("not an ONNX file: a name is not valid UTF-8") from None


def _varint(message: bytes | memoryview, position: int) -> tuple[int, int]:
    """The unsigned integer at `position`, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ArtifactError("not an ONNX file: it ends inside a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, position
    raise ArtifactError("not an ONNX file: a number is longer than 64 bits")
