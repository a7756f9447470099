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

FIELD_LIMIT: Final = 2_000_000  # read in about two seconds; exported models have one in a thousand of it


@final
class Reader:
    """Reads the messages of one file, and at most `FIELD_LIMIT` fields of them all together."""

    def __init__(self) -> None:
        self._left = FIELD_LIMIT

    def fields(self, message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """The fields of one message in file order: (field number, value).

        Varints come as unsigned integers, strings and messages as a view of their bytes. Numbers of fixed size are passed over:
        as protobuf does where it expects something else, and none is read here.

        Raises:
            ArtifactError: the bytes are not a well-formed message, or the file has too many fields.
        """
        position, end = 0, len(message)
        while position < end:
            self._left -= 1
            if self._left < 0:
                raise ArtifactError(f"the file has more than {FIELD_LIMIT} fields; an artifact must have fewer")
            key, position = _varint(message, position)
            number, wire_type = key >> 3, key & 7
            if number == 0:
                raise ArtifactError("not an ONNX file: a field has the number 0")
            if wire_type == VARINT:
                value, position = _varint(message, position)
                yield number, value
                continue
            if wire_type == BYTES:
                size, position = _varint(message, position)
            elif wire_type == FIXED64:
                size = 8
            elif wire_type == FIXED32:
                size = 4
            else:
                raise ArtifactError(f"not an ONNX file: wire type {wire_type} does not exist")
            if size > end - position:
                raise ArtifactError(f"not an ONNX file: a field of {size} bytes where {end - position} are left")
            if wire_type == BYTES:
                yield number, message[position : position + size]
            position += size

    def strict(self, message: memoryview, what: str, repeated: frozenset[int]) -> Iterator[tuple[int, int | memoryview]]:
        """The fields of a message in which each may stand once, but for the `repeated`: protobuf merges repeats in its own ways.

        Raises:
            ArtifactError: one stands twice, or as `fields`. `what` names the message.
        """
        found: set[int] = set()
        for number, value in self.fields(message):
            if number in found and number not in repeated:
                raise ArtifactError(f"{what}: a field of its declaration stands twice")
            found.add(number)
            yield number, value

    def once(self, message: memoryview, what: str, repeated: frozenset[int] = frozenset()) -> dict[int, int | memoryview]:
        """The same by number; of the repeated, the last."""
        return dict(self.strict(message, what, repeated))


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


def _varint(message: memoryview, position: int) -> tuple[int, int]:
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
