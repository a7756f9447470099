"""Writes ONNX files by hand, also such as no exporter would write. Field numbers: onnx.proto."""

from collections.abc import Iterable

FLOAT, INT64 = 1, 7  # TensorProto.DataType


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def fields(number: int, values: Iterable[int | str | bytes]) -> bytes:
    return b"".join(field(number, value) for value in values)


def tensor(name: str, dims: Iterable[int], raw: bytes, *extra: bytes) -> bytes:
    return fields(1, dims) + field(2, FLOAT) + field(8, name) + field(9, raw) + b"".join(extra)


def value_info(name: str, shape: Iterable[int | str]) -> bytes:
    dims = [field(2, size) if isinstance(size, str) else field(1, size) for size in shape]
    return field(1, name) + field(2, field(1, field(1, FLOAT) + field(2, fields(1, dims))))


def integer(name: str, value: int) -> bytes:
    return field(1, name) + field(3, value) + field(20, 2)


def body(name: str, graph: bytes) -> bytes:
    return field(1, name) + field(6, graph) + field(20, 5)


def node(
    operator: str, inputs: Iterable[str], outputs: Iterable[str], attributes: Iterable[bytes] = (), *, domain: str = ""
) -> bytes:
    start = fields(1, inputs) + fields(2, outputs) + field(4, operator) + fields(5, attributes)
    return start + field(7, domain) if domain else start


def graph(
    nodes: Iterable[bytes],
    inputs: Iterable[bytes],
    outputs: Iterable[bytes],
    *extra: bytes,
    weights: Iterable[bytes] = (),
) -> bytes:
    return (
        fields(1, nodes) + field(2, "graph") + fields(5, weights) + fields(11, inputs) + fields(12, outputs) + b"".join(extra)
    )


def opset(version: int, domain: str = "") -> bytes:
    return field(8, field(1, domain) + field(2, version))


def metadata(key: str, text: str) -> bytes:
    return field(14, field(1, key) + field(2, text))


def model(the_graph: bytes, *extra: bytes, ir_version: int = 10, opsets: bytes = opset(20)) -> bytes:
    return field(1, ir_version) + opsets + field(7, the_graph) + b"".join(extra)
