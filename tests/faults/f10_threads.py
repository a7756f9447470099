"""F10: many threads on one model: with streams of their own, on one stream, in one pool, writing texts, and while it is closed."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime  # noqa: F401  # here and not in each child
from numpy.typing import NDArray
from tests.faults.harness import Fault, Limits, Tally, WrongAnswerError, attempt
from tests.faults.networks import KINDS, Kind, Network, values

from rnnx_runtime import InputError, Model, Pool, load

GOLDEN: Final = Path(__file__).parent.parent / "golden" / "char_rnn.onnx"
THREADS: Final = (8, 64)
STEPS: Final = 60  # of each thread; in pieces of one and of `CHUNK`
CHUNK: Final = 7
HIDDEN: Final = 40
RNN_CLOSE: Final = 1e-6  # rows of a batch, for the operator RNN; all else is the same to the bit
LIMITS: Final = Limits(seconds=90, memory=4 << 30)  # 64 threads, each with a stack and a heap

Answers = list[NDArray[Any]]


def run(count: int, seed: int) -> Tally:
    tally = Tally()
    for number in range(count):
        turn, place = divmod(number, len(CASES))
        case, threads, kind = CASES[place], THREADS[turn % len(THREADS)], KINDS[(turn + place) % len(KINDS)]
        name = f"{case.__name__.strip('_')}, {threads} threads, {kind}"
        tally.add(name, attempt(partial(case, threads, kind, seed + number), LIMITS), ["correct"])
    return tally


def _streams_of_their_own(threads: int, kind: Kind, seed: int) -> None:
    model = _model(kind, seed)
    wanted = [list(_walk(model, seed + number)) for number in range(threads)]
    found = _at_once(threads, lambda number: list(_walk(model, seed + number)))
    for mine, its in zip(found, wanted, strict=True):
        _compare(mine, its, 0)


def _one_stream(threads: int, kind: Kind, seed: int) -> None:
    """Who comes while another is in it is refused, and nothing has happened."""
    model, x = _model(kind, seed), values(1, 1, seed)[:, 0]
    stream = model.stream()

    def work(number: int) -> int:
        done = 0
        for _ in range(STEPS):
            try:
                stream.step(x)
                done += 1
            except InputError as error:
                _must_say(error, "this stream is in use")
        return done

    done, alone = sum(_at_once(threads, work)), model.stream()
    for _ in range(done):
        alone.step(x)
    if stream.position != done or stream.state != alone.state:
        raise WrongAnswerError(f"{done} steps succeeded, the stream is at {stream.position}, or not where they lead")


def _one_pool(threads: int, kind: Kind, seed: int) -> None:
    """Requests, steps and chunks of all threads meet, each of a stream of its own."""
    model = _model(kind, seed)
    wanted = [list(_walk(model, seed + number)) for number in range(threads)]
    with model.pool(max_batch=16) as pool:
        found = _at_once(threads, lambda number: list(_walk_in_pool(pool, number, seed + number)))
    for mine, its in zip(found, wanted, strict=True):
        _compare(mine, its, RNN_CLOSE if kind == "RNN" else 0)


def _texts(threads: int, kind: Kind, seed: int) -> None:
    """Half of the threads write with streams of a pool, half with their own; all write what one thread writes."""
    model, options = load(GOLDEN), {"max_new_tokens": STEPS, "temperature": 1.5}
    wanted = ["".join(model.stream().generate("hel", seed=seed + number, **options)) for number in range(threads)]
    with model.pool() as pool:
        found = _at_once(
            threads,
            lambda number: "".join(
                pool.generate(number, "hel", seed=seed + number, **options)
                if number % 2
                else model.stream().generate("hel", seed=seed + number, **options)
            ),
        )
    if found != wanted:
        raise WrongAnswerError("a text is not what one thread alone writes")


def _model_closed(threads: int, kind: Kind, seed: int) -> None:
    """What was answered until then is right, and then comes the error that says so."""
    model = _model(kind, seed)
    wanted = [list(_walk(model, seed + number)) for number in range(threads)]

    def work(number: int) -> Answers:
        return _until(lambda: _walk(model, seed + number), "this model is closed")

    found = _at_once(threads, work, meanwhile=lambda: _soon(threads, seed, model.close))
    for mine, its in zip(found, wanted, strict=True):
        _compare(mine, its[: len(mine)], 0)


def _pool_closed(threads: int, kind: Kind, seed: int) -> None:
    model = _model(kind, seed)
    wanted = [list(_walk(model, seed + number, chunks=False)) for number in range(threads)]
    pool = model.pool(max_queue=threads // 2)

    def work(number: int) -> Answers:
        return _until(lambda: _requests(pool, number, seed + number), "this pool is closed")

    found = _at_once(threads, work, meanwhile=lambda: _soon(threads, seed, pool.close))
    for mine, its in zip(found, wanted, strict=True):
        _compare(mine, its[: len(mine)], RNN_CLOSE if kind == "RNN" else 0)


CASES: Final[tuple[Callable[[int, Kind, int], None], ...]] = (
    _streams_of_their_own,
    _one_stream,
    _one_pool,
    _texts,
    _model_closed,
    _pool_closed,
)


def _model(kind: Kind, seed: int) -> Model:
    return load(Network(kind, HIDDEN, seed=seed).artifact())


def _walk(model: Model, seed: int, *, chunks: bool = True) -> Iterator[NDArray[Any]]:
    """The answers of one stream: of steps, and of chunks between them."""
    stream, xs = model.stream(), values(1, STEPS, seed)
    for first, last in _pieces(chunks=chunks):
        yield stream.step(xs[:, first])[0] if last == first + 1 else stream.feed(xs[:, first:last])[0]


def _walk_in_pool(pool: Pool, key: int, seed: int) -> Iterator[NDArray[Any]]:
    (xs,) = values(1, STEPS, seed)
    for place, (first, last) in enumerate(_pieces()):
        if last > first + 1:
            yield pool.feed({key: xs[first:last]})[key]
        else:
            yield pool.step({key: xs[first]})[key] if place % 3 else pool.submit(key, xs[first]).result()


def _requests(pool: Pool, key: int, seed: int) -> Iterator[NDArray[Any]]:
    (xs,) = values(1, STEPS, seed)
    for x in xs:
        yield pool.submit(key, x).result()


def _pieces(*, chunks: bool = True) -> Iterator[tuple[int, int]]:
    """From which step to which."""
    first = 0
    while first < STEPS:
        last = min(STEPS, first + CHUNK) if chunks and first // CHUNK % 2 else first + 1
        yield first, last
        first = last


def _until(walk: Callable[[], Iterator[NDArray[Any]]], closed: str) -> Answers:
    """The answers until it is closed."""
    found: Answers = []
    try:
        found.extend(walk())  # one by one: what came before an error is kept
    except CancelledError:  # a request that waited
        pass
    except InputError as error:
        _must_say(error, closed)
    return found


def _soon(threads: int, seed: int, close: Callable[[], None]) -> None:
    time.sleep(np.random.default_rng(seed).uniform(0, 0.002 * threads))  # somewhere in what they do
    close()


def _at_once(threads: int, work: Callable[[int], Any], meanwhile: Callable[[], None] = lambda: None) -> list[Any]:
    """What each of the threads finds; they begin together. Raises what one of them raises."""
    found: dict[int, Any] = {}
    raised: list[BaseException] = []
    begin = threading.Barrier(threads + 1)

    def one(number: int) -> None:
        try:
            begin.wait()
            found[number] = work(number)
        except BaseException as error:
            raised.append(error)

    running = [threading.Thread(target=one, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    begin.wait()
    meanwhile()
    for thread in running:
        thread.join()
    if raised:
        raise raised[0]
    return [found[number] for number in range(threads)]


def _compare(found: Answers, wanted: Answers, close: float) -> None:
    if len(found) != len(wanted):
        raise WrongAnswerError(f"{len(found)} answers instead of {len(wanted)}")
    for mine, its in zip(found, wanted, strict=True):
        if mine.shape != its.shape or not (np.abs(mine - its).max() <= close if close else mine.tobytes() == its.tobytes()):
            raise WrongAnswerError("an answer is not what one thread alone is given")


def _must_say(error: InputError, rule: str) -> None:
    if not str(error).startswith(rule):
        raise WrongAnswerError(f"refused with {error}")


FAULT: Final = Fault(
    "F10",
    "many threads",
    "What 8 and 64 threads are answered is bit for bit what one is, in a pool of RNNs to 1e-6; while a model or a pool is closed, each call "
    "is answered rightly or refused; none waits for ever.",
    full=300,
    reduced=12,
    run=run,
)
