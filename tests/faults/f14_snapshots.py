"""F14: a snapshot that is damaged, of another model, or a lie with a right checksum. Nothing of it may reach a stream."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import onnxruntime  # noqa: F401  # here and not in each child, as what is imported below
from tests.faults.harness import WELL, Fault, Kind, Limits, Tally, WrongAnswerError, attempt
from tests.fuzz.mutations import of_snapshot
from tests.runtime.answers import sample

from rnnx_runtime import Generation, Model, Pool, RnnxError, State, StateError, load

GOLDEN: Final = Path(__file__).parent.parent / "golden"
NAMES: Final = ("char_rnn", "lstm", "gru")
CHECK: Final = 32
PREFIX: Final = 16
LIMITS: Final = Limits(seconds=20, memory=512 << 20)
LARGE: Final = 32 << 20  # bytes of the largest lie
ROOM: Final = 40 << 20  # that a model with its streams may take besides

Header = dict[str, Any]
Writer = Generation | Pool  # imported where they are first asked for


class Snapshot(NamedTuple):
    """A snapshot, and the golden model whose streams are given it."""

    name: str
    kind: str
    data: bytes


class Case(NamedTuple):
    name: str
    given: Snapshot
    wanted: tuple[Kind, ...] = ("error",)


def run(count: int, seed: int) -> Tally:
    tally, chance = Tally(), random.Random(seed)
    wholes = _wholes()
    cases = list(_damaged(wholes, chance)) + list(_lies(wholes))
    lies = list(_random_lies(wholes, chance, count // 4))
    kept = chance.sample(cases, min(len(cases), count - len(lies) - 1))
    for name, given, wanted in kept + lies:
        tally.add(name, attempt(partial(_give, given), LIMITS), wanted)
    tally.require(tally.peak < ROOM, f"a small snapshot takes {tally.peak >> 20} MB, more than {ROOM >> 20}")
    large = attempt(partial(_give, _large(wholes["lstm", "state"])), LIMITS)
    tally.add("large", large, ["error"])
    allowed = ROOM + 3 * LARGE
    tally.require(large.peak < allowed, f"{LARGE >> 20} MB of lies take {large.peak >> 20} MB, more than {allowed >> 20}")
    tally.figures["the largest lie"] = f"{LARGE >> 20} MB, +{large.peak >> 20} MB"
    return tally


def _wholes() -> dict[tuple[str, str], Snapshot]:
    """Whole snapshots, made in a child: this process opens no session."""
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(1) as workers:
        made = workers.apply(_made)
    return {(name, kind): Snapshot(name, kind, data) for name, kind, data in made}


def _made() -> list[tuple[str, str, bytes]]:
    made = []
    for name in NAMES:
        stream = load(GOLDEN / f"{name}.onnx").stream()
        stream.feed(sample(load(GOLDEN / f"{name}.onnx"), 1, 5))
        made.append((name, "state", stream.state.to_bytes()))
    generation = load(GOLDEN / "char_rnn.onnx").stream().generate("hell", 30, seed=1, stop="ollh", repetition_penalty=1.2)
    next(generation)
    return [*made, ("char_rnn", "generation", generation.to_bytes())]


def _damaged(wholes: dict[tuple[str, str], Snapshot], chance: random.Random) -> Iterator[Case]:
    """Each byte is another, each end is cut off, and the checksum stays."""
    for whole in wholes.values():
        data = whole.data
        for place in range(len(data)):
            flipped = data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
            yield Case("a flipped byte", whole._replace(data=flipped))
            yield Case("cut", whole._replace(data=data[:place]))
        yield Case("longer", whole._replace(data=data + b"\0"))
        yield Case("twice", whole._replace(data=data * 2))


def _lies(wholes: dict[tuple[str, str], Snapshot]) -> Iterator[Case]:
    """Whole snapshots with a right checksum, that say something else."""
    for whole in wholes.values():
        data = whole.data[:-CHECK]
        for version in (0, 2, 1 << 16, (1 << 32) - 1):
            yield Case("another version", whole._replace(data=sealed(data[:8] + version.to_bytes(4, "little") + data[12:])))
        for length in (0, 1, len(data), len(data) - PREFIX + 1, 1 << 24, 1 << 31, (1 << 32) - 1):
            yield Case("a length", whole._replace(data=sealed(data[:12] + length.to_bytes(4, "little") + data[16:])))
        for name, change in _changes(whole.kind):
            yield Case(name, whole._replace(data=changed(whole.data, change)))
        for other in NAMES:
            if other != whole.name:
                yield Case("another model's", whole._replace(name=other))
        yield from _not_finite(whole)
        if whole.name == "char_rnn":  # the one that writes
            yield Case("another kind", whole._replace(kind="state" if whole.kind == "generation" else "generation"))


def _not_finite(whole: Snapshot) -> Iterator[Case]:
    header, body = _parts(whole.data)
    at = 0
    for entry in header["arrays"]:
        dtype, count = np.dtype(entry["dtype"]), int(np.prod(entry["shape"]))
        for value in (np.nan, np.inf, -np.inf) if dtype.kind == "f" else ():
            # -inf is a logit as good as any: that of a symbol which is never drawn.
            for place in range(count) if entry["name"] != "rnnx.logits" or value != -np.inf else ():
                where = at + place * dtype.itemsize
                other = body[:where] + np.array(value, dtype).tobytes() + body[where + dtype.itemsize :]
                yield Case(f"{value}", whole._replace(data=_joined(header, other)))
        at += count * dtype.itemsize


def _changes(kind: str) -> Iterator[tuple[str, Callable[[Header], object]]]:
    for size in (0, -1, 2, 1 << 31, 1 << 62, 1 << 80):
        yield "a shape", partial(_set, ("arrays", 0, "shape", 0), size)
        yield "a shape", partial(_set, ("arrays", 0, "shape"), [0, size, size, size])
        yield "a shape", partial(_set, ("arrays", 0, "shape"), [size] * 40)
    for dtype in ("float64", "int32", "int64", "bool", "float16", "object", "<f4", "V4"):
        yield "a type", partial(_set, ("arrays", 0, "dtype"), dtype)
    yield "a digest", partial(_set, ("digest",), "0" * 64)
    yield "a digest", partial(_set, ("digest",), "../" * 22)
    yield "a name", partial(_set, ("arrays", 0, "name"), "\x1b[2J")
    yield "a name", partial(_set, ("arrays", 0, "name"), "other")
    yield "a name more", lambda header: header["arrays"].append({"name": "more", "dtype": "float32", "shape": [0]})
    yield "no arrays", partial(_set, ("arrays",), [])
    where = ("meta", "batch") if kind == "state" else ("meta", "position")
    for number in (-1, 1 << 63, 1 << 64, 1.5, "1", None):
        yield "a batch or a position", partial(_set, where, number)
    if kind == "state":
        yield "a batch", partial(_set, where, 0)
        yield "a batch", partial(_set, where, 2)
        yield "a position", partial(_set, ("meta", "position"), -1)


def _set(path: tuple[str | int, ...], value: object, header: Any) -> None:
    for key in path[:-1]:
        header = header[key]
    header[path[-1]] = value


def _random_lies(wholes: dict[tuple[str, str], Snapshot], chance: random.Random, count: int) -> Iterator[Case]:
    """Any change at all with a right checksum: it may be a snapshot that somebody could have made."""
    for _ in range(count):
        whole = chance.choice(list(wholes.values()))
        yield Case("a lie", whole._replace(data=sealed(of_snapshot(whole.data[:-CHECK], chance))), WELL)


def _large(whole: Snapshot) -> Snapshot:
    """As many bytes as it says, and of the right name: but not of this model's shape."""
    header, _ = _parts(whole.data)
    for entry in header["arrays"]:
        entry["shape"] = [LARGE // 8 // len(header["arrays"]), 1, 2]
    return whole._replace(data=_joined(header, bytes(LARGE)))


def _give(given: Snapshot) -> None:
    """Give it to everything that takes one, and look whether anything has changed."""
    model = load(GOLDEN / f"{given.name}.onnx")
    live = _Live(model)
    before, errors, uses = live.bits(), [], live.uses(given)
    for use in uses:
        try:
            use()
        except StateError as error:
            errors.append(error.with_traceback(None))  # whose frames hold what was read
        except RnnxError as error:
            raise WrongAnswerError(f"{type(error).__name__} instead of StateError: {error}") from None
        if errors and live.bits() != before:
            raise WrongAnswerError("the state is another one after the refusal")
    if 0 < len(errors) < len(uses):
        raise WrongAnswerError("some take it and others don't")
    if not errors:
        _check_taken(given, live)
        return
    if live.onward() != _Live(model).onward():
        raise WrongAnswerError("the stream does not go on as before")
    raise errors[0]


def _check_taken(given: Snapshot, live: "_Live") -> None:
    """What was taken is what stands in the bytes."""
    header, body = _parts(given.data)
    held, at = live.stream.state, 0
    for entry in header["arrays"]:
        size = int(np.prod(entry["shape"])) * np.dtype(entry["dtype"]).itemsize
        if entry["name"] in held and held[entry["name"]].tobytes() != body[at : at + size]:
            raise WrongAnswerError(f"{entry['name']} is not what stands in the snapshot")
        at += size
    if not all(np.isfinite(array).all() for array in held.values()):
        raise WrongAnswerError("a state is not finite")


class _Live:
    """A stream and a pool in the middle of a sequence."""

    def __init__(self, model: Model) -> None:
        self.model, self.stream, self.pool = model, model.stream(), model.pool()
        self._xs = sample(model, 1, 4, seed=3)
        self.stream.step(self._xs[:, 0])
        self.pool.step({"a": self._xs[0, 0]})

    def uses(self, given: Snapshot) -> list[Callable[[], object]]:
        data, x = given.data, self._xs[:, 1:]
        if given.kind == "generation":
            if given.name != "char_rnn":  # does not write, and says so; its bytes may still be taken for a state's
                return [lambda: State.from_bytes(data)]
            return [lambda: self.pool.resume("a", data), lambda: self.pool.resume("b", data), lambda: self.stream.resume(data)]
        return [
            lambda: self.pool.restore("a", State.from_bytes(data)),
            lambda: self.pool.join("b", State.from_bytes(data)),
            lambda: self.model.stream(state=State.from_bytes(data)).step(x[:, 0]),
            lambda: self.model.run(x, State.from_bytes(data)),
            lambda: self.stream.restore(State.from_bytes(data)),
        ]

    def bits(self) -> list[bytes]:
        states = [self.stream.state, *(self.pool.state(key) for key in self.pool)]
        return [state.to_bytes() for state in states]

    def onward(self) -> list[bytes]:
        for step in range(1, 3):
            self.stream.step(self._xs[:, step])
            self.pool.step({"a": self._xs[0, step]})
        return self.bits()


def sealed(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


def _parts(data: bytes) -> tuple[Header, bytes]:
    end = PREFIX + int.from_bytes(data[12:16], "little")
    return json.loads(data[PREFIX:end]), data[end:-CHECK]


def _joined(header: Header, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return sealed(b"rnnxsnap" + (1).to_bytes(4, "little") + len(text).to_bytes(4, "little") + text + body)


def changed(data: bytes, change: Callable[[Header], object]) -> bytes:
    header, body = _parts(data)
    change(header)
    return _joined(header, body)


FAULT: Final = Fault(
    "F14",
    "snapshots",
    "Whatever is damaged, of another model, of another version or not finite is refused with a StateError, also where its checksum "
    "was made anew; the live states are bit for bit as before; it takes no more memory than three times its size.",
    full=6_000,
    reduced=200,
    run=run,
)
