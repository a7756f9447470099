"""F3: what callers hand over, of every type, shape and order in memory: the reference's answer, or an InputError."""

import array
import asyncio
import mmap
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tests.faults.harness import KINDS, WELL, Fault, Limits, Tally, WrongAnswerError, attempt, classify
from tests.runtime import handmade, reference

from rnnx_runtime import InputError, Model, load

GOLDEN: Final = Path(__file__).parent.parent / "golden"
LIMITS: Final = Limits(seconds=60)
EACH: Final = 200  # inputs of one child
ROWS: Final = 2
LARGE: Final = 1e6  # beyond, an answer need only be there: sums of such numbers leave float32

Chance = random.Random
Array = NDArray[Any]

_KINDS: Final = (
    *("i1 i2 i4 i8 u1 u2 u4 u8".split() * 2), *("f2 f4 f4 f4 f8 f8".split()), "g", "?", "c8", "c16", "S1", "U1", "M8[D]", "m8[s]", "O", "V4",
)  # fmt: skip
_WHOLE: Final = (0, 1, 2, 3, 0, 1, 2, 3, -1, 4, 127, 255, -(1 << 31), 1 << 31, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_REAL: Final = (0.0, -0.0, 0.5, -1.5, 2.0, 3.25, 100.0, 1e-45, 1e-320, 1e-38, 1e4, 3.4e38, -3.4e38, 1e39, 1e300)
_NONE: Final = (np.nan, np.inf, -np.inf)


@dataclass(frozen=True)
class Network:
    """A model, and what numpy answers instead of it."""

    model: Model
    step: reference.Step

    @property
    def inner(self) -> tuple[int, ...]:
        return next(iter(self.model._graph.inputs.values())).layout.inner

    @property
    def symbols(self) -> int | None:
        """How many tokens there are; None for values."""
        return self.model.manifest.inputs[0].vocabulary_size

    def answers(self, chunk: Array) -> dict[str, Array]:
        """`(B, T, ...)` from the initial state, as numpy has it."""
        state: Mapping[str, Array] = {
            name: value.astype(np.float64) for name, value in self.model.initial_state(len(chunk)).items()
        }
        steps = []
        with np.errstate(all="ignore"):
            for at in range(chunk.shape[1]):
                answer, state = self.step(chunk[:, at], state)
                steps.append(answer)
        outputs = self.model._graph.outputs
        return {
            name: np.stack([one[name] for one in steps], 1) if outputs[name].has_time else steps[-1][name]
            for name in (steps[0] if steps else {})
        }


def _again(model: Model, x: Any) -> Any:
    """The second answer to the same step from the same state, when the call is prepared."""
    stream = model.stream(ROWS)
    stream.step(x)
    stream.reset()
    return stream.step(x)


def _submitted(model: Model, x: Any) -> Any:
    with model.pool() as pool:
        return pool.submit(0, x).result()


def _awaited(model: Model, x: Any) -> Any:
    with model.pool() as pool:
        return asyncio.run(pool.astep(0, x))


# How an input is handed over: the shape in front of what one step of one row has, as "B" and "T"; and what is called.
Way = tuple[str, Callable[[Model, Any], Any]]
WAYS: Final[dict[str, Way]] = {
    "Model.run": ("BT", lambda model, x: model.run(x)[0]),
    "Model.step": ("B", lambda model, x: model.step(x, model.initial_state(ROWS))[0]),
    "Stream.step": ("B", lambda model, x: model.stream(ROWS).step(x)),
    "Stream.step again": ("B", _again),
    "Stream.feed": ("BT", lambda model, x: model.stream(ROWS).feed(x)),
    "Pool.step": ("", lambda model, x: model.pool().step({0: x, 1: x})[0]),
    "Pool.feed": ("T", lambda model, x: model.pool().feed({0: x, 1: x})[1]),
    "Pool.submit": ("", _submitted),
    "Pool.astep": ("", _awaited),
}


class Handing:
    """Something that becomes an array when it is asked."""

    def __init__(self, values: Array) -> None:
        self._values = values

    def __array__(self, *_: object, **__: object) -> Array:
        return self._values


def an_input(chance: Chance, front: str, inner: tuple[int, ...], symbols: int | None) -> Any:
    """Something to hand over, right or wrong."""
    values = _content(chance, _shape(chance, front, inner), symbols)
    values = _order(chance, values)
    which = chance.random()
    if which < 0.55:
        return values
    containers: tuple[Callable[[], Any], ...] = (
        values.tolist,
        lambda: tuple(values.tolist()) if values.ndim else values[()],
        lambda: np.ma.masked_array(values, np.ones(values.shape, bool)),
        lambda: np.ma.masked_array(values),
        lambda: Handing(values),
        lambda: {("x", "tokens")[symbols is not None]: values},
        lambda: {"unknown": values},
        dict,
        lambda: values.astype("O"),
        lambda: [values.tolist(), [0]],
        lambda: array.array("d", [1.0] * values.size),
        lambda: (
            memoryview(np.ascontiguousarray(values)) if values.dtype.kind in "iuf" and values.dtype.char != "g" else values
        ),
        lambda: chance.choice((None, "hello", b"hello", object(), iter([1]), {1}, 1j, True, 1, 1.5, 10**400, float("nan"))),
    )
    return chance.choice(containers)()


def _shape(chance: Chance, front: str, inner: tuple[int, ...]) -> tuple[int, ...]:
    sizes = {"B": chance.choice((ROWS, ROWS, ROWS, 1, 3)), "T": chance.choice((0, 1, 2, 5))}
    shape = [*(sizes[axis] for axis in front), *inner]
    which = chance.random()
    if which < 0.6 or not shape:
        return tuple(shape)
    at = chance.randrange(len(shape))
    if which < 0.75:
        shape[at] = chance.choice((0, 1, 4, 300))
    elif which < 0.85:
        shape.insert(at, chance.choice((0, 1, 2)))
    elif which < 0.95:
        del shape[at]
    else:
        shape = [0, 1 << 40, *shape]
    return tuple(shape)


def _content(chance: Chance, shape: tuple[int, ...], symbols: int | None) -> Array:
    kind = np.dtype(chance.choice(_KINDS))
    if kind.kind in "SUMmOV":
        return np.zeros(shape, kind)
    ordinary = chance.random() < 0.6
    numbers: tuple[Any, ...] = _WHOLE if symbols is not None or chance.random() < 0.3 else _REAL
    if ordinary:
        numbers = numbers[:4]
    elif numbers is _REAL and chance.random() < 0.3:
        numbers = (*_REAL, *_NONE)
    few = np.array([chance.choice(numbers) for _ in range(16)], "g" if numbers is not _WHOLE else "O")
    count = int(np.prod(shape))
    with np.errstate(all="ignore"):
        if kind.kind in "iu":
            wrapped = [int(value) % (1 << 8 * kind.itemsize) if np.isfinite(float(value)) else 0 for value in few]
            whole = np.array(wrapped, "O").astype(f"u{kind.itemsize}").view(kind)
        else:
            whole = few.astype(np.float64).astype(kind)
    return np.resize(whole, count).reshape(shape)


def _order(chance: Chance, values: Array) -> Array:
    which = chance.randrange(8)
    if which == 0:
        return values.astype(values.dtype.newbyteorder())
    if which == 1:
        return np.asfortranarray(values)
    if which == 2 and values.ndim:
        return np.repeat(values, 2, 0)[::2]
    if which == 3 and values.ndim:
        return np.flip(np.flip(values, 0).copy(), 0)
    if which == 4 and values.size:
        return np.broadcast_to(values.ravel()[:1].reshape([1] * values.ndim), values.shape)
    if which == 5:
        values.flags.writeable = False
    if which == 6 and values.size and values.dtype.kind in "iuf":
        room = np.zeros(values.nbytes + 1, np.uint8)
        unaligned = room[1:].view(values.dtype).reshape(values.shape)
        unaligned[...] = values
        return unaligned
    return values


def meant(value: Any, front: str, network: Network, *, any_rows: bool) -> Array | None:
    """What an input means, in the type of the graph and as `(B, T, ...)`; None where the contract refuses it."""
    name = network.model.manifest.inputs[0].name
    if isinstance(value, Mapping):
        if set(value) != {name}:
            return None
        value = value[name]
    if isinstance(value, np.ma.MaskedArray):
        return None
    try:
        found = np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        return None
    tokens = network.symbols is not None
    empty_list = found.size == 0 and found.dtype == np.float64
    if found.dtype.kind not in ("iu" if tokens else "iuf") and not empty_list:
        return None
    sizes = found.shape[: len(front)]
    if found.ndim != len(front) + len(network.inner) or found.shape[len(front) :] != network.inner:
        return None
    if "B" in front and (sizes[0] < 1 or (sizes[0] != ROWS and not any_rows)):
        return None
    if tokens:
        if any(not 0 <= int(token) < (network.symbols or 0) for token in found.ravel()):
            return None
        found = found.astype(np.int64)
    else:
        with np.errstate(all="ignore"):
            found = found.astype(np.float32)
        if not np.isfinite(found).all():
            return None
        found = found.astype(np.float64)
    if "T" in front and sizes[-1] == 0 and not all(layout.has_time for layout in network.model._graph.outputs.values()):
        return None  # an answer to the whole chunk needs one step
    if "B" not in front:
        found = found[None]
    return found if "T" in front else found[:, None]


def one(networks: Mapping[str, Network], at: int) -> None:
    """The input of this number, handed over.

    Raises:
        InputError: it is refused, as it must be.
        WrongAnswerError: it is not what the contract says.
    """
    chance = Chance(at)
    network, (name, (front, ask)) = networks[chance.choice(sorted(networks))], chance.choice(list(WAYS.items()))
    value = an_input(chance, front, network.inner, network.symbols)
    chunk = meant(value, front, network, any_rows=name == "Model.run")
    try:
        answer = ask(network.model, value)
    except InputError as error:
        if chunk is not None:
            raise WrongAnswerError(f"{name} refuses {value!r:.100}: {error}") from error
        raise
    if chunk is None:
        raise WrongAnswerError(f"{name} answers {value!r:.100}, which the contract refuses")
    answers = answer if isinstance(answer, dict) else {next(iter(network.model._graph.outputs)): answer}
    expected = network.answers(chunk)
    for output, found in answers.items():
        rows = found if "B" in front else found[None]
        has_time = network.model._graph.outputs[output].has_time
        whole = rows if "T" in front or not has_time else rows[:, None]
        if whole.shape[: 1 + has_time] != chunk.shape[: 1 + has_time]:
            raise WrongAnswerError(f"{name}: {output} of the shape {found.shape} for {value!r:.100}")
        large = chunk.size and np.abs(chunk).max() > LARGE
        if chunk.shape[1] and not large and not np.allclose(whole, expected[output], rtol=1e-4, atol=1e-5):
            raise WrongAnswerError(f"{name}: {output} is another than numpy's for {value!r:.100}")


def _networks() -> dict[str, Network]:
    models = {path.stem: load(path) for path in sorted(GOLDEN.glob("*.onnx"))} | {"running_sum": load(handmade.running_sum())}
    return {name: Network(model, reference.step_of(model)) for name, model in models.items()}


def _many(numbers: range, kinds: mmap.mmap) -> None:
    """Hand over the inputs of these numbers, and note what became of each."""
    networks = _networks()
    for place, at in enumerate(numbers):
        kinds[place] = 1 + KINDS.index(classify(partial(one, networks, at))[0])


def _alone(at: int) -> None:
    one(_networks(), at)


def run(count: int, seed: int) -> Tally:
    tally = Tally()
    for first in range(0, count, EACH):
        numbers = range(seed * count + first, seed * count + min(first + EACH, count))
        kinds = mmap.mmap(-1, EACH)
        outcome = attempt(partial(_many, numbers, kinds), LIMITS)
        tally.peak = max(tally.peak, outcome.peak)
        for place, at in enumerate(numbers):
            kind = KINDS[kinds[place] - 1] if kinds[place] else None
            if kind in WELL:
                tally.counts[kind] += 1
            else:  # what it said, or that it ended the process
                tally.add(f"input {at}", attempt(partial(_alone, at), LIMITS))
        tally.require(
            outcome.kind == "correct", f"inputs {numbers[0]} to {numbers[-1]} together: {outcome.kind}: {outcome.said}"
        )
    return tally


FAULT: Final = Fault(
    "F3",
    "inputs of every kind",
    "Each is answered as numpy answers it, or refused where the contract says so.",
    full=20_000,
    reduced=2_000,
    run=run,
)
