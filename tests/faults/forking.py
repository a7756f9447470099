"""One case of F11: a server that loads a model, uses it, forks workers that use it too, and goes on. Run as a program of its own.

`python -m tests.faults.forking '{"model": "lstm", ...}'` prints how long the slowest worker took to end, in seconds.
"""

import asyncio
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from tests.faults.large import FEATURES, lstm
from tests.runtime.answers import sample

from rnnx_runtime import Model, load

GOLDEN: Final = Path(__file__).parent.parent / "golden"
WORKERS: Final = 4
PATIENCE_SECONDS: Final = 20.0
ENDS: Final[dict[str, int]] = {"falls off": 0, "sys.exit": 7, "os._exit": 8, "an exception": 1, "killed": -signal.SIGTERM}
TURNS: Final = 3


def main() -> None:
    given = json.loads(sys.argv[1])
    source = lstm(512) if given["model"] == "large" else str(GOLDEN / f"{given['model']}.onnx")
    model = load(source, threads=given["threads"])
    use = USES[given["use"]](model)
    for _ in range(given["before"]):
        next(use)
    slowest = forked(model, use, given) if given["method"] == "fork" else started(model, given)
    wanted = USES[given["use"]](load(source, threads=given["threads"]))
    for _ in range(given["before"]):
        next(wanted)
    assert [next(use) for _ in range(TURNS)] == [next(wanted) for _ in range(TURNS)], "the parent does not go on as before"
    print(slowest)


def forked(model: Model, use: Iterator[str], given: dict[str, Any]) -> float:
    """Workers that go on from here; where `busy`, one thread of the parent is in the middle of a chunk meanwhile."""
    busy = threading.Thread(target=keep_busy, args=(model, going := threading.Event())) if given["busy"] else None
    if busy is not None:
        busy.start()
        going.wait()
        time.sleep(0.02)
    workers = []
    for _ in range(WORKERS):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            work(model, use, given, writing)
            sys.exit(0)
        os.close(writing)
        workers.append((child, reading))
    found, slowest = [], 0.0
    for child, reading in workers:
        said, ended = heard(child, reading), time.monotonic()
        code = wait_for(child, given["end"])
        slowest = max(slowest, time.monotonic() - ended)
        assert code == ENDS[given["end"]], f"a worker ended with {code} instead of {ENDS[given['end']]}"
        found.append(said)
    if busy is not None:
        busy.join()
    assert all(said == found[0] for said in found), "the workers disagree"
    wanted = USES[given["use"]](load(model._source, threads=given["threads"]))
    for _ in range(given["before"]):
        next(wanted)
    assert found[0] == "".join(next(wanted) for _ in range(TURNS)), "a worker answers something else"
    return slowest


def work(model: Model, use: Iterator[str], given: dict[str, Any], writing: int) -> None:
    """A worker: goes on where the parent was, says what came of it, and ends."""
    said = "".join(next(use) for _ in range(TURNS))
    if given["nested"]:
        child = os.fork()
        if child == 0:
            next(use)
            sys.exit(3)
        assert wait_for(child, "") == 3, "a worker's worker did not end"
    if given["close"]:
        model.close()
    os.write(writing, said.encode())
    os.close(writing)
    end(given["end"])


def end(how: str) -> None:
    if how == "sys.exit":
        sys.exit(ENDS[how])
    if how == "os._exit":
        os._exit(ENDS[how])
    if how == "killed":
        signal.pause()
    if how == "an exception":
        sys.stderr = None  # what it says is Python's
        raise RuntimeError("a worker's own")


def heard(child: int, reading: int) -> str:
    """What a worker says, all of it."""
    said, until = b"", time.monotonic() + PATIENCE_SECONDS
    os.set_blocking(reading, False)
    while time.monotonic() < until:
        try:
            piece = os.read(reading, 1 << 16)
        except BlockingIOError:
            time.sleep(0.001)
            continue
        if not piece:
            os.close(reading)
            return said.decode()
        said += piece
    os.kill(child, signal.SIGKILL)
    raise AssertionError("a worker hangs in its work")


def wait_for(child: int, how: str) -> int:
    if how == "killed":
        os.kill(child, signal.SIGTERM)
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("a worker hangs at its end")


def started(model: Model, given: dict[str, Any]) -> float:
    """Workers of `multiprocessing`, which are given the model pickled, or forked."""
    context = multiprocessing.get_context(given["method"].removeprefix("multiprocessing "))
    arguments = [(model, given["use"], 0)] * WORKERS
    workers = context.Pool(2)
    try:
        found = workers.starmap_async(answered, arguments).get(PATIENCE_SECONDS)
        ended = time.monotonic()
        workers.close()
        workers.join()
    except multiprocessing.TimeoutError:
        workers.terminate()
        raise AssertionError("a worker hangs") from None
    wanted = answered(load(model._source, threads=given["threads"]), given["use"], 0)
    assert found == [wanted] * WORKERS, "a worker answers something else"
    return time.monotonic() - ended


def answered(model: Model, use: str, before: int) -> str:
    turns = USES[use](model)
    for _ in range(before):
        next(turns)
    return "".join(next(turns) for _ in range(TURNS))


def keep_busy(model: Model, going: threading.Event) -> None:
    """A second of work in chunks."""
    chunk = _inputs(model)[:, :512]
    until, stream = time.monotonic() + 1, model.stream()
    while time.monotonic() < until:
        going.set()
        stream.feed(chunk)


def _inputs(model: Model) -> Any:
    if model.manifest.name == "large":
        import numpy as np

        return np.random.default_rng(0).standard_normal((1, 600, FEATURES), np.float32)
    return sample(model, 1, 600)


def _digest(answer: Any) -> str:
    arrays = answer.values() if isinstance(answer, dict) else [answer]
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def step(model: Model) -> Iterator[str]:
    xs, stream = _inputs(model), model.stream()
    for turn in range(100):
        yield _digest(stream.step(xs[:, turn]))


def feed(model: Model) -> Iterator[str]:
    xs, stream = _inputs(model), model.stream()
    for turn in range(100):
        yield _digest(stream.feed(xs[:, turn : turn + 5]))


def pooled(model: Model) -> Iterator[str]:
    xs, pool = _inputs(model), model.pool()
    for turn in range(100):
        answers = pool.step({key: xs[0, turn + key] for key in range(3 + turn % 2)})
        yield "".join(map(_digest, answers.values()))


def submitted(model: Model) -> Iterator[str]:
    xs, pool = _inputs(model), model.pool()
    for turn in range(100):
        yield _digest(pool.submit("a", xs[0, turn]).result(PATIENCE_SECONDS))


def run(model: Model) -> Iterator[str]:
    xs, state = _inputs(model), None
    for turn in range(100):
        answer, state = model.run(xs[:, turn : turn + 3], state)
        yield _digest(answer)


def astep(model: Model) -> Iterator[str]:
    xs, stream = _inputs(model), model.stream()
    for turn in range(100):
        yield _digest(asyncio.run(stream.astep(xs[:, turn])))


def generate(model: Model) -> Iterator[str]:
    yield from model.stream().generate("hell", 100, seed=5)


def pool_generate(model: Model) -> Iterator[str]:
    yield from model.pool().generate("a", "hell", 100, seed=5)


def selftest(model: Model) -> Iterator[str]:
    while True:
        yield str(model.selftest().passed)


USES: Final[dict[str, Callable[[Model], Iterator[str]]]] = {
    one.__name__: one for one in (step, feed, pooled, submitted, run, astep, generate, pool_generate, selftest)
}

if __name__ == "__main__":
    main()
