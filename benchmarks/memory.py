"""What do streams need of memory: an idle one, and one that is fed for ever? Each measured in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from benchmarks.models import LSTM_1x20, LSTM_2x128, Size
from benchmarks.question import Question, Setting, Target
from benchmarks.tables import figure, table

_HEAD: Final = """
import gc, json, sys, time
import numpy as np
from rnnx_runtime import load
path, count = sys.argv[1], int(sys.argv[2])
def resident(name="VmRSS"):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))
model = load(path)
"""
_IN_A_POOL: Final = """
pool = model.pool()
def step(first, last):
    for at in range(first, last, 64):
        pool.step(dict.fromkeys(range(at, min(at + 64, last)), 0))
step(0, 256)
gc.collect(); before = resident()
step(256, 256 + count)
gc.collect(); print(json.dumps((resident() - before) / count))
"""
_STREAMS: Final = """
token = np.zeros(1, np.int64)
kept = [model.stream() for _ in range(8)]
for stream in kept: stream.step(token)
gc.collect(); before = resident()
more = [model.stream() for _ in range(count)]
for stream in more: stream.step(token)
gc.collect(); print(json.dumps((resident() - before) / count))
"""
_FOR_EVER: Final = """
stream, chunk = model.stream(), np.zeros((1, 512), np.int64)
seen, begin = [], time.perf_counter()
for part in range(1, 101):
    while stream.position < count * part // 100:
        stream.feed(chunk)
    seen.append((stream.position, resident()))
print(json.dumps({"seconds": time.perf_counter() - begin, "seen": seen, "peak": resident("VmHWM")}))
"""


class Figures(msgspec.Struct, frozen=True):
    """Bytes for one idle stream, by model: of its state, in a pool, and as a `Stream` that has stepped; and a sequence fed for ever."""

    idle: dict[str, tuple[int, float, float]]
    fed: str  # the model
    seconds: float
    seen: list[tuple[int, int]]  # after so many steps, so many bytes resident
    peak: int


def measure(setting: Setting) -> Figures:
    many, fewer = setting.of((20_000, 400), (5_000, 100), (300, 10))
    sizes = setting.of((LSTM_1x20, LSTM_2x128), (LSTM_2x128,), (LSTM_1x20,))
    idle = {size.name: _idle(setting, size, many, fewer) for size in sizes}
    steps = setting.of(10_000_000, 1_000_000, 20_000)
    fed = _run(setting, LSTM_1x20, _FOR_EVER, steps)
    return Figures(idle, LSTM_1x20.name, fed["seconds"], [(a, b) for a, b in fed["seen"]], fed["peak"])


def _idle(setting: Setting, size: Size, many: int, fewer: int) -> tuple[int, float, float]:
    return size.state_bytes, _run(setting, size, _IN_A_POOL, many), _run(setting, size, _STREAMS, fewer)


def _run(setting: Setting, size: Size, program: str, count: int) -> Any:
    command = [sys.executable, "-c", _HEAD + program, str(setting.subject(size).path), str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return json.loads(done.stdout)


def growth_of(figures: Figures) -> float:
    """Bytes from a tenth of the way to its end."""
    return float(figures.seen[-1][1] - figures.seen[len(figures.seen) // 10 - 1][1])


def page(figures: Figures) -> str:
    rows = [
        [name, figure(state), *(f"{figure(used)} ({used / state:.1f}× its state)" for used in (pooled, alone))]
        for name, (state, pooled, alone) in figures.idle.items()
    ]
    steps, resident = figures.seen[-1]
    return (
        "Bytes of memory for each further stream that rests:\n\n"
        + table(["", "its state", "in a pool", "as a `Stream` that has stepped"], rows)
        + f"\nA sequence of {steps:,} steps, fed in chunks of 512 ({figures.fed}): {figures.seconds:.1f} s, "
        f"{figures.seconds / steps * 1e6:.2f} µs per step. Resident memory after a tenth of it and at its end differs by "
        f"{growth_of(figures) / 1024:.0f} KiB of {resident / 2**20:.0f} MiB.\n"
    )


def targets(figures: Figures) -> Sequence[Target]:
    found = [
        Target(f"memory of an idle stream of a pool over its state, {name}", 2, False, pooled / state)
        for name, (state, pooled, _) in figures.idle.items()
    ]
    return [*found, Target("memory that grows while a long sequence is fed, MiB", 1, False, growth_of(figures) / 2**20)]


QUESTION: Final = Question("memory", "What do streams need of memory?", Figures, measure, page, targets)

if __name__ == "__main__":
    QUESTION.main()
