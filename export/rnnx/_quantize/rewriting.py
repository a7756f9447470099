"""The whole graph, its large weights in a few bits: recurrent nodes, products with a stored matrix, tables that rows are looked up in."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper

from rnnx._lint.nodes import GATES
from rnnx._quantize.editor import DOMAIN, Editor, Grain, attributes_of, copied, given, graphs_of
from rnnx._quantize.recurrent import replace_recurrent
from rnnx_runtime.artifact import LeftWeight, QuantisedWeight

Done = tuple[tuple[QuantisedWeight, ...], tuple[LeftWeight, ...]]


def quantise_weights(model: ModelProto, grain: Grain) -> Done:
    """Replace them in the model itself; what was replaced, and what was left, and why."""
    editor = Editor(model, grain)
    _in_graph(editor, model.graph, outermost=True)
    left = editor.finish()
    if editor.quantised:
        if all(one.domain != DOMAIN for one in model.opset_import):
            model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        for graph in graphs_of(model.graph):
            made = {name for node in graph.node for name in node.output}
            kept = [value for value in graph.value_info if value.name in made]
            del graph.value_info[:]
            graph.value_info.extend(kept)
    return tuple(editor.quantised), tuple(left)


def _in_graph(editor: Editor, graph: GraphProto, *, outermost: bool) -> None:
    nodes: list[NodeProto] = []
    folded: set[int] = set()
    for place, node in enumerate(graph.node):
        if place in folded:
            continue
        made: list[NodeProto] = []
        if node.domain in ("", "ai.onnx"):
            if node.op_type in GATES and outermost:
                made = replace_recurrent(editor, node)
            elif node.op_type in GATES:
                editor.reasons |= dict.fromkeys(node.input[1:3], f"{node.op_type} is inside a Scan")
            elif node.op_type == "MatMul":
                made, behind = _matmul(editor, graph, node)
                folded |= behind
            elif node.op_type == "Gemm":
                made = _gemm(editor, node)
            elif node.op_type == "Gather":
                made = _gather(editor, node)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _in_graph(editor, attribute.g, outermost=False)
        nodes += made or [node]
    copies = [copied(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _matmul(editor: Editor, graph: GraphProto, node: NodeProto) -> tuple[list[NodeProto], set[int]]:
    """The product of x `(.., K)` and a stored `(K, N)`, with the addition of a stored `(N,)` behind it, where nothing else reads the product."""
    weight = editor.weight(node.input[1])
    if weight is None:
        return [], set()
    matrix = weight.T if weight.ndim == 2 else weight
    if _stays(editor, node.input[1], matrix):
        return [], set()
    behind = _addition(editor, graph, node, matrix.shape[0])
    bias = None if behind is None else editor.weight(behind[1])
    made = editor.product(_base(node), node.input[0], matrix, bias)
    editor.note(node.input[1], node, "MatMul", matrix)
    made.output[0] = node.output[0] if behind is None else graph.node[behind[0]].output[0]
    return [made], set() if behind is None else {behind[0]}


def _addition(editor: Editor, graph: GraphProto, node: NodeProto, size: int) -> tuple[int, str] | None:
    """The place of the Add behind a product, and the bias; None where there is none, or more reads it."""
    product = node.output[0]
    read = Counter(name for inner in graphs_of(graph) for other in inner.node for name in other.input)
    if read[product] != 1 or any(value.name == product for value in graph.output):
        return None
    for place, other in enumerate(graph.node):
        if other.op_type == "Add" and other.domain in ("", "ai.onnx") and product in other.input:
            name = other.input[1] if other.input[0] == product else other.input[0]
            bias = editor.weight(name)
            if bias is not None and bias.shape == (size,):
                return place, name
    return None


def _gemm(editor: Editor, node: NodeProto) -> list[NodeProto]:
    attributes, weight = attributes_of(node), editor.weight(node.input[1])
    if weight is None:
        return []
    c = given(node.input, 2)
    bias = editor.weight(c) if c else None
    matrix = weight if attributes.get("transB", 0) else weight.T
    plain = attributes.get("alpha", 1.0) == 1.0 and attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA", 0)
    if not plain or (c and (bias is None or bias.size != matrix.shape[0])):
        editor.reasons[node.input[1]] = "Gemm has factors, a transposed input, or adds something else than a bias"
        return []
    if _stays(editor, node.input[1], matrix):
        return []
    made = editor.product(_base(node), node.input[0], matrix, None if bias is None else bias.reshape(-1))
    editor.note(node.input[1], node, "Gemm", matrix)
    made.output[0] = node.output[0]
    return [made]


def _gather(editor: Editor, node: NodeProto) -> list[NodeProto]:
    """Rows of a stored table `(V, E)`."""
    table = editor.weight(node.input[0])
    if table is None or table.ndim != 2:
        return []
    name, bits = node.input[0], editor.grain.bits
    if attributes_of(node).get("axis", 0) != 0 or table.shape[1] * bits % 8:
        editor.reasons[name] = "its rows do not fill whole bytes, or are looked up along another axis"
        return []
    if _stays(editor, name, table):
        return []
    made = editor.lookup(_base(node), table, node.input[1], node.output[0])
    editor.note(name, node, "Gather", table, table=True)
    return [made]


def _stays(editor: Editor, name: str, matrix: NDArray[np.float32]) -> bool:
    reason = editor.unfit(matrix)
    if reason:
        editor.reasons[name] = reason
    return bool(reason)


def _base(node: NodeProto) -> str:
    return node.name or f"{node.op_type}.{node.output[0]}"
