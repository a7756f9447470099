"""An independent second opinion: onnx's own reference evaluator, written in numpy by others, on the same graph.

It is not complete. Where it cannot judge, that is said, and nothing is concluded from it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from rnnx_runtime.artifact import Manifest

Arrays = Mapping[str, NDArray[Any]]

_LENGTHS = 4  # which input of a recurrent node says how long each row is; the evaluator disregards it


@dataclass(frozen=True)
class Unable:
    """Why the evaluator cannot judge a graph."""

    because: str


class SecondOpinion:
    """The evaluator on one artifact."""

    def __init__(self, manifest: Manifest, data: bytes) -> None:
        self._names = [*(spec.name for spec in manifest.outputs), *(spec.output for spec in manifest.states)]
        self._evaluator: ReferenceEvaluator | Unable
        try:
            model = onnx.shape_inference.infer_shapes(onnx.load_from_string(data))
            _refuse_disregarded(model.graph)
            for node in [node for node in model.graph.node if node.op_type == "Scan"]:
                _lead_with_time(model.graph, node)
            self._evaluator = ReferenceEvaluator(model)
        except Exception as error:  # whatever an operator that it does not have, or has in part, raises
            self._evaluator = _unable(error)

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]] | Unable:
        """Outputs and next states, in the graph's layout, by the graph's names."""
        if isinstance(self._evaluator, Unable):
            return self._evaluator
        try:
            with np.errstate(all="ignore"):
                found: Any = self._evaluator.run(self._names, dict(feeds))
        except Exception as error:
            return _unable(error)
        return {name: np.asarray(array) for name, array in zip(self._names, found, strict=True)}


def _unable(error: Exception) -> Unable:
    return Unable(f"onnx's reference evaluator cannot judge this graph: {str(error).strip().split(chr(10), 1)[0]}")


def _refuse_disregarded(graph: onnx.GraphProto) -> None:
    """Raises NotImplementedError for what it would compute wrongly without a word."""
    for node in _nodes(graph):
        if node.op_type in ("RNN", "LSTM", "GRU") and len(node.input) > _LENGTHS and node.input[_LENGTHS]:
            raise NotImplementedError(f"it disregards the lengths of {node.op_type}")


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _lead_with_time(graph: onnx.GraphProto, scan: onnx.NodeProto) -> None:
    """Let a Scan take its steps along axis 0, the only one that the evaluator knows, with transposes around it."""
    axes = {a.name: list(a.ints) for a in scan.attribute if a.name in ("scan_input_axes", "scan_output_axes")}
    kept = [attribute for attribute in scan.attribute if attribute.name not in axes]
    states = len(scan.input) - next(a.i for a in scan.attribute if a.name == "num_scan_inputs")
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in (*graph.input, *graph.output, *graph.value_info)}
    before, after = [], []
    for place, axis in enumerate(axes.get("scan_input_axes", []), start=states):
        if axis:
            name = scan.input[place]
            scan.input[place] = f"{name}.time_first.{place}"
            before.append(onnx.helper.make_node("Transpose", [name], [scan.input[place]], perm=_moved(ranks[name], axis, 0)))
    for place, axis in enumerate(axes.get("scan_output_axes", []), start=states):
        if axis:
            name = scan.output[place]
            scan.output[place] = f"{name}.time_first"
            after.append(onnx.helper.make_node("Transpose", [scan.output[place]], [name], perm=_moved(ranks[name], 0, axis)))
    del scan.attribute[:]
    scan.attribute.extend(kept)
    nodes = list(graph.node)
    place = nodes.index(scan)
    changed = [*nodes[:place], *before, scan, *after, *nodes[place + 1 :]]
    copied = [onnx.NodeProto.FromString(node.SerializeToString()) for node in changed]
    del graph.node[:]
    graph.node.extend(copied)


def _moved(rank: int, source: int, target: int) -> list[int]:
    """The order of axes for a Transpose that puts one of them elsewhere."""
    order = [axis for axis in range(rank) if axis != source]
    order.insert(target, source)
    return order
