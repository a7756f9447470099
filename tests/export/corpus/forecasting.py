"""Time-series forecasters."""
# ruff: noqa: N806, RUF059

from typing import NamedTuple

import torch
from tests.export.corpus._style import Style, randn, tokens
from torch import nn
from torch.nn import functional


class StockLSTM(nn.Module):
    def __init__(self, input_dim=3, hidden_dim=12, num_layers=2, output_dim=1):
        super().__init__()
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.lstm = nn.LSTM(input_dim, hidden_dim, num_layers, batch_first=True)
        self.fc = nn.Linear(hidden_dim, output_dim)

    def forward(self, x):
        h0 = torch.zeros(self.num_layers, x.size(0), self.hidden_dim).requires_grad_()
        c0 = torch.zeros(self.num_layers, x.size(0), self.hidden_dim).requires_grad_()
        out, (hn, cn) = self.lstm(x, (h0.detach(), c0.detach()))
        return self.fc(out[:, -1, :])


class LoadForecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(input_size=4, hidden_size=8, num_layers=2, batch_first=True)
        self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        _, h = self.gru(x)
        return self.head(h[-1])


class Sequence(nn.Module):
    """The sine waves of torch's examples, in float64."""

    def __init__(self):
        super().__init__()
        self.lstm1 = nn.LSTMCell(1, 11)
        self.lstm2 = nn.LSTMCell(11, 11)
        self.linear = nn.Linear(11, 1)

    def forward(self, input, future=0):
        outputs = []
        h_t = torch.zeros(input.size(0), 11, dtype=torch.double)
        c_t = torch.zeros(input.size(0), 11, dtype=torch.double)
        h_t2 = torch.zeros(input.size(0), 11, dtype=torch.double)
        c_t2 = torch.zeros(input.size(0), 11, dtype=torch.double)

        for input_t in input.split(1, dim=1):
            h_t, c_t = self.lstm1(input_t, (h_t, c_t))
            h_t2, c_t2 = self.lstm2(h_t, (h_t2, c_t2))
            output = self.linear(h_t2)
            outputs += [output]
        for _ in range(future):
            h_t, c_t = self.lstm1(output, (h_t, c_t))
            h_t2, c_t2 = self.lstm2(h_t, (h_t2, c_t2))
            output = self.linear(h_t2)
            outputs += [output]
        return torch.cat(outputs, dim=1)


