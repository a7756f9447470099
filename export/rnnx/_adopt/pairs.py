"""Which outputs hand states back: as said, or found by names and by what flows where.

Equal shapes are no evidence: a speech enhancer gives frames of the shape that it takes. So where nothing but shapes speaks for a
pair, the person who adopts the file is asked.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from numpy.typing import NDArray

from rnnx._adopt.borders import Border
from rnnx._adopt.dataflow import Dataflow
from rnnx._errors import AdoptError
from rnnx_runtime.artifact import DType

_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SHORT: Final = re.compile("[hcs][xynio]")  # hx and hy, hn, ho
_STATES: Final = frozenset(
    """
    state states hidden cell cells h c s hc hs cs cache caches cached mem memory memories buf buffer buffers ctx context
    history hist carry rnn lstm gru past
    """.split()
)
_SIDES: Final = frozenset("in input inputs out output outputs".split())  # say nothing of what comes before and after
_BEFORE: Final = frozenset("prev previous past old last init initial begin start".split())
_AFTER: Final = frozenset("next new present updated final end cur current after".split())
_ALIKE: Final = "named alike"
_SHIFTED: Final = "a cache that is shifted"
_SHOWN: Final = 6  # candidates in a message


@dataclass(frozen=True)
class Pair:
    """A state: what `output` gives after one call is `input` of the next.

    Attributes:
        because: what speaks for it, in words.
        initial: for each row, `(1, ...)` on the batch axis; None for zeros.
        lifted: the original file has no such input; it begins with `initial` in each call.
    """

    name: str
    input: str
    output: str
    dtype: DType
    because: str
    initial: NDArray[Any] | None = None
    lifted: bool = False


def given_pairs(
    states: Mapping[str, str], inputs: Sequence[Border], outputs: Sequence[Border], flow: Dataflow
) -> tuple[Pair, ...]:
    """The pairs that a person named, `{input: output}`, checked.

    Raises:
        AdoptError: one is no pair.
    """
    taken, given = {border.name: border for border in inputs}, {border.name: border for border in outputs}
    for name, output in states.items():
        if name not in taken or output not in given:
            raise AdoptError(_unknown(name, output, taken, given))
        if list(states.values()).count(output) > 1:
            both = ", ".join(one for one, other in states.items() if other == output)
            raise AdoptError(f"{output} hands back one state, and is paired with {both}; pair it with one of them")
        _check(taken[name], given[output], flow)
    if len(states) == len(taken):
        raise AdoptError(f"every input is paired as a state ({', '.join(states)}); one must be what a step is given")
    return tuple(Pair(name, name, output, taken[name].dtype, "as said") for name, output in states.items())


def check_lost(unread: Iterable[str], outputs: Sequence[Border], states: Mapping[str, str] | None) -> None:
    """Refuse an input that nothing reads where it is a state by its name, or as said.

    Raises:
        AdoptError: there is one.
    """
    for name in unread:
        output = (
            next((one.name for one in outputs if named_alike(name, one.name)), None) if states is None else states.get(name)
        )
        if output is not None:
            raise AdoptError(
                f"nothing in the graph reads {name}, so that {output} cannot go back into it: the state was lost when the file was made; "
                "export it again"
            )


def _unknown(name: str, output: str, taken: Mapping[str, Border], given: Mapping[str, Border]) -> str:
    turned = f"; the other way round: --state {output}={name}" if name in given and output in taken else ""
    if name not in taken:
        return f"state {name!r} is no input of the graph, which has {', '.join(taken)}{turned}"
    return f"{output!r}, said to hand {name} back, is no output of the graph, which has {', '.join(given)}"


def _check(taken: Border, given: Border, flow: Dataflow) -> None:
    if not taken.may_equal(given):
        raise AdoptError(
            f"{taken.name} and {given.name} are no pair: {taken} is {taken.dtype}, {given} is {given.dtype}; a state goes back as "
            "it came"
        )
    begins, ends = flow.begins(taken.name), flow.ends(given.name)
    if begins and ends and not begins & ends:
        raise AdoptError(
            f"{taken.name} and {given.name} are no pair: {taken.name} is where {_ports(begins)} begins, {given.name} is where "
            f"{_ports(ends)} ends"
        )


def _ports(ports: Iterable[tuple[str, str]]) -> str:
    return " and ".join(f"the {'hidden' if port == 'h' else 'cell'} state of {node}" for node, port in sorted(ports)[:2])


def proposed_pairs(inputs: Sequence[Border], outputs: Sequence[Border], flow: Dataflow) -> tuple[Pair, ...]:
    """The pairs that names or dataflow speak for; none where the graph keeps no state.

    Raises:
        AdoptError: shapes allow pairs, and nothing tells which are meant; or names say that there is one, and shapes forbid
            it; or nothing would be left to give.
    """
    evidence: dict[tuple[str, str], str] = {}
    shapes_only: list[tuple[Border, Border]] = []
    for one in inputs:
        for other in outputs:
            if not one.may_equal(other):
                if named_alike(one.name, other.name):
                    raise AdoptError(
                        f"{one.name} and {other.name} are named like a state and the next one, but they differ: {one} is {one.dtype}, "
                        f"{other} is {other.dtype}; say what is meant: --state INPUT=OUTPUT, or --state none"
                    )
                continue
            said = _evidence(one, other, flow)
            if said == _ALIKE and _rivals(one, other, inputs, outputs):
                said = ""
            if said:
                evidence[one.name, other.name] = said
            elif _may_be_state(one, other, flow):
                shapes_only.append((one, other))
    evidence = _without_frames(evidence, {one.name: one for one in inputs})
    pairs = _unambiguous(evidence, {one.name: one.dtype for one in inputs})
    if pairs and len(pairs) == len(inputs):
        raise AdoptError(
            f"every input looks like a state ({', '.join(pair.input for pair in pairs)}); one must be what a step is given: say which "
            "are states, --state INPUT=OUTPUT, or --state none"
        )
    found = {pair.input for pair in pairs} | {pair.output for pair in pairs}
    spoken_for = [(one, other) for one in inputs for other in outputs if (one.name, other.name) in evidence]
    left = [(one, other) for one, other in (*shapes_only, *spoken_for) if not {one.name, other.name} & found]
    # Where one input is left, it is what a step is given; so it is where beside it there are only single numbers.
    given = [
        one.name for one in inputs if one.name not in found and (one.sizes is None or any(size != 1 for size in one.sizes))
    ]
    if any((one.name, other.name) in evidence or given not in ([], [one.name]) for one, other in left):
        raise AdoptError(_ambiguous(left, pairs))
    return pairs


def _evidence(one: Border, other: Border, flow: Dataflow) -> str:
    """What speaks for a pair, in words; empty where nothing does."""
    begins, ends = flow.begins(one.name), flow.ends(other.name)
    if begins and ends:
        if not begins & ends:
            return ""
        nodes = sorted({node for node, _ in begins & ends})
        return (
            f"where {nodes[0]} begins and ends"
            if len(nodes) == 1
            else f"where {nodes[0]} and {len(nodes) - 1} more begin and end"
        )
    if flow.shifts(one.name, other.name):
        return _SHIFTED
    return _ALIKE if named_alike(one.name, other.name) else ""


def _may_be_state(one: Border, other: Border, flow: Dataflow) -> bool:
    """Whether two of one shape may be a pair though nothing speaks for it.

    A state has an axis for rows at most, and none for time. A single number that makes no difference to the output is the same
    for all steps rather than a state.
    """
    if len(one.free) > 1 or _other_ends(one, other, flow):
        return False
    single = one.sizes is not None and all(size == 1 for size in one.sizes)
    return not single or one.name in flow.sources(other.name)


def _other_ends(one: Border, other: Border, flow: Dataflow) -> bool:
    """Whether recurrent nodes say that two are no pair."""
    begins, ends = flow.begins(one.name), flow.ends(other.name)
    return bool(begins and ends and not begins & ends)


def _rivals(one: Border, other: Border, inputs: Sequence[Border], outputs: Sequence[Border]) -> bool:
    """Whether shapes allow another pair that names speak for as well: frame and prev_frame, where there is one frame_out.

    An output may be called nothing but `next`, or be of the same stem; then nobody knows which of the two is meant.
    """
    mine, theirs = _stems(one.name), _stems(other.name)
    for rival in outputs:
        words = _words(rival.name)
        only = (
            words <= _AFTER | _SIDES | _STATES
            and words & (_AFTER | _STATES)
            and not any(named_alike(given.name, rival.name) for given in inputs)
        )
        if rival.name != other.name and one.may_equal(rival) and (_stems(rival.name) & mine - {()} or only):
            return True
    return any(rival.name != one.name and rival.may_equal(other) and _stems(rival.name) & theirs - {()} for rival in inputs)


def _without_frames(evidence: Mapping[tuple[str, str], str], inputs: Mapping[str, Border]) -> dict[tuple[str, str], str]:
    """What speaks for pairs, but for frames that are joined with a cache: with an axis more that is free, it has time."""
    fewest: dict[str, int] = {}
    for (one, other), said in evidence.items():
        if said == _SHIFTED:
            fewest[other] = min(len(inputs[one].free), fewest.get(other, 99))
    return {
        (one, other): said
        for (one, other), said in evidence.items()
        if said != _SHIFTED or len(inputs[one].free) == fewest[other]
    }


def named_alike(name: str, output: str) -> bool:
    """Whether two names say that they are a state and the next one: state and stateN, h0 and hn, in_cache and out_cache."""
    one, other = _words(name), _words(output)
    marked = bool(one & _BEFORE - other) or bool(other & _AFTER - one)
    return any(stem and (marked or set(stem) & _STATES) for stem in _stems(name) & _stems(output))


def _words(name: str) -> set[str]:
    return {word.lower() for word in _WORDS.findall(name)}


def _stems(name: str) -> set[tuple[str, ...]]:
    """What of a name may be the state's own, without words for before and after, and for in and out."""
    words = [word.lower() for word in _WORDS.findall(name.replace("past_key_values", "past"))]
    stem = tuple(word[0] if _SHORT.fullmatch(word) else word for word in words if word not in _SIDES | _BEFORE | _AFTER)
    return {stem, stem[:-1]} if len(stem) > 1 and stem[-1] in ("0", "n", "i", "o", "t") else {stem}  # h0, c_i, stateN


