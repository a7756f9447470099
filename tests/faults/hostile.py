"""Artifacts that somebody made to do harm, with a seal that fits: any operator with any attributes; and all that one does with them."""

import random
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from math import prod
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from tests.faults.harness import WrongAnswerError
from tests.runtime import handmade
from tests.runtime import protobuf_writer as pb

from rnnx_runtime import ArtifactError, Model, RnnxError, load
from rnnx_runtime._preflight import _OPERATORS

Chance = random.Random

LARGEST: Final = 1 << 20  # elements of an input that is worth making
BATCHES: Final = ((1, 3), (2, 1), (1, 0))  # rows and steps

TYPES: Final = {"f": 1, "u8": 2, "i8": 3, "i32": 6, "i64": 7, "b": 9, "h": 10, "d": 11}  # TensorProto.DataType
_NUMPY: Final = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}
_SMALL: Final = (0, 1, 2, 3, -1, -2, 1, 1, 2)
_LARGE: Final = (
    *_SMALL,
    5,
    64,
    255,
    1 << 15,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    -(1 << 31),
    1 << 40,
    1 << 62,
    (1 << 63) - 1,
    -(1 << 63),
)
_REALS: Final = (0.0, 1.0, -1.0, 0.5, 2.0, float("nan"), float("inf"), 1e30, 1e-45)
_SIZES: Final = (
    (), (1,), (1,), (2,), (2,), (3,), (4,), (0,), (1, 4), (2, 2), (2, 0), (1, 2, 2), (1, 1, 1), (1, 3, 1), (1, 4, 1), (1, 4, 2),
    (1, 1, 2, 2), (1, 3, 2), (1, 8, 2), (1, 6, 2),
)  # fmt: skip
_TEXTS: Final = {
    "approximate": ("tanh", "none", "x"),
    "auto_pad": ("NOTSET", "SAME_UPPER", "VALID", "SAME_LOWER", "x"),
    "direction": ("forward", "reverse", "bidirectional", "x"),
    "equation": (
        "ij,jk->ik",
        "...i->...",
        "tbf->tb",
        "tbf,tbg->fg",
        "i,j,k->ijk",
        "ii->i",
        "tbf,tbf->t",
        "->",
        "",
        "ab,cd->abcd",
        "...",
    ),
    "mode": ("constant", "reflect", "edge", "wrap", "DCR", "CRD", "x"),
    "reduction": ("none", "add", "mul", "max", "x"),
}
_ACTIVATIONS: Final = ("Sigmoid", "Tanh", "Relu", "Affine", "HardSigmoid", "LeakyRelu", "x", "")

# What a node may read besides constants: `x` (T, B, 2) and `h` (B, 2) in other types and shapes, empty ones and sizes too.
_BEFORE: Final = [
    *(pb.node("Cast", ["x"], [f"x_{name}"], [pb.integer("to", dtype)]) for name, dtype in TYPES.items()),
    *(pb.node("ReduceMax", [f"x_{name}"], [f"one_{name}"], [pb.integer("keepdims", 0)]) for name in TYPES if name != "b"),
    pb.node("Identity", ["x_b"], ["one_b"]),
    pb.node("Shape", ["x"], ["sizes"]),
    pb.node("Reshape", ["x", "of_4"], ["x4"]),
    pb.node("Reshape", ["x", "of_5"], ["x5"]),
    pb.node("Reshape", ["x", "of_1"], ["x1"]),
    pb.node("Slice", ["x", "of_0", "of_0"], ["x0"]),
    pb.node("Sub", ["x_i64", "x_i64"], ["none_i64"]),
    pb.node("Sub", ["x_i32", "x_i32"], ["none_i32"]),
]
_READ: Final = [
    "x", "x", "h", "x4", "x4", "x5", "x1", "x0", "sizes", "none_i64", "none_i32", *(f"x_{name}" for name in TYPES), "one_i64", "one_f",
]  # fmt: skip


def unsigned(number: int) -> int:
    """As protobuf writes an int64."""
    return number % (1 << 64)


