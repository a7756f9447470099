"""What is measured of the runtime beside one step: chunks, generation, many streams, threads."""

import itertools
import time
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from typing import Any, Final

import numpy as np

from rnnx._bench.contenders import Call, Ours
from rnnx._bench.figures import CHUNK, TEMPERATURE, TOKENS, Streams, Threads
from rnnx._bench.samples import Arrays, Samples, Task
from rnnx._bench.timing import measure
from rnnx_runtime import InputError, load
from rnnx_runtime.artifact import Artifact, CharCodec, OneHotCodec

_BATCHES: Final = (1, *(8 << doubled for doubled in range(14)))
_THREADS: Final = (1, 2, 4, 8, 16)
_CALLS: Final = 10  # of each number of streams, at least: so many must fit into the time
_DIFFERENT: Final = 4  # steps, of up to so many streams; of more, one over and over
_MANY: Final = 256


def chunk(task: Task) -> Call | None:
    if not task.stepped:
        return None
    stream, given = task.model.stream(state=task.begin), task.given(task.samples.chunk(task.batch, CHUNK))
    return lambda: stream.feed(given)


def generation(task: Task) -> Call | None:
    """Writing behind a prompt of one character, from the first state; None where the artifact does not answer in text."""
    codec = task.manifest.codec
    if not isinstance(codec, CharCodec | OneHotCodec) or not task.stepped or task.batch != 1:
        return None
    stream = task.model.stream(state=task.begin)

    def write() -> None:
        stream.reset()
        for _ in stream.generate(codec.vocabulary[0], TOKENS, temperature=TEMPERATURE, seed=0):
            pass

    try:
        write()
    except InputError:
        return None
    return write


def many_streams(task: Task, most: int, seconds: float, progress: Callable[[float], None]) -> tuple[tuple[Streams, ...], str]:
    """Growing numbers of streams, in lockstep and in a pool; and why there are none, or not as many as asked for."""
    if not task.stepped:
        return (), "the model cannot be stepped; give whole sequences in a batch to Model.run"
    fixed = task.manifest.fixed_batch
    if fixed is not None:
        return (), f"this graph takes a batch of {fixed} in a call, so that more streams take as many calls"
    calls: dict[str, Call] = {}
    batches: list[int] = []
    why_not, spent = "", 0.0
    for batch in sorted({size for size in _BATCHES if size <= most} | {most}):
        pair = {f"stream {batch}": _lockstep(task, batch), f"pool {batch}": _pool(task, batch)}
        spent += _CALLS * sum(_once(call) for call in pair.values())
        if spent > seconds and batches and spent > 1.0:
            why_not = f"{batch} and more were left out: they need more seconds"
            break
        calls |= pair
        batches.append(batch)
    units = {f"{kind} {batch}": batch for kind in ("stream", "pool") for batch in batches}
    timings = measure(calls, seconds, units, progress)
    return tuple(Streams(batch, timings[f"stream {batch}"], timings[f"pool {batch}"]) for batch in batches), why_not


def _once(call: Call) -> float:
    """Seconds of one call, behind a first one."""
    call()
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _lockstep(task: Task, batch: int) -> Call:
    stream = task.model.stream(state=task.samples.state(batch))
    following = itertools.cycle([task.given(arrays) for arrays in _steps(task, batch)]).__next__
    return lambda: stream.step(following())


def _pool(task: Task, batch: int) -> Call:
    pool = task.model.pool(max_batch=batch)
    begin = task.samples.state(1)
    for key in range(batch):
        pool.join(key, begin)
    xs: list[dict[Hashable, Any]] = [
        {key: task.given({name: _row(array, key) for name, array in arrays.items()}) for key in range(batch)}
        for arrays in _steps(task, batch)
    ]
    following = itertools.cycle(xs).__next__
    return lambda: pool.step(following())


def _steps(task: Task, batch: int) -> list[Arrays]:
    return task.samples.steps(batch, _DIFFERENT if batch <= _MANY else 1)


def _row(array: Any, row: int) -> Any:
    """One stream's part of a step: a token as a number, as callers have it."""
    return array[row].item() if array.ndim == 1 else np.array(array[row])


def more_threads(
    opened: Artifact, providers: Any, trust: bool, cores: int, streams: int, seconds: float, progress: Callable[[float], None]
) -> tuple[Threads, ...]:
    """The same work with more threads, on all cores that there are."""
    calls: dict[str, Call] = {}
    units: dict[str, int] = {}
    counts = [count for count in _THREADS if count <= cores]
    with ExitStack() as stack:
        for count in counts:
            model = stack.enter_context(load(opened.data, providers=providers, threads=count, trust=trust))
            task = Task(Samples(model))
            batch = min(64, streams)
            calls[f"one {count}"] = Ours(task).call()
            fed = chunk(task)
            if fed is not None:
                calls[f"chunk {count}"], units[f"chunk {count}"] = fed, CHUNK
            if task.stepped and task.manifest.fixed_batch is None and batch > 1:
                calls[f"streams {count}"], units[f"streams {count}"] = _lockstep(task, batch), batch
        timings = measure(calls, seconds, units, progress)
    return tuple(
        Threads(count, timings[f"one {count}"], timings.get(f"chunk {count}"), batch, timings.get(f"streams {count}"))
        for count in counts
    )
