"""A bare `LSTMCell` stepped in a loop: one-hot `hello` → `ohlol`.

Repaired from the notes: they list the cell among torch's six wrappers and use it nowhere; it now learns what `rnn_cell` does.
"""

from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor, nn

from rnnx_models import _hello


@dataclass(frozen=True, kw_only=True)
class LstmCellConfig:
    """No size is free: input and hidden state have one number per character."""


@final
class LstmCell(nn.Module):
    """One-hot rows `(B, T, V)` → logits `(B, T, V)`, which are the hidden states `h`; `c` stays inside."""

    def __init__(self) -> None:
        super().__init__()
        self.size = len(_hello.VOCABULARY)
        self.cell = nn.LSTMCell(self.size, self.size)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.size(0), self.size)  # (B, H)
        c = x.new_zeros(x.size(0), self.size)  # (B, H)
        steps = []
        for t in range(x.size(1)):
            h, c = self.cell(x[:, t], (h, c))  # (B, V), two of (B, H) → two of (B, H)
            steps.append(h)
        return torch.stack(steps, dim=1)  # (B, T, H)


@final
class LstmCellRecipe(_hello.OneHotRecipe[LstmCellConfig]):
    """The question batch-first, the loss summed over the steps."""

    name = "lstm_cell"
    config_type = LstmCellConfig

    def build(self) -> LstmCell:
        return LstmCell()

    def example(self) -> tuple[Tensor]:
        return (self.question()[None],)  # (B=1, T=5, V)


RECIPE: Final = LstmCellRecipe
