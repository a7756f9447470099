"""Rules about axes: sizes that were frozen at the export, declarations that are not so, and time that was unrolled."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from rnnx._lint.bench import extent
from rnnx._lint.model import LintedModel, Shape
from rnnx._lint.nodes import Node
from rnnx._lint.plan import extents, state_pairs, symbols
from rnnx._lint.rules import Found, Rules
from rnnx_runtime.artifact import Dimension

RULES: Final = Rules("Axes")

_REPEATS: Final = 3  # the same weights in a row as often as this are a recurrence


@RULES.add(
    "frozen-batch",
    "warning",
    "note",
    finds="a recurrence that takes one batch size; a note where that is 1",
    consequence="It serves so many streams at a time, no more and no fewer.",
    remedy="Export again with a dynamic batch axis; `rnnx export` makes it so, whatever the module has baked in.",
)
def frozen_batch(model: LintedModel) -> Iterator[Found]:
    for one in extents(model) if model.manifest is None else []:
        if isinstance(one.batch, int):
            yield Found(one.where, f"takes a batch of {one.batch}", "note" if one.batch == 1 else None)
    yield from _nothing_free(model)


def _nothing_free(model: LintedModel) -> Iterator[Found]:
    """Without a recurrence of the graph's own, only the inputs can tell."""
    sizes = [size for value in model.inputs.values() for size in value.shape or (None,)]
    if model.manifest is None and not extents(model) and sizes and all(isinstance(size, int) for size in sizes):
        yield Found("the inputs", "no axis of them is free", "note")


@RULES.add(
    "frozen-time",
    "warning",
    "note",
    finds="a recurrence that takes one number of steps; a note where that is one step, with states",
    consequence="Shorter sequences cannot be given, and longer ones not at once.",
    remedy="Export again with a dynamic time axis; `rnnx export` keeps it so. A graph of one step streams: `rnnx adopt`.",
)
def frozen_time(model: LintedModel) -> Iterator[Found]:
    for one in extents(model) if model.manifest is None else []:
        if isinstance(one.time, int) and one.time > 1:
            yield Found(one.where, f"takes sequences of {one.time} steps")
        elif one.time == 1 and state_pairs(model):
            yield Found(one.where, "takes one step", "note")


@RULES.add(
    "frozen-axis",
    "error",
    finds="an axis that is declared free, and that only one size works for",
    consequence="The example's size went into the graph: every other size fails when it runs, or is broadcast to something else.",
    remedy="Export again with `rnnx export`; with torch's own exporter, with sizes in the example that the graph does not hold otherwise.",
)
def frozen_axis(model: LintedModel) -> Iterator[Found]:
    for symbol, size in (model.trials.frozen if model.trials is not None else {}).items():
        assert model.trials is not None
        failed = [run for run in model.trials.runs if run.failed_because is not None and run.sizes[symbol] != size]
        because = f"; at {failed[0].sizes[symbol]}: {failed[0].failed_because}" if failed else ""
        yield Found(f"axis {symbol!r}", f"works at {size} only{because}")
    if model.trials is None or not model.trials.worked:
        yield from _frozen_shapes(model)


def _frozen_shapes(model: LintedModel) -> Iterator[Found]:
    """A Reshape to sizes that are all constant, of a value with a free axis."""
    for node in model.nodes:
        stored = model.weights.get(node.input(1)) if node.operator == "Reshape" else None
        shape = model.shape(node.input(0)) or ()
        free = [size for size in shape if isinstance(size, str)]
        if stored is not None and stored.values is not None and (stored.values > 0).all() and free:
            yield Found(node.where, f"makes {stored.values.tolist()} of a value whose axis {free[0]!r} is free")


@RULES.add(
    "idle-steps",
    "error",
    finds="a free time axis whose later steps change no output",
    consequence="Only so many steps are read, those of the example at the export: all others are ignored in silence.",
    remedy="Export again with `rnnx export`, which keeps a recurrence a recurrence.",
)
def idle_steps(model: LintedModel) -> Iterator[Found]:
    if model.trials is not None and model.trials.idle_steps is not None:
        yield Found(
            "the inputs", f"of {model.trials.idle_steps} steps, other values of the later half gave exactly the same outputs"
        )


