"""What is constant in a graph, and where ONNX Runtime does not survive that: it folds and packs constants when it loads."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from rnnx_runtime._errors import ArtifactError

RECURRENT: Final = frozenset(["RNN", "LSTM", "GRU"])
_DIVISIONS: Final = frozenset(["Div", "Mod"])  # of integers, they can end the process
_HOLDING: Final = frozenset(["Scan", "If", "Loop", "SequenceMap"])  # graphs of their own; these are not folded
_FLOATS: Final = frozenset([1, 10, 11, 16])  # TensorProto.DataType: float32, float16, float64, bfloat16
# What gives floats where it reads floats first, and what reads and gives nothing else.
_FLOATS_OF_FLOATS: Final = frozenset(
    """
    Abs Acos Acosh Add Asin Asinh Atan Atanh Ceil Celu Clip Concat Cos Cosh CumSum Div Einsum Elu Erf Exp Expand Flatten Floor
    Gather GatherElements GatherND Gelu Gemm HardSigmoid HardSwish Hardmax Identity LayerNormalization LeakyRelu Log LogSoftmax
    LpNormalization MatMul Max Mean Min Mish Mod Mul Neg PRelu Pad Pow Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round ScatterElements
    ScatterND Selu Shrink Sigmoid Sign Sin Sinh Slice Softmax Softplus Softsign Split Sqrt Squeeze Sub Sum Swish Tan Tanh
    ThresholdedRelu Tile Transpose Trilu Unsqueeze Where
    """.split()
)


class Name(NamedTuple):
    """A value by its name in the graph that gives it: 0 for the outermost, and each body has a number of its own."""

    text: str
    graph: int


class Node(NamedTuple):
    """A node by what it reads and gives; of a recurrent one, only what it reads and its weights.

    `dtype`: of a Constant or a Cast what it gives, as in TensorProto.DataType; else 0.
    """

    operator: str
    inputs: Sequence[Name]
    outputs: Sequence[Name]
    dtype: int


class Tensor(NamedTuple):
    """A stored tensor; `dtype` as in TensorProto.DataType. `dims` is empty too where the file writes them in an unusual way."""

    name: str
    dtype: int
    dims: tuple[int, ...] = ()


def check_constants(nodes: Sequence[Node], weights: Iterable[tuple[Name, int]], given: set[Name]) -> None:
    """Refuse what ONNX Runtime does not survive when it prepares and folds constants, and nodes that are out of order.

    Args:
        nodes: of all graphs in order, those of a body in front of the node that holds it.
        weights: what is stored, with its type.
        given: inputs, of bodies too.
    """
    stored = {name: dtype for name, dtype in weights if name.text}
    if stored.keys() & given:
        raise ArtifactError(
            f"{min(stored.keys() & given).text!r} is an input and a weight; an artifact's weights are no inputs"
        )
    constant, floats = set(stored), {name for name, dtype in stored.items() if dtype in _FLOATS}
    later = {name for node in nodes for name in node.outputs if name.text}
    for operator, inputs, outputs, dtype in nodes:
        if operator in RECURRENT:
            x, *parameters = inputs
            computed = [name for name in parameters if name not in stored]
            if x in constant:
                raise ArtifactError(f"{operator} reads {x.text!r}, which is constant; it must read what the model is given")
            if computed:
                raise ArtifactError(f"{operator} computes its weights {computed[0].text!r}; they must be stored in the file")
        early = later.intersection(inputs)
        if early:
            raise ArtifactError(f"{operator} reads {min(early).text!r}, which a later node gives; an artifact's are in order")
        read = [name for name in inputs if name.text]
        fixed = operator not in _HOLDING and constant.issuperset(read)
        if operator in _DIVISIONS and read and fixed and floats.isdisjoint(read):
            raise ArtifactError(f"{operator} of constant integers is not allowed in an artifact; store the result")
        later.difference_update(outputs)
        if fixed:
            constant.update(outputs)
        first = read[1:2] if operator == "Where" else read[:1]
        if dtype in _FLOATS or (operator in _FLOATS_OF_FLOATS and not floats.isdisjoint(first)):
            floats.update(outputs)
        else:
            floats.difference_update(outputs)
