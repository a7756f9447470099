"""Recurrent layers as operators of our own, so that `torch.export` keeps each one whole.

torch's exporter unrolls `nn.RNN`, or writes its weights as a heap of Slice and Concat. So a lifted layer calls
`rnnx::recurrent`, one call per layer of the stack, with weights already in ONNX's order, and `TRANSLATIONS` maps that to
the ONNX node RNN, LSTM or GRU.

Gate orders: https://github.com/onnx/onnx/blob/main/docs/Operators.md (LSTM iofc, GRU zrh); torch has ifgo and rzn.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from onnxscript import opset18 as op
from torch import Tensor, nn

from rnnx._lift import Lift
from rnnx._lifted import LiftedModule

# The place of each of torch's gates among ONNX's: applying the order twice does not give it back for LSTM.
_GATES: Final = {"RNN": (0,), "LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}


@torch.library.custom_op("rnnx::recurrent", mutates_args=())
def recurrent(
    x: Tensor, states: list[Tensor], w: Tensor, r: Tensor, b: Tensor | None, operator: str, activation: str
) -> list[Tensor]:
    """One layer, forward in time, from weights in ONNX's order: `[y, *next states]`.

    Args:
        x: `(T, B, F)`.
        states: `(1, B, H)` each: h, and c for an LSTM.
        w, r, b: `(1, G·H, F)`, `(1, G·H, H)`, `(1, 2·G·H)` or None, as the ONNX operator takes them.
        operator: RNN, LSTM or GRU.
        activation: of an RNN, Tanh or Relu.
    """
    order = torch.tensor(_GATES[operator]).argsort().tolist()
    weights = [_reorder(w[0], order), _reorder(r[0], order)]
    if b is not None:
        weights += [_reorder(half, order) for half in b[0].chunk(2)]
    options = (weights, b is not None, 1, 0.0, False, False, False)
    if operator == "LSTM":
        y, h, c = torch.lstm(x, states, *options)
        return [y.clone(), h.clone(), c.clone()]
    run = torch.gru if operator == "GRU" else torch.rnn_relu if activation == "Relu" else torch.rnn_tanh
    y, h = run(x, states[0], *options)
    return [y.clone(), h.clone()]


@recurrent.register_fake
def _(x: Tensor, states: list[Tensor], w: Tensor, r: Tensor, b: Tensor | None, operator: str, activation: str) -> list[Tensor]:
    return [x.new_empty(x.shape[0], x.shape[1], r.shape[2]), *(torch.empty_like(state) for state in states)]


def _translate(x: Any, states: Any, w: Any, r: Any, b: Any, operator: str, activation: str) -> Any:
    size = r.shape[2]
    axes: Any = [1]  # of the direction, in (T, D, B, H)
    if operator == "LSTM":
        y, h, c = op.LSTM(x, w, r, b, None, states[0], states[1], hidden_size=size)
        return [op.Squeeze(y, axes), h, c]
    if operator == "GRU":
        y, h = op.GRU(x, w, r, b, None, states[0], hidden_size=size, linear_before_reset=1)
    else:
        y, h = op.RNN(x, w, r, b, None, states[0], hidden_size=size, activations=[activation])
    return [op.Squeeze(y, axes), h]


TRANSLATIONS: Final[dict[Callable[..., Any], Callable[..., Any]]] = {torch.ops.rnnx.recurrent.default: _translate}


class OperatorModule(LiftedModule):
    """The lifted module whose recurrent layers are `rnnx::recurrent`, for the ONNX graph."""

    def __init__(self, lift: Lift) -> None:
        super().__init__(lift)
        for layer in [layer for layer in self.module.modules() if isinstance(layer, nn.RNNBase)]:
            for number in range(layer.num_layers):
                for name, weight in _packed(layer, number).items():
                    layer.register_buffer(f"{name}{number}", weight)

    def compute(self, layer: nn.RNNBase, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        activation = "Relu" if layer.mode == "RNN_RELU" else "Tanh"
        count = len(states) // layer.num_layers
        y = x.transpose(0, 1) if layer.batch_first else x  # (T, B, F)
        following: list[Tensor] = []
        for number in range(layer.num_layers):
            weights = [getattr(layer, f"{name}{number}", None) for name in ("onnx_w", "onnx_r", "onnx_b")]
            given = list(states[number * count : (number + 1) * count])
            y, *found = recurrent(y, given, *weights, _operator(layer), activation)
            following += found
        return y.transpose(0, 1) if layer.batch_first else y, following


def _operator(layer: nn.RNNBase) -> str:
    return str(layer.mode).split("_")[0]


def _packed(layer: nn.RNNBase, number: int) -> dict[str, Tensor]:
    """The weights of one layer as the ONNX operator takes them."""
    order = _GATES[_operator(layer)]
    packed = {
        "onnx_w": _reorder(getattr(layer, f"weight_ih_l{number}"), order)[None],
        "onnx_r": _reorder(getattr(layer, f"weight_hh_l{number}"), order)[None],
    }
    if layer.bias:
        halves = [_reorder(getattr(layer, f"bias_{kind}_l{number}"), order) for kind in ("ih", "hh")]
        packed["onnx_b"] = torch.cat(halves)[None]
    return {name: weight.detach().contiguous() for name, weight in packed.items()}


def _reorder(weight: Tensor, order: Any) -> Tensor:
    """The gates, stacked along axis 0, in another order."""
    gates = weight.chunk(len(order))
    return torch.cat([gates[i] for i in order])
