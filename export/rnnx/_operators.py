"""Recurrent layers as operators of our own, so that `torch.export` keeps each one whole.

torch's exporter unrolls `nn.RNN`, or writes its weights as a heap of Slice and Concat. So a lifted layer calls
`rnnx::recurrent`, one call per layer of the stack, with weights already in ONNX's order, and `TRANSLATIONS` maps that to
the ONNX node RNN, LSTM or GRU.

Gate orders: https://github.com/onnx/onnx/blob/main/docs/Operators.md (LSTM iofc, GRU zrh); torch has ifgo and rzn.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import torch
from onnxscript import opset18 as op
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnx._lift import Lift
from rnnx._lifted import LiftedModule, zeros
from rnnx._one_step import has_no_operator, one_step
from rnnx._packing import Padded, lengths_of, repacked
from rnnx._sites import split, stack

# The place of each of torch's gates among ONNX's: applying the order twice does not give it back for LSTM.
_INT32: Final = 6  # TensorProto.INT32
_GATES: Final = {"RNN": (0,), "LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}

# In place of a bias that is zero. Given zeros, such a layer forgets until its state is below 1e-38, where a processor takes 25 times as
# long, for dozens of steps or for ever; so it comes to rest above that. Sums above 1e-20 stay what they are, bit for bit. ONNX Runtime
# is slow below 1e-35, for its products, and from 1e-23 to 1e-17, for the squares in its tanh: 1e-28 is between.
_FAINT: Final = 1e-28


@torch.library.custom_op("rnnx::recurrent", mutates_args=())
def recurrent(
    x: Tensor,
    states: list[Tensor],
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    lengths: Tensor | None,
    operator: str,
    activation: str,
) -> list[Tensor]:
    """One layer from weights in ONNX's order: `[y, *next states]`, y `(T, B, D·H)`.

    Args:
        x: `(T, B, F)`.
        states: `(D, B, H)` each: h, and c for an LSTM.
        w, r, b: `(D, G·H, F)`, `(D, G·H, H)`, `(D, 2·G·H)` or None, as the ONNX operator takes them; D is 2 where the layer
            goes back in time as well.
        lengths: `(B,)`, how many steps of each row are none of the padding; its answers there are zeros.
        operator: RNN, LSTM or GRU.
        activation: of an RNN, Tanh or Relu.
    """
    order = torch.tensor(_GATES[operator]).argsort().tolist()
    weights = []
    for direction in range(len(w)):
        weights += [_reorder(w[direction], order), _reorder(r[direction], order)]
        weights += [] if b is None else [_reorder(half, order) for half in b[direction].chunk(2)]
    options = (weights, b is not None, 1, 0.0, False, len(w) == 2, False)
    if lengths is not None:
        raise NotImplementedError("padded batches are traced, not computed")
    if operator == "LSTM":
        y, h, c = torch.lstm(x, states, *options)
        return [y.clone(), h.clone(), c.clone()]
    run = torch.gru if operator == "GRU" else torch.rnn_relu if activation == "Relu" else torch.rnn_tanh
    y, h = run(x, states[0], *options)
    return [y.clone(), h.clone()]


@recurrent.register_fake
def _(
    x: Tensor,
    states: list[Tensor],
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    lengths: Tensor | None,
    operator: str,
    activation: str,
) -> list[Tensor]:
    return [x.new_empty(x.shape[0], x.shape[1], len(w) * r.shape[2]), *(torch.empty_like(state) for state in states)]


def _translate(x: Any, states: Any, w: Any, r: Any, b: Any, lengths: Any, operator: str, activation: str) -> Any:
    options: dict[str, Any] = {"hidden_size": r.shape[2]}
    if lengths is not None:
        lengths = op.Cast(lengths, to=_INT32)
    if r.shape[0] == 2:
        options["direction"] = "bidirectional"
    if operator == "LSTM":
        y, *following = op.LSTM(x, w, r, b, lengths, states[0], states[1], **options)
    elif operator == "GRU":
        y, *following = op.GRU(x, w, r, b, lengths, states[0], linear_before_reset=1, **options)
    else:
        y, *following = op.RNN(x, w, r, b, lengths, states[0], activations=[activation] * r.shape[0], **options)
    return [_side_by_side(y, r.shape[0]), *following]


def _side_by_side(y: Any, directions: int) -> Any:
    """`(T, D, B, H)` as torch has it, `(T, B, D·H)`."""
    if directions == 1:
        axes: Any = [1]
        return op.Squeeze(y, axes)
    sizes: Any = [0, 0, -1]
    return op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), sizes)


TRANSLATIONS: Final[dict[Callable[..., Any], Callable[..., Any]]] = {torch.ops.rnnx.recurrent.default: _translate}


class OperatorModule(LiftedModule):
    """The lifted module whose recurrent layers are `rnnx::recurrent`, for the ONNX graph."""

    def __init__(self, lift: Lift) -> None:
        super().__init__(lift)
        for layer in [layer for layer in self.module.modules() if isinstance(layer, nn.RNNBase)]:
            for number in range(0 if has_no_operator(layer) else layer.num_layers):
                for name, weight in _packed(layer, number).items():
                    layer.register_buffer(f"{name}{number}", weight)

    def packing(self) -> AbstractContextManager[Any]:
        return Padded()

    def compute_packed(self, layer: nn.RNNBase, x: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        states = zeros(layer, x.data, 1) if hx is None else split(layer, layer.permute_hidden(hx, x.sorted_indices))
        y, following = self._layers(layer, x.data, states, lengths_of(x))
        return repacked(x, y), layer.permute_hidden(stack(layer, following), x.unsorted_indices)

    def compute(self, layer: nn.RNNBase, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        y, following = self._layers(layer, x.transpose(0, 1) if layer.batch_first else x, states)
        return y.transpose(0, 1) if layer.batch_first else y, following

    def _layers(
        self, layer: nn.RNNBase, y: Tensor, states: Sequence[Tensor], lengths: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """One after another, from `(T, B, F)` to `(T, B, D·H)`."""
        activation = "Relu" if layer.mode == "RNN_RELU" else "Tanh"
        count = len(states) // layer.num_layers
        following: list[Tensor] = []
        for number in range(layer.num_layers):
            if has_no_operator(layer):
                y, *found = one_step(layer, number, y, states[number * count : (number + 1) * count])
                following += found
                continue
            weights = [getattr(layer, f"{name}{number}", None) for name in ("onnx_w", "onnx_r", "onnx_b")]
            given = list(states[number * count : (number + 1) * count])
            y, *found = recurrent(y, given, *weights, lengths, _operator(layer), activation)
            following += found
        return y, following


def _operator(layer: nn.RNNBase) -> str:
    return str(layer.mode).split("_")[0]


def _packed(layer: nn.RNNBase, number: int) -> dict[str, Tensor]:
    """The weights of one layer as the ONNX operator takes them."""
    order = _GATES[_operator(layer)]
    ends = [f"_l{number}", f"_l{number}_reverse"] if layer.bidirectional else [f"_l{number}"]

    def both(name: str) -> Tensor:
        return torch.stack([_reorder(getattr(layer, f"{name}{end}"), order) for end in ends])

    packed = {"onnx_w": both("weight_ih"), "onnx_r": both("weight_hh")}
    if layer.bias:
        given, carried = both("bias_ih"), both("bias_hh")
        packed["onnx_b"] = torch.cat([torch.where((given == 0) & (carried == 0), _FAINT, given), carried], 1)
    return {name: weight.detach().contiguous() for name, weight in packed.items()}


def _reorder(weight: Tensor, order: Any) -> Tensor:
    """The gates, stacked along axis 0, in another order."""
    gates = weight.chunk(len(order))
    return torch.cat([gates[i] for i in order])
