"""A heat: contenders do the same work, are compared with eager PyTorch, and are then timed by turns."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
import torch

from benchmarks.models import Array, Size
from benchmarks.peers import NotApplicableError, Ours, Peer, Run, Subject
from rnnx._bench.timing import Timing, measure

_TOLERANCE: Final = 1e-5  # relative above 1: float32 against float32 over some dozens of steps
_DIFFERENT: Final = 16  # steps, each with other tokens; then they begin again


class Entry(msgspec.Struct, frozen=True):
    """What one contender took for one unit: a step, a token, ...

    Attributes:
        us: microseconds: rnnx's median over all calls, times the ratio; so both say the same where the machine changed its speed.
        p99: that 99 of 100 calls stayed under.
        spread: the middle half of the rounds, in multiples of the median: how restless the machine was.
        ratio, low, high: how many times as long as rnnx it took, in the same round: the median and the middle half of the rounds.
        difference: from eager PyTorch, the largest, relative above 1.
    """

    us: float
    p99: float
    spread: float
    ratio: float
    low: float
    high: float
    difference: float


class Heat(msgspec.Struct, frozen=True):
    """The contenders by name, and why others took no part."""

    entries: dict[str, Entry]
    skipped: dict[str, str]

    def ratio(self, name: str, to: str = Ours.name) -> float | None:
        """How many times as long as the other it took; None where one of them took no part."""
        if name not in self.entries or to not in self.entries:
            return None
        return self.entries[name].ratio / self.entries[to].ratio

    def best(self, names: Iterable[str]) -> str | None:
        """The fastest of these."""
        here = [name for name in names if name in self.entries]
        return min(here, key=lambda name: self.entries[name].ratio, default=None)


class Contest:
    """Contenders on their way to a heat."""

    def __init__(self) -> None:
        self.skipped: dict[str, str] = {}
        self._calls: dict[str, Callable[[], object]] = {}
        self._differences: dict[str, float] = {}
        self._units: dict[str, int] = {}

    def enter(
        self, name: str, build: Callable[[], tuple[Callable[[], object], float]], tolerance: float, units: int = 1
    ) -> None:
        """Prepare a contender; one that cannot run, fails or answers something else is skipped, with the reason.

        Args:
            build: what is timed, and how far its answers are from what they should be.
        """
        try:
            call, difference = build()
        except NotApplicableError as error:
            self.skipped[name] = str(error)
        except Exception as error:
            self.skipped[name] = f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        else:
            if difference <= tolerance:
                self._calls[name], self._differences[name], self._units[name] = call, difference, units
            else:
                self.skipped[name] = f"wrong: off by {difference:.1e}"

    def run(self, seconds: float, reference: str = Ours.name) -> Heat:
        """Time those that are right. All ratios are to the reference, which must be among them."""
        if reference not in self._calls:
            raise RuntimeError(f"{reference} must take part in a heat: {self.skipped.get(reference)}")
        timings = measure(self._calls, seconds, self._units)
        entries = {name: _entry(timing, timings[reference], self._differences[name]) for name, timing in timings.items()}
        return Heat(entries, self.skipped)


def _entry(timing: Timing, reference: Timing, difference: float) -> Entry:
    ratio = timing.over(reference)
    figures = (
        reference.median * ratio.median * 1e6,
        timing.p99 * 1e6,
        timing.spread,
        ratio.median,
        ratio.low,
        ratio.high,
        difference,
    )
    return Entry(*(float(f"{figure:.4g}") for figure in figures))


def difference(found: Array, wanted: Array) -> float:
    """The largest, relative above 1; infinite where the shapes differ or a value is none."""
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    return float((np.abs(found - wanted) / np.maximum(1, np.abs(wanted))).max(initial=0))


def eager(size: Size, tokens: Array) -> Array:
    """What PyTorch answers to whole sequences from the first state: `(B, T)` → `(B, T, V)`."""
    with torch.inference_mode():
        answer: Array = size.module()(torch.from_numpy(tokens)).numpy()
    return answer


def step_heat(
    peers: Sequence[Peer], subject: Subject, batch: int, seconds: float, tolerances: Mapping[str, float] = {}
) -> Heat:
    """One step of B streams, over and over, each with other tokens."""
    tokens = subject.size.tokens(batch, _DIFFERENT)
    calls = [np.ascontiguousarray(tokens[:, at]) for at in range(_DIFFERENT)]
    wanted = eager(subject.size, tokens)
    return _heat(peers, lambda peer: peer.step(subject, batch), calls, wanted, 1, seconds, tolerances)


def chunk_heat(peers: Sequence[Peer], subject: Subject, steps: int, seconds: float) -> Heat:
    """A chunk of T steps of one stream, over and over; figures are for one step."""
    tokens = subject.size.tokens(1, 2 * steps)
    calls = [np.ascontiguousarray(tokens[:, :steps]), np.ascontiguousarray(tokens[:, steps:])]
    wanted = eager(subject.size, tokens)
    return _heat(peers, lambda peer: peer.chunk(subject, steps), calls, wanted, steps, seconds, {})


def _heat(
    peers: Sequence[Peer],
    run_of: Callable[[Peer], Run],
    calls: list[Array],
    wanted: Array,
    units: int,
    seconds: float,
    tolerances: Mapping[str, float],
) -> Heat:
    contest = Contest()
    with torch.inference_mode():
        for peer in peers:
            why = peer.unavailable()
            if why is not None:
                contest.skipped[peer.name] = why
                continue

            def build(peer: Peer = peer) -> tuple[Callable[[], object], float]:
                run = run_of(peer)
                given = [peer.given(call) for call in calls]
                answers = [np.array(run(call)) for call in given]  # copies: some answer with an array that they use again
                found = np.stack(answers, axis=1) if wanted.ndim > answers[0].ndim else np.concatenate(answers, axis=1)
                following = itertools.cycle(given).__next__
                return (lambda: run(following())), difference(found, wanted)

            contest.enter(peer.name, build, tolerances.get(peer.name, _TOLERANCE), units * peer.repeats)
        return contest.run(seconds)
