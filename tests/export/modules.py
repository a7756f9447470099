"""Recurrent modules in the styles that people write them, for the tests to export."""

import torch
from torch import Tensor, nn

LAYERS = {
    "rnn_tanh": lambda **options: nn.RNN(3, 5, **options),
    "rnn_relu": lambda **options: nn.RNN(3, 5, nonlinearity="relu", **options),
    "lstm": lambda **options: nn.LSTM(3, 5, **options),
    "gru": lambda **options: nn.GRU(3, 5, **options),
}


class Hidden(nn.Module):
    """`forward(x)`: builds zeros itself, for the one batch size of its constructor."""

    def __init__(self, kind: str, batch: int = 2, **options: object) -> None:
        super().__init__()
        self.batch = batch
        self.layer = LAYERS[kind](**options)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        zeros = torch.zeros(self.layer.num_layers, self.batch, 5)
        y, _ = self.layer(x, (zeros, zeros) if isinstance(self.layer, nn.LSTM) else zeros)
        return self.head(y)


class Explicit(nn.Module):
    """`forward(x, hidden)`: returns the answer and the next state, as torch's own layers do."""

    def __init__(self, kind: str, **options: object) -> None:
        super().__init__()
        self.layer = LAYERS[kind](**options)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor, hidden: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, object]:
        y, hidden = self.layer(x, hidden)
        return self.head(y), hidden


class CharRnn(nn.Module):
    """Tokens `(B, T)` → logits `(B·T, V)`."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(4, 10)
        self.rnn = nn.RNN(10, 8, 2, batch_first=True)
        self.fc = nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        y, _ = self.rnn(self.emb(tokens))
        return self.fc(y).view(-1, 4)


def example(module: nn.Module, batch: int = 2, steps: int = 4) -> tuple[object, ...]:
    """Arguments for `Hidden` and `Explicit`."""
    layer = module.layer
    x = torch.randn(batch, steps, 3) if layer.batch_first else torch.randn(steps, batch, 3)
    if isinstance(module, Hidden):
        return (x,)
    zeros = torch.zeros(layer.num_layers, batch, 5)
    return x, (zeros, zeros.clone()) if isinstance(layer, nn.LSTM) else zeros
