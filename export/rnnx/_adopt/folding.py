"""Inputs that become constants, and what is computed from constants alone, computed once.

Only where it is needed: an artifact holds no `If`, and its recurrent nodes have their weights stored. Everything else keeps its
nodes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
    ShapeInferencePass,
)
from onnxscript.optimizer import fold_constants

from rnnx._adopt.borders import Border
from rnnx._adopt.calls import words
from rnnx._adopt.dataflow import RECURRENT, operator
from rnnx._adopt.source import graphs
from rnnx._errors import AdoptError
from rnnx._quiet import quiet

_LARGEST: Final = 1 << 26  # elements of a constant that is computed
_SHOWN: Final = 60  # characters of a value, in a message
_MOST_ROUNDS: Final = 8  # a branch that is taken brings new constants
_KEPT: Final = frozenset(["DequantizeLinear", "QuantizeLinear"])  # weights of one byte must not become those of four
_MUCH_OUT_OF_LITTLE: Final = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}  # where the input stands that says how much


def set_inputs(model: ModelProto, inputs: Sequence[Border], values: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Make constants of inputs, in place.

    Returns:
        What each is now in every call.

    Raises:
        AdoptError: there is no such input, or the value does not fit it.
    """
    borders = {border.name: border for border in inputs}
    found = {}
    for name, value in values.items():
        if name not in borders:
            raise AdoptError(f"--set {name}: the graph has no such input; it has {', '.join(borders)}")
        found[name] = _fitting(borders[name], value)
        model.graph.initializer.append(numpy_helper.from_array(found[name], name))
    kept = [value for value in model.graph.input if value.name not in found]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    if not kept:
        beside = " beside what --set says" if values else ""
        raise AdoptError(f"the graph takes nothing{beside}; a step must be given something")
    return found


def _fitting(border: Border, value: Any) -> NDArray[Any]:
    """The value in the input's type and shape; one number fills a shape whose sizes are known."""
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
    try:
        given = np.asarray(value)
        if given.dtype.kind not in "fiub":
            raise TypeError(given.dtype)
        with np.errstate(all="ignore"):
            array = given.astype(border.dtype)
    except (TypeError, ValueError, OverflowError):
        raise AdoptError(f"--set {border.name}: {shown} is no array of {border.dtype}") from None
    exact = array.dtype.kind == "f" or not (array != given).any()
    if not exact or (given.dtype.kind == "b") != (border.dtype == "bool") or not np.isfinite(array).all():
        raise AdoptError(f"--set {border.name}: {shown} does not fit {border.dtype}")
    sizes = (1,) * array.ndim if border.sizes is None else tuple(1 if isinstance(size, str) else size for size in border.sizes)
    if array.ndim == 0:
        if math.prod(sizes) > _LARGEST:
            raise AdoptError(f"--set {border.name}: {border} has more than {_LARGEST} values")
        return np.full(sizes, array)
    shaped = Border(border.name, border.dtype, array.shape)
    if not border.may_equal(shaped):
        raise AdoptError(f"--set {border.name}: a value of the shape {list(array.shape)} does not fit {border}")
    return array


def tidy(model: ModelProto) -> tuple[ModelProto, list[str]]:
    """The graph without what is not used, without stack traces and paths, and folded where that is needed.

    Returns:
        The new model, and what was done, in words.

    Raises:
        AdoptError: it is no graph that can be read.
    """
    try:
        with quiet():
            return _tidied(model)
    except Exception as error:  # onnx_ir and onnxscript meet what no exporter writes
        raise AdoptError(f"the graph cannot be put in order: {words(error)}") from None


def _tidied(model: ModelProto) -> tuple[ModelProto, list[str]]:
    found, fold = ir.serde.deserialize_model(model), _must_fold(model)
    before = _count(found)
    if fold:
        _fold(found)
    ir.passes.Sequential(RemoveUnusedNodesPass(), RemoveUnusedOpsetsPass(), ClearMetadataAndDocStringPass())(found)
    after = _count(found)
    notes = [f"what is the same in every call is computed: {before} nodes became {after}"] if fold and after < before else []
    return ir.serde.serialize_model(found), notes


def _count(model: ir.Model) -> int:
    return sum(1 for _ in model.graph.all_nodes())


def _fold(model: ir.Model) -> None:
    for _ in range(_MOST_ROUNDS):
        ShapeInferencePass(strict_mode=False, data_prop=False)(model)  # data propagation fails on bodies of If
        sizes = _fold_sizes(model)
        done = fold_constants(
            model, onnx_shape_inference=True, input_size_limit=_LARGEST, output_size_limit=_LARGEST, should_fold=_foldable
        )
        RemoveUnusedNodesPass()(model)
        if not (done.modified or sizes):
            return


def _fold_sizes(model: ir.Model) -> bool:
    """Make constants of single sizes of a tensor where they are known though others are not; whether there were any.

    Scripts ask for them, to squeeze an axis only where it is 1; onnxscript folds them in some of the ways to write them.
    """
    found = False
    for node in list(model.graph.all_nodes()):
        if node.op_type != "Gather" or node.domain not in ("", "ai.onnx") or node.inputs[0] is None:
            continue
        if node.outputs[0].is_graph_output():
            continue
        maker, places = node.inputs[0].producer(), _constant_of(node.inputs[1])
        if maker is None or maker.op_type != "Shape" or maker.attributes or maker.inputs[0] is None or places is None:
            continue
        shape = maker.inputs[0].shape
        picked = [] if shape is None else [shape[int(place)] for place in places.numpy().flat]
        if not picked or not all(isinstance(size, int) for size in picked):
            continue
        array = np.array(picked, np.int64).reshape(places.numpy().shape)
        constant = ir.node("Constant", [], {"value": ir.tensor(array)})
        constant.outputs[0].name = f"{node.outputs[0].name}.known"
        assert node.graph is not None
        ir.convenience.replace_nodes_and_values(node.graph, node, [node], [constant], node.outputs, constant.outputs)
        found = True
    return found


def _constant_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    return None if value is None else ir.convenience.get_const_tensor(value)


def _foldable(node: ir.Node) -> bool:
    if node.op_type in _KEPT:
        return False
    if node.op_type in _MUCH_OUT_OF_LITTLE:
        sizes = node.inputs[_MUCH_OUT_OF_LITTLE[node.op_type]]
        known = _constant_of(sizes)
        repeated = _constant_of(node.inputs[0]) if node.op_type == "Tile" else None
        return known is not None and math.prod(known.numpy().tolist()) * (1 if repeated is None else repeated.size) <= _LARGEST
    return True


def _must_fold(model: ModelProto) -> bool:
    """Whether the graph has an If, a recurrent node that computes its weights, or a division of constants."""
    stored = {tensor.name for graph in graphs(model.graph) for tensor in graph.initializer}
    given = {value.name for value in model.graph.input}
    made = {name: node for graph in graphs(model.graph) for node in graph.node for name in node.output}
    for graph in graphs(model.graph):
        for node in graph.node:
            name = operator(node)
            if name == "If" or (name in RECURRENT and any(one and one not in stored for one in node.input[1:4])):
                return True
            if name in ("Div", "Mod") and all(_constant(one, stored, given, made) for one in node.input):
                return True
    return False


def _constant(name: str, stored: set[str], given: set[str], made: Mapping[str, NodeProto]) -> bool:
    seen, names = {name}, [name]
    while names:
        one = names.pop()
        if one in given or (one not in stored and one not in made):
            return False
        new = [] if one in stored else [read for read in made[one].input if read and read not in seen]
        seen.update(new)
        names += new
    return True
