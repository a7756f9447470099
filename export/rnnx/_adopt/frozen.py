"""Steps of a file that takes whole sequences: where a person says that a call takes one, both must answer alike."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rnnx._adopt.borders import Border
from rnnx._adopt.calls import Arrays, Contract, PlainSession, to_graph
from rnnx._adopt.labels import Letters, is_time_like
from rnnx._adopt.samples import Sampler
from rnnx._parity.compare import compare
from rnnx._parity.tolerances import tolerance_of
from rnnx_runtime.artifact import BATCH

_STEPS: Final = 6

Axes = Mapping[str, int]  # by input


def frozen_difference(
    original: PlainSession, session: PlainSession, contract: Contract, frozen: Sequence[Axes], sampler: Sampler
) -> str:
    """Run the file over several steps at once along axes that were frozen, and compare.

    Args:
        original: the file, which takes any size there.
        session: the graph that is adopted.

    Returns:
        How both differ along all of them, in words; empty where they do not.
    """
    failures = [_difference(original, session, contract, axes, sampler) for axes in frozen]
    return failures[0] if all(failures) else ""


def frozen_axes(contract: Contract, declared: Sequence[Border], letters: Letters) -> list[Axes]:
    """Axes that the file leaves open and a person said to be 1, those of one symbol together."""
    found: dict[str, dict[str, int]] = {}
    steps = False  # whether one of them is time rather than batch
    given = {border.name for border in contract.inputs}
    for border in declared:
        said = letters.get(border.name, ()) if border.name in given and contract.one_step else ()
        for axis, letter in enumerate(said):
            size = "" if border.sizes is None else border.sizes[axis]
            if letter == 1 and isinstance(size, str):
                found.setdefault(size or f"{border.name} {axis}", {})[border.name] = axis
                steps = steps or contract.shapes[border.name][axis] != BATCH or is_time_like(size)
    return list(found.values()) if steps else []


def _difference(original: PlainSession, session: PlainSession, contract: Contract, axes: Axes, sampler: Sampler) -> str:
    """How the file's answer to a sequence differs from steps, in words; empty where it does not, or takes none."""
    batch = contract.fixed_batch or 2
    chunk = {
        name: array if name in axes else np.repeat(array[:, :1], _STEPS, axis=1)
        for name, array in sampler.chunk(contract, batch, _STEPS, 31).items()
    }
    feeds: Arrays = {}
    for name, array in chunk.items():
        steps = [to_graph(array[:, step], contract.shapes[name], batch, 1) for step in range(_STEPS)]
        feeds[name] = np.concatenate(steps, axis=axes[name]) if name in axes else steps[0]
    start = contract.initial(batch)
    own = {pair.input: start[pair.input] for pair in contract.pairs if not pair.lifted}
    try:
        whole = original.run({**feeds, **own})
    except Exception:  # it leaves open what it does not take
        return ""
    answers, states = _stepwise(session, contract, chunk, start, batch)
    wanted, found = {}, {}
    for name, steps in answers.items():
        have = _joined_like(steps, whole[name].shape)
        if have is None:
            return _refusal(axes, f"{name} is {list(whole[name].shape)} for {_STEPS} steps")
        wanted[name], found[name] = whole[name], have
    for pair in contract.pairs:
        if not pair.lifted:
            wanted[f"{pair.output} "], found[f"{pair.output} "] = whole[pair.output], states[pair.input]
    apart, wrong = compare(found, wanted, tolerance_of("float32", on_cpu=True))
    return _refusal(axes, f"{wrong[0].strip()} is off by {apart[wrong[0]]:.1g} after {_STEPS} steps") if wrong else ""


def _stepwise(
    session: PlainSession, contract: Contract, chunk: Arrays, states: Arrays, batch: int
) -> tuple[dict[str, list[NDArray[Any]]], Arrays]:
    """The answers of single steps, each in the graph's own layout, and the states after them."""
    answers: dict[str, list[NDArray[Any]]] = {border.name: [] for border in contract.outputs}
    for step in range(_STEPS):
        feeds = {name: to_graph(array[:, step], contract.shapes[name], batch, 1) for name, array in chunk.items()}
        found = session.run({**feeds, **states})
        states = {pair.input: found[pair.output] for pair in contract.pairs}
        for name, steps in answers.items():
            steps.append(found[name])
    return answers, states


def _joined_like(steps: list[NDArray[Any]], shape: tuple[int, ...]) -> NDArray[Any] | None:
    """The steps along the axis that grew with them; the last one where none did; None where the shape is another one."""
    if steps[0].shape == shape:
        return steps[-1]
    grown = [axis for axis, (one, all_of_them) in enumerate(zip(steps[0].shape, shape, strict=False)) if one != all_of_them]
    if len(grown) != 1 or len(steps[0].shape) != len(shape):
        return None
    joined = np.concatenate(steps, axis=grown[0])
    return joined if joined.shape == shape else None


def _refusal(axes: Axes, how: str) -> str:
    names = ", ".join(axes)
    return f"one step in each call is not what the file gives for a sequence: with {_STEPS} at once along {names}, {how}"
