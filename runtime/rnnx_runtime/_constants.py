"""What is constant in a graph, and where ONNX Runtime does not survive that: it folds and packs constants when it loads."""

from collections.abc import Iterator, Mapping
from typing import Final

from rnnx_runtime._errors import ArtifactError
from rnnx_runtime._onnx import Body, Name, Node, Tensor
from rnnx_runtime._recurrent import RECURRENT

_HOLDING: Final = frozenset(["Scan", "If", "Loop", "SequenceMap"])  # graphs of their own; these are not folded


def check_constants(graph: Body, stored: Mapping[Name, Tensor]) -> None:
    """Refuse weights that are inputs, recurrent nodes that read constants or compute their weights, and nodes out of order.

    Args:
        stored: the weights of all graphs.
    """
    nodes, given = list(_nodes(graph)), set(_given(graph))
    weights = {name for name in stored if name.text}
    if weights & given:
        raise ArtifactError(f"{min(weights & given).text!r} is an input and a weight; an artifact's weights are no inputs")
    constant, later = set(weights), {name for node in nodes for name in node.outputs if name.text}
    for node in nodes:
        operator, inputs = node.operator, node.inputs
        if operator in RECURRENT:
            x, *parameters = inputs[:3]
            computed = [name for name in parameters if name not in weights]
            if x in constant:
                raise ArtifactError(f"{operator} reads {x.text!r}, which is constant; it must read what the model is given")
            if computed:
                raise ArtifactError(f"{operator} computes its weights {computed[0].text!r}; they must be stored in the file")
        early = later.intersection(node.inputs)
        if early:
            raise ArtifactError(f"{operator} reads {min(early).text!r}, which a later node gives; an artifact's are in order")
        later.difference_update(node.outputs)
        if operator not in _HOLDING and constant.issuperset(name for name in inputs if name.text):
            constant.update(node.outputs)


def _nodes(graph: Body) -> Iterator[Node]:
    """All nodes in order, those of a body in front of the node that holds it."""
    for node in graph.nodes:
        for body in node.bodies:
            yield from _nodes(body)
        yield node


def _given(graph: Body) -> Iterator[Name]:
    """All inputs, of bodies too."""
    yield from (name for name, _ in graph.inputs)
    for node in graph.nodes:
        for body in node.bodies:
            yield from _given(body)
