"""How long does an export take, beside torch's own exporter on the same module?

rnnx traces with that exporter, and finds the state, proves the artifact and writes TorchScript besides. Both run in one process, by
turns, after a first round that fills torch's caches.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec
import torch
from torch import Tensor, nn

import rnnx
from benchmarks.models import Size
from benchmarks.question import Question, Setting
from benchmarks.tables import figure, table
from rnnx._quiet import quiet

_SIZE: Final = Size("LSTM", 50, 16, 32, 1)
_SIZES: Final = tuple(replace(_SIZE, kind=kind) for kind in ("LSTM", "GRU", "RNN"))


Ways = dict[str, Callable[[nn.Module, Tensor, Path], None]]


def _by_torch(module: nn.Module, tokens: Tensor, folder: Path) -> None:
    """The supported exporter, asked for dynamic batch and time."""
    dynamic = ({0: "batch", 1: "seq_len"},)
    torch.onnx.export(module, (tokens,), folder / "torch.onnx", dynamo=True, dynamic_shapes=dynamic, verbose=False)


def _quick(module: nn.Module, tokens: Tensor, folder: Path) -> None:
    rnnx.export(module, tokens, folder / "quick.onnx", proof="quick")


def _full(module: nn.Module, tokens: Tensor, folder: Path) -> None:
    rnnx.export(module, tokens, folder / "full.onnx")


_WAYS: Final[Ways] = {
    "torch.onnx.export": _by_torch,
    "rnnx, the quick proof": _quick,
    "rnnx": _full,
}


class Figures(msgspec.Struct, frozen=True):
    """Seconds by model and way, the median; None where the export fails."""

    seconds: dict[str, dict[str, float | None]]
    rounds: int


def measure(setting: Setting) -> Figures:
    rounds = setting.of(3, 1, 1)
    sizes = setting.of(_SIZES, _SIZES[:1], _SIZES[:1])
    few: Ways = {"rnnx, the quick proof": _quick}
    ways = setting.of(_WAYS, {**few, "torch.onnx.export": _by_torch}, few)
    with tempfile.TemporaryDirectory() as folder:
        return Figures({size.name: _of(size, ways, rounds, Path(folder)) for size in sizes}, rounds)


def _of(size: Size, ways: Ways, rounds: int, folder: Path) -> dict[str, float | None]:
    module = size.module()
    times = [{name: _seconds(way, module, folder) for name, way in ways.items()} for _ in range(rounds + 1)][1:]
    found: dict[str, float | None] = {}
    for name in ways:
        known = [seconds for one in times if (seconds := one[name]) is not None]
        found[name] = round(statistics.median(known), 3) if len(known) == rounds else None
    return found


def _seconds(way: Callable[[nn.Module, Tensor, Path], None], module: nn.Module, folder: Path) -> float | None:
    """How long an export took; None where it failed."""
    tokens = torch.randint(50, (2, 7))
    begin = time.perf_counter()
    try:
        with quiet():
            way(module, tokens, folder)
    except Exception:
        return None
    return time.perf_counter() - begin


def page(figures: Figures) -> str:
    ways = list(next(iter(figures.seconds.values())))
    rows = [[name, *(_cell(times, way) for way in ways)] for name, times in figures.seconds.items()]
    return (
        f"Seconds, the median of {figures.rounds} after a first; in brackets as a multiple of torch's own exporter, which rnnx traces with. "
        "What rnnx does besides: it finds the state, compares the artifact with the module (68 comparisons and ten thousand steps in the full proof), "
        "and writes TorchScript.\n\n" + table(["", *ways], rows)
    )


def _cell(times: dict[str, float | None], way: str) -> str:
    mine, theirs = times[way], times.get("torch.onnx.export")
    if mine is None:
        return "fails"
    return figure(mine) if theirs is None or mine == theirs else f"{figure(mine)} ({mine / theirs:.2f})"


QUESTION: Final = Question("export_time", "How long does an export take?", Figures, measure, page)

if __name__ == "__main__":
    QUESTION.main()
