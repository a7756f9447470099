"""Rules about states: whether they come in, go out, can be fed back, and make chunks equal to the whole."""

from collections.abc import Iterator
from typing import Final

from rnnx._lint.model import LintedModel
from rnnx._lint.nodes import Recurrent
from rnnx._lint.plan import Pair, extents, state_pairs
from rnnx._lint.rules import Found, Rules, Severity

RULES: Final = Rules("States and streaming")

_PRODUCTS: Final = ("Gemm", "MatMul")


@RULES.add(
    "baked-state",
    "warning",
    finds="a recurrence that begins with zeros or a constant, not with what the model is given",
    consequence="Every call begins anew: a stream fed in chunks gets other answers than the whole sequence, and nothing fails.",
    remedy="`rnnx adopt --lift` makes the state an input and an output; or export again with `rnnx export`.",
)
def baked_state(model: LintedModel) -> Iterator[Found]:
    for recurrent in _forward(model):
        origins = _origins(model, recurrent)
        baked = [kind for kind, how in origins.items() if how != "given"]
        if baked and not _one_step(model, recurrent):
            many = "s" if baked[1:] else ""
            said = f"its state{many} {' and '.join(baked)} {'begin' if many else 'begins'} with {origins[baked[0]]}"
            yield Found(recurrent.node.where, said + _afterwards(model, recurrent))
    if model.manifest is None:
        yield from _constant_products(model)


def _afterwards(model: LintedModel, recurrent: Recurrent) -> str:
    """What becomes of its last states."""
    out = [output for name in recurrent.final for output in model.outputs_that_show(name)]
    if out:
        return f"; the last goes out as {out[0]!r}, but none comes in"
    computed = [name for name in recurrent.final if name]
    return "; the last is computed, and nothing reads it" if computed and not any(map(model.readers, computed)) else ""


def _constant_products(model: LintedModel) -> Iterator[Found]:
    """Of an unfolded cell: the product of its weights with a state that is constant, which has one row or any number."""
    for node in model.nodes:
        shape = model.shape(node.input(0)) or (None,)
        one_row = all(size == 1 or isinstance(size, str) for size in shape[:-1]) and len(shape) > 1
        if node.operator in _PRODUCTS and one_row and not node.looped and model.is_constant(node.output(0)):
            yield Found(node.where, f"multiplies constants only, {node.input(0)!r} and weights: a state that begins anew")


@RULES.add(
    "one-step-forgets",
    "error",
    finds="a graph of one step, whose state begins with a constant at each call",
    consequence="It never remembers anything: every step is answered as if it were the first.",
    remedy="`rnnx adopt --lift` makes the state an input and an output; or export again with `rnnx export`.",
)
def one_step_forgets(model: LintedModel) -> Iterator[Found]:
    for recurrent in _forward(model):
        for kind, how in _origins(model, recurrent).items():
            if how != "given" and _one_step(model, recurrent):
                yield Found(recurrent.node.where, f"takes one step, and its state {kind} begins with {how}")


@RULES.add(
    "dropped-buffer",
    "error",
    finds="a buffer that the module's `forward` changes, which torch's exporter drops; the exporter's own notes tell",
    consequence="What the module remembers from call to call is a constant in the file: nothing is remembered.",
    remedy="Export again with `rnnx export`, which makes such a buffer a state.",
)
def dropped_buffer(model: LintedModel) -> Iterator[Found]:
    for name in mutated_buffers(model):
        if not is_statistic(name):
            yield Found(f"buffer {name!r}", "changed in forward, and not an output of the graph")


