"""How long does a step take in a chunk of 64 that is known beforehand? B = 1, the state carried from chunk to chunk."""

from collections.abc import Sequence
from typing import Final

import msgspec

from benchmarks.heat import Heat, chunk_heat
from benchmarks.models import MODELS, LSTM_1x20, LSTM_2x128, LSTM_2x512, RNN_2x8
from benchmarks.peers import ALL, Ours, SessionRun
from benchmarks.question import Question, Setting, Target
from benchmarks.tables import heats_table, largest_difference, skipped

STEPS: Final = 64


class Figures(msgspec.Struct, frozen=True):
    """A heat for each model, by its name."""

    heats: dict[str, Heat]


def measure(setting: Setting) -> Figures:
    seconds = setting.of(4.0, 0.8, 0.02)
    sizes = setting.of(MODELS, (LSTM_1x20, LSTM_2x128, LSTM_2x512), (RNN_2x8,))
    return Figures({size.name: chunk_heat([p() for p in ALL], setting.subject(size), STEPS, seconds) for size in sizes})


def page(figures: Figures) -> str:
    return (
        f"Microseconds per step of a chunk of {STEPS}; in brackets how many times as long as rnnx. `feed` answers with arrays of "
        "the caller's own, as `session.run` does; the bindings answer with one that the next call overwrites.\n\n"
        + heats_table(figures.heats)
        + largest_difference(figures.heats.values())
        + skipped(figures.heats)
    )


def targets(figures: Figures) -> Sequence[Target]:
    what = f"`Stream.feed` of {STEPS} steps over one `session.run` of the same chunk"
    return [
        Target(f"{what}, {name}", 1.05, False, heat.ratio(Ours.name, SessionRun.name)) for name, heat in figures.heats.items()
    ]


QUESTION: Final = Question(
    "chunk", f"How long does a step take in a chunk of {STEPS} that is known beforehand?", Figures, measure, page, targets
)

if __name__ == "__main__":
    QUESTION.main()
