"""The proof: every state matters, steps and chunks give what the whole gives, and the artifact answers as the original file does."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np

from rnnx._adopt.calls import Arrays, Contract, PlainSession, call, cut, in_pieces, joined, words
from rnnx._adopt.pairs import Pair
from rnnx._adopt.samples import Sampler
from rnnx._errors import AdoptError
from rnnx._parity.compare import compare, difference
from rnnx._parity.tolerances import tolerance_of
from rnnx_runtime import Model, State
from rnnx_runtime.artifact import BATCH, TIME

_STEPS: Final = 12
_CUTS: Final = ([0, 5, 7, _STEPS], list(range(_STEPS + 1)))
_BATCHES: Final = (1, 2, 5)
_MOST_WAYS: Final = 24  # of pairing states of one shape, that are tried
_NOISE: Final = 0.1  # what quantising a whole call may change, relative above 1

Precision = Literal["float32", "float64"]


@dataclass(frozen=True)
class Stepping:
    """Whether a sequence may be cut.

    Attributes:
        refused: why not; None where it may.
        chunks_matter: why the answers depend on where it is cut, where they do.
    """

    refused: str | None = None
    chunks_matter: str | None = None


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
    batch = contract.fixed_batch or 1
    start = contract.initial(batch)
    states = start
    for seed in range(3):
        _, states = call(session, contract, sampler.chunk(contract, batch, 1, seed), states, batch)
    chunk = sampler.chunk(contract, batch, 2, 9)
    usual = call(session, contract, chunk, states, batch)
    for pair in contract.pairs:
        if not np.isfinite(states[pair.input]).all():
            raise AdoptError(f"{pair.input} is not finite after three random steps; the graph overflows, or the pair is none")
        without = call(session, contract, chunk, {**states, pair.input: start[pair.input]}, batch)
        if _same(usual, without):
            raise AdoptError(
                f"{pair.input} and {pair.output} are no pair: what {pair.output} gives, fed back into {pair.input}, changes nothing "
                "that follows"
            )


def _same(one: tuple[Arrays, Arrays], other: tuple[Arrays, Arrays]) -> bool:
    return all(
        not difference(found, wanted).any()
        for mine, theirs in zip(one, other, strict=True)
        for found, wanted in ((mine[name], theirs[name]) for name in theirs)
    )


def find_stepping(
    session: PlainSession, contract: Contract, sampler: Sampler, precision: Precision, *, quantised: bool
) -> Stepping:
    """Whether chunks and steps give what the whole gives.

    Raises:
        AdoptError: the graph has states, and handing them on gives something else: a pair is wrong, or an axis is not time.
    """
    if contract.one_step:
        return Stepping()
    apart, close, failure = _cut_difference(session, contract, sampler, precision)
    if close:
        return Stepping()
    if failure:
        raise AdoptError(f"{failure}; if a step takes several values, say how many, such as {_in_letters(contract, 8)}")
    if not contract.pairs:
        return Stepping(refused=f"steps answer otherwise than the whole, off by {apart:.1g}, and no state is handed on")
    for pairs in _other_ways(contract.pairs):
        if _cut_difference(session, replace(contract, pairs=pairs), sampler, precision)[1]:
            said = " ".join(f"--state {pair.input}={pair.output}" for pair in pairs)
            raise AdoptError(f"chunks differ from the whole, off by {apart:.1g}, but not where states are paired so: {said}")
    if quantised and apart <= _NOISE:
        return Stepping(
            chunks_matter=f"its values are quantised over all of a call; chunks were off by {apart:.1g} from the whole"
        )
    raise AdoptError(
        f"handing the states on does not give what the whole gives, off by {apart:.1g}; a pair is wrong, or an axis is not time. If a call "
        f"takes one step, say how much that is, such as {_in_letters(contract, 1)}"
    )


def _in_letters(contract: Contract, frame: int) -> str:
    """How a person says that a step takes so many values along what was taken for time."""
    name = next(border.name for border in contract.inputs if contract.has_time(border.name))
    letters = {BATCH: "B", TIME: str(frame)}
    return f"--axes {name}={','.join(letters.get(str(size), str(size)) for size in contract.shapes[name])}"


def _cut_difference(
    session: PlainSession, contract: Contract, sampler: Sampler, precision: Precision
) -> tuple[float, bool, str]:
    """How far apart chunks and steps are from the whole, whether that is rounding, and why they cannot be run."""
    largest, close = 0.0, True
    for batch in (contract.fixed_batch,) if contract.fixed_batch is not None else (1, 3):
        chunk, start = sampler.chunk(contract, batch, _STEPS, 11), contract.initial(batch)
        try:
            _, start = call(session, contract, sampler.chunk(contract, batch, 2, 10), start, batch)
            whole = call(session, contract, chunk, start, batch)
            parts = [in_pieces(session, contract, chunk, start, batch, bounds) for bounds in _CUTS]
        except Exception as error:
            return math.inf, False, f"it does not take chunks and single steps ({words(error)})"
        for pieces in parts:
            for found, wanted in zip(pieces, whole, strict=True):
                apart, wrong = compare(found, wanted, tolerance_of(precision, on_cpu=True))
                largest, close = max([largest, *apart.values()]), close and not wrong
    return largest, close, ""


def _other_ways(pairs: Sequence[Pair]) -> Iterator[tuple[Pair, ...]]:
    """The states paired otherwise; where shapes forbid it, running tells."""
    for outputs in itertools.islice(itertools.permutations([pair.output for pair in pairs]), 1, _MOST_WAYS):
        yield tuple(replace(pair, output=output) for pair, output in zip(pairs, outputs, strict=True))


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
