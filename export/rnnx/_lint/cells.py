"""Rules about recurrent nodes: what exporters get wrong in them, and what engines do not read."""

from collections.abc import Iterator
from typing import Final

import onnx

from rnnx._lint.model import LintedModel
from rnnx._lint.nodes import Recurrent
from rnnx._lint.rules import Found, Rules

RULES: Final = Rules("Recurrent nodes")

_USUAL: Final = {
    "RNN": (["Tanh"], ["Relu"]),
    "LSTM": (["Sigmoid", "Tanh", "Tanh"],),
    "GRU": (["Sigmoid", "Tanh"],),
}
_PEEPHOLES: Final = 7  # where an LSTM reads them


@RULES.add(
    "linear-before-reset",
    "error",
    "warning",
    finds="a GRU with `linear_before_reset` 0, or without it, which means 0; an error where the file comes from PyTorch",
    consequence="Another GRU than PyTorch's: its answers are off by up to 14 %, and nothing fails.",
    remedy="Export again with `rnnx export`, or with onnxscript 0.7.1 or later; if the model was trained with the reset before the "
    "product, as Keras can, it is right as it is.",
)
def linear_before_reset(model: LintedModel) -> Iterator[Found]:
    from_torch = model.manifest is not None or "pytorch" in model.proto.producer_name.lower()
    for recurrent in _of(model, "GRU"):
        given = recurrent.node.whole("linear_before_reset")
        if not given:
            said = "linear_before_reset is missing, which means 0" if given is None else "linear_before_reset is 0"
            yield Found(recurrent.node.where, said, "error" if from_torch else "warning")


@RULES.add(
    "batchwise-layout",
    "error",
    finds="`layout=1`, batch first",
    consequence="ONNX Runtime does not load it, and some engines read it as layout 0 in silence.",
    remedy="Export again with layout 0 and a Transpose around the node, as `rnnx export` does.",
)
def batchwise_layout(model: LintedModel) -> Iterator[Found]:
    for recurrent in model.recurrent:
        if recurrent.node.whole("layout"):
            yield Found(recurrent.node.where, f"layout is {recurrent.node.whole('layout')}")


@RULES.add(
    "recurrent-dtype",
    "error",
    "note",
    finds="a recurrent node in float64 or bfloat16, which ONNX Runtime has no CPU kernel for; a note on float16",
    consequence="In float64 and bfloat16 it loads or fails to, and never runs on a CPU; in float16 the state drifts over long sequences.",
    remedy="Export in float32, or with `rnnx export`, which takes a float64 module over time with a Scan.",
)
def recurrent_dtype(model: LintedModel) -> Iterator[Found]:
    for recurrent in model.recurrent:
        names = [recurrent.node.input(place) for place in range(3)]
        for dtype in dict.fromkeys(model.dtype(name) for name in names):
            if dtype in (onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16):
                yield Found(
                    recurrent.node.where, f"computes in {'float64' if dtype == onnx.TensorProto.DOUBLE else 'bfloat16'}"
                )
            elif dtype == onnx.TensorProto.FLOAT16:
                yield Found(recurrent.node.where, "computes in float16", "note")


@RULES.add(
    "weight-shapes",
    "error",
    finds="weights, biases or initial states whose shapes are not those of the node's hidden size, gates and directions",
    consequence="It does not run, or old versions of ONNX Runtime read beyond the weights; a projection (`proj_size`) was dropped.",
    remedy="Export again with `rnnx export`, which takes projections over time with a Scan.",
)
def weight_shapes(model: LintedModel) -> Iterator[Found]:
    for recurrent in model.recurrent:
        recurrence = model.shape(recurrent.node.input(2))
        hidden = recurrent.hidden or (recurrence[-1] if recurrence else None)
        if not isinstance(hidden, int) or recurrent.node.operator not in _USUAL:  # the quantised LSTM has its weights turned
            continue
        gates = recurrent.gates * hidden
        wanted: list[tuple[str, int, list[int | None]]] = [
            ("W", 1, [gates, None]),
            ("R", 2, [gates, hidden]),
            ("B", 3, [2 * gates]),
            ("P", _PEEPHOLES, [3 * hidden]),
        ]
        for what, place, sizes in wanted:
            yield from _differs(model, recurrent, what, recurrent.node.input(place), [recurrent.directions, *sizes])
        for kind, name in zip(recurrent.kinds, recurrent.initial, strict=True):
            batchwise = recurrent.node.whole("layout")
            shape = [None, recurrent.directions, hidden] if batchwise else [recurrent.directions, None, hidden]
            yield from _differs(model, recurrent, f"initial_{kind}", name, shape)


