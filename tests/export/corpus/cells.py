"""Cells of people's own, most of them from papers."""
# ruff: noqa: B905

import math

import torch
from tests.export.corpus._style import Style, randn, tokens
from torch import nn
from torch.nn import Parameter


class LayerNormLSTMCell(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.hidden_size = hidden_size
        self.weight_ih = Parameter(torch.randn(4 * hidden_size, input_size) * 0.3)
        self.weight_hh = Parameter(torch.randn(4 * hidden_size, hidden_size) * 0.3)
        self.layernorm_i = nn.LayerNorm(4 * hidden_size)
        self.layernorm_h = nn.LayerNorm(4 * hidden_size)
        self.layernorm_c = nn.LayerNorm(hidden_size)

    def forward(self, input, state):
        hx, cx = state
        igates = self.layernorm_i(torch.mm(input, self.weight_ih.t()))
        hgates = self.layernorm_h(torch.mm(hx, self.weight_hh.t()))
        ingate, forgetgate, cellgate, outgate = (igates + hgates).chunk(4, 1)
        cy = self.layernorm_c(torch.sigmoid(forgetgate) * cx + torch.sigmoid(ingate) * torch.tanh(cellgate))
        hy = torch.sigmoid(outgate) * torch.tanh(cy)
        return hy, (hy, cy)


class CellLayer(nn.Module):
    """Any cell that answers (out, state), over time."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, input, state):
        inputs = input.unbind(0)
        outputs = []
        for i in range(len(inputs)):
            out, state = self.cell(inputs[i], state)
            outputs += [out]
        return torch.stack(outputs), state


class MGU(nn.Module):
    """Minimal gated unit."""

    def __init__(self, n_in, n_h):
        super().__init__()
        self.f = nn.Linear(n_in + n_h, n_h)
        self.c = nn.Linear(n_in + n_h, n_h)

    def forward(self, x, h):
        f = self.f(torch.cat([x, h], -1)).sigmoid()
        cand = self.c(torch.cat([x, f * h], -1)).tanh()
        return (1 - f) * h + f * cand


class MGUTagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(10, 4)
        self.mgu = MGU(4, 6)
        self.out = nn.Linear(6, 3)

    def forward(self, ids, h=None):
        if h is None:
            h = torch.zeros(ids.size(0), 6)
        ys = []
        for t in range(ids.size(1)):
            h = self.mgu(self.emb(ids[:, t]), h)
            ys.append(self.out(h))
        return torch.stack(ys, 1), h


class PeepholeLSTM(nn.Module):
    def __init__(self, input_sz, hidden_sz):
        super().__init__()
        self.hs = hidden_sz
        self.W = Parameter(torch.Tensor(input_sz, hidden_sz * 4))
        self.U = Parameter(torch.Tensor(hidden_sz, hidden_sz * 3))
        self.bias = Parameter(torch.Tensor(hidden_sz * 4))
        self.init_weights()

    def init_weights(self):
        stdv = 1.0 / math.sqrt(self.hs)
        for weight in self.parameters():
            weight.data.uniform_(-stdv, stdv)

    def forward(self, x, init_states=None):
        bs, seq_sz, _ = x.size()
        hidden_seq = []
        if init_states is None:
            h_t, c_t = torch.zeros(bs, self.hs).to(x.device), torch.zeros(bs, self.hs).to(x.device)
        else:
            h_t, c_t = init_states
        for t in range(seq_sz):
            x_t = x[:, t, :]
            gates_x, gates_c = x_t @ self.W + self.bias, c_t @ self.U
            i_t = torch.sigmoid(gates_x[:, : self.hs] + gates_c[:, : self.hs])
            f_t = torch.sigmoid(gates_x[:, self.hs : self.hs * 2] + gates_c[:, self.hs : self.hs * 2])
            c_t = f_t * c_t + i_t * torch.tanh(gates_x[:, self.hs * 2 : self.hs * 3])
            o_t = torch.sigmoid(gates_x[:, self.hs * 3 :] + gates_c[:, self.hs * 2 :])
            h_t = o_t * torch.tanh(c_t)
            hidden_seq.append(h_t.unsqueeze(0))
        hidden_seq = torch.cat(hidden_seq, dim=0).transpose(0, 1).contiguous()
        return hidden_seq, (h_t, c_t)


class ZoneoutCell(nn.Module):
    def __init__(self, cell, p=0.2):
        super().__init__()
        self.cell, self.p = cell, p

    def forward(self, x, h):
        new = self.cell(x, h)
        if self.training:
            keep = torch.rand_like(h) < self.p
            return torch.where(keep, h, new)
        return self.p * h + (1 - self.p) * new


class ZoneoutNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.zone = ZoneoutCell(nn.GRUCell(3, 6))
        self.fc = nn.Linear(6, 2)

    def forward(self, x, h):
        return self.fc(y := torch.stack([h := self.zone(x_t, h) for x_t in x.unbind(1)], 1)), y[:, -1]


class EchoState(nn.Module):
    """A fixed reservoir that leaks; only the readout learns."""

    def __init__(self, n_in=2, n_res=16, leak=0.3, rho=0.9):
        super().__init__()
        w = torch.rand(n_res, n_res) - 0.5
        w *= rho / torch.linalg.eigvals(w).abs().max()
        self.register_buffer("w_in", torch.rand(n_res, n_in) - 0.5)
        self.register_buffer("w_res", w)
        self.leak = leak
        self.readout = nn.Linear(n_res + n_in, 1)

    def forward(self, u):
        state = torch.zeros(u.shape[1], self.w_res.shape[0])
        collected = []
        for u_t in u:
            pre = u_t @ self.w_in.T + state @ self.w_res.T
            state = (1 - self.leak) * state + self.leak * torch.tanh(pre)
            collected.append(torch.cat([u_t, state], dim=1))
        return self.readout(torch.stack(collected))


class QRNNLayer(nn.Module):
    """All gates at once, then fo-pooling."""

    def __init__(self, n_in=3, n_h=6):
        super().__init__()
        self.linear = nn.Linear(n_in, 3 * n_h)

    def forward(self, x, c=None):
        z, f, o = self.linear(x).chunk(3, dim=-1)
        z, f, o = z.tanh(), f.sigmoid(), o.sigmoid()
        hs = []
        for z_t, f_t, o_t in zip(z.unbind(1), f.unbind(1), o.unbind(1)):
            c = (1 - f_t) * z_t if c is None else f_t * c + (1 - f_t) * z_t
            hs.append(o_t * c)
        return torch.stack(hs, dim=1), c


class Swapping(nn.Module):
    """What was the memory is the voice in the next step."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(3, 6)
        self.read = nn.Linear(12, 2)

    def forward(self, x):
        h = torch.zeros(x.size(0), 6)
        c = torch.zeros(x.size(0), 6)
        ys = []
        for t in range(x.size(1)):
            h, c = self.cell(x[:, t], (h, c))
            ys.append(self.read(torch.cat((h, c), 1)))
            h, c = c, h
        return torch.stack(ys, 1)


class KalmanFilter(nn.Module):
    """One measurement; mean and variance in, mean and variance out."""

    def __init__(self, n=3):
        super().__init__()
        self.a = Parameter(0.8 + 0.2 * torch.rand(n))
        self.log_q = Parameter(torch.randn(n) - 1)
        self.log_r = Parameter(torch.randn(n))

    def forward(self, z, mean, var):
        mean, var = self.a * mean, self.a**2 * var + self.log_q.exp()
        gain = var / (var + self.log_r.exp())
        innovation = z - mean
        return innovation, mean + gain * innovation, (1 - gain) * var


class Oscillators(nn.Module):
    """coRNN: position and velocity drive each other."""

    def __init__(self, n_in=2, n_h=6, dt=0.1):
        super().__init__()
        self.dt = dt
        self.i2h = nn.Linear(n_in + 2 * n_h, n_h)
        self.gamma, self.epsilon = 1.3, 0.7
        self.n_h = n_h

    def forward(self, x):
        hy = torch.zeros(x.size(1), self.n_h)
        hz = torch.zeros(x.size(1), self.n_h)
        for t in range(x.size(0)):
            hz = hz + self.dt * (torch.tanh(self.i2h(torch.cat((x[t], hz, hy), 1))) - self.gamma * hy - self.epsilon * hz)
            hy = hy + self.dt * hz
        return hy


class TwoOwnLayers(nn.Module):
    """Two layers of a cell of one's own, each with its loop."""

    def __init__(self):
        super().__init__()
        self.first = CellLayer(LayerNormLSTMCell(3, 6))
        self.second = CellLayer(LayerNormLSTMCell(6, 4))

    def forward(self, x):
        b = x.size(1)
        y, _ = self.first(x, (torch.zeros(b, 6), torch.zeros(b, 6)))
        y, _ = self.second(y, (torch.zeros(b, 4), torch.zeros(b, 4)))
        return y


STYLES = (
    Style(
        "layer_norm_lstm",
        "layer-normalised LSTM cell answering (out, (h, c)), explicit (h, c)",
        lambda: CellLayer(LayerNormLSTMCell(3, 5)),
        lambda: (randn(6, 2, 3), (torch.zeros(2, 5), torch.zeros(2, 5))),
        "cells",
    ),
    Style("mgu_tagger", "minimal gated unit, forward(x, h) returns h, h=None", MGUTagger, lambda: tokens(10, 2, 6), "cells"),
    Style(
        "peephole_lstm",
        "peephole LSTM, matrices and loop in one module",
        lambda: PeepholeLSTM(3, 5),
        lambda: randn(2, 6, 3),
        "cells",
    ),
    Style(
        "zoneout_gru",
        "zoneout around a GRUCell, loop in a comprehension",
        ZoneoutNet,
        lambda: (randn(3, 5, 3), torch.zeros(3, 6)),
        "cells",
    ),
    Style("echo_state", "leaky reservoir with fixed buffers", EchoState, lambda: randn(6, 3, 2), "cells"),
    Style(
        "qrnn_fo_pooling",
        "quasi-recurrent fo-pooling, the state an optional argument",
        QRNNLayer,
        lambda: (randn(2, 6, 3), torch.zeros(2, 6)),
        "cells",
    ),
    Style("swapping_lstm", "h, c = c, h after each step", Swapping, lambda: randn(2, 6, 3), "cells"),
    Style(
        "kalman_step",
        "step only, Kalman-like filter: mean and variance",
        KalmanFilter,
        lambda: (randn(4, 3), randn(4, 3, seed=1), randn(4, 3, seed=2).abs()),
        "cells",
        {"states": {"mean": "output.1", "var": "output.2"}},
    ),
    Style(
        "oscillators", "two coupled states without gates, the last one comes out", Oscillators, lambda: randn(6, 3, 2), "cells"
    ),
    Style(
        "two_own_layers",
        "two layers of an own LSTM cell, each with its own loop",
        TwoOwnLayers,
        lambda: randn(5, 3, 3),
        "loops",
    ),
)
