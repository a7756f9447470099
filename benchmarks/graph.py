"""The smallest ONNX graph of a model, made by hand: Gather, one recurrent node per layer, Squeeze, MatMul, Add. The engine's floor.

Time-major, as ONNX's recurrent operators are, so that no Transpose is needed: tokens `(T, B)` → logits `(T, B, V)`.
"""

from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.models import Array, Size

_GATES: Final = {"RNN": [0], "LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2]}  # torch's order: ifgo → iofc, rzn → zrn


def minimal(size: Size) -> bytes:
    """The graph of a model; its states are `l<layer>.<kind>` → `l<layer>.<kind>.next`, `(1, B, H)` each."""
    weights = size.weights()
    constants: dict[str, Array] = {
        "emb": weights["emb.weight"],
        "fc.weight": np.ascontiguousarray(weights["fc.weight"].T),
        "fc.bias": weights["fc.bias"],
        "directions": np.array([1], np.int64),
    }
    nodes = [helper.make_node("Gather", ["emb", "tokens"], ["x0"])]
    states, following = [], []
    for layer in range(size.layers):
        w, r, b = (f"l{layer}.{part}" for part in "WRB")
        constants[w] = _packed(size.kind, weights[f"rnn.weight_ih_l{layer}"])[None]
        constants[r] = _packed(size.kind, weights[f"rnn.weight_hh_l{layer}"])[None]
        biases = [_packed(size.kind, weights[f"rnn.bias_{part}_l{layer}"]) for part in ("ih", "hh")]
        constants[b] = np.concatenate(biases)[None]
        now = [f"l{layer}.{kind}" for kind in size.states]
        then = [f"{name}.next" for name in now]
        extra: dict[str, Any] = {"linear_before_reset": 1} if size.kind == "GRU" else {}
        y = f"l{layer}.y"
        nodes.append(
            helper.make_node(size.kind, [f"x{layer}", w, r, b, "", *now], [y, *then], hidden_size=size.hidden, **extra)
        )
        nodes.append(helper.make_node("Squeeze", [y, "directions"], [f"x{layer + 1}"]))
        states += now
        following += then
    nodes.append(helper.make_node("MatMul", [f"x{size.layers}", "fc.weight"], ["scores"]))
    nodes.append(helper.make_node("Add", ["scores", "fc.bias"], ["logits"]))
    of_state: list[str | int | None] = [1, "batch", size.hidden]
    graph = helper.make_graph(
        nodes,
        size.file,
        [
            helper.make_tensor_value_info("tokens", TensorProto.INT64, ["seq_len", "batch"]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, of_state) for name in states),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["seq_len", "batch", size.vocabulary]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, of_state) for name in following),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def _packed(kind: str, array: Array) -> Array:
    """Gates in ONNX's order."""
    gates = np.split(array, len(_GATES[kind]))
    return np.concatenate([gates[gate] for gate in _GATES[kind]])
