"""Snapshots: values as bytes that can be kept, sent to another process, and read back bit for bit.

    magic  8 bytes   b"rnnxsnap"
    format 4 bytes   little-endian; this is format 1
    length 4 bytes   of the header
    header JSON      what kind of value, of which artifact, and the names, types and shapes of the arrays
    arrays           one after the other, C order, little-endian
    check  32 bytes  SHA-256 of everything before

Nothing in them is ever run, and a whole snapshot is checked before any of it is used.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from rnnx_runtime._errors import StateError, printable
from rnnx_runtime._manifest import DType

_MAGIC: Final = b"rnnxsnap"
_FORMAT: Final = 1
_PREFIX: Final = 16
_CHECK: Final = 32
_LARGEST: Final = 1 << 31  # bytes
_LARGEST_HEADER: Final = 1 << 24
_AXES: Final = 32


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One array of a snapshot."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands in front of the arrays.

    `kind` says what the snapshot is of; `digest` which artifact it belongs to; `meta` is the kind's own, as JSON.
    """

    kind: str
    digest: str
    arrays: tuple[Entry, ...]
    meta: msgspec.Raw = msgspec.Raw(b"null")


def to_bytes(kind: str, digest: str, arrays: Mapping[str, NDArray[Any]], meta: object = None) -> bytes:
    """A snapshot of these arrays."""
    entries = tuple(Entry(name=name, dtype=array.dtype.name, shape=array.shape) for name, array in arrays.items())  # type: ignore[arg-type]
    header = msgspec.json.encode(Header(kind=kind, digest=digest, arrays=entries, meta=msgspec.Raw(msgspec.json.encode(meta))))
    parts = [_MAGIC, _FORMAT.to_bytes(4, "little"), len(header).to_bytes(4, "little"), header]
    parts += [np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes() for array in arrays.values()]
    content = b"".join(parts)
    if len(content) + _CHECK > _LARGEST:
        raise StateError(f"the snapshot would have {len(content)} bytes; at most {_LARGEST} are written")
    return content + hashlib.sha256(content).digest()


def from_bytes(kind: str, data: Any) -> tuple[Header, dict[str, NDArray[Any]]]:
    """What `to_bytes` was given, with the arrays as copies of their own.

    Raises:
        StateError: it is no whole snapshot of this kind, it is damaged, or of another format.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise StateError(f"a snapshot is bytes, got {type(data).__name__}")
    data = bytes(data)
    if data[: len(_MAGIC)] != _MAGIC:
        raise StateError(f"these {len(data)} bytes are no snapshot; one is made by to_bytes")
    if len(data) > _LARGEST:
        raise StateError(f"the snapshot has {len(data)} bytes; at most {_LARGEST} are read")
    found = int.from_bytes(data[8:12], "little")
    if len(data) >= _PREFIX and found != _FORMAT:
        raise StateError(f"the snapshot has format {found}, this runtime reads format {_FORMAT}; make it again")
    if len(data) < _PREFIX + _CHECK or hashlib.sha256(memoryview(data)[:-_CHECK]).digest() != data[-_CHECK:]:
        raise StateError("the snapshot is damaged or cut short: its checksum differs; take an older one")
    length = int.from_bytes(data[12:_PREFIX], "little")
    body = _PREFIX + length
    if length > _LARGEST_HEADER or body + _CHECK > len(data):
        raise StateError(f"the snapshot's header of {length} bytes does not fit it")
    try:
        # As text: of `meta`, which is read later, msgspec does not look whether it is any.
        header = msgspec.json.decode(str(data[_PREFIX:body], "utf-8"), type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StateError(f"the snapshot's header is not valid: {printable(str(error))}") from None
    if header.kind != kind:
        raise StateError(f"this is a snapshot of a {printable(header.kind)}, not of a {kind}")
    if not re.fullmatch("[0-9a-f]{64}", header.digest) or not all(entry.name.isprintable() for entry in header.arrays):
        raise StateError("the snapshot's header is not valid: its digest or a name is none")
    # Without the axes of 0: numpy refuses a shape that is too large without them.
    if any(len(entry.shape) > _AXES or math.prod(filter(None, entry.shape)) > _LARGEST for entry in header.arrays):
        raise StateError(f"the snapshot's header is not valid: an array has more than {_LARGEST} elements or {_AXES} axes")
    names = [entry.name for entry in header.arrays]
    sizes = [entry.bytes for entry in header.arrays]
    if len(set(names)) != len(names) or any(size < 0 for entry in header.arrays for size in entry.shape):
        raise StateError("the snapshot's header is not valid: a name stands twice, or a size is negative")
    if body + sum(sizes) + _CHECK != len(data):
        raise StateError(f"the snapshot's arrays need {sum(sizes)} bytes, it has {len(data) - body - _CHECK}")
    arrays = {}
    for entry, size in zip(header.arrays, sizes, strict=True):
        little = np.frombuffer(data, np.dtype(entry.dtype).newbyteorder("<"), math.prod(entry.shape), body)
        arrays[entry.name] = little.reshape(entry.shape).astype(np.dtype(entry.dtype))
        body += size
        if entry.dtype == "bool" and arrays[entry.name].view(np.uint8).max(initial=0) > 1:
            raise StateError(f"{entry.name}: a byte is neither true nor false")
    return header, arrays
