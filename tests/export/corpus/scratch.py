"""RNNs from scratch, as tutorials write them."""
# ruff: noqa: N803, N806, UP008

import torch
from tests.export.corpus._style import Style, randn, tokens
from torch import nn


class RNN(nn.Module):
    """One letter a call."""

    def __init__(self, input_size, hidden_size, output_size):
        super(RNN, self).__init__()

        self.hidden_size = hidden_size

        self.i2h = nn.Linear(input_size + hidden_size, hidden_size)
        self.i2o = nn.Linear(input_size + hidden_size, output_size)
        self.softmax = nn.LogSoftmax(dim=1)

    def forward(self, input, hidden):
        combined = torch.cat((input, hidden), 1)
        hidden = self.i2h(combined)
        output = self.i2o(combined)
        output = self.softmax(output)
        return output, hidden

    def initHidden(self):  # noqa: N802
        return torch.zeros(1, self.hidden_size)


class VanillaRNN(nn.Module):
    def __init__(self, D, H, V):
        super().__init__()
        self.W = nn.Parameter(torch.randn(D, H) * 0.2)
        self.U = nn.Parameter(torch.randn(H, H) * 0.2)
        self.b = nn.Parameter(torch.randn(H) * 0.1)
        self.W_out = nn.Parameter(torch.randn(H, V))

    def forward(self, x):
        h = torch.zeros(x.shape[0], self.U.shape[0])
        ys = []
        for t in range(x.shape[1]):
            h = torch.tanh(x[:, t] @ self.W + h @ self.U + self.b)
            ys.append(h @ self.W_out)
        return torch.stack(ys, dim=1)


class GRUScratch(nn.Module):
    """d2l: time-major, outputs concatenated to (T*B, V), the state an argument."""

    def __init__(self, vocab_size, num_hiddens):
        super().__init__()
        self.num_hiddens = num_hiddens
        self.vocab_size = vocab_size

        def normal(*shape):
            return nn.Parameter(torch.randn(*shape) * 0.3)

        def three():
            return normal(vocab_size, num_hiddens), normal(num_hiddens, num_hiddens), nn.Parameter(torch.zeros(num_hiddens))

        self.W_xz, self.W_hz, self.b_z = three()
        self.W_xr, self.W_hr, self.b_r = three()
        self.W_xh, self.W_hh, self.b_h = three()
        self.W_hq, self.b_q = normal(num_hiddens, vocab_size), nn.Parameter(torch.zeros(vocab_size))

    def forward(self, inputs, state):
        X1 = nn.functional.one_hot(inputs.T, self.vocab_size).type(torch.float32)
        (H,) = state
        outputs = []
        for X in X1:
            Z = torch.sigmoid((X @ self.W_xz) + (H @ self.W_hz) + self.b_z)
            R = torch.sigmoid((X @ self.W_xr) + (H @ self.W_hr) + self.b_r)
            H_tilda = torch.tanh((X @ self.W_xh) + ((R * H) @ self.W_hh) + self.b_h)
            H = Z * H + (1 - Z) * H_tilda
            Y = H @ self.W_hq + self.b_q
            outputs.append(Y)
        return torch.cat(outputs, dim=0), (H,)


class NaiveLSTM(nn.Module):
    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size

        self.w_ii = nn.Parameter(torch.Tensor(hidden_size, input_size))
        self.w_hi = nn.Parameter(torch.Tensor(hidden_size, hidden_size))
        self.b_i = nn.Parameter(torch.Tensor(hidden_size, 1))

        self.w_if = nn.Parameter(torch.Tensor(hidden_size, input_size))
        self.w_hf = nn.Parameter(torch.Tensor(hidden_size, hidden_size))
        self.b_f = nn.Parameter(torch.Tensor(hidden_size, 1))

        self.w_io = nn.Parameter(torch.Tensor(hidden_size, input_size))
        self.w_ho = nn.Parameter(torch.Tensor(hidden_size, hidden_size))
        self.b_o = nn.Parameter(torch.Tensor(hidden_size, 1))

        self.w_ig = nn.Parameter(torch.Tensor(hidden_size, input_size))
        self.w_hg = nn.Parameter(torch.Tensor(hidden_size, hidden_size))
        self.b_g = nn.Parameter(torch.Tensor(hidden_size, 1))

        for p in self.parameters():
            nn.init.normal_(p, mean=0.0, std=0.3)

    def forward(self, inputs):
        seq_size, batch_size, _ = inputs.size()
        h_t = torch.zeros(batch_size, self.hidden_size).t()
        c_t = torch.zeros(batch_size, self.hidden_size).t()
        hidden_seq = []
        for t in range(seq_size):
            x = inputs[t, :, :].t()
            i = torch.sigmoid(self.w_ii @ x + self.w_hi @ h_t + self.b_i)
            f = torch.sigmoid(self.w_if @ x + self.w_hf @ h_t + self.b_f)
            g = torch.tanh(self.w_ig @ x + self.w_hg @ h_t + self.b_g)
            o = torch.sigmoid(self.w_io @ x + self.w_ho @ h_t + self.b_o)
            c_t = f * c_t + i * g
            h_t = o * torch.tanh(c_t)
            hidden_seq.append(h_t.t().unsqueeze(0))
        return torch.cat(hidden_seq, dim=0)


