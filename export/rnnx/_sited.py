"""The eager module with its sites of state: called with inputs by name, and from given states.

What can be known of a module before its axes are.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnx._eager import EagerModule, Example, Run, first_line
from rnnx._errors import LiftError, NothingFoundError
from rnnx._loops import ROUNDS, LoopSite, find_loops, listing
from rnnx._over_time import OverTime
from rnnx._sites import (
    Arguments,
    AttributeSite,
    Call,
    CellSite,
    LayerSite,
    Passage,
    Site,
    find_cells,
    is_inside,
    join,
    layer_input,
)

_TORCHS_OWN = (nn.RNN.forward, nn.LSTM.forward, nn.GRU.forward)


@dataclass(frozen=True)
class StateArgument:
    """A state that the caller hands over: the states of these slots, joined along axis 0, in the argument's shape.

    `returned` is the output that hands the next one back; None where the module does not return it.
    """

    slots: tuple[int, ...]
    shape: tuple[int, ...] | None  # -1 for the batch; None where joining is all there is to do
    returned: str | None

    def of(self, states: Sequence[Tensor]) -> Tensor:
        joined: Tensor = join([[states[slot] for slot in self.slots]], as_tuple=False)
        return joined if self.shape is None else joined.reshape(self.shape)


@dataclass(frozen=True)
class Reading:
    """One way to understand a module.

    Attributes:
        pairs: arguments that are states, and the outputs that hand the next ones back.
        loops: whether state is looked for in the operations of Python loops, rather than at submodules called step by step.
        whole: whether no state is looked for: the module only ever takes whole sequences.
        bare: whether pairs and what the module keeps are all its state: what layers inside begin with is left as it is.
        kept: whether what the module keeps is state as its attributes have it, even where a layer takes it as it is.
    """

    pairs: tuple[tuple[str, str], ...] = ()
    loops: bool = False
    whole: bool = False
    bare: bool = False
    kept: bool = False


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
        self._check_function()
        self.pairs = dict(reading.pairs)
        self.state_arguments: dict[str, StateArgument] = {}
        self.state_outputs: set[str] = set()
        self.sites: tuple[Site, ...] = ()
        if not reading.whole:
            self.sites = self._find_sites(reading)
            stray = self._find_handed_over()
            # An argument that one site takes as it is, and another in another way, is a state of the module's border.
            for name in [name for name, _ in stray.values() if name in self.pairs]:
                self.state_arguments.pop(name, None)
            for name in self.state_arguments:
                self.pairs.pop(name, None)
            self._add_border_sites(stray, self.eager.run(self._example_arguments()), reading)
            if not self.sites:
                raise NothingFoundError(self._nothing_found())
        self.example_run = self.eager.run(self._example_arguments(), self.sites)
        states = {*self.state_arguments, *self.pairs}
        self.inputs = {name: tensor for name, tensor in self.example.tensors.items() if name not in states}
        if not self.inputs:
            raise NothingFoundError(f"all of {', '.join(states)} would be states, and nothing the input of a step")
        self.lengths = {
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
        slots = {slot for argument in self.state_arguments.values() for slot in argument.slots}
        for offset, site in self._with_offsets():
            if set(site.names) == set(self.pairs) and isinstance(site, CellSite) and site.path == "":
                slots |= set(range(offset, offset + len(site.names)))
        return slots

    @property
    def has_border(self) -> bool:
        """Whether states come and go with every call: in arguments, attributes and buffers."""
        return any(
            isinstance(site, AttributeSite) or (getattr(site, "path", None) == "" and not site.looped) for site in self.sites
        )

    @property
    def looped(self) -> bool:
        """Whether state goes through a loop in Python."""
        return any(site.looped for site in self.sites)

    def arguments(self, inputs: Mapping[str, Tensor], states: Sequence[Tensor]) -> Arguments:
        """What `forward` is called with; the states fill the arguments that ask for them."""
        paired = dict(zip(self.pairs, self._paired(states), strict=True))
        tensors = [
            self.state_arguments[name].of(states)
            if name in self.state_arguments
            else paired[name]
            if name in paired
            else inputs[name]
            for name in self.example.tensors
        ]
        return self.example.arguments(tensors)

    def _paired(self, states: Sequence[Tensor]) -> Sequence[Tensor]:
        for offset, site in self._with_offsets():
            if self.pairs and site.names == tuple(self.pairs):
                return states[offset : offset + len(site.names)]
        return ()

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

    def trace_of(self, inputs: Mapping[str, Tensor], states: Sequence[Tensor]) -> tuple[Run, tuple[object, ...]]:
        """A run, and what shows whether another took as many steps: its operations, and the sizes of what it returned."""
        with listing(self.eager.module) as operations:
            run = self.run(inputs, states)
        return run, (len(operations), run.layer_steps, tuple(t.shape for t in run.outputs.values()))

    def _loops_over_layers(self, run: Run) -> bool:
        return len(run.layer_steps) != len(self.eager.layers())

    def _example_arguments(self) -> Arguments:
        return self.example.arguments(list(self.example.tensors.values()))

    def _check_function(self) -> None:
        """Refuse a module that is not a function of its inputs, and of what it keeps."""
        try:
            first, second = self.eager.run(self._example_arguments()), self.eager.run(self._example_arguments())
        except LiftError:
            raise
        except Exception as error:
            raise LiftError(
                f"{self.eager.name} does not run on the example: {type(error).__name__}: {first_line(error)}; "
                "give what you call it with"
            ) from error
        if not first.outputs:
            raise LiftError(f"{self.eager.name} returns no tensor, nor a tuple, list or dict of them")
        for name, tensor in first.outputs.items():
            if name not in second.outputs or not torch.equal(tensor.nan_to_num(), second.outputs[name].nan_to_num()):
                raise LiftError(
                    f"{self.eager.name} is not a function of its inputs: two runs on the same example differ in {name}; it "
                    "draws random numbers, so take them as an argument"
                )

    def _find_sites(self, reading: Reading) -> tuple[Site, ...]:
        """Recurrent layers, and cells or loops."""
        layers = self.eager.layers()
        watch = [path for path, _ in self.eager.module.named_modules() if path]
        run = self.eager.run(self._example_arguments(), watch=[*watch, *(path for path in layers if not path)])
        if isinstance(self.eager.module, OverTime) and self.eager.module.names:
            return (self.eager.module.site(),)
        sites: list[Site] = []
        if reading.loops:
            loop = self._find_loops()
            if loop is None:
                raise NothingFoundError(self._nothing_found())
            sites.append(loop)
            cells: list[CellSite] = []
        else:
            cells = find_cells(run.calls) or self._find_cells_in_longer_example(watch, run)
            sites += cells
        for path, layer in layers.items():
            if layer.bidirectional and any(call.path == path for call in run.calls):
                raise LiftError(
                    f"{path or 'the module'}: a bidirectional layer needs the whole sequence and cannot be stepped"
                )
            calls = [call for call in run.calls if call.path == path]
            if any(path == cell.path or is_inside(path, cell.path) for cell in cells) or (reading.loops and len(calls) > 1):
                continue
            x = layer_input(calls[0].args, calls[0].kwargs) if calls else None
            if isinstance(x, PackedSequence):
                raise LiftError(f"{path or 'the module'}: a packed batch holds whole sequences, and cannot be stepped")
            if isinstance(x, Tensor) and x.ndim != 3:
                raise LiftError(
                    f"{path or 'the module'}: a recurrent layer must be given a batch of sequences, got a tensor of shape {tuple(x.shape)}"
                )
            for number in range(len(calls)):
                name = path if len(calls) == 1 else f"{path}.{number}".removeprefix(".")
                sites.append(LayerSite(path, layer, number, name))
        self._refuse_stray_cells(reading, run.calls, cells)
        if isinstance(self.eager.module, OverTime):  # its owner has never seen the module around his
            for site in sites:
                site.names = tuple(name.removeprefix("module.") for name in site.names)
                site.places = [place.removeprefix("module.") for place in site.places]
        order = {call.path: place for place, call in reversed(list(enumerate(run.calls)))}
        return tuple(sorted(sites, key=lambda site: order.get(getattr(site, "path", ""), -1)))

    def _refuse_stray_cells(self, reading: Reading, calls: Sequence[Call], cells: Sequence[CellSite]) -> None:
        if reading.loops or reading.pairs or self.eager.kept:
            return
        called = {call.path for call in calls}
        for path, part in self.eager.module.named_modules():
            inside = any(path == cell.path or is_inside(path, cell.path) for cell in cells)
            if isinstance(part, nn.RNNCellBase) and path in called and not inside:
                raise NothingFoundError(
                    f"{path}: this cell is not given, step by step, what it returned the step before; call it once for every "
                    "step, and hand its state on as it is"
                )

    def _find_cells_in_longer_example(self, watch: Sequence[str], run: Run) -> list[CellSite]:
        """In an example of a single step no cell is given what it returned: try three, along every axis of size 1."""
        if run.layer_steps:
            return []
        for longer in self._longer_examples(ROUNDS, only=1):
            cells = find_cells(self._try_calls(longer[0], watch))
            if cells:
                return cells
        return []

    def _try_calls(self, arguments: Arguments, watch: Sequence[str]) -> Sequence[Call]:
        try:
            return self.eager.run(arguments, watch=watch).calls
        except Exception:  # that axis is not time
            return []

    def _longer_examples(self, steps: int, only: int | None = None) -> Iterator[tuple[Arguments, tuple[int, int]]]:
        """The example at another number of steps: each size that an axis has could be time's, in every input that has it.

        With the place of a tensor that has the axis among the flattened arguments, and the axis.
        """
        tensors = self.example.tensors
        inputs = {name: t for name, t in tensors.items() if name not in self.pairs}
        sizes = dict.fromkeys(size for t in inputs.values() for size in t.shape[:3] if only is None or size == only)
        for size in sizes:
            choices = [[None, *(a for a in range(t.ndim) if t.shape[a] == size)][::-1] for t in inputs.values()]
            for chosen in itertools.product(*choices):
                clock = next(((name, axis) for name, axis in zip(inputs, chosen, strict=True) if axis is not None), None)
                if clock is None:
                    continue
                axes = dict(zip(inputs, chosen, strict=True))
                longer = [_resized(t, axes.get(name), steps) for name, t in tensors.items()]
                yield self.example.arguments(longer), (self.example.places[clock[0]], clock[1])

    def _find_loops(self) -> LoopSite | None:
        """Compare a call of `ROUNDS` steps with one that is longer by a step, whatever axis that may be."""
        pairs = zip(self._longer_examples(ROUNDS), self._longer_examples(ROUNDS + 1), strict=True)
        for (short, clock), (long, _) in pairs:
            try:
                with listing(self.eager.module) as fewer:
                    self.eager.run(short)
                with listing(self.eager.module) as more:
                    self.eager.run(long)
            except Exception:  # that axis is not time
                continue
            place, axis = clock
            loop = find_loops(fewer, more, (place, axis)) if len(more) > len(fewer) else None
            if loop is not None:
                return loop
        return None

    def _find_handed_over(self) -> dict[Site, tuple[str, str]]:
        """Which arguments are states as the sites take them, and which outputs hand the next ones back.

        They are those of equal values, on random values. Returns the sites that are given an argument in another way, which
        one, and why that will not do.
        """
        stray: dict[Site, tuple[str, str]] = {}
        if not self.sites:
            return stray
        run, tensors = self._run_on_random_floats()
        offset = 0
        for site, passage in zip(self.sites, run.passages, strict=True):
            found, reason = self._arguments_of(site, passage, offset, tensors, run.outputs)
            if reason is None:
                self.state_arguments |= found
                self.state_outputs |= {a.returned for a in found.values() if a.returned is not None}
            else:
                stray[site] = reason
            self.state_outputs |= {
                n for n, t in run.outputs.items() if any(_equal_as(t, final, final.shape) for final in passage.ended)
            }
            offset += len(site.names)
        return stray

    def _arguments_of(
        self, site: Site, passage: Passage, offset: int, tensors: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
    ) -> tuple[dict[str, StateArgument], tuple[str, str] | None]:
        """The arguments that a site is given as they are, or why it is not."""
        found: dict[str, StateArgument] = {}
        explicit: set[int] = set()
        for place, (whole, slots) in enumerate(passage.handed):
            for name, tensor in tensors.items():
                if not tensor.is_floating_point() or tensor.numel() != whole.numel():
                    continue
                if not torch.equal(tensor.reshape(whole.shape), whole):
                    continue
                if name in self.state_arguments:
                    return {}, (name, f"{name}: two recurrent layers begin with this one state; give each a state of its own")
                final = passage.ended[place]
                returned = next((n for n, t in outputs.items() if _equal_as(t, final, tensor.shape)), None)
                if returned is None and any(t.shape == tensor.shape for t in outputs.values()):
                    reason = (
                        f"{name}: the state that forward returns is not what {site.names[0]} ended with; return it as it is"
                    )
                    return {}, (name, reason)
                shape = _argument_shape(tensor, whole)
                if shape == ():
                    reason = (
                        f"{name}: a state has the shape (layers, batch, hidden) or (batch, hidden), got {tuple(tensor.shape)}"
                    )
                    return {}, (name, reason)
                found[name] = StateArgument(tuple(offset + slot for slot in slots), shape, returned)
                explicit |= set(slots)
        if explicit and explicit != set(range(len(site.names))):
            kept = [name for slot, name in enumerate(site.names) if slot not in explicit]
            name = next(iter(found))
            return {}, (name, f"{site.names[0]}: some of its states are arguments, but {kept} are not; pass all or none")
        return found, None

    def _add_border_sites(self, stray: Mapping[Site, tuple[str, str]], run: Run, reading: Reading) -> None:
        """States that the sites inside do not take as they are: kept in attributes, or handed over in paired arguments."""
        border: list[Site] = []
        if self.pairs:
            edges = [(self.example.places[argument], run.places[output]) for argument, output in self.pairs.items()]
            border.append(CellSite("", edges, self.example.spec, names=tuple(self.pairs), looped=False))
            self.state_outputs |= set(self.pairs.values())
        kept = self._find_kept(reading.kept)
        border += [] if kept is None else [kept]
        if border:
            slots = {site: range(start, start + len(site.names)) for start, site in self._with_offsets()}
            inside = [site for site in self.sites if not reading.bare and not self._decides(border, site)]
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

    def _with_offsets(self) -> Iterator[tuple[int, Site]]:
        offset = 0
        for site in self.sites:
            yield offset, site
            offset += len(site.names)

    def _nothing_found(self) -> str:
        """What to say where no state is."""
        left = self.example.not_given
        hint = f"; if {' or '.join(left)} of forward is a state, give it in the example" if left else ""
        return (
            f"{self.eager.name} has no nn.RNN, nn.LSTM or nn.GRU, no cell that is given what it returned the step before, and "
            f"no loop over time that does the same in every step: there is no state to carry{hint}"
        )

    def _find_kept(self, at_border: bool) -> AttributeSite | None:
        """Attributes that decide the next call, unless the sites inside are all that they decide."""
        if not self.eager.kept:
            return None
        with self.eager.remembering():
            first = self.eager.go_on(self._example_arguments(), self.sites)
            second = self.eager.go_on(self._example_arguments(), self.sites)
        if _same(first, second):
            return None  # written, never read
        if (
            not at_border
            and self.sites
            and _same(self.eager.run(self._example_arguments(), self.sites, first.following), second)
        ):
            return None
        site = AttributeSite(self.eager.kept)
        with self.eager.remembering():
            ended = self.eager.go_on(self._example_arguments(), [site])
            after = self.eager.go_on(self._example_arguments(), [site])
        if not _same(self.eager.run(self._example_arguments(), [site], ended.following), after):
            raise LiftError(
                f"{self.eager.name} keeps state in {', '.join(site.names)} and in something else, which is no tensor; keep all "
                "of it in tensors"
            )
        return site

    def _decides(self, border: Sequence[Site], inner: Site) -> bool:
        """Whether what a site inside is given depends on the states at the border."""
        given = []
        states = self.eager.run(self._example_arguments(), border).following
        for seed in (0, 1):
            generator = torch.Generator().manual_seed(seed)
            random = [torch.randn(s.shape, generator=generator, dtype=s.dtype) for s in states]
            run = self.eager.run(self._example_arguments(), [*border, inner], [*random, *(None for _ in inner.names)])
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


def refuse_unsupported(eager: EagerModule) -> None:
    """Refuse weights that no artifact can hold, and layers that are not what they seem."""
    for path, layer in eager.layers().items():
        if type(layer).forward not in _TORCHS_OWN:
            raise LiftError(
                f"{path or 'the module'}: {type(layer).__name__} has a forward of its own; wrap the layer in a module instead"
            )
    dtypes = set()
    for name, weight in (*eager.module.named_parameters(), *eager.module.named_buffers()):
        if not weight.is_floating_point():
            continue
        dtypes.add(weight.dtype)
        if weight.dtype not in (torch.float32, torch.float64):
            raise LiftError(f"{name} is {weight.dtype}; an artifact computes in float32 or float64: export module.float()")
        if not weight.isfinite().all():
            raise LiftError(f"{name} holds NaN or infinity; train the module again")
    if len(dtypes) > 1:
        raise LiftError(f"{eager.name} has weights in float32 and in float64; export module.float()")


def _same(a: Run, b: Run) -> bool:
    """Whether two runs returned the same."""
    return a.outputs.keys() == b.outputs.keys() and all(
        t.shape == b.outputs[name].shape and torch.equal(t.nan_to_num(), b.outputs[name].nan_to_num())
        for name, t in a.outputs.items()
    )


def _are_lengths(tensor: Tensor, packed: Tensor) -> bool:
    same = tensor.ndim == 1 and tensor.shape == packed.shape and not tensor.is_floating_point() and tensor.dtype != torch.bool
    return same and torch.equal(tensor.long().sort().values, packed.sort().values)


def _resized(tensor: Tensor, axis: int | None, size: int) -> Tensor:
    return tensor if axis is None else tensor.index_select(axis, torch.arange(size) % tensor.shape[axis])


def _equal_as(tensor: Tensor, final: Tensor, shape: Sequence[int]) -> bool:
    """Whether a returned tensor is a final state, in its own shape or in that of the argument it belongs to."""
    return (
        tuple(tensor.shape) == tuple(shape)
        and tensor.numel() == final.numel()
        and torch.equal(tensor.reshape(final.shape), final)
    )


def _argument_shape(argument: Tensor, whole: Tensor) -> tuple[int, ...] | None:
    """The shape of an argument that is a view of what a site is given, `(..., B, H)`, with -1 for the batch; () if it is not."""
    if argument.shape == whole.shape:
        return None
    front = math.prod(whole.shape[:-2])
    for axis, size in enumerate(argument.shape):
        if size == whole.shape[-2] and math.prod(argument.shape[:axis]) == front:
            return (*argument.shape[:axis], -1, *argument.shape[axis + 1 :])
    return ()
