"""What is looked at before ONNX Runtime sees a single byte of an artifact.

ONNX Runtime is no safe boundary: it aborts the process on some valid graphs, runs endless loops and, in some
versions, reads files that the model names. So the graph is walked here first, with a reader of our own, and only what an
exported recurrent model needs is let through. Operators outside the list are told apart, for somebody may trust them; no
trust lets through what lies in another file, sparse weights, local functions, or more than the limits.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from collections import ChainMap, Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from rnnx_runtime._constants import check_constants
from rnnx_runtime._errors import ArtifactError
from rnnx_runtime._extents import check_extents
from rnnx_runtime._onnx import HALF, MOST_AXES, Body, Name, Node, Tensor, read_tensor
from rnnx_runtime._packed import PACKED, check_packed
from rnnx_runtime._protobuf import Reader, as_text, as_view, signed
from rnnx_runtime._recurrent import RECURRENT, check_recurrent

SIZE_LIMIT: Final = 512 * 2**20  # bytes of a file
_NODE_LIMIT: Final = 10_000
_METADATA_ENTRIES: Final = 64
_LONGEST_SYMBOL: Final = 256  # bytes of the name of an axis
_DEPTH_LIMIT: Final = 16  # graphs inside graphs
_IR_VERSIONS: Final = range(4, 14)
_OPSETS: Final = range(13, 25)

_DTYPES: Final = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 11: "float64"}  # TensorProto.DataType
_GIVING_TYPES: Final = frozenset(["to", "dtype", "output_dtype"])  # attributes that say of what type something becomes

# Deterministic tensor operators of the standard ONNX domain, and those that `rnnx quantize` writes. Left out on purpose: Loop and If (unbounded or hidden
# work), sequences, optionals and strings, random numbers, everything that reads another file, and what makes much out of
# little: EyeLike, Resize.
_OPERATORS: Final = PACKED | frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast CastLike Ceil Celu Clip
    Concat ConstantOfShape Constant Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Einsum Elu
    Equal Erf Exp Expand Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool
    GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Hardmax Identity
    InstanceNormalization IsInf IsNaN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization
    MatMul MatMulInteger Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow
    QLinearMatMul QuantizeLinear RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round Scan ScatterElements ScatterND Selu Shape
    Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan
    Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
    """.split()
)

_LEAVING_OUT: Final = (
    RECURRENT | PACKED | {"Clip", "Pad", "Slice"}
)  # inputs; ONNX Runtime does not survive that of some others
_READING: Final = frozenset(["com.microsoft::EPContext"])  # what nobody can allow


class Value(msgspec.Struct, frozen=True):
    """An input or output as the graph declares it; an axis without a fixed size is None."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class Graph(msgspec.Struct, frozen=True):
    """What the walk found; `operators` counts the nodes by type, bodies included."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    operators: Mapping[str, int]
    foreign: tuple[str, ...]  # those of them outside the list, sorted; with their domain, where it is not the standard one
    opset: int
    metadata: Mapping[str, str]
    half: bool  # whether a weight is float16, or something is converted to that


# Fields that may stand several times, per message; all others once, for protobuf would merge repeats in its own ways.
_OF_NODE: Final = frozenset([1, 2, 5, 9, 10])
_OF_ATTRIBUTE: Final = frozenset([7, 8, 9, 10, 11, 15, 23])
_KINDS: Final = {
    2: 1,
    3: 2,
    4: 3,
    5: 4,
    6: 5,
    7: 6,
    8: 7,
    9: 8,
    10: 9,
    11: 10,
    14: 13,
    15: 14,
    22: 11,
    23: 12,
}  # field of a value: its type
_OF_VALUE: Final = frozenset([4])  # metadata_props, which exporters write

_Names = ChainMap[str, Name]
_NOTHING: Final = memoryview(b"")


class _Read(NamedTuple):
    """A NodeProto without what its attributes hold."""

    operator: str
    inputs: list[str]
    outputs: list[str]
    attributes: list[memoryview]


