"""F17: Ctrl-C, a cancelled task and a time-out, at any moment: nothing is half done, and nobody waits long.

Python interrupts a program where a call returns or a function begins. A case interrupts one action at the first of these places, then
at the second, and so on until it gets through.
"""

import asyncio
import os
import random
import signal
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from itertools import count as counting
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime  # noqa: F401  # here and not in each child, as what is imported below
from tests.faults.harness import Fault, Limits, Tally, WrongAnswerError, attempt
from tests.faults.large import FEATURES, lstm
from tests.runtime.answers import sample

from rnnx_runtime import Generation, Model, Pool, RnnxError, load

GOLDEN: Final = Path(__file__).parent.parent / "golden"
NAMES: Final = ("char_rnn", "lstm", "gru")
LAZY: Final = (Generation, Pool)
OURS: Final = "rnnx_runtime"
LIMITS: Final = Limits(seconds=60, memory=None)
LONGEST_SECONDS: Final = 0.1
HIDDEN: Final = 1024
STEPS: Final = 20_000  # ten seconds of it
MOST: Final = 5_000  # interruptions of one action


def run(count: int, seed: int) -> Tally:
    tally, chance = Tally(), random.Random(seed)
    places = list(product(NAMES, ACTIONS))
    chance.shuffle(places)
    delays = [partial(_late, LATE[at % len(LATE)], chance.uniform(0.01, 0.6)) for at in range(max(1, count // 2))]
    reading, writing = os.pipe()
    for name, action in [place for place in places if place[0] == "char_rnn" or place[1] not in WRITING][
        : count - len(delays)
    ]:
        tally.add(f"{action} of {name}", attempt(partial(_everywhere, name, action), LIMITS), ["correct"])
    for late in delays:
        tally.add(f"a late {late.args[0]}", attempt(partial(late, writing), LIMITS), ["correct"])
    os.close(writing)
    with open(reading) as said:
        took = [line.split(maxsplit=1) for line in said.read().splitlines()]
    for kind in LATE:
        slowest = max((float(seconds) for seconds, one in took if one == kind), default=0.0)
        tally.require(
            slowest < LONGEST_SECONDS, f"{kind} goes on for {slowest * 1e3:.0f} ms, more than {LONGEST_SECONDS * 1e3:.0f} ms"
        )
        tally.figures[kind] = f"{slowest * 1e3:.0f} ms"
    return tally


class _Interrupt:
    """Raises KeyboardInterrupt where Python does so, at the place with this number."""

    def __init__(self, place: int) -> None:
        self.left = place

    def __call__(self, frame: Any, event: str, argument: object) -> None:
        if event in ("call", "c_return") and OURS in frame.f_code.co_filename:  # Python's own locks are Python's own matter
            self.left -= 1
            if self.left < 0:
                sys.setprofile(None)
                raise KeyboardInterrupt

    def __enter__(self) -> None:
        sys.setprofile(self)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)


Bits = tuple[Any, ...]


class _Live:
    """A stream, or some of a pool, in the middle of a sequence.

    `act` is what is interrupted; it is the same at each turn. `bits` are all that it can change.
    """

    def __init__(self, model: Model) -> None:
        self.model, self.stream, self.pool = model, model.stream(), model.pool()
        self.xs = sample(model, 4, 30, seed=2)
        self.prepare()

    def prepare(self) -> None:
        self.stream.step(self.xs[:1, 0])

    def act(self) -> Any:
        raise NotImplementedError

    def bits(self) -> Bits:
        return self.stream.position, self.stream.state.to_bytes()

    def rest(self) -> str:
        """All that comes of it in the end."""
        return ""


class _Step(_Live):
    def act(self) -> Any:
        return self.stream.step(self.xs[:1, 1])


class _FirstStep(_Step):
    def prepare(self) -> None:
        pass


class _Feed(_Live):
    def act(self) -> Any:
        return self.stream.feed(self.xs[:1, :3])


class _PreparedFeed(_Feed):
    def prepare(self) -> None:
        for _ in range(3):
            self.stream.feed(self.xs[:1, :3])


class _LongFeed(_Live):
    def act(self) -> Any:
        return self.stream.feed(np.repeat(self.xs[:1], 50, axis=1))


class _Restore(_Live):
    def act(self) -> Any:
        return self.stream.restore(self.model.stream().state)


class _Reset(_Live):
    def act(self) -> Any:
        return self.stream.reset()


class _Fork(_Live):
    def act(self) -> Any:
        return self.stream.fork()


class _Generate(_Live):
    writing: Generation

    def prepare(self) -> None:
        self.writing = self.stream.generate("hell", 40, seed=2)
        next(self.writing)

    def act(self) -> Any:
        return next(self.writing)

    def rest(self) -> str:
        return "".join(self.writing) and self.writing.text

    def bits(self) -> Bits:
        """A checkpoint may know the next symbol already, or not: all that comes is the same."""
        twin = self.model.stream().resume(self.writing.to_bytes())
        return self.writing.text, "".join(twin), twin.logprob


class _Penalty(_Generate):
    def prepare(self) -> None:
        self.writing = self.stream.generate("hell", 40, seed=2, repetition_penalty=1.2, stop="ollh", on_token=len)
        next(self.writing)


class _Begin(_Live):
    def act(self) -> Any:
        return self.stream.generate("hell", 40, seed=2)


class _PoolStep(_Live):
    keys = range(4)

    def prepare(self) -> None:
        self.pool = self.model.pool(max_batch=2)  # two calls of two
        self.act()

    def act(self) -> Any:
        return self.pool.step({key: self.xs[key, 1] for key in self.keys})

    def bits(self) -> Bits:
        return tuple(
            (state.position, state.to_bytes()) for key in self.keys if key in self.pool for state in [self.pool.state(key)]
        )


class _PoolOthers(_PoolStep):
    """Other streams than before, so that the states of those are put in their rows."""

    def prepare(self) -> None:
        super().prepare()
        super().act()

    def act(self) -> Any:
        return self.pool.step({key: self.xs[key, 1] for key in (1, 2)})


class _PoolOne(_PoolStep):
    keys = range(1)


class _PoolFeed(_PoolStep):
    keys = range(1)

    def act(self) -> Any:
        return self.pool.feed({key: self.xs[key, :3] for key in self.keys})


class _Submit(_PoolStep):
    keys = range(1)

    def act(self) -> Any:
        return self.pool.submit(0, self.xs[0, 1]).result(20)

    def bits(self) -> Bits:
        while self.pool._batcher.is_waiting(0):  # what was asked for is answered, also where nobody waits for it
            time.sleep(0.0005)
        return super().bits()


class _FirstSubmit(_Submit):
    def prepare(self) -> None:
        self.pool.join(0)


class _PoolGenerate(_Generate):
    def prepare(self) -> None:
        self.writing = self.pool.generate("a", "hell", 40, seed=2)
        next(self.writing)

    def bits(self) -> Bits:
        """Of the text: a symbol that was asked for may have been read, while nobody waited for the answer."""
        return (self.writing.text,)


class _Infer(_Live):
    def act(self) -> Any:
        return self.model.run(self.xs[:, :5])


ACTIONS: Final[dict[str, type[_Live]]] = {
    "step": _Step,
    "the first step": _FirstStep,
    "feed": _Feed,
    "a prepared feed": _PreparedFeed,
    "a long feed": _LongFeed,
    "restore": _Restore,
    "reset": _Reset,
    "fork": _Fork,
    "a pool's step": _PoolStep,
    "a pool's step of others": _PoolOthers,
    "a pool's step of one": _PoolOne,
    "a pool's feed": _PoolFeed,
    "submit": _Submit,
    "the first submit": _FirstSubmit,
    "run": _Infer,
    "generate": _Generate,
    "generate with a penalty": _Penalty,
    "the beginning of generate": _Begin,
    "a pool's generate": _PoolGenerate,
}
WRITING: Final = tuple(name for name, live in ACTIONS.items() if "generate" in name)


def _everywhere(name: str, action: str) -> None:
    model = load(GOLDEN / f"{name}.onnx")
    kind = ACTIONS[action]
    reference = kind(model)
    states = [reference.bits()]
    for _ in range(3):
        with suppress(StopIteration):
            reference.act()
        states.append(reference.bits())
    whole = reference.rest()
    for place in counting():
        live = kind(model)
        _check(live.bits() == states[0], place, "it does not begin where it should")
        through = True
        try:
            with _Interrupt(place):
                live.act()
        except KeyboardInterrupt:
            through = False
        except RnnxError as error:
            raise WrongAnswerError(f"at place {place}: {type(error).__name__}: {error}") from None
        try:
            found = live.bits()
            _check(found in states[:2], place, "it is neither before nor behind")
            at = len(states[:2]) - 1 - states[1::-1].index(found)
            _check(at == 1 or not through or states[0] == states[1], place, "it got through, and is not behind")
            with suppress(StopIteration):
                live.act()
            _check(live.bits() == states[at + 1], place, "it does not go on as it would have")
            _check(live.rest() == whole, place, "it does not end as it would have")
        except RnnxError as error:
            raise WrongAnswerError(f"after place {place}: {type(error).__name__}: {error}") from None
        if through:
            return
        _check(place < MOST, place, "no end")


def _check(met: bool, place: int, what: str) -> None:
    if not met:
        raise WrongAnswerError(f"at place {place}: {what}")


def _late(kind: str, delay: float, writing: int) -> None:
    """Ask in the middle of ten seconds of work, and measure."""
    model = load(lstm(HIDDEN))
    stream, twin = model.stream(), model.stream()
    chunk = np.random.default_rng(0).standard_normal((1, STEPS, FEATURES), np.float32)
    for one in (stream, twin):
        one.step(chunk[:, 0])
    before = stream.state
    seconds = _ask(kind, delay, stream, model, chunk)
    os.write(writing, f"{seconds} {kind}\n".encode())
    if (stream.state, stream.position) != (before, 1):
        raise WrongAnswerError("the stream is another one")
    if stream.step(chunk[:, 1]).tobytes() != twin.step(chunk[:, 1]).tobytes():
        raise WrongAnswerError("the stream does not go on as it would have")


def _ask(kind: str, delay: float, stream: Any, model: Model, chunk: Any) -> float:
    asked: list[float] = []

    def ask() -> None:
        time.sleep(delay)
        asked.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    async def wait() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(stream.afeed(chunk), delay)
            raise WrongAnswerError("it was not cancelled")

    if kind == "cancel":
        began = time.monotonic()
        asyncio.run(wait())  # which waits for the threads of its loop, too
        return time.monotonic() - began - delay
    threading.Thread(target=ask).start()
    with suppress(KeyboardInterrupt):
        if kind == "Ctrl-C":
            stream.feed(chunk)
        else:
            model.pool().feed(dict.fromkeys(range(3), chunk[0]))
        raise WrongAnswerError("it was not interrupted")
    return time.monotonic() - asked[0]


LATE: Final = ("Ctrl-C", "cancel", "Ctrl-C of a pool")

FAULT: Final = Fault(
    "F17",
    "interruptions",
    "Wherever Ctrl-C, a cancelled task or a time-out comes, the stream is before the action or behind it, and goes on as it would have; "
    f"an LSTM of {HIDDEN} stops within 100 ms, and its event loop with it.",
    full=60,
    reduced=12,
    run=run,
)
