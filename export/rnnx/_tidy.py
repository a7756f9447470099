"""Tidy: what a tracer leaves behind, taken out of the graph."""

import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass, RemoveUnusedOpsetsPass


def tidy(model: ir.Model) -> ir.Model:
    """Take out stack traces and local paths, unused nodes and weights; give nodes and values short, stable names.

    The names of inputs, outputs and weights stay.
    """
    ir.passes.Sequential(RemoveUnusedNodesPass(), RemoveUnusedOpsetsPass(), ClearMetadataAndDocStringPass())(model)
    _name(model.graph, "")
    model.metadata_props.clear()
    model.graph.name = "rnnx"
    model.producer_name, model.producer_version = "rnnx", None
    return model


def _name(graph: ir.Graph, prefix: str) -> None:
    outputs = list(graph.outputs)
    for number, node in enumerate(graph):
        node.name = f"{prefix}{node.op_type}_{number}"
        for place, value in enumerate(node.outputs):
            if not any(value is output for output in outputs):
                value.name = f"{node.name}.{place}"
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                _name(attribute.as_graph(), f"{node.name}.")
