"""Which reading of a module holds: each is tried, until one lets it be stepped.

State that submodules carry is seen by watching them. State that the caller carries is not: `forward(x, a, b) -> (y, p, q)` does
not say which argument takes which result. So the likely pairs are tried, and those kept with which steps and chunks give what
the whole sequence gives.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rnnx._attributes import AttributeSite
from rnnx._axes import axes_of
from rnnx._checks import changed_arguments
from rnnx._eager import EagerModule, Example, first_line, frozen_copy
from rnnx._errors import ExportError, LiftError, NothingFoundError
from rnnx._find_sites import Reading
from rnnx._lift import Lift
from rnnx._over_time import OverTime
from rnnx._sites import ArgumentSite

Pairs = tuple[tuple[str, str], ...]

# How people call an argument that is a state, its parts included: h, hx, h_0, hidden.1, rnn_hxs, prev_state, conv_cache, memory.
_STATE: Final = re.compile(
    r"(^|[._])(h|c|h_?[0tn]|c_?[0tn]|hx|cx|hxs|h_?prev|c_?prev|prev_?[hc]|hidden\w*|states?|cells?|memory|mem|cache\w*|prev|carry|s)([._]|$|\d)"
    r"|hidden|state|cache|memory|prev"
)
_MOST: Final = 12  # ways that are tried
_MOST_WAYS: Final = 720


def lift(
    module: nn.Module, example: object, states: Mapping[str, str] | None = None, axes: Mapping[str, str] | None = None
) -> Lift:
    """Make the state of a module explicit, however it is written; in float32 where float64 cannot be kept. See `_lift`."""
    for name, letters in (axes or {}).items():
        tensors = Example(module, example).tensors
        if name not in tensors:
            raise LiftError(f"axes: the example of {type(module).__name__} has no {name!r}; it has {', '.join(tensors)}")
        axes_of(name, tensors[name], letters)
    try:
        return _lift(module, example, states, axes)
    except LiftError:
        if not isinstance(module, nn.Module) or not _holds_doubles(module):
            raise
        single, floats = frozen_copy(module).float(), _in_floats(example)
        lifted = _lift(single, floats, states, axes)
        apart = _largest_difference(module, example, single, floats)
        lifted.lowering_because += (
            "; computed in float32, as ONNX Runtime has no float64 operator for layers that take whole sequences: on the example, "
            f"the answers differ from those in float64 by {apart:.1e}"
        )
        return lifted


def _holds_doubles(module: nn.Module) -> bool:
    return {weight.dtype for weight in module.parameters() if weight.is_floating_point()} == {torch.float64}


def _in_floats(example: object) -> object:
    return pytree.tree_map(
        lambda leaf: leaf.float() if isinstance(leaf, Tensor) and leaf.dtype == torch.float64 else leaf, example
    )


def _largest_difference(module: nn.Module, example: object, single: nn.Module, floats: object) -> float:
    runs = []
    for one, given in ((module, example), (single, floats)):
        arguments = Example(one, given)
        runs.append(EagerModule(one).run(arguments.own_arguments()).outputs)
    differences = ((tensor.double() - runs[1][name].double()).abs().max() for name, tensor in runs[0].items())
    return max(float(difference) for difference in differences)


def _lift(module: nn.Module, example: object, states: Mapping[str, str] | None, axes: Mapping[str, str] | None) -> Lift:
    """Make the state of a module explicit, however it is written.

    Args:
        example: what `forward` is called with.
        states: arguments that are states, and the outputs that hand the next ones back; None to find them.
        axes: the axes of inputs, a letter each, where they should not be looked for: {"x": "BTF"}.

    Raises:
        LiftError: no reading holds; of several reasons the first, or the one that asks for `states`.
    """
    found: list[Lift] = []
    reasons: list[LiftError] = []

    def holds(reading: Reading) -> Lift | None:
        try:
            lifted = Lift(module, example, reading, axes)
        except LiftError as error:
            reasons.append(error)
            return None
        except ExportError:
            raise
        except Exception as error:  # what modules raise that are called in ways that they were not made for
            reasons.append(LiftError(f"{type(module).__name__} does not run: {type(error).__name__}: {first_line(error)}"))
            return None
        found.append(lifted)
        return lifted if lifted.not_streamable_because is None else None

    if states is not None:
        outer = _Border(module, example)
        outer.check(states)
        pairs = tuple(states.items())
        for loops in (False, True):
            lifted = holds(Reading(pairs, loops))
            if lifted is not None:
                return lifted if lifted.chunks_matter_because is None else _as_called(lifted, module, example, axes)
        stepped = _step_by_step(module, example, [pairs], axes, reasons, None) if pairs else None
        return stepped or _first(found, reasons)

    plain = holds(Reading())
    if plain is not None and not plain.loose_ends():
        return plain
    try:
        outer = _Border(module, example)
    except Exception:  # it does not run at all
        raise reasons[0] from None
    if outer.keeps:
        kept = holds(Reading(kept=True))
        if kept is not None and not kept.loose_ends():
            return kept
    guesses = outer.guesses()
    paired: list[tuple[Pairs, Lift]] = []
    for pairs in itertools.chain(*guesses):
        for reading in (Reading(pairs), Reading(pairs, loops=True), Reading(pairs, bare=True)):
            lifted = holds(reading)
            if lifted is not None and not lifted.loose_ends():
                paired.append((pairs, lifted))
                break
        if paired and paired[-1][1].chunks_matter_because is None:
            return paired[-1][1]
    if paired:  # steps do not give what the whole gives, so that they do not tell which pairs are right either
        pairs, lifted = paired[0]
        if not outer.is_known(pairs):
            raise LiftError(f"which output of {outer.name} hands each state back cannot be known; {outer.advice()}")
        return _as_called(lifted, module, example, axes)
    alone: list[Pairs] = [()]
    for group in ([*guesses, alone] if outer.keeps else guesses) if outer.takes_a_step else []:
        stepped = _step_by_step(module, example, group, axes, reasons, outer)
        if stepped is not None:
            return stepped
    if plain is not None:
        (argument, output), *_ = plain.loose_ends()
        raise LiftError(
            f"{argument} looks like a state that {output} hands back, but the module does not run with it as one "
            f"({_most_telling(reasons)}); {outer.advice()}"
        )
    looped = holds(Reading(loops=True))
    if looped is not None:
        return looped
    return _whole(module, example, axes, found, reasons, outer)


def _first(found: list[Lift], reasons: list[LiftError]) -> Lift:
    if found:
        return found[0]
    raise _most_telling(reasons)


def _step_by_step(
    module: nn.Module,
    example: object,
    guesses: Sequence[Pairs],
    axes: Mapping[str, str] | None,
    reasons: list[LiftError],
    outer: "_Border | None",
) -> Lift | None:
    """The module as one that takes one step, with the first guess that fits it.

    Args:
        outer: knows what is evidence for a guess; None where the pairs were said.

    Raises:
        LiftError: there is no evidence for that guess but the order: steps cannot show which pairs are right.
    """
    for pairs in guesses:
        try:
            over_time = OverTime(module, example, dict(pairs), axes or {})
            lifted = Lift(over_time, over_time.example, Reading())
        except LiftError as error:
            reasons.append(error)
            continue
        if outer is not None and not outer.is_known(pairs):
            raise LiftError(
                f"{type(module).__name__} takes one step, and which output hands each state back cannot be known; "
                f"{outer.advice()}"
            )
        return lifted
    return None


def _whole(
    module: nn.Module,
    example: object,
    axes: Mapping[str, str] | None,
    found: list[Lift],
    reasons: list[LiftError],
    outer: "_Border",
) -> Lift:
    """A module that cannot be stepped: its recurrent layers take whole sequences, as they are."""
    reason = _most_telling(reasons) if reasons else None
    if outer.has_layers:
        why = next((lifted.not_streamable_because for lifted in found), None) or str(reason)
        try:
            return Lift(module, example, Reading(whole=True), axes, whole=why)
        except LiftError:
            if reason is None:
                raise
            raise reason from None
    assert reason is not None
    if outer.changed:
        raise LiftError(
            f"{', '.join(outer.changed)}: forward changes what it is given in place; return what it becomes"
        ) from None
    if isinstance(reason, NothingFoundError) and outer.has_candidates:
        raise LiftError(f"no state was found in {outer.name}; where its caller hands it over, {outer.advice()}") from None
    raise reason


def _as_called(lifted: Lift, module: nn.Module, example: object, axes: Mapping[str, str] | None) -> Lift:
    """A module whose calls matter, with no other state than its caller's: what is hidden begins anew in every call, as it does for
    him.
    """
    sited = lifted.sited
    if all(isinstance(site, AttributeSite | ArgumentSite) for site in sited.sites):
        return lifted
    return Lift(module, example, Reading(tuple(sited.pairs.items()), bare=True), axes)


def _most_telling(reasons: list[LiftError]) -> LiftError:
    """Why the reading failed that came furthest."""
    return next((reason for reason in reasons if not isinstance(reason, NothingFoundError)), reasons[0])


class _Border:
    """What a module takes and returns, and which of it may be state."""

    def __init__(self, module: nn.Module, example: object) -> None:
        eager, arguments = EagerModule(module), Example(module, example)
        run = eager.run(arguments.own_arguments())
        self.name = eager.name
        self.has_layers = bool(run.layer_steps)
        self.takes_a_step = all(steps == 1 for steps in run.layer_steps)
        self.keeps = bool(eager.kept)
        self._arguments = arguments.tensors
        self._outputs = run.outputs
        self._through_cells = self._find_through_cells(eager, arguments)
        self._changed = changed_arguments(eager, arguments)

    def check(self, states: Mapping[str, str]) -> None:
        """Refuse names that nothing has."""
        for what, names, known in (("argument", states, self._arguments), ("output", states.values(), self._outputs)):
            unknown = [name for name in names if name not in known]
            if unknown:
                raise LiftError(f"states: the example of {self.name} has no {what} {unknown[0]!r}; it has {', '.join(known)}")

    def guesses(self) -> list[list[Pairs]]:
        """Pairs of argument and output of one shape, in groups: those whose names say that they are states come first.

        The first argument is the data, unless its name says otherwise.
        """
        hinted = [name for name in self._candidates() if _STATE.search(name)]
        groups = [list(itertools.islice(self._pairings(names), _MOST)) for names in (hinted, self._candidates()) if names]
        return groups[:1] if groups[1:] and groups[0] == groups[1] else groups

    def _candidates(self) -> list[str]:
        """Arguments that may be states."""
        first = next(iter(self._arguments))
        fitting = [name for name in self._arguments if self._outputs_for(name)]
        return [name for name in fitting if name != first or _STATE.search(name)]

    def is_known(self, pairs: Pairs) -> bool:
        """Whether there is evidence for the pairs beside their shapes.

        That is: no other output has the shape; or both have the same place in structures of one form, the same key; or a torch
        cell takes the one and returns the other.
        """
        return all(len(self._alike(output)) == 1 or self._is_evident(argument, output, pairs) for argument, output in pairs)

    def _alike(self, output: str) -> list[str]:
        return [name for name, tensor in self._outputs.items() if _kind(tensor) == _kind(self._outputs[output])]

    def _is_evident(self, argument: str, output: str, pairs: Pairs) -> bool:
        rivals = [name for name in self._alike(output) if _in_common(argument, name) >= max(1, _in_common(argument, output))]
        return rivals == [output] or (argument, output) in self._through_cells

    def _find_through_cells(self, eager: EagerModule, arguments: Example) -> set[tuple[str, str]]:
        """Arguments that a torch cell is given as they are, and outputs that are what it returned, by the place of h and c."""
        generator = torch.Generator().manual_seed(0)
        tensors = {
            name: torch.randn(t.shape, generator=generator, dtype=t.dtype) if t.is_floating_point() else t
            for name, t in arguments.tensors.items()
        }
        cells = [path for path, part in eager.module.named_modules() if isinstance(part, nn.RNNCellBase | nn.RNNBase)]
        try:
            run = eager.run(arguments.arguments(list(tensors.values())), watch=cells)
        except Exception:
            return set()
        found = set()
        for call in run.calls:
            given = pytree.tree_leaves(call.args[1:])
            returned = pytree.tree_leaves(call.returned)[-len(given) :] if given else []
            for before, after in zip(given, returned, strict=False):
                names = [n for n, t in tensors.items() if _holds_the_same(t, before)]
                outputs = [n for n, t in run.outputs.items() if _holds_the_same(t, after)]
                found |= set(itertools.product(names, outputs))
        return found

    @property
    def changed(self) -> list[str]:
        """Arguments that `forward` changes in place."""
        return list(self._changed)

    @property
    def has_candidates(self) -> bool:
        """Whether an output has the shape of an argument."""
        return bool(self._candidates())

    def advice(self) -> str:
        """What to say where the pairs cannot be known."""
        candidates = {name: self._outputs_for(name) for name in self._candidates() or self._arguments}
        said = "; ".join(f"{name} may come from {' or '.join(outputs)}" for name, outputs in candidates.items())
        groups = self.guesses()
        likely = dict(next(iter(groups[0]), ())) if groups else {name: outputs[-1] for name, outputs in candidates.items()}
        return f"say which output hands each state back, such as states={likely}: {said}"

    def _pairings(self, arguments: list[str]) -> Iterator[Pairs]:
        """Every way to give each argument an output of its own; the likeliest first.

        What a torch cell or the places in a structure say goes before the order; of more outputs than arguments, the last ones go
        first.
        """
        groups: dict[object, list[str]] = {}
        for name in arguments:
            groups.setdefault(_kind(self._arguments[name]), []).append(name)
        ways = []
        for names in groups.values():
            outputs = self._outputs_for(names[0])
            found = [list(zip(names, way, strict=True)) for way in itertools.permutations(outputs, len(names))][:_MOST_WAYS]
            ways.append(sorted((way for way in found if all(self._may_be(*pair) for pair in way)), key=self._unlikely))
        for chosen in itertools.product(*ways):
            pairs = dict(pair for group in chosen for pair in group)
            yield tuple((name, pairs[name]) for name in arguments)

    def _may_be(self, argument: str, output: str) -> bool:
        """An argument that is changed in place is handed back as what it became."""
        return argument not in self._changed or _holds_the_same(self._changed[argument], self._outputs[output])

    def _unlikely(self, way: list[tuple[str, str]]) -> tuple[int, int, list[int]]:
        """Sorts ways of pairing."""
        places = [list(self._outputs).index(output) for _, output in way]
        evidence = sum((pair in self._through_cells) + _in_common(*pair) for pair in way)
        return -evidence, int(places != sorted(places)), [-place for place in places]

    def _outputs_for(self, argument: str) -> list[str]:
        """Outputs of the same shape and type; where a name says that some are state, only those."""
        tensor = self._arguments[argument]
        if not tensor.is_floating_point():
            return []
        fitting = [name for name, output in self._outputs.items() if _kind(output) == _kind(tensor)]
        return [name for name in fitting if _STATE.search(name.removeprefix("output"))] or fitting


def _in_common(argument: str, output: str) -> int:
    """How many of the last parts of two names are the same: `state.0.h` and `output.1.0.h` have two."""
    ends = zip(argument.split(".")[::-1], output.split(".")[::-1], strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))


def _holds_the_same(a: object, b: object) -> bool:
    return isinstance(a, Tensor) and isinstance(b, Tensor) and a.numel() == b.numel() and torch.equal(a.flatten(), b.flatten())


def _kind(tensor: Tensor) -> object:
    return tuple(tensor.shape), tensor.dtype
