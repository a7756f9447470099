"""How long does an export take, beside torch's own exporter on the same module?

rnnx traces with that exporter, and finds the state, proves the artifact and writes TorchScript besides. Both run in one process,
by turns, after a first round that fills torch's caches. Run: python benchmarks/export_time.py
"""

import contextlib
import io
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import rnnx

ROUNDS = 7


class Tagger(nn.Module):
    """Embedding → layer → Linear: `(B, T)` → `(B, T, V)`."""

    def __init__(self, layer: type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]) -> None:
        super().__init__()
        self.emb = nn.Embedding(50, 16)
        self.layer = layer(16, 32, batch_first=True)
        self.out = nn.Linear(32, 50)

    def forward(self, tokens: Tensor) -> Tensor:
        y, _ = self.layer(self.emb(tokens))
        logits: Tensor = self.out(y)
        return logits


def by_torch(module: nn.Module, tokens: Tensor, folder: Path) -> None:
    """The supported exporter, asked for dynamic batch and time."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        torch.onnx.export(
            module, (tokens,), folder / "torch.onnx", dynamo=True, dynamic_shapes=({0: "batch", 1: "seq_len"},), verbose=False
        )


def by_rnnx(module: nn.Module, tokens: Tensor, folder: Path) -> None:
    rnnx.export(module, tokens, folder / "rnnx.onnx")


def seconds(run: Callable[[nn.Module, Tensor, Path], None], module: nn.Module, folder: Path) -> float | None:
    """How long an export took; None where it failed."""
    tokens = torch.randint(50, (2, 7))
    begin = time.perf_counter()
    try:
        run(module, tokens, folder)
    except Exception:
        return None
    return time.perf_counter() - begin


def main() -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    print(f"{'module':<10}{'torch.onnx':>14}{'rnnx':>10}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as temporary:
        for layer in (nn.LSTM, nn.GRU, nn.RNN):
            module = Tagger(layer).eval()
            rounds = [[seconds(run, module, Path(temporary)) for run in (by_torch, by_rnnx)] for _ in range(ROUNDS + 1)][1:]
            medians = [
                None if None in times else statistics.median(t for t in times if t is not None)
                for times in zip(*rounds, strict=True)
            ]
            shown = ["fails" if median is None else f"{median:.2f} s" for median in medians]
            ratio = "" if None in medians else f"{medians[1] / medians[0]:.2f}"  # type: ignore[operator]
            print(f"{'nn.' + layer.__name__:<10}{shown[0]:>14}{shown[1]:>10}{ratio:>8}")


if __name__ == "__main__":
    main()
