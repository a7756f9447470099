"""A graph in float16, with float32 inputs, outputs and states: for execution providers that compute so."""

import warnings
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from rnnx._errors import QuantizeError
from rnnx._quantize.editor import attributes_of, copied, graphs_of
from rnnx_runtime.artifact import LeftWeight, QuantisedWeight

CONVERTER: Final = (1, 31)  # of ONNX Runtime: the one before leaves ConstantOfShape in float32
_LARGEST: Final = 65504.0  # of a float16
_FLOAT, _HALF = 1, 10  # onnx.TensorProto.DataType


def halve_weights(model: ModelProto) -> tuple[ModelProto, tuple[QuantisedWeight, ...], tuple[LeftWeight, ...]]:
    """The model in float16; what became of its weights.

    Raises:
        QuantizeError: a weight is beyond what a float16 holds.
    """
    before = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == _FLOAT}
    for name, tensor in before.items():
        array = numpy_helper.to_array(tensor)
        largest = np.abs(array[np.isfinite(array)]).max(initial=0)  # what masks is infinite in both
        if largest > _LARGEST:
            raise QuantizeError(
                f"the weight {name} has the value {largest:g}; a float16 holds {_LARGEST:g} at most: leave --fp16 out"
            )
    made = ModelProto()
    made.CopyFrom(model)
    _keep_apart(made)
    made = _converted(made)
    _in_order(made)
    readers: dict[str, NodeProto] = {
        name: node for graph in graphs_of(made.graph) for node in graph.node for name in node.input
    }
    after = {tensor.name: tensor for tensor in made.graph.initializer}
    weights, left = [], []
    for name, tensor in before.items():
        size = 4 * int(np.prod(tensor.dims))
        if name in after and after[name].data_type == _HALF:
            node = readers[name]
            shape = tuple(tensor.dims)
            weights.append(
                QuantisedWeight(
                    name=name, node=node.name, role=node.op_type, shape=shape, bytes_before=size, bytes_after=size // 2
                )
            )
        elif len(tensor.dims) > 1:
            left.append(LeftWeight(name=name, bytes=size, because="what reads it takes no float16"))
    return made, tuple(weights), tuple(left)


def _converted(model: ModelProto) -> ModelProto:
    import onnxruntime

    older = tuple(map(int, onnxruntime.__version__.split(".")[:2])) < CONVERTER
    if older and any(node.op_type == "ConstantOfShape" for graph in graphs_of(model.graph) for node in graph.node):
        raise QuantizeError(
            f"a graph with ConstantOfShape gets float16 by onnxruntime {'.'.join(map(str, CONVERTER))} or later, here is "
            f"{onnxruntime.__version__}: upgrade it, or leave --fp16 out"
        )
    from onnxruntime.transformers.float16 import convert_float_to_float16  # slow, and needed here only

    with warnings.catch_warnings(action="ignore"):  # of each weight that is so small that it becomes nought
        made: Any = convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True)
    assert isinstance(made, ModelProto)
    return made


def _keep_apart(model: ModelProto) -> None:
    """A Reshape that changes nothing between a Transpose and the MatMul that reads it.

    ONNX Runtime 1.32 makes one node of both, and in float16 its next optimiser ends the process, in whatever program loads the file.
    """
    for graph in graphs_of(model.graph):
        makers = {output: node for node in graph.node for output in node.output}
        nodes: list[NodeProto] = []
        for node in graph.node:
            for place, name in enumerate(node.input if node.op_type == "MatMul" else ()):
                axes = _turned(makers, name)
                if axes:
                    same = f"{node.name or node.output[0]}.same.{place}"
                    model.graph.initializer.append(numpy_helper.from_array(np.zeros(axes, np.int64), f"{same}.sizes"))
                    nodes.append(helper.make_node("Reshape", [name, f"{same}.sizes"], [same], name=same))
                    node.input[place] = same
            nodes.append(node)
        copies = [copied(node) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def _turned(makers: Mapping[str, NodeProto], name: str) -> int:
    """The axes of a value that a Transpose gives, and perhaps hands on; 0 where none does."""
    node = makers.get(name)
    if node is None:
        return 0
    if node.op_type in ("Identity", "Cast"):
        return _turned(makers, node.input[0])
    return len(attributes_of(node).get("perm", ())) if node.op_type == "Transpose" else 0


def _in_order(model: ModelProto) -> None:
    """Nodes behind those that give what they read: the conversion puts its own at the end."""
    nodes = list(model.graph.node)
    given = {output: place for place, node in enumerate(nodes) for output in node.output}
    ordered: dict[int, None] = {}

    def put(place: int, waiting: frozenset[int] = frozenset()) -> None:
        for name in (*nodes[place].input, *_captured(nodes[place])):
            before = given.get(name)
            if before is not None and before not in ordered and before not in waiting:
                put(before, waiting | {place})
        ordered[place] = None

    for place in range(len(nodes)):
        if place not in ordered:
            put(place)
    copies = [copied(nodes[place]) for place in ordered]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _captured(node: NodeProto) -> set[str]:
    """What the graphs that a node holds read."""
    found: set[str] = set()
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found |= {name for graph in graphs_of(attribute.g) for inner in graph.node for name in inner.input}
    return found
