"""How far back a graph may look, read off its nodes: a proof that cuts sequences must be longer than that."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

from rnnx._adopt.dataflow import Dataflow, attribute
from rnnx._adopt.source import graphs

_USUAL: Final = 1100  # steps: past what the runtime hands over in one call, twice
_MOST: Final = 1 << 14  # steps, however far a graph looks back
_PRODUCTS: Final = 1 << 33  # of weights and steps: seconds
_WINDOWS: Final = frozenset("Conv ConvTranspose ConvInteger QLinearConv AveragePool MaxPool LpPool".split())
_KERNELS: Final = {"QLinearConv": 3}  # where the kernel stands; else second
_NUMBERS: Final = frozenset(["Pad", "Slice"])  # that move along an axis by numbers that they are given


@dataclass(frozen=True)
class Reach:
    """How far a graph looks back at most, and the steps of a proof that goes beyond that.

    Attributes:
        steps: fewer where a graph's weights make them dear.
    """

    back: int
    steps: int


def reach_of(model: ModelProto) -> Reach:
    """Read off the nodes; what no number in the graph tells is not known."""
    weights = sum(math.prod(tensor.dims) for graph in graphs(model.graph) for tensor in graph.initializer)
    back = _look_back(model)
    return Reach(back, min(max(_USUAL, 2 * back + 2), max(12, _PRODUCTS // max(1, weights))))


def _look_back(model: ModelProto) -> int:
    """No fewer steps than windows and shifts of the graph reach, one after the other."""
    reach = 0
    for graph in graphs(model.graph):
        stored = {tensor.name: tensor for tensor in graph.initializer}
        stored |= dict(_constants(graph))
        reach += sum(_reach(node, stored) for node in graph.node)
    return min(reach, _MOST)


def padded(flow: Dataflow) -> list[str]:
    """The convolutions and pools that put zeros where the steps before a call, or after it, would be."""
    return [
        f"{node.op_type} {flow.names[id(node)]}"
        for node in flow.nodes
        if node.op_type in _WINDOWS
        and (any(_numbers(node, "pads")) or attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"))
    ]


def _reach(node: NodeProto, stored: dict[str, Any]) -> int:
    if node.op_type in _WINDOWS:
        sizes = _numbers(node, "kernel_shape")
        if not sizes:
            place = _KERNELS.get(node.op_type, 1)
            kernel = stored.get(node.input[place]) if place < len(node.input) else None
            sizes = list(kernel.dims)[2:] if kernel is not None else []
        spread = _numbers(node, "dilations") or [1] * len(sizes)
        pads = _numbers(node, "pads")
        return max([0, *((size - 1) * by for size, by in zip(sizes, spread, strict=False)), *map(abs, pads)])
    if node.op_type not in _NUMBERS:
        return 0
    found = [abs(value) for name in node.input[1:] if name in stored for value in _whole(stored[name])]
    return max((value for value in found if value <= _MOST), default=0)


def _whole(tensor: Any) -> list[int]:
    """Few numbers of a tensor of whole ones."""
    if math.prod(tensor.dims) > 16 or tensor.data_type != 7:
        return []
    return [int(value) for value in np.asarray(numpy_helper.to_array(tensor)).flat]


def _constants(graph: GraphProto) -> Iterator[tuple[str, Any]]:
    for node in graph.node:
        value = attribute(node, "value") if node.op_type == "Constant" else None
        if hasattr(value, "dims"):
            yield node.output[0], value


def _numbers(node: NodeProto, name: str) -> list[int]:
    found = attribute(node, name, [])
    return list(found) if isinstance(found, list) else []