class Double(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(2, 7, 2, batch_first=True)
        self.out = nn.Linear(7, 1)
        self.double()

    def forward(self, series):
        y, _ = self.lstm(series)
        return self.out(y).squeeze(-1)


class DeepAR(nn.Module):
    """(B, T) in, mean and deviation of each step's successor out."""

    def __init__(self, hidden=9):
        super().__init__()
        self.rnn = nn.LSTM(1, hidden, batch_first=True)
        self.mu = nn.Linear(hidden, 1)
        self.sigma = nn.Linear(hidden, 1)
        for name, param in self.rnn.named_parameters():
            if "weight_hh" in name:
                nn.init.orthogonal_(param)
            elif "bias" in name:
                param.data[hidden : 2 * hidden].fill_(1.0)

    def forward(self, x):
        h, _ = self.rnn(x.unsqueeze(-1))
        mu = self.mu(h).squeeze(-1)
        sigma = functional.softplus(self.sigma(h)).squeeze(-1) + 1e-3
        return mu, sigma


class Quantiles(NamedTuple):
    low: torch.Tensor
    median: torch.Tensor
    high: torch.Tensor


class QuantileRNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(2, 8, nonlinearity="relu", bias=False)
        self.heads = nn.ModuleDict({k: nn.Linear(8, 1) for k in Quantiles._fields})

    def forward(self, x):
        y = self.rnn(x)[0]
        return Quantiles(**{k: head(y) for k, head in self.heads.items()})


class StoreSales(nn.Module):
    def __init__(self):
        super().__init__()
        self.weekday = nn.Embedding(7, 3)
        self.store = nn.Linear(5, 8)
        self.gru = nn.GRU(3 + 2, 8, batch_first=True)
        self.fc = nn.Linear(8, 1)

    def forward(self, store, weekday, sales):
        x = torch.cat([self.weekday(weekday), sales], dim=-1)
        y, _ = self.gru(x, self.store(store).unsqueeze(0))
        return self.fc(y)


class Hybrid(nn.Module):
    """An LSTM under a smaller GRU."""

    def __init__(self, n_in=3):
        super().__init__()
        self.bn = nn.BatchNorm1d(n_in)
        self.bn.running_mean.uniform_(-0.5, 0.5)
        self.bn.running_var.uniform_(0.5, 2.0)
        self.lstm = nn.LSTM(n_in, 12)
        self.gru = nn.GRU(12, 5)
        self.dense = nn.Linear(5, n_in)

    def forward(self, x):
        x = self.bn(x.permute(1, 2, 0)).permute(2, 0, 1)
        x, _ = self.lstm(x)
        x, _ = self.gru(x)
        return self.dense(x)


class Forgetful(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(2, 6, batch_first=True)
        self.fc = nn.Linear(6, 2)

    def forward(self, x, h):
        y, h = self.rnn(x, 0.9 * h)
        return self.fc(y), h


class Trend(nn.Module):
    def __init__(self, d=5):
        super().__init__()
        self.d = d
        self.cell = nn.GRUCell(2, d)
        self.out = nn.Linear(d, 2)

    def forward(self, x):
        h = torch.ones(x.size(0), self.d) * 0.5
        out = torch.empty(x.size(0), 0, self.d)
        for t in range(x.size(1)):
            h = self.cell(x[:, t, :], h)
            out = torch.cat((out, h.unsqueeze(1)), 1)
        return x + self.out(out)


class SensorGrid(nn.Module):
    """(B, T, sensors, channels)"""

    def __init__(self, sensors=3, channels=2):
        super().__init__()
        self.rnn = nn.LSTM(sensors * channels, 10, batch_first=True)
        self.fc = nn.Linear(10, sensors * channels)

    def forward(self, x):
        B, T, S, C = x.shape
        h, _ = self.rnn(x.reshape(B, T, S * C))
        return {"forecast": self.fc(h).view(B, T, S, C), "anomaly": torch.sigmoid(h.mean(-1))}


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.LSTM(3, 6, batch_first=True)
        self.similarity = nn.Bilinear(6, 6, 2)

    def forward(self, left, right):
        a, _ = self.encoder(left)
        b, _ = self.encoder(right)
        return self.similarity(a, b)


STYLES = (
    Style(
        "stock_lstm", "zeros with the batch of x built in forward, out[:, -1, :]", StockLSTM, lambda: randn(4, 6, 3), "state"
    ),
    Style("load_last_hidden", "nothing passed, the head reads h[-1]", LoadForecaster, lambda: randn(3, 5, 4), "structure"),
    Style(
        "sine_cells_double",
        "float64, two LSTMCells over input.split(1, dim=1), input (B, T), future=0",
        lambda: Sequence().double(),
        lambda: randn(3, 6, dtype=torch.float64),
        "structure",
    ),
    Style("lstm_double", "float64 nn.LSTM", Double, lambda: randn(2, 6, 2, dtype=torch.float64), "structure"),
    Style("deepar", "input (B, T) unsqueezed, two outputs (mean, deviation)", DeepAR, lambda: randn(4, 7), "structure"),
    Style(
        "quantiles_namedtuple",
        'NamedTuple of outputs, nonlinearity="relu", bias=False, time-major',
        QuantileRNN,
        lambda: randn(5, 3, 2),
        "structure",
    ),
    Style(
        "store_sales",
        "h0 = Linear(static features), tokens and features concatenated",
        StoreSales,
        lambda: (randn(3, 5), tokens(7, 3, 6), randn(3, 6, 2, seed=1)),
        "state",
    ),
    Style("lstm_under_gru", "LSTM then GRU of other sizes, BatchNorm1d in front", Hybrid, lambda: randn(6, 4, 3), "state"),
    Style(
        "scaled_state",
        "explicit state scaled, 0.9 * h, before the layer",
        Forgetful,
        lambda: (randn(2, 5, 2), randn(1, 2, 6, seed=1)),
        "state",
    ),
    Style(
        "output_grown_by_cat", "out = torch.cat((out, h), 1), starts with 0.5 * ones", Trend, lambda: randn(3, 5, 2), "loops"
    ),
    Style("sensor_grid", "(B, T, S, C) flattened inside, dict of outputs", SensorGrid, lambda: randn(2, 5, 3, 2), "structure"),
    Style(
        "siamese_lstm",
        "the same nn.LSTM called twice, on two inputs",
        Siamese,
        lambda: (randn(2, 5, 3), randn(2, 5, 3, seed=1)),
        "state",
    ),
)