def stored(name: str, values: Any, dtype: int = 1, *extra: bytes) -> bytes:
    """A TensorProto with these values."""
    with np.errstate(all="ignore"):
        array = np.asarray(values).astype(_NUMPY[dtype])
    return pb.fields(1, array.shape) + pb.field(2, dtype) + pb.field(8, name) + pb.field(9, array.tobytes()) + b"".join(extra)


def with_nodes(*nodes: bytes, weights: Iterable[bytes] = (), opset: int = 20, answer: str = "z") -> bytes:
    """A running sum whose answers depend on what these nodes give as `answer`: so nothing of them is left out."""
    after = [
        pb.node("Cast", [answer], ["z.float"], [pb.integer("to", 1)]),
        pb.node("ReduceSum", ["z.float"], ["z.sum"], [pb.integer("keepdims", 0)]),
        pb.node("Add", ["sums", "z.sum"], ["y"]),
    ]
    graph = handmade.running_sum_graph(handmade.scan("sums"), *nodes, *after, weights=tuple(weights))
    return handmade.running_sum(graph, opsets=pb.opset(opset))


def operator_at_random(chance: Chance) -> tuple[str, bytes]:
    """Any operator that an artifact may hold, on inputs of any kind and with any attributes."""
    operator = chance.choice(_operators())
    schema = onnx.defs.get_schema(operator, max_inclusive_version=20)
    weights = [
        stored("of_4", [1, 1, -1, 2], 7),
        stored("of_5", [1, 1, 1, -1, 2], 7),
        stored("of_1", [-1], 7),
        stored("of_0", [0], 7),
    ]
    same = chance.choice(list(TYPES)) if chance.random() < 0.5 else None

    def constant(kind: str | None) -> str:
        kind = kind or chance.choice(("i64", "i64", "f", "f", "i32", "u8", "b", "h", "i8", "d"))
        numbers: Sequence[float] = _REALS if kind in "fhd" else _LARGE if kind == "i64" and chance.random() < 0.4 else _SMALL
        size = chance.choice(_SIZES)
        values = np.array([chance.choice(numbers) for _ in range(prod(size))], np.float64 if kind in "fhd" else np.int64)
        weights.append(stored(f"k{len(weights)}", values.reshape(size), TYPES[kind]))
        return f"k{len(weights) - 1}"

    inputs = []
    for place in range(chance.randint(schema.min_input, min(schema.max_input, schema.min_input + 3))):
        weight = operator in ("LSTM", "GRU", "RNN") and place in (1, 2)
        if chance.random() < (0.2 if place >= schema.min_input else 0.03):
            inputs.append("")
        elif not weight and chance.random() < (0.7 if place == 0 else 0.4):
            inputs.append(
                chance.choice([f"x_{same}", f"one_{same}"]) if same and chance.random() < 0.8 else chance.choice(_READ)
            )
        else:
            inputs.append(constant("f" if weight else same))
    attributes, outputs = [], ["z", *["z1"] * (chance.random() < 0.2)]
    if operator == "Scan":
        attributes, outputs = [pb.body("body", handmade.step_body())], ["q", "z"]
    for name, described in schema.attributes.items():
        if name != "body" and (described.required or chance.random() < 0.5):
            attributes.append(_attribute(name, described.type.name, chance))
    node = pb.node(operator, inputs, outputs, attributes)
    return operator, with_nodes(*_BEFORE, node, weights=weights, opset=chance.choice((13, 17, 20, 20, 22)))


@cache
def _operators() -> list[str]:
    return sorted(name for name in _OPERATORS if onnx.defs.has(name) and onnx.defs.get_schema(name).since_version <= 22)