def _unambiguous(evidence: Mapping[tuple[str, str], str], dtypes: Mapping[str, DType]) -> tuple[Pair, ...]:
    """Pairs where one input speaks for one output only, and the other way round; what dataflow says goes first."""
    pairs: dict[str, Pair] = {}
    for strong in (True, False):
        taken, given = set(pairs), {pair.output for pair in pairs.values()}
        left = [
            (one, other)
            for (one, other), said in evidence.items()
            if one not in taken and other not in given and (said != _ALIKE) >= strong
        ]
        for one, other in left:
            rivals = [pair for pair in left if pair != (one, other) and (pair[0] == one or pair[1] == other)]
            named = [pair for pair in rivals if named_alike(*pair)]
            if not rivals or (named_alike(one, other) and not named):
                pairs[one] = Pair(one, one, other, dtypes[one], evidence[one, other])
    return tuple(pairs.values())


def _ambiguous(left: Sequence[tuple[Border, Border]], pairs: Sequence[Pair]) -> str:
    candidates: dict[str, list[str]] = {}
    for one, other in left:
        candidates.setdefault(str(one), []).append(other.name)
    shown = ", ".join(f"{one} → {' or '.join(others)}" for one, others in list(candidates.items())[:_SHOWN])
    more = f" and {len(candidates) - _SHOWN} more" if len(candidates) > _SHOWN else ""
    found = f", beside {', '.join(f'{pair.input}={pair.output}' for pair in pairs[:_SHOWN])}" if pairs else ""
    also = "".join(f"{pair.input}={pair.output}," for pair in pairs[:_SHOWN])
    only = f"--state {also.rstrip(',')} where no other does" if pairs else "--state none"
    return (
        f"which outputs hand states back cannot be told{found}: {shown}{more} have equal shapes; say which do: "
        f"--state {also}INPUT=OUTPUT, or {only}"
    )
