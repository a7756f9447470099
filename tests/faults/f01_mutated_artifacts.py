"""F1: an artifact that was damaged on its way. The seal is what finds it: half of such files are valid models, with other weights."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from tests.faults.harness import Fault, Limits, Tally, WrongAnswerError, attempt, percentile

from rnnx_runtime import load

GOLDEN: Final = Path(__file__).parent.parent / "golden"
LIMITS: Final = Limits(seconds=10)
Damage = Callable[[bytearray, random.Random], None]


def a_bit(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def a_byte(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] = chance.randrange(256)


def four_bytes(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data) - 4)
    data[at : at + 4] = chance.randbytes(4)


def the_end(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def a_piece(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    del data[at : at + chance.randrange(1, 64)]


def more(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    data[at:at] = chance.randbytes(chance.randrange(1, 64))


def twice(data: bytearray, chance: random.Random) -> None:
    at, size = chance.randrange(len(data)), chance.randrange(1, 512)
    data[at:at] = data[at : at + size]


def zeros(data: bytearray, chance: random.Random) -> None:
    at, size = chance.randrange(len(data)), chance.randrange(1, 512)
    data[at : at + size] = bytes(len(data[at : at + size]))


def swapped(data: bytearray, chance: random.Random) -> None:
    at, other = chance.randrange(len(data)), chance.randrange(len(data))
    data[at], data[other] = data[other], data[at]


DAMAGES: Final[tuple[Damage, ...]] = (a_bit, a_byte, four_bytes, the_end, a_piece, more, twice, zeros, swapped)


def run(count: int, seed: int) -> Tally:
    tally, chance = Tally(), random.Random(seed)
    wholes = [path.read_bytes() for path in sorted(GOLDEN.glob("*.onnx"))]
    while sum(tally.counts.values()) < count:
        whole, damage = chance.choice(wholes), chance.choice(DAMAGES)
        data = bytearray(whole)
        damage(data, chance)
        if data != whole:
            tally.add(damage.__name__, attempt(partial(_open, bytes(data)), LIMITS), ["error"])
    allowed = 0.05 + 0.0012 * max(map(len, wholes)) / 2**20
    slowest = percentile(tally.seconds, 99)
    tally.require(slowest < allowed, f"the slowest hundredth takes {slowest * 1e3:.1f} ms, more than {allowed * 1e3:.1f} ms")
    return tally


def _open(data: bytes) -> None:
    load(data)
    raise WrongAnswerError("a damaged artifact is loaded")


FAULT: Final = Fault(
    "F1",
    "mutated artifacts",
    "Each is refused with one of our errors; 99 of 100 within 50 ms and 1.2 ms per MB.",
    full=10_000,
    reduced=600,
    run=run,
)
