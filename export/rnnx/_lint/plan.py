"""What a model's axes and states are, as far as its graph tells, and how to run it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx

from rnnx._lint.model import LintedModel, Shape, Value
from rnnx._lint.trials import Plan, TrialInput
from rnnx_runtime.artifact import BATCH, TIME

_TYPES: Final = {
    1: "float32",
    2: "uint8",
    3: "int8",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
}
_NAMED_BATCH: Final = re.compile(r"b|bs|batch.*", re.IGNORECASE)
_NAMED_TIME: Final = re.compile(r"t|seq.*|time.*|len.*|frames.*|steps.*|.*_len(gth)?", re.IGNORECASE)
_HINTS: Final = 8

# What states are called, with what is said of being the old one or the new one taken off: state and stateN, h0 and hn, ...
_OLD: Final = re.compile(r"(?<![a-z])(in|input|prev|previous|past|init|initial|old)(?![a-z])")
_NEW: Final = re.compile(r"(?<![a-z])(out|output|new|next|present|final|last|cur)(?![a-z])")
_STATE: Final = re.compile(r"state|hidden|cell|cache|mem|buf|ctx|context|past|prev|rnn|lstm|gru|(^|[._/])[hc]x?\d*($|[._/])")


@dataclass(frozen=True)
class Pair:
    """One state: what one call gives as `output`, the next is given as `input`. `because`: how that is known."""

    input: str
    output: str
    because: str


def state_pairs(model: LintedModel) -> list[Pair]:
    """The states of a model: those that its manifest names; else by dataflow through its recurrences, then by name."""
    if model.manifest is not None:
        return [Pair(spec.input, spec.output, "its manifest says so") for spec in model.manifest.states]
    pairs: dict[str, Pair] = {}
    for where, before, after in _carried(model):
        outputs = model.outputs_that_show(after)
        for name in model.inputs_seen_as(before) if outputs else ():
            pairs.setdefault(name, Pair(name, outputs[0], f"{where} reads the one and gives the other"))
    taken = {pair.output for pair in pairs.values()}
    for name, value in model.inputs.items():
        same = [other for other in model.outputs.values() if _one_state(value, other) and other.name not in taken]
        if name not in pairs and len(same) == 1:
            pairs[name] = Pair(name, same[0].name, "their names say so")
    return list(pairs.values())


def _carried(model: LintedModel) -> Iterator[tuple[str, str, str]]:
    """What each recurrence of the graph begins with, and what it ends with."""
    for recurrent in model.recurrent:
        for before, after in zip(recurrent.initial, recurrent.final, strict=True):
            if not recurrent.node.looped:
                yield recurrent.node.where, before, after
    for node in model.nodes:
        if node.operator == "Scan" and not node.looped:
            states = len(node.inputs) - (node.whole("num_scan_inputs") or 0)
            yield from ((node.where, before, after) for before, after in zip(node.inputs[:states], node.outputs, strict=False))
        elif node.operator == "Loop" and not node.looped:
            yield from ((node.where, before, after) for before, after in zip(node.inputs[2:], node.outputs, strict=False))


def _one_state(before: Value, after: Value) -> bool:
    """Whether an input and an output are called like the two ends of one state."""
    old, new = before.name.lower(), after.name.lower()
    stems = _stems(_OLD, r"(?<=[hc])0$", old) & _stems(_NEW, r"n$", new)
    return bool(stems - {""}) and bool(_STATE.search(old)) and _keeps_its_size(before, after)


def _keeps_its_size(before: Value, after: Value) -> bool:
    """Whether no axis is declared to change: a cache that grows with every call is no state."""
    if before.shape is None or after.shape is None or len(before.shape) != len(after.shape):
        return False
    return all(a == b or (isinstance(a, int) and isinstance(b, int)) for a, b in zip(before.shape, after.shape, strict=True))


def _stems(words: re.Pattern[str], ending: str, name: str) -> set[str]:
    """A name without words for the side of a call that it stands on, and without such an ending: h0, hn, stateN."""
    stem = " ".join(words.sub(" ", re.sub(r"[_./:-]+", " ", name)).split())
    return {stem, re.sub(ending, "", stem)}


@dataclass(frozen=True)
class Extent:
    """How large batch and time are, by one recurrence: a size, a symbol, or nothing known of it."""

    where: str
    batch: int | str | None
    time: int | str | None


def extents(model: LintedModel) -> list[Extent]:
    """What the recurrences of the graph itself are given."""
    found = []
    for recurrent in model.recurrent:
        shape = model.shape(recurrent.node.input(0)) or ()
        if len(shape) == 3 and not recurrent.node.looped:
            first, second = (1, 0) if recurrent.node.whole("layout") else (0, 1)
            found.append(Extent(recurrent.node.where, shape[second], shape[first]))
    return found


def symbols(model: LintedModel) -> tuple[str | None, str | None]:
    """The symbols of batch and time among the inputs' axes; None where there is none."""
    if model.manifest is not None:
        return (BATCH, TIME)
    free = dict.fromkeys(size for value in model.inputs.values() for size in value.shape or () if isinstance(size, str))
    known = [(one.batch, one.time) for one in extents(model)]
    batch = next((batch for batch, _ in known if batch in free), None) or _named(_NAMED_BATCH, free)
    time = next((time for _, time in known if time in free), None) or _named(_NAMED_TIME, free)
    return (str(batch) if batch else None, str(time) if time and time != batch else None)