@dataclass
class _Walk:
    reader: Reader = field(default_factory=Reader)
    operators: Counter[str] = field(default_factory=Counter)
    domains: set[str] = field(default_factory=set)  # of operators outside the list
    stored: dict[Name, Tensor] = field(default_factory=dict)  # of all graphs
    inputs: list[Value] = field(default_factory=list)  # of the outermost
    sizes: dict[str, list[int | str]] = field(default_factory=dict)  # of those
    outputs: list[Value] = field(default_factory=list)
    graphs: int = 0
    half: bool = False
    _nodes_read: int = 0

    def graph(self, message: memoryview, outside: _Names, around: tuple[str, ...] = ()) -> Body:
        """Walk one GraphProto.

        `outside` holds the names that it sees of the graphs around it. `around` names the operators that it is the body of,
        the outermost first.
        """
        number_of_graph, names = self.graphs, outside.new_child()
        self.graphs += 1
        body = Body([], [], [])
        nodes: list[_Read] = []

        def define(text: str) -> Name:
            return names.maps[0].setdefault(text, Name(text, number_of_graph))

        for number, value in self.reader.fields(message):
            if number == 1:
                nodes.append(self.node(as_view(value)))
            elif number == 5:
                tensor = self.tensor(as_view(value))
                place = define(tensor.name)
                if place in self.stored:
                    raise ArtifactError(f"the weight {tensor.name!r} stands twice in the file; an artifact has it once")
                self.stored[place] = tensor
            elif number == 11:
                name, dtype = self.declared(as_view(value), told=None if around else self.inputs)
                body.inputs.append((define(name), dtype))
            elif number == 12:
                name, _ = self.declared(as_view(value), told=None if around else self.outputs)
                body.outputs.append(Name(name, -1))
            elif number == 15:
                raise ArtifactError("sparse weights are not allowed in an artifact; export the model again")
        for node in nodes:
            for text in node.outputs:
                define(text)
        body.nodes = [self.inside(node, names, around) for node in nodes]
        body.outputs = [names.get(name.text, name) for name in body.outputs]
        return body

    def declared(self, message: memoryview, *, told: list[Value] | None = None) -> tuple[str, int]:
        """The name and the type of an input or an output; of the outermost graph, it is `told` in full."""
        if told is not None:
            value, sizes, dtype = _value(self.reader, message)
            told.append(value)
            self.sizes[value.name] = sizes
            return value.name, dtype
        parts = self.reader.once(message, "an input or output", _OF_VALUE)
        kind = self.reader.once(as_view(parts.get(2, _NOTHING)), "an input or output")
        given = self.reader.once(as_view(kind.get(1, _NOTHING)), "an input or output").get(1)
        return as_text(as_view(parts.get(1, _NOTHING))), given if isinstance(given, int) else 0

    def node(self, message: memoryview) -> _Read:
        """Read one NodeProto."""
        self._nodes_read += 1
        if self._nodes_read > _NODE_LIMIT:
            raise ArtifactError(f"the graph has more than {_NODE_LIMIT} nodes; an artifact must have fewer")
        operator, domain = "", ""
        read = _Read("", [], [], [])
        for number, value in self.reader.fields(message, "a node", _OF_NODE):
            if number == 1:
                read.inputs.append(as_text(as_view(value)))
            elif number == 2:
                read.outputs.append(as_text(as_view(value)))
            elif number == 3:
                as_text(as_view(value))  # its name, which ONNX Runtime tells again
            elif number == 4:
                operator = as_text(as_view(value))
            elif number == 7:
                domain = as_text(as_view(value))
            elif number == 5:
                read.attributes.append(as_view(value))
        if domain not in ("", "ai.onnx"):
            operator = f"{domain}::{operator}"
            self.domains.add(domain)
        if operator in _READING:
            raise ArtifactError(f"operator {operator!r} reads another file; an artifact is one file: export the model again")
        self.operators[operator] += 1
        return read._replace(operator=operator)

    def inside(self, node: _Read, names: _Names, around: tuple[str, ...]) -> Node:
        """Walk what a node holds, and note what it reads and gives."""
        operator = node.operator
        attributes: dict[str, Any] = {}
        bodies: list[Body] = []
        for message in node.attributes:
            name, value = self.attribute(message, operator, names, around, bodies)
            if name in attributes:
                raise ArtifactError(f"a node has the attribute {name!r} twice")
            attributes[name] = value
        if "" in node.inputs and operator in _OPERATORS - _LEAVING_OUT:
            raise ArtifactError(f"{operator} leaves an input out; in an artifact only {', '.join(sorted(_LEAVING_OUT))} may")
        here = names.maps[0]  # most are, and looking further takes longer
        read = [here.get(text) or names.get(text) or Name(text, -1) for text in node.inputs]
        found = Node(operator, read, [here[text] for text in node.outputs], attributes, bodies)
        if operator in PACKED:
            check_packed(found, self.stored)
        elif operator in RECURRENT:
            check_recurrent(found, self.stored)
        return found

    def attribute(
        self, message: memoryview, operator: str, names: _Names, around: tuple[str, ...], bodies: list[Body]
    ) -> tuple[str, Any]:
        """Walk one AttributeProto: its name and its value; the graphs in it are added to `bodies`."""
        name, kind = "", 0
        value: Any = None
        integers: list[int] = []
        kinds: set[int] = set()
        for number, part in self.reader.fields(message, "an attribute", _OF_ATTRIBUTE):
            if number in _KINDS:
                kinds.add(_KINDS[number])
            if number == 1:
                name = as_text(as_view(part))
            elif number == 3 and isinstance(part, int):
                value = signed(part)
            elif number == 4:
                value = bytes(as_view(part))
            elif number in (5, 10):
                value = self.tensor(as_view(part))
            elif number in (6, 11):
                if operator in _OPERATORS and (operator != "Scan" or number == 11 or "Scan" in around):
                    raise ArtifactError(f"{operator} holds a graph of its own; only Scan may, and not inside another Scan")
                if len(around) == _DEPTH_LIMIT:
                    raise ArtifactError(f"graphs lie more than {_DEPTH_LIMIT} deep in each other; an artifact's do not")
                bodies.append(self.graph(as_view(part), names, (*around, operator)))
            elif number == 8:
                integers += self.reader.integers(part)
                value = integers
            elif number == 20 and isinstance(part, int):
                kind = part
            elif number in (22, 23):
                raise ArtifactError("sparse weights are not allowed in an artifact; export the model again")
        if kinds - {kind or max(kinds, default=0)}:
            raise ArtifactError(f"{operator!r}: the attribute {name!r} has a value of another type than it says, or two")
        if isinstance(value, int) and name in _GIVING_TYPES:
            self.half = self.half or value == HALF
        if len(integers) > MOST_AXES and operator != "Constant":
            raise ArtifactError(
                f"{operator!r}: the attribute {name!r} has {len(integers)} numbers, more than a tensor has axes"
            )
        return name, value

    def tensor(self, message: memoryview) -> Tensor:
        found = read_tensor(self.reader, message)
        self.half = self.half or found.dtype == HALF
        return found