def _attribute(name: str, kind: str, chance: Chance) -> bytes:
    numbers = _LARGE if chance.random() < 0.4 else _SMALL
    many = range(chance.choice((0, 1, 1, 2, 2, 3, 4, 4, 6, 8)))
    if kind == "INT":
        return pb.integer(name, unsigned(chance.choice(numbers)))
    if kind == "INTS":
        return pb.field(1, name) + pb.fields(8, [unsigned(chance.choice(numbers)) for _ in many]) + pb.field(20, 7)
    if kind == "FLOAT":
        return pb.field(1, name) + pb.varint(2 << 3 | 5) + struct.pack("<f", chance.choice(_REALS)) + pb.field(20, 1)
    if kind == "FLOATS":
        values = b"".join(pb.varint(7 << 3 | 5) + struct.pack("<f", chance.choice(_REALS)) for _ in many)
        return pb.field(1, name) + values + pb.field(20, 6)
    if kind == "STRING":
        return pb.field(1, name) + pb.field(4, chance.choice(_TEXTS.get(name, ("", "x", "x" * 300)))) + pb.field(20, 3)
    if kind == "STRINGS":
        return pb.field(1, name) + pb.fields(9, [chance.choice(_ACTIVATIONS) for _ in many]) + pb.field(20, 8)
    if kind == "TENSOR":
        values = np.ones(chance.choice(((), (1,), (2,), (2, 2), (0,))))
        return pb.field(1, name) + pb.field(5, stored("", values, chance.choice(list(TYPES.values())))) + pb.field(20, 4)
    return pb.field(1, name) + pb.field(20, 11)  # sparse


def use(data: bytes) -> None:
    """Open and run an artifact in every way. Numbers may be any; what is answered must have the shapes of the contract.

    Raises:
        RnnxError: it cannot be opened.
        WrongAnswerError: an answer has another shape.
    """
    model = load(data)
    with suppress(RnnxError):
        model.selftest()
    for batch, steps in BATCHES:
        chunk = inputs_of(model, batch, steps)
        if chunk is None:
            return
        with suppress(RnnxError):
            _check(model, model.run(chunk)[0], batch, steps)
        if steps == 1:
            with suppress(RnnxError):
                _check(model, model.stream(batch, **_conditions(model, batch)).step(_of_step(model, chunk)), batch, None)
        with suppress(RnnxError):
            _check(model, model.stream(batch, **_conditions(model, batch)).feed(chunk), batch, steps)
    with suppress(RnnxError):
        pool, one = model.pool(), inputs_of(model, 1, 2)
        rows = {name: array[0] for name, array in (one or {}).items()}
        for answer in pool.feed({0: rows, 1: rows}).values():
            _check(model, answer, None, 2)


def inputs_of(model: Model, batch: int, steps: int) -> dict[str, NDArray[Any]] | None:
    """A chunk that the manifest allows; None where that is too large to be tried."""
    found = {}
    for name, port in model._graph.inputs.items():
        size = (batch, steps, *port.layout.inner) if port.layout.has_time else (batch, *port.layout.inner)
        if prod(size) > LARGEST:
            return None
        found[name] = np.ones(size, port.dtype) if port._vocabulary_size != 1 else np.zeros(size, port.dtype)
    return found


def _of_step(model: Model, chunk: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name: array[:, 0] if model._graph.inputs[name].layout.has_time else array for name, array in chunk.items()}


def _conditions(model: Model, batch: int) -> dict[str, NDArray[Any]]:
    ports = model._graph.conditions
    if any(prod(port.layout.inner) > LARGEST for port in ports.values()):
        raise ArtifactError("its conditions are too large to be tried")
    return {name: np.zeros((batch, *port.layout.inner), port.dtype) for name, port in ports.items()}


def _check(model: Model, answer: Any, batch: int | None, steps: int | None) -> None:
    """Raises WrongAnswerError where an answer is not `(B, T, ...)`; `batch` None: of one row; `steps` None: of one step."""
    answers = answer if isinstance(answer, dict) else {next(iter(model._graph.outputs)): answer}
    for name, array in answers.items():
        layout = model._graph.outputs[name]
        rows = () if batch is None else (batch,)
        wanted = (*rows, *(() if steps is None or not layout.has_time else (steps,)), *layout.inner)
        if array.shape != wanted:
            raise WrongAnswerError(f"{name}: an answer of the shape {array.shape}, the contract says {wanted}")
