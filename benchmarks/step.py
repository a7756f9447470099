"""How long does one step take? B = 1, T = 1, the state carried, the logits as an array."""

from collections.abc import Sequence
from typing import Final

import msgspec

from benchmarks.heat import Heat, step_heat
from benchmarks.models import MODELS, LSTM_1x20, LSTM_1x1024, LSTM_2x128, LSTM_2x512, RNN_2x8
from benchmarks.peers import ALL, BoundExported, BoundMinimal, Cells, Eager, Ours
from benchmarks.question import Question, Setting, Target
from benchmarks.tables import heats_table, largest_difference, percentiles_table, skipped


class Figures(msgspec.Struct, frozen=True):
    """A heat for each model, by its name."""

    heats: dict[str, Heat]


def measure(setting: Setting) -> Figures:
    seconds = setting.of(8.0, 1.0, 0.02)
    sizes = setting.of(MODELS, MODELS, (RNN_2x8, LSTM_1x20))
    return Figures({size.name: step_heat([peer() for peer in ALL], setting.subject(size), 1, seconds) for size in sizes})


def page(figures: Figures) -> str:
    return (
        "Microseconds per step, the median; in brackets how many times as long as rnnx, the median of the ratios within a round.\n\n"
        + heats_table(figures.heats)
        + "\nThe 99th percentile, microseconds:\n\n"
        + percentiles_table(figures.heats)
        + largest_difference(figures.heats.values())
        + skipped(figures.heats)
    )


def targets(figures: Figures) -> Sequence[Target]:
    found = []
    for size in (RNN_2x8, LSTM_1x20, LSTM_2x128, LSTM_2x512, LSTM_1x1024):
        if (heat := figures.heats.get(size.name)) is None:
            continue
        small = size.hidden <= 128
        bare, exported = heat.ratio(Ours.name, BoundMinimal.name), heat.ratio(BoundExported.name, BoundMinimal.name)
        found.append(
            Target(
                f"`Stream.step` over a bare binding on the minimal graph, {size.name}", 1.25 if small else 1.05, False, bare
            )
        )
        found.append(Target(f"the exported graph over the minimal one, both bare, {size.name}", 1.05, False, exported))
        if small:
            found.append(
                Target(
                    f"faster than PyTorch cells, {size.name}",
                    3.5,
                    True,
                    heat.ratio(Cells.name),
                    heat.ratio(Cells.name, BoundMinimal.name),
                )
            )
            found.append(
                Target(
                    f"faster than PyTorch `nn.*`, {size.name}",
                    10,
                    True,
                    heat.ratio(Eager.name),
                    heat.ratio(Eager.name, BoundMinimal.name),
                )
            )
    return found


QUESTION: Final = Question("step", "How long does one step take?", Figures, measure, page, targets)

if __name__ == "__main__":
    QUESTION.main()
