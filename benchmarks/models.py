"""The six models: Embedding → recurrent layers → Linear over characters, of random weights; speed does not depend on their values.

Imports torch and numpy only: `cold_start` uses it in processes in which nothing else may be imported.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[Any]
Hidden = Any  # of nn.RNN and nn.GRU a tensor (L, B, H), of nn.LSTM two


@final
class Net(nn.Module):
    """Tokens `(B, T)` → logits `(B, T, V)`; the state is hidden, as people write it."""

    def __init__(self, size: "Size") -> None:
        super().__init__()
        self.emb = nn.Embedding(size.vocabulary, size.embedding)
        self.rnn: nn.RNNBase = getattr(nn, size.kind)(size.embedding, size.hidden, size.layers, batch_first=True)
        self.fc = nn.Linear(size.hidden, size.vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.carried(tokens, None)[0]

    def carried(self, tokens: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        """The same, with the state handed over."""
        y, hidden = self.rnn(self.emb(tokens), hidden)  # (B, T, H)
        return self.fc(y), hidden


@final
@dataclass(frozen=True)
class Size:
    """One of the models, by its sizes."""

    kind: Literal["RNN", "LSTM", "GRU"]
    vocabulary: int
    embedding: int
    hidden: int
    layers: int

    @property
    def name(self) -> str:
        return f"{self.kind} {self.layers}×{self.hidden}"

    @property
    def file(self) -> str:
        """The name of its files, without an ending."""
        return f"{self.kind.lower()}_{self.layers}x{self.hidden}_{self.embedding}_{self.vocabulary}"

    @property
    def states(self) -> tuple[str, ...]:
        """The kinds of state that each layer has."""
        return ("h", "c") if self.kind == "LSTM" else ("h",)

    @property
    def state_bytes(self) -> int:
        """Of one stream."""
        return 4 * self.layers * len(self.states) * self.hidden

    @property
    def alphabet(self) -> str:
        """A symbol for each token."""
        return "".join(chr(ord(" ") + token) for token in range(self.vocabulary))

    def module(self) -> Net:
        """The model; the same weights each time."""
        torch.manual_seed(0)
        return Net(self).eval()

    def weights(self) -> dict[str, Array]:
        """By torch's names: `emb.weight`, `rnn.weight_ih_l0`, ..., `fc.bias`."""
        return {name: tensor.numpy() for name, tensor in self.module().state_dict().items()}

    def tokens(self, *shape: int) -> NDArray[np.int64]:
        """Some input; the same each time."""
        return np.random.default_rng(0).integers(self.vocabulary, size=shape)


RNN_2x8: Final = Size("RNN", 4, 10, 8, 2)
LSTM_1x20: Final = Size("LSTM", 4, 4, 20, 1)
LSTM_2x128: Final = Size("LSTM", 65, 64, 128, 2)
GRU_2x256: Final = Size("GRU", 65, 64, 256, 2)
LSTM_2x512: Final = Size("LSTM", 96, 64, 512, 2)
LSTM_1x1024: Final = Size("LSTM", 96, 96, 1024, 1)

MODELS: Final = (RNN_2x8, LSTM_1x20, LSTM_2x128, GRU_2x256, LSTM_2x512, LSTM_1x1024)