def inspect_graph(data: bytes) -> Graph:
    """Walk a whole ModelProto without running anything.

    Raises:
        ArtifactError: the bytes are no ONNX model, or one that no exporter of ours would write.
    """
    walk = _Walk()
    reader = walk.reader
    graph: Body | None = None
    opsets: dict[str, int] = {}
    metadata: dict[str, str] = {}
    ir_version = 0
    for number, value in reader.fields(memoryview(data)):
        if number == 1 and isinstance(value, int):
            ir_version = value
        elif number == 7:
            if graph is not None:
                raise ArtifactError("the file holds two graphs; an artifact has one")
            graph = walk.graph(as_view(value), ChainMap())
        elif number == 8:
            domain, version = _opset(reader, as_view(value))
            opsets[domain] = version
        elif number == 14:
            key, text = _entry(reader, as_view(value))
            if len(metadata) >= _METADATA_ENTRIES:
                raise ArtifactError(f"the file has more than {_METADATA_ENTRIES} metadata entries")
            if key in metadata:
                raise ArtifactError(f"metadata {key!r} stands twice in the file; an artifact has it once")
            metadata[key] = text
        elif number in (20, 25):
            raise ArtifactError("training information and local functions are not allowed in an artifact")
    if graph is None:
        raise ArtifactError("not an ONNX file: it holds no graph")
    if ir_version not in _IR_VERSIONS:
        raise ArtifactError(f"ONNX IR version {ir_version} is not read; {_IR_VERSIONS[0]} to {_IR_VERSIONS[-1]} are")
    opset = opsets.pop("ai.onnx", opsets.pop("", 0))
    if opset not in _OPSETS:
        raise ArtifactError(f"ONNX opset {opset} is not read; {_OPSETS[0]} to {_OPSETS[-1]} are")
    if opsets.keys() - walk.domains:
        raise ArtifactError(f"the operator domain {min(opsets.keys() - walk.domains)!r} is not allowed in an artifact")
    foreign = _foreign(walk.operators)
    check_constants(graph, walk.stored)
    check_extents(graph, walk.sizes, walk.stored, len(data), surely=not foreign)
    return Graph(tuple(walk.inputs), tuple(walk.outputs), dict(walk.operators), foreign, opset, metadata, walk.half)


