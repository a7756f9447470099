"""A bare `GRUCell` stepped in a loop: one-hot `hello` → `ohlol`.

Repaired from the notes: they list the cell among torch's six wrappers and use it nowhere; it now learns what `rnn_cell` does.
"""

from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor, nn

from rnnx_models import _hello


@dataclass(frozen=True, kw_only=True)
class GruCellConfig:
    """No size is free: input and hidden state have one number per character."""


@final
class GruCell(nn.Module):
    """One-hot rows `(B, T, V)` → logits `(B, T, V)`, which are the hidden states."""

    def __init__(self) -> None:
        super().__init__()
        self.size = len(_hello.VOCABULARY)
        self.cell = nn.GRUCell(self.size, self.size)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x.new_zeros(x.size(0), self.size)  # (B, H)
        steps = []
        for t in range(x.size(1)):
            hidden = self.cell(x[:, t], hidden)  # (B, V), (B, H) → (B, H)
            steps.append(hidden)
        return torch.stack(steps, dim=1)  # (B, T, H)


@final
class GruCellRecipe(_hello.OneHotRecipe[GruCellConfig]):
    """The question batch-first, the loss summed over the steps."""

    name = "gru_cell"
    config_type = GruCellConfig

    def build(self) -> GruCell:
        return GruCell()

    def example(self) -> tuple[Tensor]:
        return (self.question()[None],)  # (B=1, T=5, V)


RECIPE: Final = GruCellRecipe
