"""What needs the whole sequence: nothing of it can be answered step by step."""
# ruff: noqa: N812

import torch
import torch.nn.functional as F
from tests.export.corpus._style import Style, randn, tokens
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class BiLSTMTagger(nn.Module):
    def __init__(self, vocab_size=12, tags=5):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 6)
        self.dropout = nn.Dropout(0.3)
        self.lstm = nn.LSTM(6, 7, bidirectional=True, batch_first=True)
        self.hidden2tag = nn.Linear(14, tags)

    def forward(self, sentence):
        lstm_out, _ = self.lstm(self.dropout(self.embedding(sentence)))
        return F.log_softmax(self.hidden2tag(lstm_out), dim=2)


class BiGRU(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 6, num_layers=2, bidirectional=True)
        self.fc = nn.Linear(2 * 6, 3)

    def forward(self, x):
        h0 = torch.zeros(4, x.size(1), 6)
        _, hidden = self.gru(x, h0)
        return self.fc(torch.cat((hidden[-2], hidden[-1]), dim=1))


class AttentionClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 8, batch_first=True)
        self.attn = nn.Linear(8, 8)
        self.v = nn.Parameter(torch.randn(8))
        self.out = nn.Linear(8, 4)

    def forward(self, x):
        H, _ = self.rnn(x)  # noqa: N806
        scores = torch.tanh(self.attn(H)) @ self.v
        alpha = F.softmax(scores, dim=1)
        context = torch.bmm(alpha.unsqueeze(1), H).squeeze(1)
        return self.out(context), alpha


class PackedTagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 5, padding_idx=0)
        self.gru = nn.GRU(5, 6, batch_first=True)
        self.tag = nn.Linear(6, 3)

    def forward(self, text, lengths):
        total = text.size(1)
        packed = pack_padded_sequence(self.embed(text), lengths.cpu(), batch_first=True, enforce_sorted=False)
        packed_output, _ = self.gru(packed)
        output, _ = pad_packed_sequence(packed_output, batch_first=True, total_length=total)
        return self.tag(output)


class PackedLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(4, 6, 2)
        self.fc = nn.Linear(6, 2)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        _, (hidden, _) = self.rnn(packed)
        return torch.sigmoid(self.fc(hidden[-1]))


class MeanPooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(3, 7, batch_first=True)
        self.norm = nn.LayerNorm(7)
        self.fc = nn.Linear(7, 2)

    def forward(self, x):
        y, _ = self.rnn(x)
        return self.fc(self.norm(y.mean(dim=1)))


class QRNN(nn.Module):
    """A window of two steps: the convolution's past is not part of the state."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 3 * 5, kernel_size=2)

    def forward(self, x):
        gates = self.conv(F.pad(x.transpose(1, 2), (1, 0))).transpose(1, 2)
        z, f, o = gates.chunk(3, -1)
        c = torch.zeros(x.size(0), 5)
        hs = []
        for t in range(x.size(1)):
            c = torch.sigmoid(f[:, t]) * c + torch.sigmoid(-f[:, t]) * torch.tanh(z[:, t])
            hs.append(torch.sigmoid(o[:, t]) * c)
        return torch.stack(hs, 1)


class BackwardCells(nn.Module):
    """Reads its sentence from the end."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 5)

    def forward(self, x):
        h = torch.zeros(x.size(1), 5)
        outs = []
        for t in reversed(range(x.size(0))):
            h = self.cell(x[t], h)
            outs.insert(0, h)
        return torch.stack(outs)


STYLES = (
    Style("bilstm_tagger", "bidirectional LSTM, batch-first", BiLSTMTagger, lambda: tokens(12, 2, 6), "sequence only"),
    Style(
        "bigru_two_layers",
        "bidirectional GRU of two layers, both last hiddens",
        BiGRU,
        lambda: randn(5, 3, 4),
        "sequence only",
    ),
    Style("attention_pooling", "attention over all outputs", AttentionClassifier, lambda: randn(2, 6, 3), "sequence only"),
    Style(
        "packed_tagger",
        "pack_padded_sequence with lengths, unpacked to total_length",
        PackedTagger,
        lambda: (tokens(9, 3, 6), torch.tensor([4, 6, 2])),
        "sequence only",
    ),
    Style(
        "packed_last_hidden",
        "packed with lengths, time-major, the last hidden only",
        PackedLast,
        lambda: (randn(5, 3, 4), torch.tensor([5, 2, 4])),
        "sequence only",
    ),
    Style("mean_over_time", "y.mean(dim=1)", MeanPooled, lambda: randn(3, 5, 3), "sequence only"),
    Style(
        "qrnn_window_two",
        "quasi-recurrent, a causal convolution without a cache",
        QRNN,
        lambda: randn(2, 6, 3),
        "refused",
        refusal="depends on more than",
    ),
    Style(
        "backward_cells",
        "GRUCell loop from the last step to the first",
        BackwardCells,
        lambda: randn(6, 2, 3),
        "refused",
        refusal="depends on more than",
    ),
)
