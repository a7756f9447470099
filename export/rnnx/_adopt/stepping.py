"""Whether steps and chunks give what the whole gives: over a few steps cut in many ways, and over more than a graph looks back."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from rnnx._adopt.calls import Arrays, Contract, PlainSession, call, in_pieces, inner_of, words
from rnnx._adopt.horizon import Reach
from rnnx._adopt.pairs import Pair
from rnnx._adopt.samples import Sampler
from rnnx._errors import AdoptError
from rnnx._parity.compare import compare, difference
from rnnx._parity.tolerances import tolerance_of
from rnnx_runtime.artifact import BATCH, TIME

_STEPS: Final = 12
_CUTS: Final = ([0, 5, 7, _STEPS], list(range(_STEPS + 1)))
_SINGLE: Final = 16  # steps taken one by one far into a long sequence
_VALUES: Final = 1 << 24  # that a long sequence hands over and answers, at most
_MOST_WAYS: Final = 24  # of pairing states of one shape, that are tried
_NOISE: Final = 0.03  # what quantising a whole call may change: root mean square, in multiples of the tensor's own
_NUDGE: Final = 1e-6  # relative; what it makes of a long sequence, rounding may make of it too
_DRIFT: Final = 10.0  # times that

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


def find_stepping(
    session: PlainSession,
    contract: Contract,
    sampler: Sampler,
    precision: Precision,
    reach: Reach,
    reasons: Sequence[str],
    *,
    quantised: bool,
) -> Stepping:
    """Whether chunks and steps give what the whole gives: of a few steps, cut in many ways, and of many.

    Args:
        reasons: why they may not, in words: nodes that keep what no state holds.

    Raises:
        AdoptError: the graph has states, and handing them on gives something else: a pair is wrong, or an axis is not time.
    """
    if contract.one_step:
        return Stepping()
    found = _cut_difference(session, contract, sampler, precision, _STEPS, _CUTS)
    if found.close:
        found = _far_difference(session, contract, sampler, precision, reach.steps)
        if found.close:
            return Stepping()
    elif found.failure:
        raise AdoptError(f"{found.failure}; if a step takes several values, say how many, such as {_in_letters(contract, 8)}")
    apart = f"off by {found.apart:.1g}"
    if not contract.pairs:
        return Stepping(refused=f"steps answer otherwise than the whole, {apart}, and no state is handed on")
    for pairs in _other_ways(contract.pairs):
        if _cut_difference(session, replace(contract, pairs=pairs), sampler, precision, _STEPS, _CUTS).close:
            said = " ".join(f"--state {pair.input}={pair.output}" for pair in pairs)
            raise AdoptError(f"chunks differ from the whole, {apart}, but not where states are paired so: {said}")
    if quantised and found.noise <= _NOISE:
        beyond = _far_difference(session, contract, sampler, precision, 2 * reach.back + 2) if reach.back else found
        if beyond.noise <= _NOISE:
            return Stepping(chunks_matter=f"its values are quantised over all of a call; chunks were {apart} from the whole")
        apart = f"off by {beyond.apart:.1g}"
    raise AdoptError(f"handing the states on does not give what the whole gives, {apart}: {_why(contract, reasons)}")


def _why(contract: Contract, reasons: Sequence[str]) -> str:
    """What may be wrong, and the remedy."""
    if reasons:
        return "; ".join(reasons)
    frames = [
        border.name
        for border in contract.inputs
        if contract.has_time(border.name) and not inner_of(contract.shapes[border.name])
    ]
    advice = (
        f". If a call takes a frame of several values, say how many, such as {_in_letters(contract, 16)}" if frames else ""
    )
    return f"a pair is wrong, or an axis is not time{advice}"


def _in_letters(contract: Contract, frame: int) -> str:
    """How a person says that a step takes so many values along what was taken for time."""
    name = next(border.name for border in contract.inputs if contract.has_time(border.name))
    letters = {BATCH: "B", TIME: str(frame)}
    return f"--axes {name}={','.join(letters.get(str(size), str(size)) for size in contract.shapes[name])}"


@dataclass(frozen=True)
class _CutDifference:
    """How far chunks and steps are from the whole.

    Attributes:
        apart: the largest difference.
        noise: the largest of all tensors' root mean squared differences, in multiples of their own.
        close: whether it is rounding.
        failure: why they cannot be run.
    """

    apart: float = 0.0
    noise: float = 0.0
    close: bool = True
    failure: str = ""


def _cut_difference(
    session: PlainSession,
    contract: Contract,
    sampler: Sampler,
    precision: Precision,
    steps: int,
    cuts: Sequence[Sequence[int]],
) -> _CutDifference:
    """The whole against its pieces, each way to cut it."""
    apart, noise, close = 0.0, 0.0, True
    far = steps > _STEPS
    for batch in (contract.fixed_batch,) if contract.fixed_batch is not None else (1,) if far else (1, 3):
        chunk, start = sampler.chunk(contract, batch, steps, 11), contract.initial(batch)
        try:
            _, start = call(session, contract, sampler.chunk(contract, batch, 2, 10), start, batch)
            whole = call(session, contract, chunk, start, batch)
            parts = [in_pieces(session, contract, chunk, start, batch, bounds) for bounds in cuts]
        except Exception as error:
            return _CutDifference(math.inf, math.inf, False, f"it does not take chunks and single steps ({words(error)})")
        wanted = _named_apart(*whole)
        for pieces in parts:
            found = _named_apart(*pieces)
            differences, wrong = compare(found, wanted, tolerance_of(precision, on_cpu=True))
            if wrong and far and _drifts(session, contract, chunk, start, batch, wanted, differences):
                wrong = []
            apart, close = max([apart, *differences.values()]), close and not wrong
            noise = max([noise, *(_rms_apart(found[name], want) for name, want in wanted.items())])
    return _CutDifference(apart, noise, close)


def _far_difference(
    session: PlainSession, contract: Contract, sampler: Sampler, precision: Precision, steps: int
) -> _CutDifference:
    """The same of a long sequence, cut in its middle and into single steps behind that; a shorter one where it is not taken."""
    sizes = [size for border in (*contract.inputs, *contract.outputs) for size in [inner_of(contract.shapes[border.name])]]
    steps = min(steps, _VALUES // max(1, (contract.fixed_batch or 1) * sum(map(math.prod, sizes))))
    while steps > _STEPS:
        half = steps // 2
        bounds = [0, half, *range(half + 1, min(half + _SINGLE, steps)), steps]
        found = _cut_difference(session, contract, sampler, precision, steps, [bounds])
        if not found.failure:
            return found
        steps = half
    return _CutDifference()


def _drifts(
    session: PlainSession,
    contract: Contract,
    chunk: Arrays,
    start: Arrays,
    batch: int,
    wanted: Arrays,
    apart: Mapping[str, float],
) -> bool:
    """Whether the least change of what is given moves the answers as far: then rounding grows in this graph."""
    nudged = _named_apart(*call(session, contract, _nudged(chunk), _nudged(start), batch))
    return all(
        apart[name] <= _DRIFT * float(difference(nudged[name], want).max(initial=0.0)) < math.inf
        for name, want in wanted.items()
        if apart[name]
    )


def _nudged(arrays: Arrays) -> Arrays:
    return {
        name: (array * (1 + _NUDGE)).astype(array.dtype) if array.dtype.kind == "f" else array
        for name, array in arrays.items()
    }


def _named_apart(answers: Arrays, states: Arrays) -> Arrays:
    return {**answers, **{f"{name} after": array for name, array in states.items()}}


def _rms_apart(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Of one tensor, the root of the mean squared difference, in multiples of its own."""
    own = float(np.sqrt(np.mean(np.square(wanted, dtype=np.float64)))) if wanted.dtype.kind == "f" else 0.0
    apart = float(np.sqrt(np.mean(difference(found, wanted) ** 2)))
    return apart / own if own else math.inf if apart else 0.0


def _other_ways(pairs: Sequence[Pair]) -> Iterator[tuple[Pair, ...]]:
    """The states paired otherwise; where shapes forbid it, running tells."""
    for outputs in itertools.islice(itertools.permutations([pair.output for pair in pairs]), 1, _MOST_WAYS):
        yield tuple(replace(pair, output=output) for pair, output in zip(pairs, outputs, strict=True))