def _differs(model: LintedModel, recurrent: Recurrent, what: str, name: str, wanted: list[int | None]) -> Iterator[Found]:
    shape = model.shape(name) if name else None
    if shape is None:
        return
    pairs = list(zip(shape, wanted, strict=False))
    if len(shape) != len(wanted) or any(isinstance(size, int) and want not in (None, size) for size, want in pairs):
        sizes = ", ".join("?" if want is None else str(want) for want in wanted)
        yield Found(recurrent.node.where, f"{what}, {name!r}, is {_sizes(shape)}, where [{sizes}] is needed")


def _sizes(shape: tuple[int | str | None, ...]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


@RULES.add(
    "computed-weights",
    "warning",
    finds="weights of a recurrent node that are computed or given, not stored",
    consequence="They are put together anew at each call, quantisers pass them over in silence, and the runtime refuses the file.",
    remedy="Export again with `rnnx export`, which stores them as the node reads them; `rnnx adopt` computes them once.",
)
def computed_weights(model: LintedModel) -> Iterator[Found]:
    for recurrent in model.recurrent:
        for what, place in (("W", 1), ("R", 2), ("B", 3)):
            name = recurrent.node.input(place)
            if name and name not in model.weights:
                maker = model.maker(name)
                if maker is not None and maker.operator == "DequantizeLinear":
                    continue  # stored in few bits
                how = f"is computed by {maker.where}" if maker is not None else "is an input of the graph"
                yield Found(recurrent.node.where, f"{what}, {name!r}, {how}")


@RULES.add(
    "unusual-cell",
    "warning",
    finds="other activations than usual, `clip`, `input_forget`, or peepholes",
    consequence="Engines that ignore them, ONNX's own reference evaluator among them, give other answers in silence.",
    remedy="Run it where the attribute is known to be read, and compare; `rnnx export` writes none of them.",
)
def unusual_cell(model: LintedModel) -> Iterator[Found]:
    for recurrent in model.recurrent:
        given = recurrent.node.attributes.get("activations")
        activations = [str(name) for name in given] if isinstance(given, list) else []
        kind = {1: "RNN", 4: "LSTM", 3: "GRU"}[recurrent.gates]
        usual = [[name.lower() for name in names] * recurrent.directions for names in _USUAL[kind]]
        if activations and [name.lower() for name in activations] not in usual:
            yield Found(recurrent.node.where, f"its activations are {', '.join(activations)}")
        for name in ("clip", "input_forget"):
            if recurrent.node.number(name):
                yield Found(recurrent.node.where, f"{name} is {recurrent.node.number(name):g}")
        if kind == "LSTM" and recurrent.node.input(_PEEPHOLES):
            yield Found(recurrent.node.where, f"has peepholes, {recurrent.node.input(_PEEPHOLES)!r}")


@RULES.add(
    "baked-lengths",
    "error",
    "note",
    finds="`sequence_lens` that is a constant; a note where it is all of a fixed time axis",
    consequence="It takes one batch size only, and steps beyond the constant come out as zeros.",
    remedy="Export again with the lengths as an input, or without them; `rnnx export` does either.",
)
def baked_lengths(model: LintedModel) -> Iterator[Found]:
    for recurrent in model.recurrent:
        name = recurrent.node.input(4)
        if name and model.is_constant(name):
            weight, steps = model.weights.get(name), (model.shape(recurrent.node.input(0)) or (None,))[0]
            values = weight.values if weight is not None else None
            whole = values is not None and isinstance(steps, int) and bool((values == steps).all())
            shown = "" if values is None or values.size > 8 else f", {values.reshape(-1).tolist()}"
            yield Found(recurrent.node.where, f"sequence_lens, {name!r}, is constant{shown}", "note" if whole else None)


def _of(model: LintedModel, kind: str) -> list[Recurrent]:
    return [recurrent for recurrent in model.recurrent if recurrent.node.operator == kind]
