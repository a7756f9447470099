"""When does a second thread pay, and what does an idle model cost? Not pinned: the threads move as they like."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from benchmarks.models import GRU_2x256, LSTM_1x20, LSTM_1x1024, LSTM_2x128, LSTM_2x512
from benchmarks.question import Question, Setting, Target
from benchmarks.tables import figure, table
from rnnx._bench.machine import usable_cores
from rnnx._bench.timing import measure as timed
from rnnx_runtime import load

_PAYS: Final = 1.1  # times faster, before a thread is worth its core

_IDLE: Final = """
import json, sys, time
import numpy as np
path, how = sys.argv[1], sys.argv[2]
if how == "rnnx":
    from rnnx_runtime import load
    stream, tokens = load(path, threads=2).stream(64), np.zeros((64, 64), np.int64)
    run = lambda: stream.feed(tokens)
else:
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {i.name: np.zeros([{"batch": 64, "seq_len": 64}.get(d, d) for d in i.shape], np.int64 if "int" in i.type else np.float32)
             for i in session.get_inputs()}
    run = lambda: session.run(None, feeds)
for _ in range(3): run()
cpu = time.process_time()
time.sleep(1)
idle = time.process_time() - cpu
cpu, begin, calls = time.process_time(), time.perf_counter(), 0
while time.perf_counter() < begin + 1:  # 20 ms of rest behind each call
    run(); calls += 1; time.sleep(0.02)
print(json.dumps([idle, (time.process_time() - cpu) / calls]))
"""


class Figures(msgspec.Struct, frozen=True):
    """Microseconds with one thread and with two, by model and call; and seconds of CPU."""

    cores: int
    times: dict[str, dict[str, tuple[float, float]]]
    idle: dict[str, tuple[float, float]]  # of an idle second; of a call, with 20 ms of rest behind each


def measure(setting: Setting) -> Figures:
    sizes = setting.of((LSTM_1x20, LSTM_2x128, GRU_2x256, LSTM_2x512, LSTM_1x1024), (LSTM_2x128, LSTM_2x512), (LSTM_1x20,))
    times = {}
    for size in sizes:
        one, two = (load(setting.subject(size).path, threads=threads) for threads in (1, 2))
        times[size.name] = {
            "a step": _both(setting, one.stream().step, two.stream().step, size.tokens(1)),
            "a chunk of 64": _both(setting, one.stream().feed, two.stream().feed, size.tokens(1, 64)),
            "a step of 64 rows": _both(setting, one.stream(64).step, two.stream(64).step, size.tokens(64)),
            "a chunk of 64, 64 rows": _both(setting, one.stream(64).feed, two.stream(64).feed, size.tokens(64, 64)),
        }
    path = setting.subject(LSTM_2x128).path if setting.effort != "smoke" else setting.subject(LSTM_1x20).path
    idle = {
        name: _idle(str(path), how)
        for name, how in (("rnnx, two threads", "rnnx"), ("onnxruntime's default, two threads", "bare"))
    }
    return Figures(usable_cores(), times, idle)


def _both(setting: Setting, one: Callable[[Any], object], two: Callable[[Any], object], given: Any) -> tuple[float, float]:
    found = timed({"one": lambda: one(given), "two": lambda: two(given)}, setting.of(1.0, 0.3, 0.01))
    return tuple(float(f"{found[name].median * 1e6:.4g}") for name in ("one", "two"))  # type: ignore[return-value]


def _idle(path: str, how: str) -> tuple[float, float]:
    done = subprocess.run([sys.executable, "-c", _IDLE, path, how], check=True, capture_output=True, text=True)  # noqa: S603
    idle, call = json.loads(done.stdout)
    return round(idle, 5), float(f"{call:.3g}")


def page(figures: Figures) -> str:
    calls = list(next(iter(figures.times.values())))
    rows = [
        [name, *(f"{figure(one)} → {figure(two)} ({one / two:.2f}×)" for one, two in times.values())]
        for name, times in figures.times.items()
    ]
    idle = [[name, f"{waiting * 1e3:.1f} ms", f"{call * 1e3:.2f} ms"] for name, (waiting, call) in figures.idle.items()]
    gains = {f"{call} of {name}": one / two for name, times in figures.times.items() for call, (one, two) in times.items()}
    pays = ", ".join(what for what, gain in gains.items() if gain >= _PAYS) or "nothing here"
    costs = ", ".join(what for what, gain in gains.items() if gain <= 1 / _PAYS) or "nothing here"
    return (
        f"Microseconds of a call with `threads=1` → `threads=2`, and how many times faster that is ({figures.cores} cores). "
        f"A second thread makes faster by a tenth and more: {pays}. It makes slower by as much: {costs}.\n\n"
        + table(["", *calls], rows)
        + "\nThe threads of rnnx sleep while they wait; those of onnxruntime's default settings spin. CPU time of the whole process in a second "
        "in which nothing is asked, and of a call, with 20 ms of rest behind each (64 rows, 64 steps):\n\n"
        + table(["", "an idle second", "a call"], idle)
    )


def targets(figures: Figures) -> Sequence[Target]:
    return [Target("CPU time of an idle second, ms", 1, False, figures.idle["rnnx, two threads"][0] * 1e3)]


QUESTION: Final = Question("threads", "When does a second thread pay?", Figures, measure, page, targets, pinned=False)

if __name__ == "__main__":
    QUESTION.main()
