"""What older files write otherwise: opsets 11 and 12 as 13, which the runtime reads, and what only training needs, left out.

Between these opsets, Squeeze, Unsqueeze, Split and ReduceSum began to take as inputs what had been attributes, and Softmax,
LogSoftmax and Hardmax to work along one axis: before, they took all axes from theirs on as one. https://onnx.ai/onnx/operators/
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper, shape_inference

from rnnx._adopt.source import graphs

_FIRST: Final = 13
_AS_INPUT: Final = {"Squeeze": "axes", "Unsqueeze": "axes", "ReduceSum": "axes", "Split": "split"}
_FROM_AXIS_ON: Final = frozenset(["Softmax", "LogSoftmax", "Hardmax"])


def modernise(model: ModelProto) -> list[str]:
    """Rewrite what the runtime does not read, in place.

    Returns:
        What was done, in words.
    """
    notes = []
    stored = {tensor.name for tensor in model.graph.initializer}
    given = [value for value in model.graph.input if value.name not in stored]  # older files list weights among the inputs
    del model.graph.input[:]
    model.graph.input.extend(given)
    dropped = sum(_drop_dropouts(graph) for graph in graphs(model.graph))
    if dropped:
        notes.append(f"{dropped} Dropout nodes, which do nothing outside training, are left out")
    opset = next(entry for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset.version < _FIRST:
        ranks = _ranks(model)
        for graph in list(graphs(model.graph)):
            _rewrite(graph, ranks)
        notes.append(f"opset {opset.version} is written as {_FIRST}")
        opset.version = _FIRST
    model.ir_version = max(model.ir_version, 8)
    return notes


def bypass(graph: GraphProto, gone: list[NodeProto]) -> None:
    """Take out nodes that hand their first input on as their first output."""
    outputs = {value.name for value in graph.output}
    names: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if not any(node is one for one in gone):
            kept.append(node)
        elif node.output[0] in outputs:  # the name must stay
            kept.append(helper.make_node("Identity", [node.input[0]], [node.output[0]], name=node.name))
        else:
            names[node.output[0]] = node.input[0]
    del graph.node[:]
    graph.node.extend(kept)
    for one in graphs(graph):
        for node in one.node:
            for place, name in enumerate(node.input):
                node.input[place] = _source(names, name)


def _source(names: dict[str, str], name: str) -> str:
    while name in names:
        name = names[name]
    return name


def _drop_dropouts(graph: GraphProto) -> int:
    constant = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    read = {name for one in graphs(graph) for node in one.node for name in node.input}
    read |= {value.name for one in graphs(graph) for value in one.output}
    nodes = []
    for node in graph.node:
        if node.op_type != "Dropout" or node.domain not in ("", "ai.onnx"):
            continue
        training = node.input[2] if len(node.input) > 2 else ""
        if (not training or (training in constant and not constant[training].any())) and not read & set(node.output[1:]):
            nodes.append(node)
    if nodes:
        bypass(graph, nodes)
    return len(nodes)


def _ranks(model: ModelProto) -> dict[str, int]:
    """The number of axes of every value where that can be inferred."""
    inferred = shape_inference.infer_shapes(model)
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for graph in graphs(inferred.graph)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }


def _rewrite(graph: GraphProto, ranks: dict[str, int]) -> None:
    nodes = [new for node in graph.node for new in _rewritten(graph, node, ranks)]
    del graph.node[:]
    graph.node.extend(nodes)


def _rewritten(graph: GraphProto, node: NodeProto, ranks: dict[str, int]) -> Iterator[NodeProto]:
    if node.domain not in ("", "ai.onnx"):
        yield node
        return
    if node.op_type in _AS_INPUT:
        given = _pop(node, _AS_INPUT[node.op_type])
        if given is not None:
            name = f"{node.output[0]}.{_AS_INPUT[node.op_type]}"
            graph.initializer.append(numpy_helper.from_array(np.array(given, np.int64), name))
            node.input.append(name)
    elif node.op_type in _FROM_AXIS_ON:
        given = _pop(node, "axis")
        axis = given if isinstance(given, int) else 1
        if axis not in (-1, ranks.get(node.input[0], 0) - 1):
            yield from _flattened(node, axis)
            return
        node.attribute.append(helper.make_attribute("axis", -1))
    yield node


def _flattened(node: NodeProto, axis: int) -> Iterator[NodeProto]:
    """The operator over all axes from `axis` on, taken as one."""
    x, y = node.input[0], node.output[0]
    yield helper.make_node("Shape", [x], [f"{y}.shape"])
    yield helper.make_node("Flatten", [x], [f"{y}.flat"], axis=axis)
    yield helper.make_node(node.op_type, [f"{y}.flat"], [f"{y}.answer"], name=node.name, axis=-1)
    yield helper.make_node("Reshape", [f"{y}.answer", f"{y}.shape"], [y])


def _pop(node: NodeProto, name: str) -> object:
    """An attribute's value, taken off the node; None where it has none."""
    for place, attribute in enumerate(node.attribute):
        if attribute.name == name:
            value: object = helper.get_attribute_value(attribute)
            del node.attribute[place]
            return value
    return None