@RULES.add(
    "frozen-start",
    "error",
    finds="an initial state that is stored for one batch size, where batch is free",
    consequence="It runs for this batch size only; compilers were seen to give wrong answers for others.",
    remedy="`rnnx adopt --lift` makes the state an input for any batch; or export again with `rnnx export`.",
)
def frozen_start(model: LintedModel) -> Iterator[Found]:
    for recurrent in model.recurrent:
        given = model.shape(recurrent.node.input(0)) or ()
        for kind, name in zip(recurrent.kinds, recurrent.initial, strict=True):
            shape = model.shape(name) or () if name and model.is_constant(name) else ()
            if len(shape) == len(given) == 3 and isinstance(shape[1], int) and isinstance(given[1], str):
                yield Found(recurrent.node.where, f"initial_{kind}, {name!r}, is for batch {shape[1]}, the input for any")


@RULES.add(
    "lost-state",
    "warning",
    finds="a state that comes in, and whose last value does not go out",
    consequence="It can be set at the start but not carried on: a stream must be fed whole.",
    remedy="`rnnx adopt --lift` makes it an output; or export again with `rnnx export`.",
)
def lost_state(model: LintedModel) -> Iterator[Found]:
    for recurrent in _forward(model):
        for kind, name, last in zip(recurrent.kinds, recurrent.initial, recurrent.final, strict=True):
            given = model.inputs_seen_as(name) if name else []
            if given and not model.outputs_that_show(last):
                yield Found(recurrent.node.where, f"its state {kind} comes in as {given[0]!r}, and does not go out")


@RULES.add(
    "state-does-not-fit",
    "error",
    finds="a state that goes out in another type or shape than it comes in, or that cannot be fed back",
    consequence="The next call refuses it, or reads it wrongly.",
    remedy="Export again with `rnnx export`, which gives each state one shape.",
)
def state_does_not_fit(model: LintedModel) -> Iterator[Found]:
    ran = model.trials is not None and bool(model.trials.worked)
    for pair in state_pairs(model):
        before, after = model.inputs[pair.input], model.outputs[pair.output]
        if ran and model.trials is not None:
            if pair.input in model.trials.unfit:
                came, gone = model.trials.unfit[pair.input]
                yield Found(_named(pair), f"comes in as {came} and goes out as {gone}")
        elif before.dtype != after.dtype:
            yield Found(_named(pair), "comes in and goes out in different types")
        elif before.shape is not None and after.shape is not None:
            apart = [
                (a, b) for a, b in zip(before.shape, after.shape, strict=False) if isinstance(a, int) and isinstance(b, int)
            ]
            if len(before.shape) != len(after.shape) or any(a != b for a, b in apart):
                yield Found(_named(pair), f"comes in as {list(before.shape)} and goes out as {list(after.shape)}")
    if model.trials is not None and model.trials.not_fed_because:
        yield Found("the states", f"cannot be fed back: {model.trials.not_fed_because}")


@RULES.add(
    "idle-input",
    "error",
    "warning",
    finds="an input whose values change no output; an error for a state",
    consequence="What it is given has no effect: a state that is carried faithfully, and ignored.",
    remedy="Export again with `rnnx export`; or take the input out.",
)
def idle_input(model: LintedModel) -> Iterator[Found]:
    reached = frozenset[str]().union(*(model.reach(name) for name in model.outputs))
    states = {pair.input for pair in state_pairs(model)}
    for name in model.inputs:
        severity: Severity = "error" if name in states else "warning"
        if name not in reached:
            how = "only its size is read" if model.readers(name) else "nothing reads it"
            yield Found(f"input {name!r}", how, severity)
        elif model.trials is not None and name in model.trials.idle:
            yield Found(f"input {name!r}", "other values gave exactly the same outputs", "warning")


@RULES.add(
    "unchanged-state",
    "error",
    "warning",
    finds="an output that is an input, handed through; an error for a state",
    consequence="The state never changes: every step is answered as if it were the first.",
    remedy="Export again with `rnnx export`, or give out what the recurrence ends with.",
)
def unchanged_state(model: LintedModel) -> Iterator[Found]:
    paired = {pair.output: pair for pair in state_pairs(model)}
    for output in model.outputs:
        through = _handed_through(model, output)
        pair = paired.get(output)
        if through in model.inputs:
            yield Found(f"output {output!r}", f"is the input {through!r}, unchanged", "error" if pair else "warning")
        elif pair is not None and model.trials is not None and pair.input in model.trials.unchanged:
            yield Found(_named(pair), "went out exactly as it came in")


