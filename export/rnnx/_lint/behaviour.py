"""Rules about what running a model shows: chunks and the whole, rows and their neighbours, one call and the next."""

from collections.abc import Iterator
from typing import Final

from rnnx._lint.model import LintedModel
from rnnx._lint.nodes import LSTM_INT8
from rnnx._lint.rules import Found, Rules

RULES: Final = Rules("Behaviour")

_CHUNKS: Final = 1e-4  # relative, above 1: what whole and chunks may differ by; exports that are right differ by 1e-6
_CHUNKS_INT8: Final = 0.1  # where each chunk is quantised on a scale of its own
_ROWS: Final = 1e-5


@RULES.add(
    "steps-differ",
    "error",
    finds="chunks, with the states fed back, that give other answers than the whole sequence",
    consequence="A stream gets wrong answers: a state is missing or wrongly paired, or the model looks ahead in time.",
    remedy="Export again with `rnnx export`, which proves this; where only the pairs are mistaken, name them: "
    "`rnnx adopt --state IN=OUT`.",
)
def steps_differ(model: LintedModel) -> Iterator[Found]:
    manifest = model.manifest
    if model.trials is None or (manifest is not None and (not manifest.streamable or manifest.chunks_matter_because)):
        return
    for name, apart in model.trials.steps.items():
        if not apart <= (_CHUNKS_INT8 if _coupled(model) else _CHUNKS):
            yield Found(f"output {name!r}", f"two chunks differ from the whole by {apart:.1e}")


@RULES.add(
    "rows-depend",
    "error",
    finds="a row of the batch whose answers change with the other rows",
    consequence="Streams that run together disturb each other.",
    remedy="Look for what computes over the batch axis: a Softmax or a mean over the wrong axis, batch statistics.",
)
def rows_depend(model: LintedModel) -> Iterator[Found]:
    for name, apart in (model.trials.rows if model.trials is not None and not _coupled(model) else {}).items():
        if not apart <= _ROWS:
            yield Found(f"output {name!r}", f"the first row moved by {apart:.1e} when only the others were changed")


@RULES.add(
    "coupled-rows",
    "warning",
    finds="operators that quantise what passes through them, all rows of the batch on one scale",
    consequence="A loud row takes precision from the others, so a stream's answers depend on its neighbours, and on how it is cut into chunks.",
    remedy="Run one stream at a time, or round the weights only: `rnnx quantize`, which keeps rows apart.",
)
def coupled_rows(model: LintedModel) -> Iterator[Found]:
    for node in model.nodes:
        if node.operator in ("DynamicQuantizeLinear", LSTM_INT8):
            moved = max((model.trials.rows if model.trials is not None else {}).values(), default=0.0)
            yield Found(
                node.where, f"one scale for all rows{f'; a row moved by {moved:.1e} with the others' if moved else ''}"
            )


@RULES.add(
    "not-repeatable",
    "error",
    finds="a second call with the same inputs that gives other answers",
    consequence="Answers cannot be reproduced.",
    remedy="Look for Dropout in training mode and random operators; export in eval mode, as `rnnx export` does.",
)
def not_repeatable(model: LintedModel) -> Iterator[Found]:
    for name, apart in (model.trials.repeated if model.trials is not None else {}).items():
        if apart:
            yield Found(f"output {name!r}", f"moved by {apart:.1e} from one call to the next")


def _coupled(model: LintedModel) -> bool:
    return any(node.operator in ("DynamicQuantizeLinear", LSTM_INT8) for node in model.nodes)
