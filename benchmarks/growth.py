"""How do time and memory grow with the number of steps, of hidden units, of layers and of rows?"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import msgspec
import numpy as np

from benchmarks.models import LSTM_2x128, Size
from benchmarks.question import Question, Setting
from benchmarks.tables import figure, table
from rnnx._bench.timing import measure as timed
from rnnx_runtime import load

_BASE: Final = replace(LSTM_2x128, layers=1)


class Figures(msgspec.Struct, frozen=True):
    """Microseconds of one call, by what varies and its value; and the bytes of weights and state of those models."""

    chunk: dict[int, float]  # by T: `feed` of T steps
    hidden: dict[int, float]  # by H: a step of one layer
    layers: dict[int, float]  # by L: a step of layers of 128
    rows: dict[int, float]  # by B: a step of B rows
    weights: dict[int, int]  # by H
    states: dict[int, int]  # by H


def measure(setting: Setting) -> Figures:
    hidden = setting.of((16, 32, 64, 128, 256, 512, 1024), (32, 128, 512), (16, 32))
    layers = setting.of((1, 2, 4, 8), (1, 4), (1, 2))
    by_hidden = {h: replace(_BASE, hidden=h) for h in hidden}
    by_layers = {count: replace(_BASE, layers=count) for count in layers}
    two = load(setting.subject(LSTM_2x128).path)
    steps = setting.of((1, 4, 16, 64, 256, 1024, 4096), (1, 16, 256), (1, 4))
    rows = setting.of((1, 4, 16, 64, 256, 1024), (1, 16, 256), (1, 4))
    seconds = setting.of(5.0, 0.7, 0.01)
    return Figures(
        chunk=_timed({t: _bound(two.stream().feed, LSTM_2x128.tokens(1, t)) for t in steps}, seconds),
        hidden=_timed({h: _step(setting, size) for h, size in by_hidden.items()}, seconds),
        layers=_timed({count: _step(setting, size) for count, size in by_layers.items()}, seconds),
        rows=_timed({b: _bound(two.stream(b).step, LSTM_2x128.tokens(b)) for b in rows}, seconds),
        weights={h: sum(array.nbytes for array in size.weights().values()) for h, size in by_hidden.items()},
        states={h: size.state_bytes for h, size in by_hidden.items()},
    )


def _step(setting: Setting, size: Size) -> Callable[[], object]:
    return _bound(load(setting.subject(size).path).stream().step, np.zeros(1, np.int64))


def _bound(call: Callable[[Any], object], given: Any) -> Callable[[], object]:
    return lambda: call(given)


def _timed(calls: dict[int, Callable[[], object]], seconds: float) -> dict[int, float]:
    timings = timed({str(value): call for value, call in calls.items()}, seconds)
    return {value: float(f"{timings[str(value)].median * 1e6:.4g}") for value in calls}


def exponent(times: dict[int, float]) -> float:
    """Of the power that the values follow from about the middle to the last: 1 is in proportion, 2 the square."""
    values = sorted(times)
    first, last = values[len(values) // 2 - 1], values[-1]
    return math.log(times[last] / times[first]) / math.log(last / first)


def page(figures: Figures) -> str:
    series = {
        "steps of a chunk, T": (figures.chunk, "one `feed`, LSTM 2×128"),
        "hidden units, H": (figures.hidden, "one step, LSTM 1×H"),
        "layers, L": (figures.layers, "one step, LSTM L×128"),
        "rows, B": (figures.rows, "one step of all, LSTM 2×128"),
    }
    parts = []
    for name, (times, what) in series.items():
        parts.append(f"**{name}** ({what}, µs); towards the end it grows as the power {exponent(times):.2f}\n")
        parts.append(table([f"{name[-1]}", *map(str, times)], [["µs", *(figure(one) for one in times.values())]]))
    header = ["H", *map(str, figures.weights)]
    rows = [
        ["weights, KiB", *(figure(one / 1024) for one in figures.weights.values())],
        ["state of a stream, KiB", *(figure(one / 1024) for one in figures.states.values())],
    ]
    parts.append("**Memory of LSTM 1×H**: weights with the square of H, states in proportion to H, L and B, and not with T\n")
    parts.append(table(header, rows))
    return "\n".join(parts)


QUESTION: Final = Question("growth", "How does the time of a call grow with T, H, L and B?", Figures, measure, page)

if __name__ == "__main__":
    QUESTION.main()
