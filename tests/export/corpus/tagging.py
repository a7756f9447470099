"""Sequence taggers, classifiers, handwriting, decoders; loops over cells and layers of torch."""
# ruff: noqa: B905, N803, N806, RUF007

import torch
from tests.export.corpus._style import Style, randn, tokens
from torch import nn
from torch.autograd import Variable


class PosTagger(nn.Module):
    """Written for torch 0.3, and still running."""

    def __init__(self, embedding_dim, hidden_dim, vocab_size, tagset_size):
        super().__init__()
        self.hidden_dim = hidden_dim
        self.word_embeddings = nn.Embedding(vocab_size, embedding_dim)
        self.lstm = nn.LSTM(embedding_dim, hidden_dim)
        self.hidden2tag = nn.Linear(hidden_dim, tagset_size)

    def init_hidden(self, batch):
        return (Variable(torch.zeros(1, batch, self.hidden_dim)), Variable(torch.zeros(1, batch, self.hidden_dim)))

    def forward(self, sentence):
        self.hidden = self.init_hidden(sentence.size(1))
        embeds = self.word_embeddings(sentence)
        lstm_out, self.hidden = self.lstm(embeds, self.hidden)
        return self.hidden2tag(lstm_out.view(-1, self.hidden_dim))


class ActivityClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.LSTMCell(6, 8), nn.LSTMCell(8, 8), nn.LSTMCell(8, 8)])
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        states = [(x.new_zeros(len(x), 8), x.new_zeros(len(x), 8)) for _ in self.layers]
        for step in x.unbind(1):
            inp = step
            for i, layer in enumerate(self.layers):
                states[i] = layer(inp, states[i])
                inp = states[i][0]
        return self.fc(states[-1][0])


class ConstantStart(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 6, num_layers=2)
        self.tag = nn.Linear(6, 3)

    def forward(self, x):
        h0 = torch.full((2, x.shape[1], 6), 0.25)
        y, h = self.gru(x, h0)
        return self.tag(y), h


class HandwritingRNN(nn.Module):
    """Pen strokes (B, T, 3) to a mixture, every layer sees the strokes again."""

    def __init__(self, H=8, M=2):
        super().__init__()
        self.M = M
        self.lstm1 = nn.LSTM(3, H, batch_first=True)
        self.lstm2 = nn.LSTM(3 + H, H, batch_first=True)
        self.lstm3 = nn.LSTM(3 + H, H, batch_first=True)
        self.mdn = nn.Linear(3 * H, 6 * M + 1)

    def forward(self, strokes, prev=None):
        s1, s2, s3 = (None, None, None) if prev is None else prev
        o1, s1 = self.lstm1(strokes, s1)
        o2, s2 = self.lstm2(torch.cat([strokes, o1], -1), s2)
        o3, s3 = self.lstm3(torch.cat([strokes, o2], -1), s3)
        params = self.mdn(torch.cat([o1, o2, o3], -1))
        eos, pi, mu, sigma, rho = params.split([1, self.M, 2 * self.M, 2 * self.M, self.M], dim=-1)
        return torch.sigmoid(-eos), pi.softmax(-1), mu, sigma.exp(), rho.tanh(), [s1, s2, s3]


