"""Contenders timed side by side: by turns, in short spells, so that a machine that gets slower does so for all of them.

The machine's speed drifts by half within minutes; two medians taken one after the other say little about each other. Here all
contenders have a turn in each round, and a ratio is that of two medians of the same round.
"""

import gc
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

_SPELL_SECONDS: Final = 0.01  # of one contender, before the next has its turn
_WARM_CALLS: Final = 3  # not counted, at the beginning of each spell: the caches hold another contender's data
_LEAST_CALLS: Final = 3  # counted, in each spell
_LEAST_ROUNDS: Final = 5


@dataclass(frozen=True)
class Ratio:
    """How many times longer one contender takes than another: the median over the rounds, and the middle half of them."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Timing:
    """What calls of one contender took.

    Attributes:
        seconds: each call's duration, by round.
        units: how many steps, tokens, ... one call answers; what follows is for one of them.
    """

    seconds: tuple[tuple[float, ...], ...]
    units: int = 1

    @property
    def median(self) -> float:
        """Seconds for one unit that half of the calls stayed under."""
        return self.percentile(0.5)

    @property
    def p99(self) -> float:
        """Seconds for one unit that all but a hundredth of the calls stayed under."""
        return self.percentile(0.99)

    def percentile(self, part: float) -> float:
        """Seconds for one unit that this part of the calls stayed under."""
        ordered = sorted(call for spell in self.seconds for call in spell)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] / self.units

    def over(self, other: "Timing") -> Ratio:
        """How many times the other's time for one unit it takes, round by round."""
        ratios = sorted(
            statistics.median(mine) / self.units / (statistics.median(others) / other.units)
            for mine, others in zip(self.seconds, other.seconds, strict=True)
        )
        return Ratio(statistics.median(ratios), ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4])


def measure(
    contenders: Mapping[str, Callable[[], object]], seconds: float, units: Mapping[str, int] | None = None
) -> dict[str, Timing]:
    """Time the contenders by turns.

    Args:
        contenders: what is called, by name.
        seconds: how long all of it may take, more or less: at least 5 rounds are made.
        units: what one call answers, where that is not one.
    """
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in contenders}
    order = list(contenders)
    shuffled = random.Random(0)  # noqa: S311
    with _undisturbed():
        for call in contenders.values():
            call()
        end = time.perf_counter() + seconds
        while len(found[order[0]]) < _LEAST_ROUNDS or time.perf_counter() < end:
            shuffled.shuffle(order)
            for name in order:
                found[name].append(_spell(contenders[name]))
    return {name: Timing(tuple(spells), (units or {}).get(name, 1)) for name, spells in found.items()}


def _spell(call: Callable[[], object]) -> tuple[float, ...]:
    clock = time.perf_counter
    for _ in range(_WARM_CALLS):
        call()
    durations = []
    end = clock() + _SPELL_SECONDS
    now = clock()
    while len(durations) < _LEAST_CALLS or now < end:
        before = now
        call()
        now = clock()
        durations.append(now - before)
    return tuple(durations)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No garbage is collected between two calls."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextmanager
def on_one_core() -> Iterator[int | None]:
    """Keep the thread, and those it starts, on one core, where the system can do so; the core's number."""
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = os.sched_getaffinity(0)
    core = max(before)  # the first one has the interrupts
    os.sched_setaffinity(0, {core})
    try:
        yield core
    finally:
        os.sched_setaffinity(0, before)
