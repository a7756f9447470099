"""Makes the golden artifacts of this folder again: `python tests/golden/make.py`, where the exporter is installed."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import rnnx
from rnnx_runtime.artifact import CharCodec


class CharRnn(nn.Module):
    """Tokens `(B, T)` → logits `(B·T, V)`; the state is hidden in `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(4, 10)
        self.rnn = nn.RNN(10, 8, 2, batch_first=True)
        self.fc = nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = torch.zeros(2, tokens.size(0), 8)  # (L, B, H)
        x, _ = self.rnn(self.emb(tokens), hidden)  # (B, T, H)
        return self.fc(x).view(-1, 4)  # (B·T, V)


class Lstm(nn.Module):
    """Values `(B, T, 3)` → values `(B, T, 2)`; the state is given and returned."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, batch_first=True)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c) = self.lstm(x, (h, c))  # (B, T, H)
        return self.fc(y), h, c


class Gru(nn.Module):
    """Values `(T, B, 3)` → `(T, B, 2)`, a value per step, and `(B, 6)`, the last; the sequence starts with a learned state."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(2, 1, 6))
        self.gru = nn.GRU(3, 6, 2)
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, _ = self.gru(x, self.start.expand(-1, x.size(1), -1).contiguous())  # (T, B, H)
        return self.fc(y), y[-1]


def make(folder: Path) -> list[Path]:
    """Export all golden artifacts into `folder`; their paths."""
    torch.manual_seed(1)
    char = rnnx.export(
        CharRnn(),
        torch.tensor([[0, 1, 2, 2, 3], [3, 2, 1, 0, 1]]),
        folder / "char_rnn.onnx",
        codec=CharCodec(vocabulary="ehlo"),
    )
    torch.manual_seed(2)
    lstm = rnnx.export(Lstm(), (torch.randn(2, 5, 3), torch.zeros(1, 2, 5), torch.zeros(1, 2, 5)), folder / "lstm.onnx")
    torch.manual_seed(3)
    gru = rnnx.export(Gru(), torch.randn(5, 2, 3), folder / "gru.onnx")
    return [char.path, lstm.path, gru.path]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        for path in make(Path(temporary)):
            (Path(__file__).parent / path.name).write_bytes(path.read_bytes())
