"""What is constant in a graph, and where ONNX Runtime does not survive that: it folds and packs constants when it loads."""

from typing import Final, NamedTuple

from rnnx_runtime._errors import ArtifactError

RECURRENT: Final = frozenset(["RNN", "LSTM", "GRU"])
_DIVISIONS: Final = frozenset(["Div", "Mod"])  # of integers, they can end the process
_CHECKED: Final = RECURRENT | _DIVISIONS
_HOLDING: Final = frozenset(["Scan", "If", "Loop", "SequenceMap"])  # graphs of their own, which read names from around them
_INTEGERS: Final = frozenset([2, 3, 4, 5, 6, 7, 12, 13])  # TensorProto.DataType: int8 to int64, signed and not


class Node(NamedTuple):
    """A node by the names that it reads and writes; of a recurrent one, only what it reads and its weights."""

    operator: str
    inputs: list[str]
    outputs: list[str]


class Tensor(NamedTuple):
    """A stored tensor; `dtype` as in TensorProto.DataType."""

    name: str
    dtype: int


def check_constants(nodes: list[Node], weights: list[Tensor], given: set[str], *, body: bool) -> list[Node]:
    """Refuse what ONNX Runtime does not survive when it prepares and folds constants.

    Returns:
        The nodes of a body that read names from around it, with these names only: the graph around it checks them.
    """
    integers = {tensor.name for tensor in weights if tensor.dtype in _INTEGERS}
    stored = {tensor.name for tensor in weights} - {""}
    if stored & given:
        raise ArtifactError(f"{min(stored & given)!r} is an input and a weight; an artifact's weights are no inputs")
    constant, made, around = set(stored), {"", *given}, []
    for operator, inputs, outputs in nodes:
        unknown = (
            [name for name in inputs if body and name not in constant and name not in made] if operator in _CHECKED else []
        )
        if operator in RECURRENT:
            x, *parameters = inputs
            computed = [name for name in parameters if name not in stored and name not in unknown]
            if x in constant:
                raise ArtifactError(f"{operator} reads {x!r}, which is constant; it must read what the model is given")
            if computed:
                raise ArtifactError(f"{operator} computes its weights {computed[0]!r}; they must be stored in the file")
            if unknown:
                around.append(
                    Node(operator, [x if x in unknown else "", *(name for name in parameters if name in unknown)], [])
                )
        fixed = operator not in _HOLDING and constant.issuperset(name for name in inputs if name)
        if operator in _DIVISIONS:
            if fixed and integers.intersection(inputs):
                raise ArtifactError(f"{operator} of constant integers is not allowed in an artifact; store the result")
            if unknown and constant.issuperset(set(inputs) - set(unknown)):
                around.append(Node(operator, unknown, []))
        made.update(outputs)
        if fixed:
            constant.update(outputs)
    return around
