"""One step of a recurrent layer for which ONNX Runtime has no operator, in plain arithmetic: its steps are scanned.

ONNX's LSTM has no projection (https://arxiv.org/abs/1402.1128), and ONNX Runtime's RNN, LSTM and GRU compute in float32 only.
The formulas are those of the documentation of torch.nn.RNN, LSTM and GRU.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


def has_no_operator(layer: nn.RNNBase) -> bool:
    """Whether the layer must be written out, step by step."""
    return bool(layer.proj_size) or layer.weight_ih_l0.dtype != torch.float32


def one_step(layer: nn.RNNBase, number: int, x: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
    """One of the stacked layers: `[y, *next states]`.

    Args:
        x: `(1, B, F)`.
        states: h `(1, B, H)`, or `(1, B, P)` with a projection, and c `(1, B, H)` for an LSTM.
    """
    a = linear(x, getattr(layer, f"weight_ih_l{number}"), getattr(layer, f"bias_ih_l{number}", None))  # (1, B, G·H)
    b = linear(states[0], getattr(layer, f"weight_hh_l{number}"), getattr(layer, f"bias_hh_l{number}", None))  # (1, B, G·H)
    if isinstance(layer, nn.GRU):
        (ar, az, an), (br, bz, bn) = a.chunk(3, -1), b.chunk(3, -1)
        z = torch.sigmoid(az + bz)
        h = (1 - z) * torch.tanh(an + torch.sigmoid(ar + br) * bn) + z * states[0]
        return [h, h]
    if not isinstance(layer, nn.LSTM):
        h = torch.relu(a + b) if layer.mode == "RNN_RELU" else torch.tanh(a + b)
        return [h, h]
    i, f, g, o = (a + b).chunk(4, -1)
    c = torch.sigmoid(f) * states[1] + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    if layer.proj_size:
        h = linear(h, getattr(layer, f"weight_hr_l{number}"))
    return [h, h, c]
