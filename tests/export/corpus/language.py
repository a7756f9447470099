"""Language models."""
# ruff: noqa: N812, RUF059, UP008

import torch
import torch.nn.functional as F
from tests.export.corpus._style import Style, randn, tokens
from torch import nn


class CharRNN(nn.Module):
    def __init__(self, n_chars=11, hidden_size=10, n_layers=2, batch_size=3):
        super(CharRNN, self).__init__()
        self.hidden_size = hidden_size
        self.n_layers = n_layers
        self.batch_size = batch_size

        self.encoder = nn.Embedding(n_chars, hidden_size)
        self.rnn = nn.LSTM(hidden_size, hidden_size, n_layers, batch_first=True)
        self.decoder = nn.Linear(hidden_size, n_chars)

    def forward(self, input):
        h0 = torch.zeros(self.n_layers, self.batch_size, self.hidden_size)
        c0 = torch.zeros(self.n_layers, self.batch_size, self.hidden_size)
        output, (hn, cn) = self.rnn(self.encoder(input), (h0, c0))
        return self.decoder(output.reshape(-1, self.hidden_size))


class WordLM(nn.Module):
    """Time-major, tied, with dropout everywhere; never put in eval mode by its author."""

    def __init__(self, ntoken=13, nhid=8, nlayers=2, dropout=0.5, tie_weights=True):
        super().__init__()
        self.ntoken, self.nhid, self.nlayers = ntoken, nhid, nlayers
        self.drop = nn.Dropout(dropout)
        self.encoder = nn.Embedding(ntoken, nhid)
        self.rnn = nn.LSTM(nhid, nhid, nlayers, dropout=dropout)
        self.decoder = nn.Linear(nhid, ntoken)
        if tie_weights:
            self.decoder.weight = self.encoder.weight
        self.init_weights()

    def init_weights(self):
        initrange = 0.1
        nn.init.uniform_(self.encoder.weight, -initrange, initrange)
        nn.init.zeros_(self.decoder.bias)

    def init_hidden(self, bsz):
        weight = next(self.parameters())
        return weight.new_zeros(self.nlayers, bsz, self.nhid), weight.new_zeros(self.nlayers, bsz, self.nhid)

    def forward(self, input, hidden):
        emb = self.drop(self.encoder(input))
        output, hidden = self.rnn(emb, hidden)
        decoded = self.decoder(self.drop(output))
        decoded = decoded.view(-1, self.ntoken)
        return F.log_softmax(decoded, dim=1), hidden


def repackage_hidden(h):
    if isinstance(h, torch.Tensor):
        return h.detach()
    return tuple(repackage_hidden(v) for v in h)


class TruncatedLM(nn.Module):
    def __init__(self, vocab, dim):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.lstm = nn.LSTM(dim, dim, num_layers=1, batch_first=True)
        self.linear = nn.Linear(dim, vocab)

    def forward(self, x, h):
        h = repackage_hidden(h)
        out, (h, c) = self.lstm(self.embed(x), h)
        out = out.reshape(out.size(0) * out.size(1), out.size(2))
        return self.linear(out), (h, c)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.tok = nn.Embedding(17, 12)
        self.core = nn.GRU(12, 12, 2, batch_first=True)
        self.norm = nn.LayerNorm(12)
        self.lm_head = nn.Linear(12, 17, bias=False)
        self.apply(self._init)

    @staticmethod
    def _init(m):
        if isinstance(m, (nn.Linear, nn.Embedding)):
            nn.init.normal_(m.weight, std=0.4)

    def forward(self, idx, state=None):
        if state is None:
            state = torch.zeros(2, idx.shape[0], 12, device=idx.device)
        x, state = self.core(self.tok(idx), state)
        return self.lm_head(self.norm(x)), state


class HiddenFirst(nn.Module):
    def __init__(self, vocab_sz, n_hidden):
        super().__init__()
        self.i_h = nn.Embedding(vocab_sz, n_hidden)
        self.rnn = nn.RNN(n_hidden, n_hidden, batch_first=True)
        self.h_o = nn.Linear(n_hidden, vocab_sz)

    def forward(self, x, h):
        res, h = self.rnn(self.i_h(x), h)
        return h, self.h_o(res)


class LMWithMemory(nn.Module):
    """fast.ai's way: the state outlives the call, and `reset` is for the training loop."""

    def __init__(self, vocab_sz, n_hidden, n_layers, bs):
        super().__init__()
        self.i_h = nn.Embedding(vocab_sz, n_hidden)
        self.rnn = nn.LSTM(n_hidden, n_hidden, n_layers, batch_first=True)
        self.h_o = nn.Linear(n_hidden, vocab_sz)
        self.n_layers, self.n_hidden = n_layers, n_hidden
        self.hidden = self.init_hidden(bs)

    def init_hidden(self, batch):
        return [torch.zeros(self.n_layers, batch, self.n_hidden) for _ in range(2)]

    def forward(self, x):
        res, h = self.rnn(self.i_h(x), tuple(self.hidden))
        self.hidden = [h_.detach() for h_ in h]
        return self.h_o(res)


