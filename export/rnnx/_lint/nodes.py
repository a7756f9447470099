"""Nodes as the lint rules see them: names, numbers and texts, without protobuf."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import onnx

GATES: Final = {"RNN": 1, "LSTM": 4, "GRU": 3}
LSTM_INT8: Final = "com.microsoft::DynamicQuantizeLSTM"
PACKED: Final = frozenset(["com.microsoft::MatMulNBits", "com.microsoft::GatherBlockQuantized"])
LOOPS: Final = ("Loop", "Scan")


@dataclass(frozen=True, eq=False)
class Node:
    """One node, of the graph or of a body in it.

    Attributes:
        operator: with its domain, where that is not the standard one.
        attributes: numbers and texts; no tensors and no bodies.
        around: the operators that it lies in the bodies of, the outermost first.
    """

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    around: tuple[str, ...]

    @property
    def where(self) -> str:
        return f"{self.operator} {self.name or next(filter(None, self.outputs), '')!r}"

    @property
    def looped(self) -> bool:
        """Whether it lies in the body of a loop."""
        return any(operator in LOOPS for operator in self.around)

    def input(self, place: int) -> str:
        """The name at a place; empty where nothing is given there."""
        return self.inputs[place] if place < len(self.inputs) else ""

    def number(self, name: str) -> float | None:
        """A number among the attributes; None where there is none of that name, or it is no number."""
        value = self.attributes.get(name)
        return value if isinstance(value, int | float) else None

    def whole(self, name: str) -> int | None:
        """A whole number among the attributes."""
        value = self.attributes.get(name)
        return value if isinstance(value, int) else None

    def output(self, place: int) -> str:
        return self.outputs[place] if place < len(self.outputs) else ""


@dataclass(frozen=True, eq=False)
class Recurrent:
    """A recurrent node by the names of what it reads and gives."""

    node: Node
    gates: int
    kinds: tuple[str, ...]  # of its states: h, c

    @property
    def directions(self) -> int:
        return 2 if self.direction == "bidirectional" else 1

    @property
    def direction(self) -> str:
        return str(self.node.attributes.get("direction", "forward"))

    @property
    def hidden(self) -> int | None:
        return self.node.whole("hidden_size")

    @property
    def initial(self) -> tuple[str, ...]:
        """What its states begin with, by kind."""
        return tuple(self.node.input(5 + place) for place in range(len(self.kinds)))

    @property
    def final(self) -> tuple[str, ...]:
        return tuple(self.node.output(1 + place) for place in range(len(self.kinds)))


def node_of(proto: onnx.NodeProto, around: tuple[str, ...]) -> Node:
    kinds = onnx.AttributeProto
    plain = (kinds.INT, kinds.INTS, kinds.FLOAT, kinds.FLOATS, kinds.STRING, kinds.STRINGS)
    attributes = {
        entry.name: _text(onnx.helper.get_attribute_value(entry)) for entry in proto.attribute if entry.type in plain
    }
    operator = proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}::{proto.op_type}"
    return Node(operator, proto.name, tuple(proto.input), tuple(proto.output), attributes, around)


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return [_text(one) for one in value] if isinstance(value, list) else value
