"""Mutations that keep the shape of what they mutate: fields of a protobuf message, values of a JSON text.

Blind ones would be refused at the first length or bracket, and never reach what is behind.
"""

import json
import random
from collections.abc import Callable
from typing import Any, Final

from tests.runtime import protobuf_writer as pb

from rnnx_runtime import RnnxError
from rnnx_runtime._protobuf import Reader
from rnnx_runtime.artifact import MANIFEST_KEY

NUMBERS: Final = (
    0, 1, 2, -1, 3, 16, 127, 128, 255, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
)  # fmt: skip
VALUES: Final = (
    *NUMBERS, None, True, False, "", "\0", "batch", "seq_len", "batch*seq_len", "seq_len*batch", "é", "\ud800", "x" * 300, 0.5, -0.0,
    1e308, 1e-320, [], {}, [[]], {"": 0}, "float32", "int64", "bool", "AAAA",
)  # fmt: skip
DEEP: Final = 40

Chance = random.Random


def of_artifact(data: bytes, chance: Chance) -> bytes:
    """A ModelProto with one thing changed: a field at any depth, or a value of its manifest."""
    if chance.random() < 0.3:
        return _with_manifest(data, chance)
    return of_message(data, chance)


def of_manifest(data: bytes, chance: Chance) -> bytes:
    """A JSON text with one value changed."""
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return of_bytes(data, chance)
    return json.dumps(of_json(said, chance)).encode() if chance.random() < 0.95 else of_bytes(data, chance)


def of_snapshot(data: bytes, chance: Chance) -> bytes:
    """A snapshot without its checksum, with a change in its header or its arrays."""
    length = int.from_bytes(data[12:16], "little")
    header, arrays = data[16 : 16 + length], data[16 + length :]
    which = chance.random()
    if which < 0.6:
        header = of_manifest(header, chance)
    elif which < 0.8:
        arrays = of_bytes(arrays, chance)
    else:
        return of_bytes(data, chance)
    return data[:12] + len(header).to_bytes(4, "little") + header + arrays


MUTATIONS: Final[dict[str, Callable[[bytes, Chance], bytes]]] = {
    "artifact": of_artifact,
    "manifest": of_manifest,
    "snapshot": of_snapshot,
}


def of_bytes(data: bytes, chance: Chance) -> bytes:
    """A byte, a piece or the end is another."""
    changed = bytearray(data)
    at = chance.randrange(len(changed) + 1)
    size = chance.choice((1, 1, 4, 8, 64))
    piece = chance.choice((b"", chance.randbytes(size), bytes(changed[at : at + size]) * 2, bytes(size), b"\xff" * size))
    changed[at : at + size] = piece
    return bytes(changed)


def of_json(value: Any, chance: Chance) -> Any:
    """The same with one value, somewhere in it, replaced, removed or doubled."""
    places = list(_places(value))
    if not places:
        return chance.choice(VALUES)
    holder, key = chance.choice(places)
    other = chance.choice(places)
    which = chance.randrange(6)
    if which == 0:
        del holder[key]
    elif which == 1:
        holder[key] = json.loads(json.dumps(other[0].get(other[1]) if isinstance(other[0], dict) else other[0][other[1]]))
    elif which == 2 and isinstance(holder, list):
        holder.insert(key, json.loads(json.dumps(holder[key])))
    elif which == 3 and isinstance(holder[key], str) and holder[key]:
        holder[key] = of_bytes(holder[key].encode(errors="surrogatepass"), chance).decode(errors="replace")
    elif which == 4 and isinstance(holder[key], int):
        holder[key] += chance.choice((-1, 1))
    elif which == 5 and isinstance(holder, dict):
        holder[chance.choice(("", "x", "kind", "shape", "name", "batch"))] = chance.choice(VALUES)
    else:
        holder[key] = chance.choice(VALUES)
    return value


def _places(value: Any, depth: int = 0) -> Any:
    if depth > DEEP:
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in items:
        yield value, key
        yield from _places(one, depth + 1)


def of_message(data: bytes, chance: Chance, depth: int = 0) -> bytes:
    """A protobuf message with one field, at any depth, replaced, removed, doubled, moved or cut."""
    try:
        fields = list(Reader().fields(memoryview(data)))
    except RnnxError:
        return of_bytes(data, chance)
    if not fields or chance.random() < 0.02:
        return of_bytes(data, chance)
    at = chance.randrange(len(fields))
    number, value = fields[at]
    if not isinstance(value, int):
        value = bytes(value)
    if isinstance(value, bytes) and value and depth < DEEP and chance.random() < 0.85:
        fields[at] = number, of_message(value, chance, depth + 1)
    else:
        _change(fields, at, chance)
    return b"".join(pb.field(number, one if isinstance(one, int) else bytes(one)) for number, one in fields)


def _change(fields: list[Any], at: int, chance: Chance) -> None:
    number, value = fields[at]
    which = chance.randrange(7)
    if which == 0:
        del fields[at]
    elif which == 1:
        fields.insert(chance.randrange(len(fields)), fields[at])
    elif which == 2:
        other = chance.randrange(len(fields))
        fields[at], fields[other] = fields[other], fields[at]
    elif which == 3:
        fields[at] = max(1, number + chance.choice((-1, 1, 2, 8))), value
    elif which == 4:
        fields[at] = number, chance.choice(NUMBERS) % (1 << 64)
    elif which == 5:
        fields[at] = number, fields[chance.randrange(len(fields))][1]
    else:
        fields[at] = number, chance.choice((b"", b"batch", b"\xff", bytes(8), b"Scan", b"If", b"ai.onnx", b"com.microsoft"))


def _with_manifest(data: bytes, chance: Chance) -> bytes:
    """A ModelProto with another manifest: ModelProto.metadata_props (14), key (1), value (2)."""
    try:
        fields = [(number, one if isinstance(one, int) else bytes(one)) for number, one in Reader().fields(memoryview(data))]
        for at, (number, one) in enumerate(fields):
            if number == 14 and isinstance(one, bytes):
                parts = dict(Reader().fields(memoryview(one)))
                key, text = parts.get(1), parts.get(2)
                if key == MANIFEST_KEY.encode() and isinstance(text, memoryview):
                    fields[at] = 14, pb.field(1, MANIFEST_KEY) + pb.field(2, of_manifest(bytes(text), chance))
    except RnnxError:
        return of_bytes(data, chance)
    return b"".join(pb.field(number, one) for number, one in fields)
