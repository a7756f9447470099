"""The eager module with its sites of state: called with inputs by name, and from given states.

What can be known of a module before its axes are.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from rnnx._attributes import AttributeSite
from rnnx._checks import check_function, refuse_unsupported
from rnnx._eager import EagerModule, Example, Run, first_line
from rnnx._errors import LiftError, NothingFoundError
from rnnx._find_sites import Reading, SiteFinder, nothing_found
from rnnx._handed_over import HandedOver, StateArgument
from rnnx._operations import counting
from rnnx._over_time import OverTime
from rnnx._sites import Arguments, ArgumentSite, Site
from rnnx._slots import random_state


class SitedModule:
    """An eager module whose sites are known.

    Attributes:
        eager: the reference.
        sites: where state passes through.
        inputs: the example's tensors by name, without states.
        state_arguments: the states that the caller hands over, by the name of the argument, where sites take them as they are.
        state_outputs: outputs that are nothing but final states.
        pairs: arguments that are states of the border, and the outputs that hand the next ones back.
        lengths: inputs that padded batches are packed by.
        example_run: what the module did on the example.
    """

    def __init__(self, module: nn.Module, example: object, reading: Reading) -> None:
        self.eager = EagerModule(module)
        if isinstance(module, OverTime):
            self.eager.name = type(module.module).__name__
        self.example = Example(module, example)
        refuse_unsupported(self.eager)
        check_function(self.eager, self.example)
        self.pairs = dict(reading.pairs)
        self.state_arguments: dict[str, StateArgument] = {}
        self.state_outputs: set[str] = set()
        self.sites: tuple[Site, ...] = ()
        if not reading.whole:
            self.sites = () if reading.bare else SiteFinder(self.eager, self.example, reading).find()
            handed = HandedOver(self.sites, *self._run_on_random_floats())
            self.state_arguments, self.state_outputs = handed.arguments, handed.outputs
            # An argument that one site takes as it is, and another in another way, is a state of the module's border.
            for name in [name for name, _ in handed.stray.values() if name in self.pairs]:
                self.state_arguments.pop(name, None)
            for name in self.state_arguments:
                self.pairs.pop(name, None)
            self._add_border_sites(handed.stray, self.eager.run(self.example.own_arguments()), reading)
            if not self.sites:
                raise NothingFoundError(nothing_found(self.eager, self.example))
        self.example_run = self.eager.run(self.example.own_arguments(), self.sites)
        if isinstance(module, OverTime):  # its owner has never seen the module around his
            for site in self.sites:
                site.names = tuple(name.removeprefix("module.") for name in site.names)
                site.places = [place.removeprefix("module.") for place in site.places]
        taken = {*self.example.tensors, *self.example_run.outputs} - set(self.pairs)
        for site in self.sites:  # every tensor at the border of the artifact has a name of its own
            site.names = tuple(f"{name}.state" if name in taken else name for name in site.names)
        states = {*self.state_arguments, *self.pairs}
        self.inputs = {name: tensor for name, tensor in self.example.tensors.items() if name not in states}
        if not self.inputs:
            raise NothingFoundError(f"all of {', '.join(states)} would be states, and nothing the input of a step")
        self.lengths = {name for name, t in self.inputs.items() if self._look_like_lengths(name, t)} | {
            name for name, t in self.inputs.items() if any(_are_lengths(t, packed) for packed in self.example_run.lengths)
        }

    @property
    def names(self) -> list[str]:
        """The names of all states, in the order of the sites."""
        return [name for site in self.sites for name in site.names]

    @property
    def origins(self) -> list[str]:
        """Where each state was found, in words."""
        handed = {slot: name for name, argument in self.state_arguments.items() for slot in argument.slots}
        places = [f"{site.what} {name}" for site in self.sites for name in site.places]
        return [f"argument {handed[slot]}" if slot in handed else place for slot, place in enumerate(places)]

    @property
    def explicit(self) -> set[int]:
        """Which states the caller hands over, by number."""
        return {slot for argument in self.state_arguments.values() for slot in argument.slots} | self._slots(ArgumentSite)

    @property
    def kept_slots(self) -> set[int]:
        """Which states the module keeps, by number."""
        return self._slots(AttributeSite)

    @property
    def has_border(self) -> bool:
        """Whether states come and go with every call: in arguments, attributes and buffers."""
        return any(isinstance(site, AttributeSite | ArgumentSite) and not site.looped for site in self.sites)

    @property
    def looped(self) -> bool:
        """Whether state goes through a loop in Python."""
        return any(site.looped for site in self.sites)

    def arguments(self, inputs: Mapping[str, Tensor], states: Sequence[Tensor]) -> Arguments:
        """What `forward` is called with; the states fill the arguments that ask for them."""
        border = [states[slot] for slot in sorted(self._slots(ArgumentSite))]
        paired = dict(zip(self.pairs, border, strict=True))
        tensors = [
            self.state_arguments[name].of(states) if name in self.state_arguments else paired.get(name, inputs.get(name))
            for name in self.example.tensors
        ]
        return self.example.arguments([tensor for tensor in tensors if tensor is not None])

    def run(self, inputs: Mapping[str, Tensor], states: Sequence[Tensor]) -> Run:
        """Call the module with its sites beginning from these states."""
        return self.eager.run(self.arguments(inputs, states), self.sites, states)

    def run_untouched(self, inputs: Mapping[str, Tensor], states: Sequence[Tensor]) -> Run:
        """Call the module as its own `forward` has it; the states go to the arguments that ask for them, and nowhere else."""
        return self.eager.run(self.arguments(inputs, states), self.sites)

    def steps(self, run: Run) -> int | None:
        """How many steps a run took; None where no site can tell.

        Raises:
            LiftError: the sites don't agree, or one was not called.
        """
        for site, passage in zip(self.sites, run.passages, strict=True):
            if not passage.used:
                raise LiftError(f"{site.names[0]}: its layer or cell is called on the example, but not at every size")
        counts = {passage.steps for passage in run.passages} - {None}
        if not counts and len(set(run.layer_steps)) == 1 and not self._loops_over_layers(run):
            counts = set(run.layer_steps)
        if len(counts) > 1:
            raise LiftError(
                f"the sites of state take different numbers of steps, {sorted(counts, key=str)}; they must go in lockstep"
            )
        return counts.pop() if counts else None

    def call_as_owner(self, inputs: Mapping[str, Tensor], states: Sequence[Tensor]) -> tuple[Run, list[Tensor | None]]:
        """A call as its owner makes it, who puts states into arguments and attributes himself: without a site anywhere.

        With the next states where they are found: in outputs and attributes; None for those that argument and output hold jointly.
        """
        with self.eager.remembering():
            following: list[Tensor | None] = [None for _ in states]
            kept = sorted(self.kept_slots)
            waiting = iter([states[slot].clone() for slot in kept])
            for attribute, leaves in self.eager.kept if kept else ():
                attribute.put(self.eager.module, [next(waiting) for _ in attribute.tensors], leaves)
            run = self.eager.go_on(self.arguments(inputs, states))
            found = [t.clone() for a, _ in self.eager.kept for t in a.get(self.eager.module) or ()] if kept else []
        for slot, tensor in zip(kept, found, strict=True):
            following[slot] = tensor
        for slot, output in zip(sorted(self._slots(ArgumentSite)), self.pairs.values(), strict=True):
            following[slot] = run.outputs[output]
        return run, following

    def trace_of(self, inputs: Mapping[str, Tensor], states: Sequence[Tensor]) -> tuple[Run, object]:
        """A run, and what shows whether another took as many steps: its operations, and the sizes of what it returned."""
        with counting(self.eager.module) as count:
            run = self.run(inputs, states)
        return run, (count[0], run.layer_steps, tuple(t.shape for t in run.outputs.values()))

    def count_operations(self, inputs: Mapping[str, Tensor], states: Sequence[Tensor]) -> int:
        """How many operations a call takes."""
        with counting(self.eager.module) as count:
            self.run(inputs, states)
        return count[0]

    def _slots(self, kind: type[Site]) -> set[int]:
        """The states of one kind of site at the border, by number."""
        at_border = [(start, site) for start, site in self._with_offsets() if isinstance(site, kind) and not site.looped]
        return {start + place for start, site in at_border for place in range(len(site.names))}

    def _loops_over_layers(self, run: Run) -> bool:
        return len(run.layer_steps) != len(self.eager.layers())

    def _add_border_sites(self, stray: Mapping[Site, tuple[str, str]], run: Run, reading: Reading) -> None:
        """States that the sites inside do not take as they are: kept in attributes, or handed over in paired arguments."""
        border: list[Site] = []
        if self.pairs:
            edges = [(self.example.places[argument], run.places[output]) for argument, output in self.pairs.items()]
            border.append(ArgumentSite(edges, self.example.spec, tuple(self.pairs)))
            self.state_outputs |= set(self.pairs.values())
        kept = self._find_kept(reading.kept)
        border += [] if kept is None else [kept]
        if border:
            slots = {site: range(start, start + len(site.names)) for start, site in self._with_offsets()}
            inside = [site for site in self.sites if not self._decides(border, site)]
            gone = {slot for site in self.sites if site not in inside for slot in slots[site]}
            if any(set(argument.slots) & gone for argument in self.state_arguments.values()):
                raise LiftError(
                    f"{self.eager.name}: one layer's state is an argument as it is, another's is not; pass all alike"
                )
            moved = {slot: place for place, slot in enumerate(slot for site in inside for slot in slots[site])}
            self.state_arguments = {
                name: dataclasses.replace(argument, slots=tuple(moved[slot] for slot in argument.slots))
                for name, argument in self.state_arguments.items()
            }
            self.sites = (*inside, *border)
        for site, (_, reason) in stray.items():
            if site in self.sites:
                raise LiftError(reason)

    def _look_like_lengths(self, name: str, tensor: Tensor) -> bool:
        """Whole numbers, one per row, that are called lengths and are no more than there are steps."""
        whole = tensor.ndim == 1 and not tensor.is_floating_point() and tensor.dtype != torch.bool
        longest = max((size for t in self.inputs.values() for size in t.shape), default=0)
        return (
            whole
            and re.search(r"len(gth)?s?([_.]|$)", name) is not None
            and 1 <= int(tensor.min()) <= int(tensor.max()) <= longest
        )

    def _with_offsets(self) -> Iterator[tuple[int, Site]]:
        offset = 0
        for site in self.sites:
            yield offset, site
            offset += len(site.names)

    def _find_kept(self, at_border: bool) -> AttributeSite | None:
        """Attributes that decide the next call, unless the sites inside are all that they decide."""
        if not self.eager.kept:
            return None
        with self.eager.remembering():
            first = self.eager.go_on(self.example.own_arguments(), self.sites)
            second = self.eager.go_on(self.example.own_arguments(), self.sites)
        if _same(first, second):
            return None  # written, never read
        if (
            not at_border
            and self.sites
            and _same(self.eager.run(self.example.own_arguments(), self.sites, first.following), second)
        ):
            return None
        site = AttributeSite(self.eager.kept)
        with self.eager.remembering():
            ended = self.eager.go_on(self.example.own_arguments(), [site])
            after = self.eager.go_on(self.example.own_arguments(), [site])
        if not _same(self.eager.run(self.example.own_arguments(), [site], ended.following), after):
            raise LiftError(
                f"{self.eager.name} keeps state in {', '.join(site.names)} and in something else, which is no tensor; keep all "
                "of it in tensors"
            )
        return site

    def _decides(self, border: Sequence[Site], inner: Site) -> bool:
        """Whether what a site inside is given depends on the states at the border."""
        given = []
        states = self.eager.run(self.example.own_arguments(), border).following
        for seed in (0, 1):
            generator = torch.Generator().manual_seed(seed)
            random = [random_state(s.shape, s.dtype, generator) for s in states]
            run = self.eager.run(self.example.own_arguments(), [*border, inner], [*random, *(None for _ in inner.names)])
            given.append(run.passages[-1].given)
        return any(a is not None and b is not None and not torch.equal(a, b) for a, b in zip(*given, strict=True))

    def _run_on_random_floats(self) -> tuple[Run, dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        tensors = {
            name: torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype) if tensor.is_floating_point() else tensor
            for name, tensor in self.example.tensors.items()
        }
        try:
            return self.eager.run(self.example.arguments(list(tensors.values())), self.sites), tensors
        except Exception as error:
            raise LiftError(f"{self.eager.name} does not run on random values: {first_line(error)}") from error


def _same(a: Run, b: Run) -> bool:
    """Whether two runs returned the same."""
    return a.outputs.keys() == b.outputs.keys() and all(
        t.shape == b.outputs[name].shape and torch.equal(t.nan_to_num(), b.outputs[name].nan_to_num())
        for name, t in a.outputs.items()
    )


def _are_lengths(tensor: Tensor, packed: Tensor) -> bool:
    same = tensor.ndim == 1 and tensor.shape == packed.shape and not tensor.is_floating_point() and tensor.dtype != torch.bool
    return same and torch.equal(tensor.long().sort().values, packed.sort().values)