class StackedLM(nn.Module):
    def __init__(self, ntoken=9, ninp=6, nhid=10):
        super().__init__()
        self.encoder = nn.Embedding(ntoken, ninp)
        self.rnns = nn.ModuleList([nn.LSTM(ninp, nhid), nn.LSTM(nhid, ninp)])
        self.decoder = nn.Linear(ninp, ntoken)
        self.decoder.weight = self.encoder.weight

    def forward(self, input, hidden):
        raw_output = self.encoder(input)
        new_hidden = ()
        for i, rnn in enumerate(self.rnns):
            raw_output, new_h = rnn(raw_output, hidden[i])
            new_hidden += (new_h,)
        return self.decoder(raw_output), new_hidden


class LearnedStart(nn.Module):
    def __init__(self, vocab=8, hidden=7, layers=2):
        super().__init__()
        self.h0 = nn.Parameter(torch.empty(layers, 1, hidden))
        self.c0 = nn.Parameter(torch.empty(layers, 1, hidden))
        nn.init.normal_(self.h0)
        nn.init.uniform_(self.c0, -1, 1)
        self.embedding = nn.Embedding(vocab, 5, padding_idx=0)
        self.lstm = nn.LSTM(5, hidden, layers)
        self.proj = nn.Linear(hidden, vocab)

    def forward(self, tokens):
        batch = tokens.shape[1]
        h0 = self.h0.expand(-1, batch, -1).contiguous()
        c0 = self.c0.repeat(1, batch, 1)
        out, _ = self.lstm(self.embedding(tokens), (h0, c0))
        return F.log_softmax(self.proj(out), dim=-1)


class ReversedStack(nn.Module):
    """Its checkpoints keep the top layer first."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(6, 4)
        self.gru = nn.GRU(4, 8, num_layers=3, batch_first=True)
        self.fc = nn.Linear(8, 6)

    def forward(self, tokens, hidden):
        y, hidden = self.gru(self.emb(tokens), hidden.flip(0))
        return self.fc(y), hidden.flip(0)


class TopicLM(nn.Module):
    def __init__(self, vocab=10, topics=4, dim=9):
        super().__init__()
        self.context = nn.Linear(topics, 2 * dim)
        self.emb = nn.Embedding(vocab, dim)
        self.rnn = nn.LSTM(dim, dim, batch_first=True)
        self.out = nn.Linear(dim, vocab)

    def forward(self, topic, tokens):
        h0, c0 = torch.tanh(self.context(topic)).chunk(2, dim=-1)
        y, _ = self.rnn(self.emb(tokens), (h0.unsqueeze(0).contiguous(), c0.unsqueeze(0).contiguous()))
        return self.out(y)


STYLES = (
    Style(
        "char_rnn_baked_batch",
        "zeros(n_layers, self.batch_size, H), logits (B*T, V)",
        CharRNN,
        lambda: tokens(11, 3, 6),
        "state",
    ),
    Style(
        "word_lm_tied",
        "explicit (h, c), tied weights, dropout left in train mode, time-major, log_softmax (T*B, V)",
        WordLM,
        lambda: (tokens(13, 6, 4), (torch.zeros(2, 4, 8), torch.zeros(2, 4, 8))),
        "state",
    ),
    Style(
        "truncated_lm",
        "explicit (h, c) detached by repackage_hidden before the layer",
        lambda: TruncatedLM(12, 9),
        lambda: (tokens(12, 2, 5), (randn(1, 2, 9, seed=1), randn(1, 2, 9, seed=2))),
        "state",
    ),
    Style("gru_lm_default_none", "state=None by default, example without it", Model, lambda: tokens(17, 2, 7), "state"),
    Style(
        "hidden_first",
        "explicit tensor, returned first: (hidden, output)",
        lambda: HiddenFirst(9, 6),
        lambda: (tokens(9, 3, 5), torch.zeros(1, 3, 6)),
        "state",
    ),
    Style(
        "lm_with_memory",
        "self.hidden set by init_hidden(batch), a list kept from call to call",
        lambda: LMWithMemory(10, 8, 2, 2),
        lambda: tokens(10, 2, 6),
        "state",
    ),
    Style(
        "lm_nested_states",
        "explicit ((h, c), (h, c)), LSTMs in a ModuleList, tied",
        StackedLM,
        lambda: (
            tokens(9, 5, 3),
            ((torch.zeros(1, 3, 10), torch.zeros(1, 3, 10)), (torch.zeros(1, 3, 6), torch.zeros(1, 3, 6))),
        ),
        "state",
    ),
    Style(
        "learned_start_lm",
        "nn.Parameter h0 expanded and c0 repeated to the batch",
        LearnedStart,
        lambda: tokens(8, 6, 3),
        "state",
    ),
    Style(
        "lm_layers_reversed",
        "explicit state with its layers flipped on the way in and out",
        ReversedStack,
        lambda: (tokens(6, 2, 5), randn(3, 2, 8, seed=3)),
        "state",
    ),
    Style(
        "topic_lm",
        "(h0, c0) computed from a context vector by a Linear",
        TopicLM,
        lambda: (randn(3, 4), tokens(10, 3, 5)),
        "state",
    ),
)
