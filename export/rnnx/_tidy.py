"""Tidy: what a tracer leaves behind, taken out of the graph."""

import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass, RemoveUnusedOpsetsPass


def tidy(model: ir.Model) -> ir.Model:
    """Take out stack traces and local paths, unused nodes and weights; give nodes and values short, stable names.

    The names of inputs, outputs and weights stay.
    """
    ir.passes.Sequential(RemoveUnusedNodesPass(), RemoveUnusedOpsetsPass(), ClearMetadataAndDocStringPass())(model)
    kept = {value.name for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values())}
    for number, node in enumerate(model.graph):
        node.name = f"{node.op_type}_{number}"
        for place, value in enumerate(node.outputs):
            if value.name not in kept:
                value.name = f"{node.name}.{place}"
    model.metadata_props.clear()
    model.graph.name = "rnnx"
    model.producer_name, model.producer_version = "rnnx", None
    return model
