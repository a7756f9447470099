"""What flows where in a graph: what an output depends on, which inputs a recurrent node begins with, what is looked up."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, Literal

import onnx
from onnx import AttributeProto, GraphProto, NodeProto

from rnnx._adopt.source import graphs

Port = tuple[str, Literal["h", "c"]]  # a recurrent node, and which of its states

RECURRENT: Final = frozenset(["RNN", "LSTM", "GRU", "com.microsoft::DynamicQuantizeLSTM"])
_PORTS: Final[dict[int, Literal["h", "c"]]] = {5: "h", 6: "c"}  # inputs initial_h and initial_c
_LENGTHS: Final = 4  # input sequence_lens
_ENDS: Final[dict[int, Literal["h", "c"]]] = {1: "h", 2: "c"}  # outputs Y_h and Y_c

# Operators that move values without computing with them, and the inputs that they take these values from.
_MOVING: Final[dict[str, Sequence[int] | None]] = {
    **dict.fromkeys(["Cast", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze"], (0,)),
    **dict.fromkeys(["Transpose", "Unsqueeze"], (0,)),
    **dict.fromkeys(["ScatterElements", "ScatterND"], (0, 2)),
    "Concat": None,  # all
}
_SIZES_ONLY: Final = frozenset(["Shape", "Size"])  # what they give depends on no value


def operator(node: NodeProto) -> str:
    """The operator, with its domain where it is not ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def attribute(node: NodeProto, name: str, default: object = None) -> object:
    """The value of one of its attributes."""
    return next((onnx.helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


class Dataflow:
    """The edges of a graph. Bodies of nodes count as inputs of their node."""

    def __init__(self, graph: GraphProto) -> None:
        self.nodes = tuple(graph.node)  # held, so that each stays one object
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._inputs = {value.name for value in graph.input} - set(self._weights)
        self.names = {id(node): _name(node, place) for place, node in enumerate(self.nodes)}
        self.maker = {name: node for node in self.nodes for name in node.output if name}
        self._readers: dict[str, list[NodeProto]] = {}
        self._walked: dict[tuple[str, str], set[str]] = {}  # what was found from a name, by the way of looking
        for node in self.nodes:
            for name in dict.fromkeys(_reads(node)):
                self._readers.setdefault(name, []).append(node)

    def read(self, name: str) -> bool:
        """Whether a node takes this value."""
        return name in self._readers

    def sources(self, name: str) -> set[str]:
        """The graph's inputs that a value depends on, if only on their sizes."""
        return self._sources(name, ())

    def sources_of_values(self, name: str) -> set[str]:
        """The graph's inputs whose values a value depends on."""
        return self._sources(name, _SIZES_ONLY)

    def above(self, name: str) -> set[str]:
        """All values that this one depends on, itself among them."""

        def read(value: str) -> list[str]:
            node = self.maker.get(value)
            return [] if node is None else _reads(node)

        return self._walk("above", name, read)

    def _sources(self, name: str, beyond: Collection[str]) -> set[str]:
        """The inputs above a value, not looking beyond some operators."""

        def above(value: str) -> list[str]:
            node = self.maker.get(value)
            return [] if node is None or operator(node) in beyond else _reads(node)

        return self._walk("values" if beyond else "all", name, above) & self._inputs

    def _walk(self, how: str, name: str, further: Callable[[str], Iterable[str]]) -> set[str]:
        """Everything that is reached from a name."""
        if (how, name) not in self._walked:
            seen, names = {name}, [name]
            while names:
                new = {one for one in further(names.pop()) if one} - seen
                seen |= new
                names += new
            self._walked[how, name] = seen
        return self._walked[how, name]

    def begins(self, name: str) -> set[Port]:
        """The recurrent nodes that begin with an input of the graph, or with parts of it."""
        found: set[Port] = set()
        for value in self._moved_from(name):
            for node in self._readers.get(value, ()):
                if operator(node) in RECURRENT:
                    found.update((self.names[id(node)], port) for at, port in _PORTS.items() if _at(node.input, at) == value)
        return found

    def counts_steps(self, name: str) -> bool:
        """Whether an input says how many steps of each row a recurrent node reads."""
        return any(
            operator(node) in RECURRENT and _at(node.input, _LENGTHS) == value
            for value in self._moved_from(name)
            for node in self._readers.get(value, ())
        )

    def ends(self, name: str) -> set[Port]:
        """The recurrent nodes whose last states make up an output of the graph."""
        found: set[Port] = set()
        for value in self._moved_to(name):
            node = self.maker.get(value)
            if node is not None and operator(node) in RECURRENT:
                found.update((self.names[id(node)], port) for at, port in _ENDS.items() if _at(node.output, at) == value)
        return found

    def shifts(self, given: str, name: str) -> bool:
        """Whether an output holds values of an input, moved along with others: a cache of what came before."""
        joined = {value for value in self._moved_to(name) if self._joins(self.maker.get(value))}
        return given in self._moved_to(name) and any(given in self._moved_to(value) for value in joined)

    @staticmethod
    def _joins(node: NodeProto | None) -> bool:
        return node is not None and operator(node) in ("Concat", "ScatterElements", "ScatterND")

    def vocabulary(self, name: str) -> int | None:
        """Among how many rows an input of whole numbers is looked up; the smallest where it is in several tables."""
        sizes = []
        for value in self._moved_from(name):
            for node in self._readers.get(value, ()):
                if operator(node) == "Gather" and _at(node.input, 1) == value and not attribute(node, "axis", 0):
                    sizes += self._rows(node.input[0])
        return min(sizes, default=None)

    def _rows(self, table: str) -> list[int]:
        node = self.maker.get(table)
        if node is not None and operator(node) in ("DequantizeLinear", "Identity", "Cast"):
            table = node.input[0]
        if node is not None and operator(node) == "Constant":
            value = attribute(node, "value")
            return [value.dims[0]] if isinstance(value, onnx.TensorProto) and len(value.dims) > 1 else []
        tensor = self._weights.get(table)
        return [tensor.dims[0]] if tensor is not None and len(tensor.dims) > 1 else []

    def _moved_from(self, name: str) -> set[str]:
        """The values that hold nothing but values of this one, or hold them among others."""

        def below(value: str) -> list[str]:
            return [one for node in self._readers.get(value, ()) if _moves(node, value) for one in node.output]

        return self._walk("moved from", name, below)

    def _moved_to(self, name: str) -> set[str]:
        """The values that this one holds values of."""

        def above(value: str) -> list[str]:
            node = self.maker.get(value)
            return [] if node is None else [one for one in node.input if _moves(node, one)]

        return self._walk("moved to", name, above)


def _moves(node: NodeProto, value: str) -> bool:
    name = operator(node)
    if name not in _MOVING:
        return False
    places = _MOVING[name]
    return any(one == value for place, one in enumerate(node.input) if places is None or place in places)


def _at(names: Sequence[str], place: int) -> str | None:
    return names[place] if place < len(names) and names[place] else None


def _name(node: NodeProto, place: int) -> str:
    """A node's name, as a state of it can be called: without what inlining put in front."""
    name = node.name.rpartition("_/")[2].strip("/").replace("/", ".")
    return name if name and name.isprintable() else f"{node.op_type}_{place}"


def _reads(node: NodeProto) -> list[str]:
    """What a node reads, its bodies included."""
    names = [name for name in node.input if name]
    for one in node.attribute:
        if one.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            for body in (*([one.g] if one.type == AttributeProto.GRAPH else ()), *one.graphs):
                names += _from_around(body)
    return names


def _from_around(body: GraphProto) -> list[str]:
    inner = list(graphs(body))
    own = {value.name for graph in inner for value in (*graph.input, *graph.initializer)}
    own |= {name for graph in inner for node in graph.node for name in node.output}
    read = [name for graph in inner for node in graph.node for name in node.input]
    read += [value.name for graph in inner for value in graph.output]
    return [name for name in read if name and name not in own]
