"""How many steps per second do many streams of one model take together, on one core?"""

from collections.abc import Sequence
from typing import Any, Final, final

import msgspec

from benchmarks.heat import Heat, step_heat
from benchmarks.models import MODELS, GRU_2x256, LSTM_2x128, RNN_2x8
from benchmarks.peers import BoundMinimal, Cells, Eager, LiteRt, Numpy, OpenVino, Ours, Peer, Run, SessionRun, Subject
from benchmarks.question import Question, Setting, Target
from benchmarks.tables import figure, largest_difference, skipped, table
from rnnx_runtime import load

BATCHES: Final = (1, 8, 64, 256)


@final
class Pool(Peer):
    """`Pool.step` of the same streams each time: each has joined by itself, answers by stream."""

    name = "rnnx pool"

    def given(self, tokens: Any) -> dict[int, int]:
        return dict(enumerate(tokens.tolist()))

    def step(self, subject: Subject, batch: int) -> Run:
        step = load(subject.path).pool().step
        return lambda tokens: list(step(tokens).values())


@final
class PoolByTurns(Peer):
    """`Pool.step` of two halves by turns: each call gathers the states of other streams than the one before."""

    name = "rnnx pool, others each time"
    repeats = 2

    def given(self, tokens: Any) -> tuple[dict[int, int], dict[int, int]]:
        one = dict(enumerate(tokens.tolist()))
        return one, {-1 - key: token for key, token in one.items()}

    def step(self, subject: Subject, batch: int) -> Run:
        step = load(subject.path).pool().step

        def run(halves: Any) -> Any:
            one, other = halves
            step(other)
            return list(step(one).values())

        return run


@final
class OneByOne(Peer):
    """`Stream.step` of one stream after the other: what a program without a pool does."""

    name = "rnnx, one stream at a time"

    def given(self, tokens: Any) -> Any:
        return list(tokens[:, None])

    def step(self, subject: Subject, batch: int) -> Run:
        model = load(subject.path)
        steps = [model.stream().step for _ in range(batch)]
        return lambda tokens: [step(token)[0] for step, token in zip(steps, tokens, strict=True)]


PEERS: Final = (Ours, Pool, PoolByTurns, OneByOne, BoundMinimal, SessionRun, LiteRt, OpenVino, Numpy, Cells, Eager)


class Figures(msgspec.Struct, frozen=True):
    """A heat for each model and number of streams; microseconds are those of one step of all of them."""

    heats: dict[str, dict[int, Heat]]


def measure(setting: Setting) -> Figures:
    seconds = setting.of(1.8, 0.3, 0.01)
    sizes = setting.of(MODELS, (RNN_2x8, LSTM_2x128, GRU_2x256), (RNN_2x8,))
    batches = setting.of(BATCHES, BATCHES, (1, 8))
    return Figures(
        {
            size.name: {b: step_heat([peer() for peer in PEERS], setting.subject(size), b, seconds) for b in batches}
            for size in sizes
        }
    )


def per_second(heat: Heat, name: str, streams: int) -> float | None:
    """Steps of all streams, by the median."""
    return streams / heat.entries[name].us * 1e6 if name in heat.entries else None


def page(figures: Figures) -> str:
    parts = [
        "Thousands of steps per second over all streams; in brackets the time of a call as a multiple of that of `model.stream(B).step`, "
        "*rnnx*. The pool answers a mapping by stream, and takes one.\n"
    ]
    for name, heats in figures.heats.items():
        names = dict.fromkeys(one for heat in heats.values() for one in heat.entries)
        rows = [[one, *(_cell(heat, one, streams) for streams, heat in heats.items())] for one in names]
        parts.append(f"**{name}**\n\n" + table(["", *(f"B = {streams}" for streams in heats)], rows))
        parts.append(skipped({f"B = {streams}": heat for streams, heat in heats.items()}))
    parts.append(largest_difference(heat for heats in figures.heats.values() for heat in heats.values()))
    return "\n".join(parts)


def _cell(heat: Heat, name: str, streams: int) -> str:
    rate = per_second(heat, name, streams)
    return "" if rate is None else f"{figure(rate / 1e3)} ({heat.entries[name].ratio:.2f})"


def targets(figures: Figures) -> Sequence[Target]:
    found = []
    if (heat := figures.heats.get(LSTM_2x128.name, {}).get(256)) is not None:
        what = f"a pool of 256 streams over one stream at a time, steps per second, {LSTM_2x128.name}"
        found.append(
            Target(what, 10, True, heat.ratio(OneByOne.name, Pool.name), heat.ratio(OneByOne.name, BoundMinimal.name))
        )
    for name, heats in figures.heats.items():
        if 256 in heats and name in {LSTM_2x128.name, GRU_2x256.name}:
            what = f"a pool of 256 streams over one bare call with a batch of 256, {name}"
            found.append(Target(what, 1.2, False, heats[256].ratio(Pool.name, BoundMinimal.name)))
            found.append(
                Target(f"{what}, other streams each time", 1.2, False, heats[256].ratio(PoolByTurns.name, BoundMinimal.name))
            )
    return found


QUESTION: Final = Question(
    "streams", "How many steps per second do many streams take together?", Figures, measure, page, targets
)

if __name__ == "__main__":
    QUESTION.main()
