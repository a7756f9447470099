"""The parts of a comparison in words: a list of texts each."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from rnnx._diff.behaviour import RUNS, BehaviourDifference, RunDifference, TensorDifference
from rnnx._diff.change import AUDIENCES, Change
from rnnx._diff.graph import GraphDifference
from rnnx._diff.weights import NUMBERED, WeightChange, WeightsDifference

_SHOWN: Final = 5  # weights, settings; JSON has all


def broken(contract: Sequence[Change]) -> str:
    """Whom the changes break, and by which of them, two of each named; empty where they break nobody."""
    said = []
    for audience in AUDIENCES:
        names = [change.what.removeprefix("state ") for change in contract if audience in change.breaks]
        if names:
            said.append(f"{audience} ({_few(names, 2)})")
    return " and ".join(filter(None, (", ".join(said[:-1]), *said[-1:])))


def worst(behaviour: BehaviourDifference) -> str:
    """The tensor that is furthest off where the tolerance is broken, an output where there is one; else whose trace is untrue."""
    over = [(run, one) for run in behaviour.runs for one in run.tensors if one.first_step is not None]
    if not over:
        return _untrue(behaviour.untrue[-1], behaviour)
    run, one = max(over, key=lambda pair: (pair[1].kind == "output", pair[1].relative))
    return f"{one.name} off by up to {number(one.absolute)}{_since(one, run)}"


def contract_words(contract: Sequence[Change]) -> list[str]:
    texts = []
    for change in contract:
        texts.append(f"{change.what}: {change.before} → {change.after}")
        texts += [f"  breaks {audience}: {because}" for audience, because in change.breaks.items()]
    return texts or ["the same"]


def weights_words(weights: WeightsDifference) -> list[str]:
    tensors, values = _many(weights.tensors, "tensor"), _many(weights.values, "value")
    renamed = len(weights.changes) - len(weights.changed)
    called = f"; {renamed} more under another name" if renamed else ""
    if not weights.changed:
        called = f"; {renamed} under another name" if renamed else ""
        return [f"the same, bit by bit: {values} in {tensors}{called}"]
    many = f"{len(weights.changed)} of {tensors}, {weights.differing:,} of {values}"
    texts = [f"{many} differ{called}", *map(_weight, weights.changed[:_SHOWN])]
    if len(weights.changed) > _SHOWN:
        texts.append(f"{len(weights.changed) - _SHOWN} more; --json lists all")
    return texts


def _weight(change: WeightChange) -> str:
    name = change.name if change.other == change.name else f"{change.name} → {change.other}"
    if change.reader and NUMBERED.fullmatch(change.name):
        name += f", of {change.reader}"
    if change.absolute is None:
        return f"{name}: {change.before} → {change.after}"
    converted = "" if change.before == change.after else f"{change.before} → {change.after}, "
    return (
        f"{name}: {converted}{change.differing:,} of {change.values:,}, by up to {number(change.absolute)} "
        f"at [{','.join(map(str, change.where or ()))}], relative {number(change.relative or 0.0)}"
    )


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def graph_words(graph: GraphDifference) -> list[str]:
    a, b = graph.nodes
    if graph.same:
        return [f"the same {_many(a, 'node')}"]
    texts = [f"{_many(a, 'node')} → {b:,}" if a != b else _many(a, "node")]
    texts += [f"{sign} {_counted(found)}" for sign, found in (("gone:", graph.removed), ("new:", graph.added)) if found]
    texts += [f"opset of {domain}: {one or 'none'} → {two or 'none'}" for domain, (one, two) in graph.opsets.items()]
    texts += [f"set otherwise: {setting}" for setting in graph.settings[:_SHOWN]]
    if len(graph.settings) > _SHOWN:
        texts.append(f"{len(graph.settings) - _SHOWN} more settings; --json lists all")
    if graph.rewired is not None:
        texts.append(f"wired otherwise, first at {graph.rewired}")
    return texts


def _counted(operators: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" if count > 1 else name for name, count in operators.items())


def behaviour_words(behaviour: BehaviourDifference) -> list[str]:
    texts = [text for run in behaviour.runs for text in _run(run, behaviour.tolerance)]
    return [*texts, *(_untrue(side, behaviour) for side in behaviour.untrue)]


def _untrue(side: str, behaviour: BehaviourDifference) -> str:
    return f"{side} answers its own trace otherwise than it says: off by {number(behaviour.recorded[side])}"


def _run(run: RunDifference, tolerance: float) -> list[str]:
    title = f"on {RUNS[run.run]}" + (", each from its own initial state" if run.own_start else "")
    if not run.tensors:
        return [f"{title}: nothing that both have"]
    if all(one.same_bits for one in run.tensors):
        return [f"{title}: the same bits"]
    if run.close:
        furthest = max(run.tensors, key=lambda one: one.relative)
        return [f"{title}: off by {number(furthest.absolute)} ({furthest.name}), within {tolerance:.0e}"]
    texts = [f"{title}:"]
    for one in run.tensors:
        off = "the same bits" if one.same_bits else f"off by {number(one.absolute)}{_since(one, run)}"
        symbols = f"; another symbol at {one.other_symbols} of {run.steps * run.batch} steps" if one.other_symbols else ""
        texts.append(f"  {one.name}: {off}{symbols}")
    return texts


def _since(one: TensorDifference, run: RunDifference) -> str:
    if one.first_step is None:
        return ", within the tolerance"
    return f", from step {one.first_step} of {run.steps} on" if run.run != "conditions" else ""


def changed_names(contract: Sequence[Change]) -> str:
    return _few([change.what for change in contract], 3)


def number(value: float) -> str:
    if value == 0 or math.isinf(value):
        return "infinity" if value else "0"
    if value < 1e-3 or value >= 1e6:
        return f"{value:.1e}"
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _few(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (f", {len(names) - most} more" if len(names) > most else "")