class ElmanNames(nn.Module):
    """The state is sliced out of one big buffer of hidden states, h[t + 1] from h[t]."""

    def __init__(self):
        super().__init__()
        self.fc_x2h = nn.Linear(4, 6)
        self.fc_h2h = nn.Linear(6, 6, bias=False)
        self.fc_h2y = nn.Linear(6, 3)

    def forward(self, x):
        T, N = x.shape[:2]
        hs = [torch.zeros(N, 6)]
        for t in range(T):
            hs.append(torch.tanh(self.fc_x2h(x[t]) + self.fc_h2h(hs[t])))
        return self.fc_h2y(torch.stack(hs[1:])), hs[-1]


class Cell(nn.Module):
    """h_t = (1 - z) * n + z * h, answering (out, (h, c)) though c only counts."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.x = nn.Linear(n_in, 2 * n_out)
        self.h = nn.Linear(n_out, 2 * n_out)

    def forward(self, x, state):
        h, c = state
        z, n = (self.x(x) + self.h(h)).chunk(2, -1)
        z = z.sigmoid()
        h = (1 - z) * n.tanh() + z * h
        c = 0.5 * c + h.abs()
        return h / (1 + c), (h, c)


class CellModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(8, 4)
        self.cell = Cell(4, 5)
        self.vocab = nn.Linear(5, 8)

    def forward(self, ids):
        state = (torch.zeros(ids.size(0), 5), torch.ones(ids.size(0), 5))
        logits = []
        for tok in ids.t():
            out, state = self.cell(self.embed(tok), state)
            logits.append(self.vocab(out))
        return torch.stack(logits, 1), state


class StepGRU(nn.Module):
    """One step; scaled before it is used."""

    def __init__(self):
        super().__init__()
        self.decay = 0.9
        self.gates = nn.Linear(3 + 5, 10)
        self.cand = nn.Linear(3 + 5, 5)

    def forward(self, x, h):
        h = self.decay * h.detach()
        r, u = torch.sigmoid(self.gates(torch.cat([x, h], dim=1))).chunk(2, dim=1)
        h = u * h + (1 - u) * torch.tanh(self.cand(torch.cat([x, r * h], dim=1)))
        return h.argmax(1), h


class IndRNN(nn.Module):
    def __init__(self, n_in=3, n_h=5):
        super().__init__()
        self.lin = nn.Linear(n_in, n_h)
        self.u = nn.Parameter(torch.empty(n_h).uniform_(-0.9, 0.9))

    def forward(self, x):
        wx = self.lin(x)
        h = torch.zeros_like(wx[:, 0])
        out = []
        for t in range(x.size(1)):
            h = torch.relu(wx[:, t] + self.u * h)
            out.append(h)
        return torch.stack(out, 1)


STYLES = (
    Style("ind_rnn", "indRNN: h = relu(wx[:, t] + u * h)", IndRNN, lambda: randn(3, 5, 3), "cells"),
    Style(
        "names_rnn",
        "step only, torch.cat((input, hidden), 1) with i2h and i2o",
        lambda: RNN(6, 8, 4),
        lambda: (randn(2, 6), torch.zeros(2, 8)),
        "structure",
    ),
    Style(
        "vanilla_matrices",
        "x @ W + h @ U + b in forward's own loop, no submodule",
        lambda: VanillaRNN(3, 6, 4),
        lambda: randn(2, 5, 3),
        "cells",
    ),
    Style(
        "gru_matrices",
        "GRU from matrices, one-hot inside, state (H,), outputs (T*B, V)",
        lambda: GRUScratch(7, 6),
        lambda: (tokens(7, 3, 5), (torch.zeros(3, 6),)),
        "cells",
    ),
    Style(
        "lstm_matrices",
        "LSTM from twelve matrices, its state transposed (H, B)",
        lambda: NaiveLSTM(3, 5),
        lambda: randn(6, 2, 3),
        "cells",
    ),
    Style("states_in_a_list", "hs[t + 1] from hs[t], all of them kept in a list", ElmanNames, lambda: randn(5, 3, 4), "loops"),
    Style(
        "own_cell_out_and_state",
        "own cell returning (out, (h, c)), c starts with ones",
        CellModel,
        lambda: tokens(8, 2, 6),
        "cells",
    ),
    Style(
        "step_gru_decayed",
        "step only, 0.9 * h.detach() on its way in, argmax and state out",
        StepGRU,
        lambda: (randn(2, 3), randn(2, 5, seed=1)),
        "state",
    ),
)
