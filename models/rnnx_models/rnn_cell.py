"""A bare `RNNCell` stepped in a loop: one-hot `hello` → `ohlol`.

Repaired from the notes: the loop over time stood in the training script and the state's batch size in the module; both are
now in `forward`, for the batch and the length that come. 15 epochs at 0.1 reached the answer by luck of the seed.
"""

from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor, nn

from rnnx_models import _hello


@dataclass(frozen=True, kw_only=True)
class RnnCellConfig:
    """No size is free: input and hidden state have one number per character."""


@final
class RnnCell(nn.Module):
    """One-hot rows `(B, T, V)` → logits `(B, T, V)`, which are the hidden states."""

    def __init__(self) -> None:
        super().__init__()
        self.size = len(_hello.VOCABULARY)
        self.cell = nn.RNNCell(self.size, self.size)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x.new_zeros(x.size(0), self.size)  # (B, H)
        steps = []
        for t in range(x.size(1)):
            hidden = self.cell(x[:, t], hidden)  # (B, V), (B, H) → (B, H)
            steps.append(hidden)
        return torch.stack(steps, dim=1)  # (B, T, H)


@final
class RnnCellRecipe(_hello.OneHotRecipe[RnnCellConfig]):
    """The question batch-first, the loss summed over the steps."""

    name = "rnn_cell"
    config_type = RnnCellConfig

    def build(self) -> RnnCell:
        return RnnCell()

    def example(self) -> tuple[Tensor]:
        return (self.question()[None],)  # (B=1, T=5, V)


RECIPE: Final = RnnCellRecipe
