"""What does a step take in silence? A layer that is given zeros forgets, and its state may get too small for the processor.

Numbers below 1e-38, the denormal ones, have fewer digits, and processors compute with them by a detour. Layers with biases never get
there: for those that are zero the exporter writes 1e-28.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final, Literal, final, get_args

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

import rnnx
from benchmarks.question import Question, Setting, Target
from benchmarks.tables import figure, table
from rnnx._bench.timing import measure as timed
from rnnx_runtime import Model, State, load

Biases = Literal["drawn", "zero", "zero, gate open", "none"]

_KINDS: Final = ("RNN", "GRU", "LSTM")
_FEATURES: Final = 8
_LOUD: Final = 50  # steps before it gets silent
_SILENT: Final = 6000
_BLOCK: Final = 10  # steps, the slowest of which are looked for
_GATES: Final = {"GRU": slice(1, 2), "LSTM": slice(1, 2)}  # of torch's, which one keeps the state


@final
class Silence(msgspec.Struct, frozen=True):
    """Of one layer.

    Attributes:
        us: microseconds of a step, when the silence begins.
        slowest, end: how many times as long a step takes where it takes longest, and at the end of the silence.
        at: how many steps of silence are before the slowest.
    """

    us: float
    slowest: float
    at: int
    end: float


class Figures(msgspec.Struct, frozen=True):
    """By layer, and by its biases."""

    silences: dict[str, dict[str, Silence]]


@final
class Layer(nn.Module):
    """Values `(B, T, 8)` → the layer's answer; the state is hidden."""

    def __init__(self, kind: str, hidden: int, biases: Biases) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn: nn.RNNBase = getattr(nn, kind)(_FEATURES, hidden, batch_first=True, bias=biases != "none")
        if biases.startswith("zero"):
            for name, weight in self.rnn.named_parameters():
                if name.startswith("bias"):
                    nn.init.zeros_(weight)
        if biases.endswith("open"):  # as many networks begin
            gate = _GATES[kind]
            nn.init.ones_(self.rnn.bias_ih_l0.data[gate.start * hidden : gate.stop * hidden])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.rnn(x)[0]
        return y


def measure(setting: Setting) -> Figures:
    hidden = setting.of((128, 512), (128,), (8,))
    seconds, steps = setting.of(0.5, 0.2, 0.01), setting.of(_SILENT, _SILENT, 200)
    found: dict[str, dict[str, Silence]] = {}
    for kind in _KINDS:
        for size in hidden:
            for biases in get_args(Biases):
                if biases.endswith("open") and kind not in _GATES:
                    continue
                path = setting.folder / f"silence_{kind}_{size}_{biases}.onnx".replace(", ", "_").replace(" ", "_")
                if not path.exists():
                    rnnx.export(Layer(kind, size, biases).eval(), torch.randn(2, 6, _FEATURES), path, proof="quick")
                found.setdefault(f"{kind} 1×{size}", {})[biases] = _silence(load(path), steps, seconds)
    return Figures(found)


def _silence(model: Model, steps: int, seconds: float) -> Silence:
    stream, zeros = model.stream(), np.zeros((1, _FEATURES), np.float32)
    stream.feed(np.random.default_rng(0).standard_normal((1, _LOUD, _FEATURES), dtype=np.float32))
    states, taken = [stream.state], []
    for _ in range(steps // _BLOCK):
        durations = []
        for _ in range(_BLOCK):
            started = time.perf_counter()
            stream.step(zeros)
            durations.append(time.perf_counter() - started)
        taken.append(statistics.median(durations))
        states.append(stream.state)
    slowest = max(range(len(taken)), key=taken.__getitem__)
    timings = timed(
        {name: _from(model, states[at], zeros) for name, at in {"begin": 0, "slowest": slowest, "end": -1}.items()}, seconds
    )
    return Silence(
        us=float(f"{timings['begin'].median * 1e6:.4g}"),
        slowest=round(timings["slowest"].over(timings["begin"]).median, 3),
        at=slowest * _BLOCK,
        end=round(timings["end"].over(timings["begin"]).median, 3),
    )


def _from(model: Model, state: State, x: object) -> Callable[[], object]:
    """A step from there, each time: one alone would leave it."""
    stream = model.stream()

    def call() -> None:
        stream.restore(state)
        stream.step(x)

    return call


def page(figures: Figures) -> str:
    rows = [
        [name, biases, figure(one.us), f"{one.slowest:.1f}×", f"{one.at:,}" if one.slowest > 1.2 else "", f"{one.end:.1f}×"]
        for name, by_biases in figures.silences.items()
        for biases, one in by_biases.items()
    ]
    header = ["layer", "biases", "µs, as it begins", "the slowest step", "after so many", f"after {_SILENT:,}"]
    return (
        "A step of a stream that is given zeros, put back to the same state before each step. Biases are drawn as torch draws them; "
        "zero, for which the exporter writes 1e-28; zero but for 1 in the gate that keeps the state (GRU: update, LSTM: forget); or "
        "there are none: see docs/runtime.md.\n\n" + table(header, rows)
    )


def targets(figures: Figures) -> Sequence[Target]:
    found = []
    for biases, limit in (("drawn", 1.25), ("zero", 4.0), ("zero, gate open", 4.0)):
        slowest = max(one[biases].slowest for one in figures.silences.values() if biases in one)
        found.append(Target(f"the slowest step in silence over the first, biases {biases}", limit, False, slowest))
    return found


QUESTION: Final = Question("silence", "What does a step take in silence?", Figures, measure, page, targets)

if __name__ == "__main__":
    QUESTION.main()
