"""State that passes through cells, one call per step: found by watching, traced for one step, scanned over time."""

import numpy as np
import pytest
import torch
from torch import nn

import rnnx
from rnnx_runtime import load
from rnnx_runtime.artifact import CharCodec, Sampling


class CellLoop(nn.Module):
    """A loop over one of torch's cells, which keeps its state in a local name."""

    def __init__(self, cell, time_major=False):
        super().__init__()
        self.cell = cell(3, 5)
        self.head = nn.Linear(5, 2)
        self.time_major = time_major

    def forward(self, x):
        steps = x if self.time_major else x.transpose(0, 1)
        hidden = None if isinstance(self.cell, nn.GRUCell) else torch.zeros(steps.size(1), 5)
        if isinstance(self.cell, nn.LSTMCell):
            hidden = (hidden, hidden)
        answers = []
        for step in steps:
            hidden = self.cell(step, hidden)
            answers.append(self.head(hidden[0] if isinstance(hidden, tuple) else hidden))
        return torch.stack(answers, 0 if self.time_major else 1)


class NormalisedCell(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRUCell(3, 5)
        self.norm = nn.LayerNorm(5)

    def forward(self, x, hidden):
        return self.norm(self.gru(x, hidden))


class OwnCell(nn.Module):
    """A cell class of the user's own, a constant start, flattened answers."""

    def __init__(self):
        super().__init__()
        self.cell = NormalisedCell()
        self.emb = nn.Embedding(7, 3)

    def forward(self, tokens):
        hidden = torch.full((tokens.shape[0], 5), 0.3)
        answers = []
        for token in tokens.unbind(1):
            hidden = self.cell(self.emb(token), hidden)
            answers.append(hidden)
        return torch.cat(answers, 0)


class LayerLoop(nn.Module):
    """torch's own layer, one step at a time."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 5, 2, batch_first=True)

    def forward(self, x, hidden=None):
        answers = []
        for t in range(x.size(1)):
            y, hidden = self.lstm(x[:, t : t + 1], hidden)
            answers.append(y)
        return torch.cat(answers, 1), hidden


class ConvolutionalCell(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(6, 4, 3, padding=1)

    def forward(self, x, hidden):
        return torch.tanh(self.conv(torch.cat([x, hidden], 1)))


class ConvolutionalLoop(nn.Module):
    """A state `(B, C, W)`, and the last step's answer alone."""

    def __init__(self):
        super().__init__()
        self.cell = ConvolutionalCell()

    def forward(self, x):
        hidden = torch.zeros(x.size(0), 4, 8)
        for t in range(x.size(1)):
            hidden = self.cell(x[:, t], hidden)
        return hidden.mean(-1)


CASES = {
    "RNNCell": (CellLoop(nn.RNNCell), torch.randn(2, 4, 3), ["cell.h"], ("batch", "seq_len", 2)),
    "LSTMCell, time-major": (CellLoop(nn.LSTMCell, True), torch.randn(4, 2, 3), ["cell.h", "cell.c"], ("seq_len", "batch", 2)),
    "GRUCell, without a first state, example of one step": (
        CellLoop(nn.GRUCell),
        torch.randn(1, 1, 3),
        ["cell.h"],
        ("batch", "seq_len", 2),
    ),
    "own cell": (OwnCell(), torch.randint(0, 7, (2, 4)), ["cell.h"], ("seq_len*batch", 5)),
    "layer step by step": (LayerLoop(), torch.randn(2, 4, 3), ["lstm.h", "lstm.c"], ("batch", "seq_len", 5)),
    "convolutional": (ConvolutionalLoop(), torch.randn(2, 4, 2, 8), ["cell.h"], ("batch", 4)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_loop_over_cells_becomes_a_scan(name, tmp_path):
    module, x, states, shape = CASES[name]
    done = rnnx.export(module, x, tmp_path / "model.onnx")
    assert done.parity.passed
    assert done.manifest.lowering == "scan"
    assert done.operators[0] == "Scan"
    assert [spec.name for spec in done.manifest.states] == states
    assert done.manifest.outputs[0].shape == shape
    assert done.manifest.streamable
    assert done.torchscript is not None


def test_a_constant_start_of_an_own_cell_becomes_the_artifacts(tmp_path):
    done = rnnx.export(OwnCell(), torch.randint(0, 7, (2, 4)), tmp_path / "model.onnx")
    np.testing.assert_array_equal(load(done.path).initial_state(2)["cell.h"], np.full((2, 5), 0.3, np.float32))
    assert done.manifest.inputs[0].vocabulary_size == 7


class Captioner(nn.Module):
    """An image decides the initial state; the decoder spells."""

    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Flatten())
        self.fc = nn.Linear(4 * 64, 12)
        self.emb = nn.Embedding(6, 8)
        self.rnn = nn.RNN(8, 12, batch_first=True)
        self.out = nn.Linear(12, 6)

    def forward(self, image, tokens):
        start = torch.tanh(self.fc(self.cnn(image)))[None]
        return self.out(self.rnn(self.emb(tokens), start)[0])


def test_an_initial_state_is_computed_from_an_image(tmp_path):
    module = Captioner()
    done = rnnx.export(
        module,
        (torch.randn(2, 1, 16, 16), torch.randint(0, 6, (2, 4))),
        tmp_path / "model.onnx",
        codec=CharCodec(vocabulary="<>abcd"),
        sampling=Sampling(prompt="<", stop=(">",)),
    )
    assert [spec.name for spec in done.manifest.conditions] == ["image"]
    assert [spec.name for spec in done.manifest.inputs] == ["tokens"]
    assert "Conv" not in done.operators  # it runs once per sequence, not once per step

    model = load(done.path)
    image = torch.rand(3, 1, 16, 16)
    expected = torch.tanh(module.fc(module.cnn(image)))[None]
    np.testing.assert_allclose(model.initial_state(image=image.numpy())["rnn.l0.h"], expected.detach().numpy(), atol=1e-6)
    stream = model.stream(image=image[:1].numpy())
    first = "".join(stream.generate("<", 5, temperature=0))
    stream.reset()
    assert "".join(stream.generate("<", 5, temperature=0)) == first
    with pytest.raises(ValueError, match="the initial state of this model is computed from image; got nothing"):
        model.stream()


def test_a_state_computed_from_the_sequence_takes_whole_sequences(tmp_path):
    class FromFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.RNN(3, 3, batch_first=True)

        def forward(self, x):
            return self.rnn(x, x[:, 0][None].contiguous())[0]

    done = rnnx.export(FromFirst(), torch.randn(2, 4, 3), tmp_path / "model.onnx")
    assert not done.manifest.streamable
    assert done.manifest.not_streamable_because == (
        "rnn.l0.h: the initial state depends on the sequence x; compute it from an input without a time axis, or pass the state "
        "as an argument"
    )
