"""How long calls took."""

import time
from array import array
from collections.abc import Callable
from threading import Lock
from typing import Any, Final, final

from rnnx_runtime._errors import InputError
from rnnx_runtime._inputs import real

_KEPT: Final = 4096  # durations that the percentiles are taken over: the latest


@final
class Stats:
    """The durations of a stream's or a pool's calls, since `measure` was called.

    Attributes:
        calls: how many there were; those that failed are not counted.
        steps: how many steps they answered; of a pool, summed over its streams.
        deadline_ms: what a call may take; None for any time.
        deadline_misses: how many took longer.
        max_ms: what the longest took.
    """

    def __init__(self, deadline_ms: float | None) -> None:
        if deadline_ms is not None and real("deadline_ms", deadline_ms) <= 0:
            raise InputError(f"deadline_ms must be above 0, got {deadline_ms}")
        self.calls = 0
        self.steps = 0
        self.deadline_ms = deadline_ms
        self.deadline_misses = 0
        self.max_ms = 0.0
        self._latest = array("d")
        self._lock = Lock()

    @property
    def p50_ms(self) -> float:
        """What half of the latest 4096 calls stayed under; NaN before the first."""
        return self._percentile(0.5)

    @property
    def p99_ms(self) -> float:
        """What all but a hundredth of the latest 4096 calls stayed under; NaN before the first."""
        return self._percentile(0.99)

    def __str__(self) -> str:
        text = f"{self.steps} steps in {self.calls} calls: p50 {self.p50_ms:.3f} ms, p99 {self.p99_ms:.3f} ms, max {self.max_ms:.3f} ms"
        return text if self.deadline_ms is None else f"{text}, {self.deadline_misses} over {self.deadline_ms:g} ms"

    def timed(self, call: Callable[..., Any], position: Callable[[], int]) -> Callable[..., Any]:
        """`call`, with each duration written down, for this package; it moves `position` by the steps that it answers."""
        clock = time.perf_counter

        def measured(*x: Any, **named: Any) -> Any:
            before, started = position(), clock()
            answer = call(*x, **named)
            self.add((clock() - started) * 1e3, position() - before)
            return answer

        return measured

    def add(self, milliseconds: float, steps: int) -> None:
        """One more call took so long; for this package."""
        with self._lock:
            self._count(milliseconds, steps)

    def _count(self, milliseconds: float, steps: int) -> None:
        latest = self._latest
        if len(latest) < _KEPT:
            latest.append(milliseconds)
        else:
            latest[self.calls % _KEPT] = milliseconds
        self.calls += 1
        self.steps += steps
        self.max_ms = max(self.max_ms, milliseconds)
        if self.deadline_ms is not None and milliseconds > self.deadline_ms:
            self.deadline_misses += 1

    def _percentile(self, part: float) -> float:
        ordered = sorted(self._latest)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")
