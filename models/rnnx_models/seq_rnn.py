"""Time-major multi-layer `nn.RNN` → Linear, which returns every step and the last hidden state: three words of three bits → a label.

Repaired from the notes: they draw up the table of six rows and never train on it; it is now learned, the label read at the
last step. Their initial weights, drawn from N(0, 0.001²), let next to nothing through at first; they stay as they are, and
Adam, which divides by the size of the gradient, gets away from them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor, nn

from rnnx_models._recipe import Batch, Carried, Recipe, Score, Settings, device_of

TABLE: Final = (
    ("001 010 100", 1),
    ("100 111 000", 0),
    ("001 010 100", 1),
    ("100 000 111", 1),
    ("111 010 100", 0),
    ("100 010 000", 0),
)


@dataclass(frozen=True, kw_only=True)
class SeqRnnConfig:
    """Sizes that fit the table; the notes show the shapes with 4 inputs and a hidden size of 2."""

    inputs: int = 3
    hidden: int = 8
    layers: int = 2
    classes: int = 1


@final
class SeqRnn(nn.Module):
    """Values `(T, B, F)` → an answer for every step `(1, T·B, classes)`, and the last hidden states `(L, B, H)`."""

    def __init__(self, config: SeqRnnConfig) -> None:
        super().__init__()
        self.config = config
        self.rnn = nn.RNN(config.inputs, config.hidden, config.layers)
        for parameter in self.rnn.parameters():
            nn.init.normal_(parameter, mean=0.0, std=0.001)
        self.linear = nn.Linear(config.hidden, config.classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h0 = x.new_zeros(self.config.layers, x.size(1), self.config.hidden)  # (L, B, H)
        out, hidden = self.rnn(x, h0)  # (T, B, H), (L, B, H)
        out = out.view(-1, self.config.hidden)  # (T·B, H)
        out = self.linear(out)  # (T·B, classes)
        return out.unsqueeze(dim=0), hidden  # (1, T·B, classes), (L, B, H)


def table() -> tuple[Tensor, Tensor]:
    """The words, `(T=3, B=6, F=3)`, and the labels, `(B=6,)`."""
    words = [[[float(bit) for bit in word] for word in row.split()] for row, _ in TABLE]  # B × T × F
    return torch.tensor(words).transpose(0, 1).contiguous(), torch.tensor([float(label) for _, label in TABLE])


@final
class SeqRnnRecipe(Recipe[SeqRnnConfig]):
    """Binary cross-entropy at the last step; the target is all six rows."""

    name = "seq_rnn"
    config_type = SeqRnnConfig
    settings = Settings(epochs=200, lr=0.02)
    target = "all six rows"

    def build(self) -> SeqRnn:
        return SeqRnn(self.config)

    def example(self) -> tuple[Tensor, ...]:
        return (table()[0],)

    def codec(self) -> None:
        return None

    def batches(self, settings: Settings, generator: torch.Generator) -> Sequence[Batch]:
        return [table()]

    def loss(self, module: nn.Module, batch: Batch, carried: Carried) -> tuple[Tensor, Carried]:
        words, labels = batch
        return nn.functional.binary_cross_entropy_with_logits(_last_step(module(words)[0], len(labels)), labels), ()

    def score(self, module: nn.Module) -> Score:
        words, labels = table()
        logits = _last_step(module(words.to(device_of(module)))[0], len(labels))  # (B,)
        right = ((logits > 0).cpu() == labels.bool()).sum().item() / len(TABLE)
        return Score(right, "of the rows right", right == 1.0)


def _last_step(out: Tensor, batch: int) -> Tensor:
    return out[0, -batch:, 0]  # (1, T·B, classes=1) → (B,)


RECIPE: Final = SeqRnnRecipe
