"""One `nn.GRU`, time first: one-hot `hello` → `ohlol`.

Repaired from the notes: they list the layer among torch's six wrappers and use it nowhere; it now learns what `rnn` does.
"""

from dataclasses import dataclass
from typing import Final, final

from torch import Tensor, nn

from rnnx_models import _hello


@dataclass(frozen=True, kw_only=True)
class GruConfig:
    """No size is free: input and hidden state have one number per character."""


@final
class Gru(nn.Module):
    """One-hot rows `(T, B, V)` → logits `(T·B, V)`, which are the hidden states."""

    def __init__(self) -> None:
        super().__init__()
        self.size = len(_hello.VOCABULARY)
        self.gru = nn.GRU(self.size, self.size)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x.new_zeros(1, x.size(1), self.size)  # (L=1, B, H)
        out, _ = self.gru(x, hidden)  # (T, B, H)
        logits: Tensor = out.view(-1, self.size)  # (T·B, H)
        return logits


@final
class GruRecipe(_hello.OneHotRecipe[GruConfig]):
    """The question time-major, as torch's recurrent layers have it by default."""

    name = "gru"
    config_type = GruConfig

    def build(self) -> Gru:
        return Gru()

    def example(self) -> tuple[Tensor]:
        return (self.question()[:, None],)  # (T=5, B=1, V)


RECIPE: Final = GruRecipe