class GestureCells(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRUCell(3, 7)
        self.fc = nn.Linear(7, 4)

    def forward(self, x):
        h = torch.zeros(x.size(1), 7)
        for x_t in x:
            h = self.rnn(x_t, h)
        return self.fc(h)


class Preallocated(nn.Module):
    def __init__(self, d_in=3, d_h=6):
        super().__init__()
        self.d_h = d_h
        self.cell = nn.RNNCell(d_in, d_h)

    def forward(self, x):
        B, T, _ = x.shape
        h = torch.zeros(B, self.d_h)
        out = torch.zeros(B, T, self.d_h)
        for t in range(T):
            h = self.cell(x[:, t], h)
            out[:, t] = h
        return out


class Chunked(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTMCell(input_size=2, hidden_size=5)
        self.linear = nn.Linear(5, 1)

    def forward(self, x):
        hx = cx = torch.zeros(x.shape[0], 5)
        ys = []
        for chunk in x.chunk(x.shape[1], 1):
            hx, cx = self.rnn(chunk.squeeze(1), (hx, cx))
            ys.append(self.linear(hx)[:, None])
        return torch.cat(ys, dim=1)


class TwoStacks(nn.Module):
    """A stack for the words and a stack for the tags above it, step by step."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(9, 5)
        self.lower = nn.ModuleList([nn.GRUCell(5, 6), nn.GRUCell(6, 6)])
        self.upper = nn.ModuleList([nn.LSTMCell(6, 4), nn.LSTMCell(4, 4)])

    def forward(self, words):
        n = words.size(0)
        hs = [torch.zeros(n, 6)] * 2
        ss = [(torch.zeros(n, 4), torch.zeros(n, 4))] * 2
        tags = []
        for t in range(words.size(1)):
            z = self.emb(words[:, t])
            for k, cell in enumerate(self.lower):
                hs[k] = z = cell(z, hs[k])
            for k, cell in enumerate(self.upper):
                ss[k] = cell(z, ss[k])
                z = ss[k][0]
            tags.append(z)
        return torch.stack(tags, dim=1).log_softmax(dim=-1)


class StepDecoder(nn.Module):
    """nn.GRU, one step at a time, the state over its layers carried by hand."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.gru = nn.GRU(6, 6, 2)
        self.out = nn.Linear(6, 7)

    def forward(self, target, encoder_hidden):
        decoder_hidden = encoder_hidden
        decoder_outputs = []
        for i in range(target.size(1)):
            decoder_input = target[:, i].unsqueeze(0)
            output, decoder_hidden = self.gru(torch.relu(self.embedding(decoder_input)), decoder_hidden)
            decoder_outputs.append(self.out(output[0]))
        return torch.stack(decoder_outputs, dim=1), decoder_hidden


class DecoderRNN(nn.Module):
    """One token a call: the layer is given a sequence of one."""

    def __init__(self, hidden_size=8, output_size=6):
        super().__init__()
        self.embedding = nn.Embedding(output_size, hidden_size)
        self.gru = nn.GRU(hidden_size, hidden_size)
        self.out = nn.Linear(hidden_size, output_size)
        self.softmax = nn.LogSoftmax(dim=1)

    def forward(self, input, hidden):
        output = self.embedding(input).unsqueeze(0)
        output, hidden = self.gru(nn.functional.relu(output), hidden)
        return self.softmax(self.out(output[0])), hidden


class NerTagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.word = nn.Embedding(14, 5)
        self.case = nn.Embedding(3, 2)
        self.lstm = nn.LSTM(5 + 2 + 4, 9, num_layers=2, batch_first=True, dropout=0.2)
        self.fc = nn.Linear(9, 5)

    def forward(self, words, casing, features):
        x = torch.cat((self.word(words), self.case(casing), features), dim=2)
        y, _ = self.lstm(x)
        scores = self.fc(y)
        return {"scores": scores, "tags": scores.argmax(-1)}


class LayerByLayer(nn.Module):
    """Layers outside, time inside."""

    def __init__(self, sizes=(4, 6, 5)):
        super().__init__()
        self.cells = nn.ModuleList(nn.LSTMCell(a, b) for a, b in zip(sizes, sizes[1:]))

    def forward(self, x):
        seq = x
        for cell in self.cells:
            h = torch.zeros(seq.size(1), cell.hidden_size)
            c = torch.zeros(seq.size(1), cell.hidden_size)
            outs = []
            for t in range(seq.size(0)):
                h, c = cell(seq[t], (h, c))
                outs.append(h)
            seq = torch.stack(outs, dim=0)
        return seq


class ListOfStates(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell0 = nn.GRUCell(3, 4)
        self.cell1 = nn.GRUCell(4, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x, hs):
        h0, h1 = hs
        ys = []
        for x_t in x.transpose(0, 1):
            h0 = self.cell0(x_t, h0)
            h1 = self.cell1(h0, h1)
            ys.append(self.head(h1))
        return torch.stack(ys, 1), [h0, h1]


STYLES = (
    Style(
        "pos_tagger_variable",
        "self.hidden = init_hidden(batch) at each call, time-major, (T*B, tags)",
        lambda: PosTagger(5, 6, 12, 4),
        lambda: tokens(12, 6, 2),
        "state",
    ),
    Style(
        "activity_three_cells",
        "LSTMCells over x.unbind(1), states in a list, last step only",
        ActivityClassifier,
        lambda: randn(3, 5, 6),
        "loops",
    ),
    Style(
        "constant_start",
        "starts with torch.full((L, B, H), 0.25), returns the last state",
        ConstantStart,
        lambda: randn(5, 3, 4),
        "state",
    ),
    Style(
        "handwriting_skips",
        "three LSTMs with skips, prev=None, five outputs and a list of (h, c)",
        HandwritingRNN,
        lambda: randn(2, 6, 3),
        "structure",
    ),
    Style("for_x_t_in_x", "for x_t in x, time-major, last hidden only", GestureCells, lambda: randn(6, 2, 3), "loops"),
    Style("preallocated_out", "out = torch.zeros(B, T, H); out[:, t] = h", Preallocated, lambda: randn(2, 5, 3), "loops"),
    Style("chunked", "x.chunk(T, 1), hx = cx = zeros", Chunked, lambda: randn(3, 6, 2), "loops"),
    Style("two_stacks", "two stacks of cells inside one loop over time", TwoStacks, lambda: tokens(9, 2, 5), "loops"),
    Style(
        "step_decoder",
        "nn.GRU called one step at a time, explicit (L, B, H)",
        StepDecoder,
        lambda: (tokens(7, 3, 5), randn(2, 3, 6, seed=1)),
        "loops",
    ),
    Style(
        "decoder_step_layer",
        "step only, nn.GRU over a sequence of one: embedding(input).unsqueeze(0)",
        DecoderRNN,
        lambda: (tokens(6, 3), randn(1, 3, 8)),
        "structure",
    ),
    Style(
        "ner_three_inputs",
        "words, casing and features concatenated, integer tags beside the scores",
        NerTagger,
        lambda: (tokens(14, 2, 6), tokens(3, 2, 6, seed=1), randn(2, 6, 4)),
        "structure",
    ),
    Style("layer_by_layer", "a loop over layers around the loop over time", LayerByLayer, lambda: randn(5, 2, 4), "loops"),
    Style(
        "list_of_states",
        "explicit list of per-layer states for GRUCells of two sizes",
        ListOfStates,
        lambda: (randn(2, 6, 3), [torch.zeros(2, 4), torch.zeros(2, 5)]),
        "state",
    ),
)