@RULES.add(
    "refused-size",
    "warning",
    finds="a size of a free axis that fails, where others work",
    consequence="It fails for the first user with such a batch, or such a sequence.",
    remedy="Look for Squeeze without axes and fixed lengths in the module; export again with `rnnx export`, which tries all sizes.",
)
def refused_size(model: LintedModel) -> Iterator[Found]:
    for symbol, failed in (model.trials.refused if model.trials is not None else {}).items():
        if failed:
            least = min(failed)
            yield Found(f"axis {symbol!r}", f"fails at {', '.join(map(str, sorted(failed)))}: {failed[least]}")


@RULES.add(
    "shape-lies",
    "error",
    "warning",
    finds="an output that comes in another shape than the graph declares; an error where it has more or fewer rows",
    consequence="Whoever makes room for it by its declaration fails: buffers bound ahead, compilers, the runtime. With other rows, the "
    "answers are not those of the streams that asked.",
    remedy="Export again with `rnnx export`; or correct the declaration.",
)
def shape_lies(model: LintedModel) -> Iterator[Found]:
    batch = symbols(model)[0]
    for name, value in model.outputs.items():
        for run in model.trials.worked if model.trials is not None and value.shape is not None else []:
            shape, declared = run.shapes[name], value.shape or ()
            wrong = [said for said, size in zip(declared, shape, strict=False) if _known(said, run.sizes) not in (None, size)]
            if wrong or len(shape) != len(declared):
                at = ", ".join(f"{symbol}={size}" for symbol, size in run.sizes.items())
                what = f"is declared {_written(declared)} and was {_written(shape)}{f' at {at}' if at else ''}"
                yield Found(f"output {name!r}", what, "error" if batch in wrong else "warning")
                break


def _known(said: Dimension | None, sizes: dict[str, int]) -> int | None:
    """What a declared size stands for; None for a symbol that no input has."""
    return None if said is None else extent(said, sizes)


def _written(shape: Shape) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


@RULES.add(
    "unrolled-time",
    "warning",
    finds="the same weights three times or more in a row: a recurrence that was written out step by step",
    consequence="It takes this one number of steps, it is large, and its state cannot be found.",
    remedy="Export again with `rnnx export`, which keeps a recurrence a recurrence.",
)
def unrolled_time(model: LintedModel) -> Iterator[Found]:
    users: dict[tuple[object, ...], list[Node]] = defaultdict(list)
    for node in model.nodes:
        for weight in (model.weights[name] for name in dict.fromkeys(node.inputs[1:3]) if name in model.weights):
            if (
                node.operator in ("Gemm", "MatMul", "RNN", "GRU", "LSTM")
                and len(weight.shape) > 1
                and weight.content is not None
            ):
                users[node.operator, weight.content].append(node)
    for nodes in users.values():
        times = _in_a_row(model, set(nodes)) if len(nodes) >= _REPEATS else 0
        if times >= _REPEATS:
            yield Found(f"{nodes[0].where} to {nodes[-1].where}", f"the same weights {times} times in a row")


def _in_a_row(model: LintedModel, nodes: set[Node]) -> int:
    """How many of these nodes lie behind each other, each reading what the one before led to."""
    depth: dict[str, int] = {}
    for node in model.nodes:
        most = max((depth.get(name, 0) for name in node.inputs), default=0) + (node in nodes)
        depth.update(dict.fromkeys(node.outputs, most))
    return max(depth.values(), default=0)


@RULES.add(
    "graph-loop",
    "warning",
    "note",
    finds="a Loop; a note on a Scan that rnnx did not write",
    consequence="Every step costs a call of its own inside the engine, 15 µs and more, and few engines but ONNX Runtime take it.",
    remedy="Export again with `rnnx export`, which writes one recurrent node per layer, or a Scan where there is no such node.",
)
def graph_loop(model: LintedModel) -> Iterator[Found]:
    for node in model.nodes:
        if node.operator == "Loop":
            yield Found(node.where, "a Loop")
        elif node.operator == "Scan" and (model.manifest is None or model.manifest.lowering == "adopted"):
            yield Found(node.where, "a Scan", "note")
