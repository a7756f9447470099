"""State in a Python loop over time that no submodule carries: `h = torch.tanh(x[:, t] @ self.w + h @ self.u)`.

What a loop does is seen by writing down every operation of a call. At one step more the list is longer by one round of each
loop; what a round takes from the round before is state. So a state is known by two places in the list of operations: those that
use it in the first round, where another value can be put in, and the one that makes it, whose result in the last round is the
next state.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, final

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rnnx._errors import LiftError
from rnnx._operations import Listener, Operation, Place, counts
from rnnx._sites import Arguments, Passage, Site

ROUNDS: Final = 3  # the shorter of the two calls that are compared takes so many steps


@dataclass(frozen=True)
class _Loop:
    """A loop: its rounds follow each other in the list of operations, from `start + shift * steps`, `period` operations each."""

    start: int
    shift: int
    period: int

    def at(self, steps: int, number: int) -> int:
        """Where a round begins."""
        return self.start + self.shift * steps + number * self.period


@dataclass(frozen=True)
class _Carried:
    """A state: the operation of a round that makes it, and those that use it in the next."""

    loop: _Loop
    made: Place
    used: tuple[Place, ...]
    in_place: bool  # it is changed, rather than made anew: another value is written into it


@final
class LoopSite(Site):
    """The states of all loops of a module.

    Args:
        carried: in the order of the states.
        clock: the place of a tensor among the flattened arguments, and the axis along which it has the steps.
    """

    looped = True
    what = "loop variable"

    def __init__(self, carried: Sequence[_Carried], names: Sequence[str], clock: tuple[int, int]) -> None:
        self._carried, self.names, self._clock = tuple(carried), tuple(names), clock
        self.places = self.names

    @contextmanager
    def attach(self, module: nn.Module, states: Sequence[Tensor] | None) -> Iterator[Passage]:
        passage = Passage()
        given: dict[int, Tensor] = {}
        following: dict[int, Tensor] = {}
        number = 0
        uses: dict[int, list[tuple[int, int]]] = {}
        makes: dict[int, list[tuple[int, int]]] = {}

        def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            place, axis = self._clock
            steps = int(pytree.tree_leaves((args, kwargs))[place].shape[axis])  # one, while torch traces
            passage.steps = steps
            for state, carried in enumerate(self._carried):
                first, last = carried.loop.at(steps, 0), carried.loop.at(steps, steps - 1)
                for operation, argument in carried.used:
                    uses.setdefault(first + operation, []).append((argument, state))
                makes.setdefault(last + carried.made[0], []).append((carried.made[1], state))

        def heard(name: str, arguments: Arguments) -> Arguments:
            if number not in uses:
                return arguments
            leaves, spec = pytree.tree_flatten(arguments)
            for argument, state in uses[number]:
                if argument >= len(leaves) or not isinstance(leaves[argument], Tensor):
                    raise LiftError(
                        "the operations of forward differ from call to call; the same sizes must take the same way"
                    )
                given.setdefault(state, leaves[argument].clone())
                if states is not None and self._carried[state].in_place:
                    leaves[argument].copy_(states[state])
                elif states is not None:
                    leaves[argument] = states[state]
            changed: Arguments = pytree.tree_unflatten(leaves, spec)
            return changed

        def done(name: str, arguments: Arguments, returned: Any) -> None:
            nonlocal number
            if not counts(returned):
                return
            tensors = [leaf for leaf in pytree.tree_leaves(returned) if isinstance(leaf, Tensor)]
            for place, state in makes.get(number, ()):
                if place < len(tensors):
                    following[state] = tensors[place].clone()
            number += 1

        handle = module.register_forward_pre_hook(begin, with_kwargs=True)
        try:
            with Listener(module, heard, done).listening():
                yield passage
        finally:
            handle.remove()
        if len(following) != len(self._carried) or len(given) != len(self._carried):
            raise LiftError("the loop over time takes other rounds than it took before; every step must do the same")
        passage.given = [given[state] for state in range(len(self._carried))]
        passage.following = passage.ended = [following[state] for state in range(len(self._carried))]
        passage.handed = [(tensor, [state]) for state, tensor in sorted(given.items())]


def find_loops(short: Sequence[Operation], long: Sequence[Operation], clock: tuple[int, int]) -> LoopSite | None:
    """The state of the loops in a call, from the operations at `ROUNDS` steps and at one step more; None where there is none."""
    regions = _regions([o.name for o in short], [o.name for o in long], 0, 0)
    if not regions:
        return None
    carried, names, shift = [], [], 0
    for end, period in regions:
        found = _carried_of(short, long, end, period, shift)
        if found is None:
            return None
        for state in found:
            carried.append(state)
            names.append(_name_of(long, state))
        shift += period
    if not carried:
        return None
    seen = Counter(names)
    numbers: Counter[str] = Counter()
    unique = []
    for name in names:
        numbers[name] += 1
        unique.append(name if name and seen[name] == 1 else f"{name or 'state'}.{numbers[name] - 1}")
    return LoopSite(carried, unique, clock)


def _regions(short: list[str], long: list[str], i: int, j: int) -> list[tuple[int, int]] | None:
    """Where the longer list repeats once more than the shorter: the end of each repetition in it, and its period."""
    extra = (len(long) - j) - (len(short) - i)
    if extra == 0:
        return [] if short[i:] == long[j:] else None
    same = 0
    while i + same < len(short) and short[i + same] == long[j + same]:
        same += 1
    for period in range(1, extra + 1):
        end = j + same + period
        start = end - (ROUNDS + 1) * period
        if start < 0 or any(long[at] != long[at + period] for at in range(start, end - period)):
            continue
        rest = _regions(short, long, i + same, end)
        if rest is not None:
            return [(end, period), *rest]
    return None


def _carried_of(
    short: Sequence[Operation], long: Sequence[Operation], end: int, period: int, shift: int
) -> list[_Carried] | None:
    """The states of one loop. Where it can be seen to begin earlier, rounds cut there are tried as well."""
    steps = ROUNDS + 1
    first = end - steps * period
    while first >= 0:
        loop = _Loop(first - shift * steps, shift, period)
        edges = _edges(long, loop)
        if edges is not None:
            return [state for state in edges if _keeps_its_size(short, long, state)]
        if first == 0 or long[first - 1].name != long[first - 1 + period].name:
            return None
        first -= 1
    return None


def _edges(long: Sequence[Operation], loop: _Loop) -> list[_Carried] | None:
    """What rounds take from the round before; None where the rounds but the first do not all do the same."""
    steps = ROUNDS + 1
    patterns = []
    for number in range(1, steps):
        begin, before = loop.at(steps, number), loop.at(steps, number - 1)
        pattern: dict[Place, tuple[bool | None, int, int]] = {}
        for operation in range(loop.period):
            for place, source in long[begin + operation].arguments.items():
                if source is None or source[0] < loop.at(steps, 0):
                    continue  # from before the loop: the same for every round
                if source[0] >= begin:
                    pattern[operation, place] = (True, source[0] - begin, source[1])
                elif source[0] >= before:
                    pattern[operation, place] = (False, source[0] - before, source[1])
                else:
                    pattern[operation, place] = (None, source[0], source[1])
        patterns.append(pattern)
    if any(pattern != patterns[0] for pattern in patterns[1:]):
        return None
    uses: dict[Place, list[Place]] = {}
    for use, (inside, operation, place) in patterns[0].items():
        if inside is False:
            uses.setdefault((operation, place), []).append(use)
    first = loop.at(steps, 0)
    return [
        _Carried(loop, made, tuple(used), _is_in_place(long[first + made[0]].name))
        for made, used in sorted(uses.items())
        if all(use[1] in long[first + use[0]].arguments for use in used)
    ]


def _keeps_its_size(short: Sequence[Operation], long: Sequence[Operation], state: _Carried) -> bool:
    """Whether it is a number per feature, rather than a heap of what came so far."""
    operation, place = state.made
    values = [
        operations[state.loop.at(steps, number) + operation].results[place]
        for operations, steps in ((short, ROUNDS), (long, ROUNDS + 1))
        for number in range(steps)
    ]
    return len({value.shape for value in values}) == 1 and values[0].ndim > 0 and values[0].is_floating_point()


def _name_of(long: Sequence[Operation], state: _Carried) -> str:
    """What the variable is called that the second round finds the state in."""
    begin = state.loop.at(ROUNDS + 1, 1)
    held = [long[begin + operation].holders.get(place, "") for operation, place in state.used]
    return next((name for name in held if name), "")


def _is_in_place(name: str) -> bool:
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
