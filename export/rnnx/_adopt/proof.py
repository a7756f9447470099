"""The proof: every state matters, and the artifact answers as the original file does."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from rnnx._adopt.calls import Arrays, Contract, PlainSession, call, cut, in_pieces, joined
from rnnx._adopt.samples import Sampler
from rnnx._adopt.stepping import Precision
from rnnx._errors import AdoptError
from rnnx._parity.compare import compare, difference
from rnnx._parity.tolerances import tolerance_of
from rnnx_runtime import Model, State

_STEPS: Final = 12
_BATCHES: Final = (1, 2, 5)
_LOOKS: Final = 24  # steps, after each of which the states are looked at until all have mattered
_ROWS: Final = 5  # that look


@dataclass(frozen=True)
class Comparison:
    """The artifact against the original file.

    Attributes:
        cases: runs that were compared, outputs and states.
        largest: the largest difference of all values.
    """

    cases: int
    largest: float

    def __str__(self) -> str:
        equal = "every bit equal" if self.largest == 0 else f"largest difference {self.largest:.1e}"
        return f"{self.cases} comparison{'s' * (self.cases > 1)} with it, {equal}"


def check_states_matter(session: PlainSession, contract: Contract, sampler: Sampler) -> None:
    """Feed each state back alone, and see that it changes what follows.

    Raises:
        AdoptError: one changes nothing, or is not finite after a few steps.
    """
    batch = contract.fixed_batch or _ROWS
    states = start = contract.initial(batch)
    left = {pair.input: pair for pair in contract.pairs}
    for step in range(_LOOKS if left else 0):
        _, states = call(session, contract, sampler.chunk(contract, batch, 1, step), states, batch)
        wild = next((name for name in states if not np.isfinite(states[name]).all()), None)
        if wild is not None:
            raise AdoptError(
                f"{wild} is not finite after {step + 1} random step{'s' * (step > 0)}; the graph overflows, or the pair is none"
            )
        chunk = sampler.chunk(contract, batch, 2, _LOOKS + step)
        usual = call(session, contract, chunk, states, batch)
        left = {
            name: pair
            for name, pair in left.items()
            if _same(usual, call(session, contract, chunk, {**states, name: start[name]}, batch))
        }
        if not left:
            return
    if not left:
        return
    name, pair = next(iter(left.items()))
    raise AdoptError(
        f"{name} and {pair.output} are no pair: what {pair.output} gives, fed back into {name}, changes nothing that follows"
    )


def _same(one: tuple[Arrays, Arrays], other: tuple[Arrays, Arrays]) -> bool:
    return all(
        not difference(found, wanted).any()
        for mine, theirs in zip(one, other, strict=True)
        for found, wanted in ((mine[name], theirs[name]) for name in theirs)
    )


def compare_with_original(
    model: Model, original: PlainSession, contract: Contract, sampler: Sampler, precision: Precision
) -> Comparison:
    """Run the artifact in the runtime, and the original file in plain ONNX Runtime with its states wired by hand.

    Args:
        contract: of the artifact. Its states that were lifted the file does not have: it begins anew in each call, so that only
            what one call of it answers is compared.

    Raises:
        AdoptError: they differ.
    """
    own = replace(contract, pairs=tuple(pair for pair in contract.pairs if not pair.lifted))
    cases, largest = 0, 0.0
    for what, found, wanted in _cases(model, original, contract, own, sampler):
        apart, wrong = compare(found, wanted, tolerance_of(precision, on_cpu=True))
        worst = max(apart.values(), default=0.0)
        if wrong:
            raise AdoptError(
                f"the artifact answers otherwise than the file, {', '.join(wrong)} off by {worst:.1g}: {what}; nothing was written"
            )
        cases, largest = cases + 1, max(largest, worst)
    return Comparison(cases, largest)


def _cases(
    model: Model, original: PlainSession, contract: Contract, own: Contract, sampler: Sampler
) -> Iterator[tuple[str, Arrays, Arrays]]:
    lifted = len(own.pairs) < len(contract.pairs)
    streamable = model.manifest.streamable
    steps = 1 if lifted and contract.one_step else _STEPS
    for batch in _BATCHES if contract.fixed_batch is None else (contract.fixed_batch,):
        states = own.initial(batch)
        for start in ("initial",) if lifted or not streamable else ("initial", "visited"):
            chunk = sampler.chunk(contract, batch, steps, 20 + batch)
            if start == "visited":
                _, states = call(original, own, sampler.chunk(contract, batch, 3, 19), states, batch)
            state = _state(model, contract, states, batch) if streamable else None
            ways = {"whole": [0, steps]}
            # Where values are quantised over all of a call, what the file answers to the whole says nothing of its parts.
            if streamable and not (lifted and model.manifest.chunks_matter_because):
                ways |= {"chunks": sorted({0, min(5, steps), min(7, steps), steps}), "steps": list(range(steps + 1))}
            for way, bounds in ways.items():
                wanted, after = in_pieces(original, own, chunk, states, batch, [0, steps] if lifted else bounds)
                found, following = _in_pieces(model, contract, chunk, state, bounds)
                what = f"{way}, {batch} rows, {steps} steps, {start} state"
                yield what, found, wanted
                if own.pairs:
                    yield f"states, {what}", {pair.input: following[pair.name] for pair in own.pairs}, after


def _state(model: Model, contract: Contract, states: Arrays, batch: int) -> State:
    """A state of the runtime's, with what the file's states are."""
    begin = model.initial_state(batch)
    if not contract.pairs:
        return begin
    return model.make_state({pair.name: states.get(pair.input, begin[pair.name]) for pair in contract.pairs})


def _in_pieces(
    model: Model, contract: Contract, chunk: Arrays, state: State | None, bounds: Sequence[int]
) -> tuple[Arrays, Mapping[str, Any]]:
    """The same through the runtime: a stream where there are several pieces, and its own way for single steps."""
    if state is None or len(bounds) == 2:
        answer, following = model.run(chunk, state)
        return _named(contract, answer), following
    stream = model.stream(state=state)
    pieces = []
    for first, last in itertools.pairwise(bounds):
        part = cut(contract, chunk, first, last)
        if last - first > 1:
            pieces.append(_named(contract, stream.feed(part)))
            continue
        step = {name: array[:, 0] if contract.has_time(name) else array for name, array in part.items()}
        answer = _named(contract, stream.step(step))
        pieces.append({name: array[:, None] if contract.has_time(name) else array for name, array in answer.items()})
    return joined(contract, pieces), stream.state


def _named(contract: Contract, answer: Any) -> Arrays:
    return answer if isinstance(answer, dict) else {contract.outputs[0].name: answer}