def _named(pattern: re.Pattern[str], names: dict[str, None]) -> str | None:
    return next((name for name in names if pattern.fullmatch(name)), None)


def plan_trials(model: LintedModel) -> Plan | str:
    """How to run a model; where it cannot be, why."""
    inputs = []
    for value in model.inputs.values():
        if value.dtype not in _TYPES:
            names = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
            kind = names.get(value.dtype, f"type {value.dtype}") if value.dtype else "no tensor"
            return f"the input {value.name!r} is of a kind that is not made here: {kind}"
        if value.shape is None:
            return f"the input {value.name!r} has no declared shape"
        inputs.append(_input(model, value, value.shape))
    if not model.outputs:
        return "the graph has no outputs"
    batch, time = symbols(model)
    free = {symbol for spec in inputs for size in spec.shape if isinstance(size, str) for symbol in size.split("*")}
    return Plan(
        inputs=tuple(inputs),
        outputs=tuple(model.outputs),
        batch=batch if batch in free else None,
        time=time if time in free else None,
        pairs=tuple((pair.input, pair.output) for pair in state_pairs(model)),
        hints=_hints(model),
    )


def _input(model: LintedModel, value: Value, shape: Shape) -> TrialInput:
    sizes = tuple(size or 1 for size in shape)
    dtype = _TYPES[value.dtype]
    if model.manifest is not None:
        spec = next((spec for spec in model.manifest.inputs if spec.name == value.name), None)
        below = (spec.vocabulary_size if spec is not None else None) or 2
        return TrialInput(value.name, dtype, sizes, below, "time" if spec is not None and spec.role == "lengths" else None)
    if np.dtype(dtype).kind not in "iu":
        return TrialInput(value.name, dtype, sizes)
    return TrialInput(value.name, dtype, sizes, _vocabulary(model, value.name), _fixed_value(model, value.name))


def _vocabulary(model: LintedModel, name: str) -> int:
    """Below which number an integer input is safe: the rows of the tables that it looks up."""
    sizes = [2**15]
    for node in model.nodes:
        table = model.shape(node.input(0)) or ()
        if node.operator == "Gather" and name in model.views(node.input(1)):
            axis = node.whole("axis") or 0
            size = table[axis] if -len(table) <= axis < len(table) else None
            sizes += [size] if isinstance(size, int) else []
        elif node.operator == "OneHot" and name in model.views(node.input(0)) and node.input(1) in model.weights:
            depth = model.weights[node.input(1)].values
            sizes += [] if depth is None else [int(depth.reshape(-1)[0])]
    return min(sizes) if len(sizes) > 1 else 2


def _fixed_value(model: LintedModel, name: str) -> int | str | None:
    """What an integer input must be: as long as the sequence, or what the graph compares it with."""
    if any(name in model.views(recurrent.node.input(4)) for recurrent in model.recurrent):
        return "time"
    for node in model.nodes:
        if node.operator == "Equal" and any(name in model.views(read) for read in node.inputs):
            stored = [model.weights[read].values for read in node.inputs if read in model.weights]
            if stored and stored[0] is not None and stored[0].size == 1:
                return int(stored[0].reshape(-1)[0])
    return None


def _hints(model: LintedModel) -> tuple[int, ...]:
    """Sizes that stand as constants where shapes are computed."""
    found: dict[int, None] = {}
    for node in model.nodes:
        stored = model.weights.get(node.input(1)) if node.operator in ("Expand", "Reshape", "Slice", "Tile") else None
        if stored is not None and stored.values is not None and stored.values.size <= 8:
            found |= dict.fromkeys(int(size) for size in stored.values.reshape(-1) if 1 < size <= 4096)
    declared = (size for value in model.outputs.values() for size in value.shape or ())
    found |= dict.fromkeys(size for size in declared if isinstance(size, int) and 1 < size <= 4096)
    return tuple(found)[:_HINTS]