def _handed_through(model: LintedModel, name: str) -> str:
    """The value that a value is, behind nodes that hand it on as it is."""
    seen = {name}
    while (node := model.maker(name)) is not None and node.operator == "Identity" and node.input(0) not in seen:
        name = node.input(0)
        seen.add(name)
    return name


@RULES.add(
    "constant-output",
    "error",
    "note",
    finds="an output that is computed from no input: a state, or an answer, for which it is a note",
    consequence="It is the same at every call; a state was dropped, unless the constant is meant.",
    remedy="Export again with `rnnx export`, which proves every output.",
)
def constant_output(model: LintedModel) -> Iterator[Found]:
    if model.manifest is not None or not model.inputs or any(node.operator.startswith("Random") for node in model.nodes):
        return
    states = {pair.output for pair in state_pairs(model)}
    for name in model.outputs:
        if model.is_constant(name):
            yield Found(f"output {name!r}", "depends on nothing that the model is given", None if name in states else "note")


@RULES.add(
    "bidirectional",
    "error",
    "note",
    finds="a recurrence that runs backward in time; an error where its state comes in and goes out, as if it could be streamed",
    consequence="It needs the end of the sequence before its first answer: with states fed back, the answers are wrong.",
    remedy="Give it whole sequences; `rnnx export` says so in the manifest. For streams, train a forward model.",
)
def bidirectional(model: LintedModel) -> Iterator[Found]:
    if model.manifest is not None and not model.manifest.streamable:
        return
    for recurrent in model.recurrent:
        if recurrent.direction != "forward" and not recurrent.node.looped:
            given = [name for initial in recurrent.initial if initial for name in model.inputs_seen_as(initial)]
            gone = [output for name in recurrent.final for output in model.outputs_that_show(name)]
            if (given and gone) or model.manifest is not None:
                yield Found(recurrent.node.where, f"is {recurrent.direction}, and its state is carried: {given} → {gone}")
            else:
                yield Found(recurrent.node.where, f"is {recurrent.direction}", "note")


def mutated_buffers(model: LintedModel) -> list[str]:
    """The buffers that torch's exporter saw changed, by what it notes in the file."""
    notes = [entry.value for entry in model.proto.graph.metadata_props if entry.key.endswith("graph_signature")]
    lines = [line.partition("BUFFER_MUTATION target=")[2] for note in notes for line in note.splitlines()]
    return [line.strip().strip("'\"") for line in lines if line]


def is_statistic(buffer: str) -> bool:
    """Whether a buffer is what batch normalisation counts in training mode."""
    return buffer.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")


def _forward(model: LintedModel) -> list[Recurrent]:
    """Recurrences that could be streamed, of a model that says nothing of its states itself."""
    if model.manifest is not None:
        return []
    return [one for one in model.recurrent if one.direction == "forward" and not one.node.looped]


def _origins(model: LintedModel, recurrent: Recurrent) -> dict[str, str]:
    """What each of its states begins with, in words; "given" where that comes from an input."""
    found = {}
    for kind, name in zip(recurrent.kinds, recurrent.initial, strict=True):
        weight = model.weights.get(name)
        constant = "zeros" if weight is None or weight.values is None or not weight.values.any() else f"the constant {name!r}"
        found[kind] = "given" if name and not model.is_constant(name) else constant
    return found


def _one_step(model: LintedModel, recurrent: Recurrent) -> bool:
    return any(one.where == recurrent.node.where and one.time == 1 for one in extents(model))


def _named(pair: Pair) -> str:
    return f"state {pair.input!r} → {pair.output!r}"
