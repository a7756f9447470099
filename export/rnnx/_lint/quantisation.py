"""Rules about quantisation: what it left as it was."""

import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Final

from rnnx._lint.model import LintedModel
from rnnx._lint.nodes import LSTM_INT8
from rnnx._lint.rules import Found, Rules

RULES: Final = Rules("Quantisation")

_QUANTISED: Final = frozenset(
    """
    ConvInteger DequantizeLinear DynamicQuantizeLinear MatMulInteger QLinearConv QLinearMatMul QuantizeLinear
    """.split()
)
_QUANTISED_ELSEWHERE: Final = re.compile(r"com\.microsoft::(.*(Quant|QLinear|NBits|Integer).*|QAttention|QGemm)")
_NAMED: Final = re.compile(r"(^|[^a-z])(u?int[48]|[qw][48]|quant(i[sz]ed)?|qdq)([^a-z]|$)")
_FLOATS: Final = (1, 10, 11, 16)  # onnx.TensorProto.DataType: float32, float16, float64, bfloat16


@RULES.add(
    "quantised-nothing",
    "warning",
    finds="a file that says that it is quantised, by its name or by what its quantiser wrote, and holds no quantised operator",
    consequence="It is as large, as slow and as exact as before.",
    remedy="Export with `rnnx export`, or adopt the file it was made of, and `rnnx quantize` that; ONNX Runtime's own quantiser takes LSTM only, no GRU and no RNN.",
)
def quantised_nothing(model: LintedModel) -> Iterator[Found]:
    said = _says_so(model)
    if said is not None and not _quantised(model):
        yield Found("the file", f"{said}, and nothing in it is quantised")


@RULES.add(
    "quantised-in-part",
    "warning",
    finds="a quantised file whose recurrent weights are floating point as before",
    consequence="The largest weights, and the time of a step, are as before; only what stands around them was quantised.",
    remedy="`rnnx quantize` takes LSTM, GRU and RNN; ONNX Runtime's own quantiser an LSTM whose weights are stored, and no GRU and no RNN.",
)
def quantised_in_part(model: LintedModel) -> Iterator[Found]:
    if not _quantised(model):
        return
    for recurrent in model.recurrent:
        if recurrent.node.operator != LSTM_INT8 and not _few_bits(model, recurrent.node.input(2)):
            yield Found(recurrent.node.where, "its weights are floating point, in a file that is quantised")


def _few_bits(model: LintedModel, name: str) -> bool:
    """Whether a weight is stored in few bits."""
    maker = model.maker(name)
    return (maker is not None and maker.operator == "DequantizeLinear") or model.dtype(name) not in (0, *_FLOATS)


def _says_so(model: LintedModel) -> str | None:
    keys = [entry.key for entry in model.proto.metadata_props]
    if model.proto.producer_name == "onnx.quantize":
        return "its producer is 'onnx.quantize'"
    if "onnx.infer" in keys:
        return "its metadata has 'onnx.infer', which quantisers write"
    name = PurePath(model.label).name
    return f"it is called {name!r}" if _NAMED.search(name.lower()) else None


def _quantised(model: LintedModel) -> bool:
    return any(node.operator in _QUANTISED or _QUANTISED_ELSEWHERE.fullmatch(node.operator) for node in model.nodes)
