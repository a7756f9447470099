"""A graph that may be run at sizes of which nothing is known yet.

Recurrent operators of ONNX Runtime end the process where they are given no rows or no steps, and answer NaN with numbers. So what
they read is guarded, and what is not finite before them is shown.
"""

from typing import Final

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from rnnx._adopt.calls import EMPTY
from rnnx._adopt.dataflow import RECURRENT, operator
from rnnx._adopt.source import graphs

_CHOOSY: Final = frozenset("Acos Acosh Asin Atanh Log Pow Sqrt".split())  # operators that not every number suits
_END: Final = np.iinfo(np.int64).max


def guarded(model: ModelProto) -> ModelProto:
    """The same graph, answering the same.

    An empty input of a recurrent node is an error of ONNX Runtime's, and further outputs show what of the numbers is not finite.
    """
    found = ModelProto()
    found.CopyFrom(model)
    have = {value.name for value in found.graph.output}
    for node in model.graph.node:
        if node.op_type in _CHOOSY and node.output[0] not in have:
            found.graph.output.add(name=node.output[0])
    for number, graph in enumerate(list(graphs(found.graph))):
        if any(operator(node) in RECURRENT for node in graph.node):
            _guard(graph, f"guard{number}")
    return found


def _guard(graph: GraphProto, prefix: str) -> None:
    for name, values in (("one", 1), ("places", [0]), ("end", [_END]), ("first", [0])):
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), f"{prefix}.{name}"))
    nodes: list[NodeProto] = []
    for place, node in enumerate(graph.node):
        if operator(node) in RECURRENT:
            nodes += _checks(node, prefix, f"{prefix}.{place}")
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _checks(node: NodeProto, prefix: str, name: str) -> list[NodeProto]:
    """Nodes that hand the input on: from its start, which is looked up at a place that exists only where it has elements."""
    x, node.input[0] = node.input[0], f"{name}.x"
    return [
        helper.make_node("Size", [x], [f"{name}.size"]),
        helper.make_node("Min", [f"{name}.size", f"{prefix}.one"], [f"{name}.some"]),
        helper.make_node("Sub", [f"{prefix}.one", f"{name}.some"], [f"{name}.place"]),
        helper.make_node("Gather", [f"{prefix}.places", f"{name}.place"], [f"{name}.start"], f"{name} {node.op_type} {EMPTY}"),
        helper.make_node("Unsqueeze", [f"{name}.start", f"{prefix}.first"], [f"{name}.starts"]),
        helper.make_node("Slice", [x, f"{name}.starts", f"{prefix}.end", f"{prefix}.first"], [f"{name}.x"]),
    ]
