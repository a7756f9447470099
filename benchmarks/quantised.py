"""How long does a step take with weights of 8 and 4 bits, beside the fastest in float32 and others of few bits?"""

from collections.abc import Sequence
from typing import Final, final

import msgspec

from benchmarks.heat import Heat, step_heat
from benchmarks.models import GRU_2x256, LSTM_1x1024, LSTM_2x128, LSTM_2x512
from benchmarks.peers import (
    BoundDynamic,
    BoundMinimal,
    LiteRt,
    Ncnn,
    Numpy,
    OpenVino,
    OpenVinoDefault,
    Ours,
    Peer,
    Run,
    Subject,
)
from benchmarks.question import Question, Setting, Target
from benchmarks.tables import differences_table, heats_table, skipped
from rnnx_runtime import load

_FLOAT32: Final = (Ours, BoundMinimal, LiteRt, OpenVino, Ncnn, Numpy)
_ROUGH: Final = 0.2  # how far logits may be off before a contender of few bits is wrong, and not only rough


@final
class Quantised(Peer):
    """`Stream.step` of what `rnnx.quantize` makes."""

    def __init__(self, setting: Setting, bits: int) -> None:
        self._setting, self._bits = setting, bits
        self.name = f"rnnx, {bits} bits"  # type: ignore[misc]

    def step(self, subject: Subject, batch: int) -> Run:
        return load(self._setting.quantised(subject.size, self._bits).path).stream(batch).step


def peers(setting: Setting) -> list[Peer]:
    return [*(peer() for peer in _FLOAT32), Quantised(setting, 8), Quantised(setting, 4), BoundDynamic(), OpenVinoDefault()]


class Figures(msgspec.Struct, frozen=True):
    """A heat for each model, by its name."""

    heats: dict[str, Heat]


def measure(setting: Setting) -> Figures:
    sizes = setting.of((LSTM_2x128, GRU_2x256, LSTM_2x512, LSTM_1x1024), (LSTM_2x128, LSTM_2x512), (LSTM_2x128,))
    heats = {}
    for size in sizes:
        entered = peers(setting)
        rough = {peer.name: _ROUGH for peer in entered[len(_FLOAT32) :]}
        heats[size.name] = step_heat(entered, setting.subject(size), 1, setting.of(6.0, 1.5, 0.02), rough)
    return Figures(heats)


def page(figures: Figures) -> str:
    return (
        "Microseconds per step, B = 1; in brackets how many times as long as rnnx in float32.\n\n"
        + heats_table(figures.heats)
        + "\nThe largest difference of the logits from eager PyTorch's over 16 steps, relative above 1. The weights are random and "
        "the logits small, so these are bounds on arithmetic and not what a text loses: `rnnx quantize` measures that for a trained model.\n\n"
        + differences_table(figures.heats)
        + skipped(figures.heats)
    )


def targets(figures: Figures) -> Sequence[Target]:
    found = []
    for size, limit in ((LSTM_2x512, 2.5), (LSTM_1x1024, 3.5)):
        if (heat := figures.heats.get(size.name)) is not None:
            best = heat.best(peer.name for peer in _FLOAT32)
            found.append(
                Target(
                    f"8 bits over the best in float32 ({best}), {size.name}",
                    limit,
                    True,
                    heat.ratio(best or "", "rnnx, 8 bits"),
                )
            )
    return found


QUESTION: Final = Question(
    "quantised", "How long does a step take with weights of 8 and 4 bits?", Figures, measure, page, targets
)

if __name__ == "__main__":
    QUESTION.main()
