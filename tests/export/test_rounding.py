"""Right modules whose rounding is large, or whose values are of many sizes: the gate lets them pass, and says why."""

import math

import pytest
import torch
from torch import nn

import rnnx


def chaotic(kind="GRU", scale=12.0, inputs=3, **options):
    """A layer that two runs part in."""
    layer = getattr(nn, kind)(inputs, 8, batch_first=True, **options)
    with torch.no_grad():
        layer.weight_hh_l0 *= scale
    return layer


class Explicit(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = chaotic()

    def forward(self, x, h):
        return self.layer(x, h)


class Tokens(nn.Module):
    def __init__(self, kind, scale):
        super().__init__()
        self.emb, self.layer, self.head = nn.Embedding(6, 3), chaotic(kind, scale), nn.Linear(8, 6)

    def forward(self, tokens):
        return self.head(self.layer(self.emb(tokens))[0])


class Single(nn.Module):
    """Insists on float32."""

    def __init__(self):
        super().__init__()
        self.layer = chaotic()

    def forward(self, x):
        return self.layer(x.float())[0]


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = chaotic()

    def forward(self, x):
        return self.layer(x)[0]


class Last(Plain):
    def forward(self, x):
        return super().forward(x)[:, -1]


class Counting(nn.Module):
    """A steep cell beside a counter of whole numbers."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x, c, n):
        answers = []
        for t in range(x.shape[1]):
            c, n = 0.5 * c + torch.sin(30 * torch.tanh(self.fc(x[:, t]))), n + 1
            answers.append(c)
        return torch.stack(answers, 1), c, n


class Large(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.GRU(3, 8, batch_first=True), nn.Linear(8, 64)
        with torch.no_grad():
            self.head.weight *= 1e6

    def forward(self, x):
        return self.head(self.layer(x)[0])


def explicit():
    return Explicit(), (torch.randn(2, 100, 3), torch.zeros(1, 2, 8))


RIGHT = {
    "explicit state": explicit,
    "insists on float32": lambda: (Single(), torch.randn(2, 100, 3)),
    "float64": lambda: (Plain().double(), torch.randn(2, 100, 3, dtype=torch.float64)),
    "last step only": lambda: (Last(), torch.randn(2, 4, 3)),
    "whole numbers": lambda: (Counting(), (torch.randn(2, 4, 3), torch.zeros(2, 4), torch.zeros(2, 1, dtype=torch.int64))),
    "large outputs": lambda: (Large(), torch.randn(2, 4, 3)),
    **{
        f"{kind} of tokens, seed {seed}": lambda kind=kind, scale=scale: (Tokens(kind, scale), torch.randint(6, (2, 40)))
        for kind, scale, seeds in (("RNN", 5.0, 3), ("GRU", 12.0, 2))
        for seed in range(seeds)
    },
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_export_passes(name, tmp_path):
    torch.manual_seed(int(name[-1]) if name[-1].isdigit() and "seed" in name else 0)
    module, example = RIGHT[name]()
    states = {"h": "output.1"} if name == "explicit state" else None
    states = {"c": "output.1", "n": "output.2"} if name == "whole numbers" else states
    done = rnnx.export(module, example, tmp_path / "model.onnx", states=states)
    assert done.parity.passed
    assert rnnx.verify(done.path).passed


def test_what_rounding_explains_is_counted_and_no_difference_of_the_artifact(tmp_path):
    torch.manual_seed(0)
    done = rnnx.export(*explicit(), tmp_path / "model.onnx", states={"h": "output.1"})
    explained = [case for case in done.parity.cases if case.explained]
    assert max(max(case.outputs.values()) for case in explained) > 1e-3
    assert "off by more than the tolerance, and no further than rounding takes the module" in done.parity.table()
    assert done.manifest.parity.by_rounding == sum(case.form == "onnx" for case in explained)
    assert done.manifest.parity.outputs < 1e-3


def test_ruled_out_symbols_do_not_end_the_long_run(tmp_path):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb, self.layer, self.head = nn.Embedding(4, 6), nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 4)

        def forward(self, tokens):
            return self.head(self.layer(self.emb(tokens))[0]).masked_fill(torch.arange(4) == 2, -math.inf)

    run = rnnx.export(Masked(), torch.tensor([[0, 1, 2, 3], [3, 1, 0, 2]]), tmp_path / "model.onnx").parity.trajectory
    assert run.steps == 10_000
    assert run.task.agreement == 1
    assert run.task.bits < 1e-6


def test_a_small_beginning_is_no_horizon(tmp_path):
    class Slow(nn.Module):
        def forward(self, x, h):
            answers = []
            for t in range(x.shape[1]):
                h = h + 1e-4 * (1 + 0.1 * x[:, t])
                answers.append((h + 100) - 100)
            return torch.stack(answers, 1), h

    run = rnnx.export(Slow(), (torch.randn(2, 4, 3), torch.zeros(2, 3)), tmp_path / "model.onnx").parity.trajectory
    assert run.horizon is None
    assert run.task.rmse is not None


@pytest.mark.parametrize("second", ["speaker", "lengths"])
def test_padding_leaves_what_is_not_padded_as_it_is(second, tmp_path):
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.add = nn.GRU(3, 5, batch_first=True), nn.Linear(2, 5)

        def read(self, x, lengths):
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            y, _ = self.layer(packed)
            return nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])[0]

    class Speaker(Padded):
        def forward(self, x, lengths, speaker):
            return self.read(x, lengths) + self.add(speaker)[:, None]

    class Two(Padded):
        def forward(self, x, x_lengths, y, y_lengths):
            return self.read(x, x_lengths) + self.read(y, y_lengths)

    x, lengths = torch.randn(3, 5, 3), torch.tensor([5, 4, 2])
    module, example = (
        (Speaker(), (x, lengths, torch.randn(3, 2)))
        if second == "speaker"
        else (Two(), (x, lengths, torch.randn(3, 5, 3), torch.tensor([5, 3, 1])))
    )
    assert "padding" in {row.check for row in rnnx.export(module, example, tmp_path / "model.onnx").parity.rows()}


def test_several_tokens_in_one_step(tmp_path):
    class Bag(nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.emb, self.layer, self.head = nn.Embedding(10, 6), nn.GRU(6, 5, batch_first=True), nn.Linear(5, classes)

        def forward(self, tokens):
            return self.head(self.layer(self.emb(tokens).sum(2))[0])

    for classes in (10, 12):
        done = rnnx.export(Bag(classes), torch.randint(10, (2, 4, 3)), tmp_path / "model.onnx")
        assert done.parity.trajectory.task.bits is None


def test_a_start_that_is_not_finite_is_refused(tmp_path):
    class Running(nn.Module):
        def forward(self, x):
            m = torch.full((x.shape[0], 3), -torch.inf)
            answers = []
            for t in range(x.shape[1]):
                m = torch.maximum(m, x[:, t])
                answers.append(m)
            return torch.stack(answers, 1)

    with pytest.raises(rnnx.LiftError, match="the initial state is not finite; begin with the smallest or largest number"):
        rnnx.export(Running(), torch.randn(2, 4, 3), tmp_path / "model.onnx")


def test_a_proof_that_there_is_none_of_is_told_at_once(tmp_path):
    with pytest.raises(rnnx.ExportError, match="proof must be one of quick, full, thorough, got 'fast'"):
        rnnx.export(Plain(), torch.randn(2, 4, 3), tmp_path / "model.onnx", proof="fast")