def _foreign(operators: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in operators if name not in _OPERATORS))


def _value(reader: Reader, message: memoryview) -> tuple[Value, list[int | str], int]:
    """A ValueInfoProto: name, and of its type the element type and the sizes; the sizes again, with symbols; the type again."""
    parts = reader.once(message, "an input or output", _OF_VALUE)
    name = as_text(as_view(parts.get(1, _NOTHING)))
    if not name.isprintable():
        raise ArtifactError(f"the graph names an input or output {name!r}; a name has printable characters only")
    kind = reader.once(as_view(parts.get(2, _NOTHING)), name)
    if set(kind) - {1, 6}:
        raise ArtifactError(f"{name or 'an input or output'} is no tensor; an artifact's are")
    tensor = reader.once(as_view(kind.get(1, _NOTHING)), name)
    if 2 not in tensor:
        raise ArtifactError(f"{name}: the graph declares no shape for it")
    sizes = [_size(reader, as_view(axis), name) for number, axis in reader.fields(as_view(tensor[2])) if number == 1]
    dtype = tensor.get(1)
    shape = tuple(size if isinstance(size, int) else None for size in sizes)
    if not isinstance(dtype, int):
        return Value(name, "no type", shape), sizes, 0
    return Value(name, _DTYPES.get(dtype, f"type {dtype}"), shape), sizes, dtype


def _size(reader: Reader, axis: memoryview, name: str) -> int | str:
    parts = reader.once(axis, name)
    if 1 in parts and 2 in parts:
        raise ArtifactError(f"{name}: an axis has a size and a symbol")
    size, symbol = parts.get(1), as_view(parts.get(2, _NOTHING))
    if len(symbol) > _LONGEST_SYMBOL:
        raise ArtifactError(f"{name}: an axis has a symbol of {len(symbol)} bytes; {_LONGEST_SYMBOL} are the most")
    return size if isinstance(size, int) else as_text(symbol)


def _opset(reader: Reader, message: memoryview) -> tuple[str, int]:
    domain, version = "", 0
    for number, value in reader.fields(message):
        if number == 1:
            domain = as_text(as_view(value))
        elif number == 2 and isinstance(value, int):
            version = value
    return domain, version


def _entry(reader: Reader, message: memoryview) -> tuple[str, str]:
    key, text = "", ""
    for number, value in reader.fields(message):
        if number == 1:
            key = as_text(as_view(value))
        elif number == 2:
            text = as_text(as_view(value))
    return key, text
