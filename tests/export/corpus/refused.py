"""What no artifact can be: each must be refused with a message that helps."""

import torch
from tests.export.corpus._style import Style, randn
from torch import nn


class NoisyGRU(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 6, batch_first=True)
        self.fc = nn.Linear(6, 2)

    def forward(self, x):
        x = x + 0.1 * torch.randn(x.shape)
        y, _ = self.gru(x)
        return self.fc(y)


class SampledStart(nn.Module):
    """Starts with noise, as tutorials do."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, 2)

    def forward(self, x):
        h0 = torch.randn(2, x.size(1), 4)
        c0 = torch.randn(2, x.size(1), 4)
        return self.lstm(x, (h0, c0))[0]


class ValueBranch(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(3, 5, batch_first=True)
        self.loud = nn.Linear(5, 2)
        self.quiet = nn.Linear(5, 2)

    def forward(self, x):
        y, _ = self.rnn(x)
        if x.sum() > 0:
            return self.loud(y)
        return self.quiet(y)


class LengthBranch(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 5, batch_first=True)
        self.fc = nn.Linear(5, 2)

    def forward(self, x):
        y, _ = self.rnn(x)
        if x.size(1) > 4:
            y = torch.relu(y)
        return self.fc(y)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        return self.net(x)


class BatchCentred(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 5)
        self.fc = nn.Linear(5, 1)

    def forward(self, x):
        y, _ = self.gru(x)
        return self.fc(y - y.mean(dim=1, keepdim=True))


class SharedCells(nn.Module):
    """Every row's cell hears the batch's mean state."""

    def __init__(self):
        super().__init__()
        self.cell = nn.RNNCell(3, 5)

    def forward(self, x):
        h = torch.zeros(x.size(0), 5)
        ys = []
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h + h.mean(0))
            ys.append(h)
        return torch.stack(ys, 1)


class Diverged(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 6, batch_first=True)
        self.fc = nn.Linear(6, 2)
        with torch.no_grad():
            self.lstm.weight_hh_l0[3, 2] = float("nan")

    def forward(self, x):
        y, _ = self.lstm(x)
        return self.fc(y)


class Pairing(nn.Module):
    """Which of the two answers is the next state of which argument, only its author knows."""

    def __init__(self, n=4):
        super().__init__()
        self.p = nn.Linear(2 * n, n)
        self.q = nn.Linear(2 * n, n)

    def forward(self, a, b):
        ab = torch.cat((a, b), dim=1)
        u = torch.tanh(self.p(ab))
        v = torch.tanh(self.q(ab))
        return u, v


STYLES = (
    Style(
        "noise_in_forward",
        "x + 0.1 * torch.randn(x.shape), in eval mode as well",
        NoisyGRU,
        lambda: randn(2, 5, 3),
        "refused",
        refusal="differ",
    ),
    Style("noise_as_start", "h0 = torch.randn(...)", SampledStart, lambda: randn(5, 2, 3), "refused", refusal="differ"),
    Style(
        "branch_on_values",
        "if x.sum() > 0: another head",
        ValueBranch,
        lambda: randn(2, 5, 3),
        "refused",
        refusal="values of a tensor",
    ),
    Style("branch_on_length", "if x.size(1) > 4: relu", LengthBranch, lambda: randn(2, 6, 3), "refused", refusal="seq_len"),
    Style("no_state", "an MLP", Classifier, lambda: randn(3, 4), "refused", refusal="no state"),
    Style("batch_centred", "y - y.mean over the batch", BatchCentred, lambda: randn(5, 4, 3), "refused", refusal="row"),
    Style(
        "cells_share_a_mean",
        "h + h.mean(0) before the cell",
        SharedCells,
        lambda: randn(4, 6, 3),
        "refused",
        refusal="rows must not depend",
    ),
    Style("nan_weight", "a NaN in weight_hh", Diverged, lambda: randn(2, 5, 3), "refused", refusal="NaN"),
    Style(
        "unknown_pairing",
        "step only, forward(a, b) returns (u, v), all of one shape",
        Pairing,
        lambda: (randn(3, 4), randn(3, 4, seed=1)),
        "refused",
        refusal="b may come from output.0 or output.1",
    ),
)
