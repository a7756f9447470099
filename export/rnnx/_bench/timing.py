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
from functools import cached_property
from typing import Final

_SPELL_SECONDS: Final = 0.01  # of one contender, before the next has its turn
_SHORTEST_SPELL: Final = 0.001  # where there are many contenders and little time
_WARM_CALLS: Final = 3  # not counted, at the beginning of each spell: the caches hold another contender's data
_LEAST_ROUNDS: Final = 5
_TRIED: Final = 8  # cores
_TRIAL_SECONDS: Final = 0.03  # of each: several of the system's slices


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
    def calls(self) -> int:
        """How many there are durations of."""
        return len(self._ordered)

    @property
    def median(self) -> float:
        """Seconds for one unit that half of the calls stayed under."""
        return self.percentile(0.5)

    @property
    def p99(self) -> float:
        """Seconds for one unit that all but a hundredth of the calls stayed under; of fewer than a hundred, the longest."""
        return self.percentile(0.99)

    def percentile(self, part: float) -> float:
        """Seconds for one unit that this part of the calls stayed under."""
        ordered = self._ordered
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] / self.units

    @cached_property
    def _ordered(self) -> list[float]:
        return sorted(call for spell in self.seconds for call in spell)

    @property
    def spread(self) -> float:
        """How far apart the middle half of the rounds is, in multiples of the median: what the machine does besides."""
        rounds = sorted(statistics.median(spell) for spell in self.seconds)
        return (rounds[3 * len(rounds) // 4] - rounds[len(rounds) // 4]) / statistics.median(rounds)

    def over(self, other: "Timing") -> Ratio:
        """How many times the other's time for one unit it takes, round by round."""
        ratios = sorted(
            statistics.median(mine) / self.units / (statistics.median(others) / other.units)
            for mine, others in zip(self.seconds, other.seconds, strict=True)
        )
        return Ratio(statistics.median(ratios), ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4])


def measure(
    contenders: Mapping[str, Callable[[], object]],
    seconds: float,
    units: Mapping[str, int] | None = None,
    progress: Callable[[float], None] = lambda done: None,
) -> dict[str, Timing]:
    """Time the contenders by turns.

    Args:
        contenders: what is called, by name.
        seconds: how long all of it may take, more or less: at least 5 rounds are made.
        units: what one call answers, where that is not one.
        progress: called between two rounds, with the share of the time that is over.
    """
    spell = max(_SHORTEST_SPELL, min(_SPELL_SECONDS, seconds / (_LEAST_ROUNDS * len(contenders))))
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in contenders}
    order = list(contenders)
    shuffled = random.Random(0)  # noqa: S311
    with _undisturbed():
        for call in contenders.values():
            call()
        begin = time.perf_counter()
        while len(found[order[0]]) < _LEAST_ROUNDS or time.perf_counter() < begin + seconds:
            shuffled.shuffle(order)
            for name in order:
                found[name].append(_spell(contenders[name], spell))
            progress(min(1.0, (time.perf_counter() - begin) / seconds))
    return {name: Timing(tuple(spells), (units or {}).get(name, 1)) for name, spells in found.items()}


def _spell(call: Callable[[], object], seconds: float) -> tuple[float, ...]:
    """What the calls of one contender took, at least one; those of large models are longer than a spell."""
    clock = time.perf_counter
    end = clock() + seconds
    for _ in range(_WARM_CALLS):
        call()
        if clock() >= end:
            break
    durations: list[float] = []
    now = clock()
    end = now + seconds
    while not durations or now < end:
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
    """Keep the thread, and those it starts, on one core, where the system can: on that which others use least; its number."""
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = os.sched_getaffinity(0)
    try:
        tried = sorted(before)[-_TRIED:]  # the first one has the interrupts
        core = max(tried, key=lambda one: (_share_of(one), one)) if len(tried) > 1 else tried[0]
        os.sched_setaffinity(0, {core})
        yield core
    finally:
        os.sched_setaffinity(0, before)


def _share_of(core: int) -> float:
    """Which share of a core's time this thread gets, in hundredths: the rest is taken by other programs."""
    os.sched_setaffinity(0, {core})
    with taken_by_others() as taken:
        end = time.perf_counter() + _TRIAL_SECONDS
        while time.perf_counter() < end:
            pass
    return round(1 - taken(), 2)


@contextmanager
def taken_by_others() -> Iterator[Callable[[], float]]:
    """A function that says, behind the block, which share of its time this process did not compute, in one thread or more.

    On one core, in a block that never waits, that is what other programs took of it.
    """
    began, used, found = time.perf_counter(), time.process_time(), [0.0]
    yield lambda: found[0]
    wall = time.perf_counter() - began
    found[0] = max(0.0, 1 - (time.process_time() - used) / wall)
