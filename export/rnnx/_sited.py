"""The eager module with its sites of state: called with inputs by name, and from given states.

What can be known of a module before its axes are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rnnx._eager import EagerModule, Example, Run, first_line
from rnnx._errors import LiftError
from rnnx._sites import Arguments, CellSite, LayerSite, Site, find_cells

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
        joined = torch.cat([states[slot] for slot in self.slots])
        return joined if self.shape is None else joined.reshape(self.shape)


class SitedModule:
    """An eager module whose sites are known.

    Attributes:
        eager: the reference.
        sites: where state passes through, in the order of their first calls.
        inputs: the example's tensors by name, without states.
        state_arguments: the states that the caller hands over, by the name of the argument.
        state_outputs: outputs that are nothing but final states.
        example_run: what the module did on the example.
    """

    def __init__(self, module: nn.Module, example: object) -> None:
        self.eager = EagerModule(module)
        self._example = Example(module, example)
        _refuse_unsupported(self.eager)
        arguments = self._example.arguments(list(self._example.tensors.values()))
        self._check_function(arguments)
        self.sites = self._find_sites(arguments)
        self.example_run = self.eager.run(arguments, self.sites)
        self.state_arguments: dict[str, StateArgument] = {}
        self.state_outputs: set[str] = set()
        self._find_handed_over()
        self.inputs = {name: tensor for name, tensor in self._example.tensors.items() if name not in self.state_arguments}

    @property
    def names(self) -> list[str]:
        """The names of all states, in the order of the sites."""
        return [name for site in self.sites for name in site.names]

    @property
    def explicit(self) -> set[int]:
        """Which states the caller hands over, by number."""
        return {slot for argument in self.state_arguments.values() for slot in argument.slots}

    def arguments(self, inputs: Mapping[str, Tensor], states: Sequence[Tensor]) -> Arguments:
        """What `forward` is called with; the states fill the arguments that ask for them."""
        tensors = [
            self.state_arguments[name].of(states) if name in self.state_arguments else inputs[name]
            for name in self._example.tensors
        ]
        return self._example.arguments(tensors)

    def run(self, inputs: Mapping[str, Tensor], states: Sequence[Tensor]) -> Run:
        """Call the module with its sites beginning from these states."""
        return self.eager.run(self.arguments(inputs, states), self.sites, states)

    def run_untouched(self, inputs: Mapping[str, Tensor], states: Sequence[Tensor]) -> Run:
        """Call the module as its own `forward` has it; the states go to the arguments that ask for them, and nowhere else."""
        return self.eager.run(self.arguments(inputs, states), self.sites)

    def steps(self, run: Run) -> int:
        """How many steps a run took.

        Raises:
            LiftError: the sites don't agree, or one was not called.
        """
        for site in self.sites:
            if not run.of(site.path):
                raise LiftError(f"{site.path or 'the module'}: it is called on the example, but not at every size")
        counts = {site.steps(run.of(site.path)) for site in self.sites}
        if len(counts) != 1:
            raise LiftError(f"the sites of state take different numbers of steps, {sorted(counts)}; they must go in lockstep")
        return counts.pop()

    def given(self, run: Run) -> list[Tensor | None]:
        """The states that a run began with, as `forward` passed them; None where it passed none."""
        return [state for site in self.sites for state in site.given(run.of(site.path)[0])]

    def following(self, run: Run) -> list[Tensor]:
        """The states that a run ended with."""
        return [state for site in self.sites for state in site.take(run.of(site.path)[-1].returned)]

    def _check_function(self, arguments: Arguments) -> None:
        """Refuse a module that is not a function of its inputs."""
        tensors = list(self._example.tensors.values())
        try:
            first, second = self.eager.run(arguments), self.eager.run(self._example.arguments(tensors))
        except LiftError:
            raise
        except Exception as error:
            raise LiftError(
                f"{self.eager.name} does not run on the example: {type(error).__name__}: {first_line(error)}"
            ) from error
        if not first.outputs:
            raise LiftError(f"{self.eager.name} returns no tensor, nor a tuple, list or dict of them")
        for name, tensor in first.outputs.items():
            if name not in second.outputs or not torch.equal(tensor.nan_to_num(), second.outputs[name].nan_to_num()):
                raise LiftError(
                    f"{self.eager.name} is not a function of its inputs: two runs on the same example differ in {name}; it "
                    "keeps state of its own or draws random numbers, so take that state as an argument and return it"
                )

    def _find_sites(self, arguments: Arguments) -> tuple[Site, ...]:
        """Cells, and the recurrent layers outside of them."""
        layers = self.eager.layers()
        watch = [path for path, _ in self.eager.module.named_modules() if path]
        run = self.eager.run(arguments, watch=[*watch, *(path for path in layers if not path)])
        cells = find_cells(run.calls)
        if not cells and not any(run.of(path) for path in layers):
            cells = self._find_cells_in_longer_example(watch)
        inside = tuple(cell.path for cell in cells)
        sites: dict[str, Site] = {cell.path: cell for cell in cells}
        for path, layer in layers.items():
            if run.of(path) and not _is_inside(path, inside):
                sites[path] = _layer_site(path, layer, run)
        for path, module in self.eager.module.named_modules():
            if isinstance(module, nn.RNNCellBase) and run.of(path) and not _is_inside(path, inside):
                raise LiftError(
                    f"{path}: this cell is not given, step by step, what it returned the step before; call it once for every "
                    "step, and hand its state on as it is"
                )
        if not sites:
            raise LiftError(
                f"{self.eager.name} has no nn.RNN, nn.LSTM or nn.GRU, and no cell that is given what it returned the step "
                "before; there is no state to carry"
            )
        return tuple(sites[path] for path in dict.fromkeys(call.path for call in run.calls) if path in sites)

    def _find_cells_in_longer_example(self, watch: Sequence[str]) -> list[CellSite]:
        """In an example of a single step no cell is given what it returned: try three, along every axis of size 1."""
        tensors = list(self._example.tensors.values())
        for place, tensor in enumerate(tensors):
            for axis in (axis for axis in range(tensor.ndim) if tensor.shape[axis] == 1):
                longer = [*tensors[:place], torch.cat([tensor] * 3, dim=axis), *tensors[place + 1 :]]
                try:
                    run = self.eager.run(self._example.arguments(longer), watch=watch)
                except Exception:  # that axis is not time
                    continue
                cells = find_cells(run.calls)
                if cells:
                    return cells
        return []

    def _find_handed_over(self) -> None:
        """Which arguments are states, and which outputs hand the next ones back: those of equal values, on random values."""
        run, tensors = self._run_on_random_floats()
        offset = 0
        for site in self.sites:
            calls = run.of(site.path)
            finals = site.final(calls[-1].returned)
            explicit = set()
            for whole, slots in site.wholes(calls[0]):
                final = finals[slots[0]]
                for name, tensor in tensors.items():
                    if tensor.numel() != whole.numel() or not torch.equal(tensor.reshape(whole.shape), whole):
                        continue
                    if name in self.state_arguments:
                        raise LiftError(
                            f"{name}: two recurrent layers begin with this one state; give each a state of its own"
                        )
                    shape = _argument_shape(name, tensor, whole)
                    returned = next((n for n, t in run.outputs.items() if _equal_as(t, final, tensor.shape)), None)
                    if returned is None and any(t.shape == tensor.shape for t in run.outputs.values()):
                        raise LiftError(
                            f"{name}: the state that forward returns is not what {site.path or 'the module'} ended with; return it as it is"
                        )
                    self.state_arguments[name] = StateArgument(tuple(offset + slot for slot in slots), shape, returned)
                    explicit |= set(slots)
                    if returned is not None:
                        self.state_outputs.add(returned)
            if explicit and explicit != set(range(len(site.names))):
                kept = [name for slot, name in enumerate(site.names) if slot not in explicit]
                raise LiftError(
                    f"{site.path or 'the module'}: some of its states are arguments, but {kept} are not; pass all or none"
                )
            self.state_outputs |= {
                n for n, t in run.outputs.items() if any(_equal_as(t, final, final.shape) for final in finals)
            }
            offset += len(site.names)

    def _run_on_random_floats(self) -> tuple[Run, dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        tensors = {
            name: torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
            for name, tensor in self._example.tensors.items()
        }
        try:
            return self.eager.run(self._example.arguments(list(tensors.values())), self.sites), tensors
        except Exception as error:
            raise LiftError(f"{self.eager.name} does not run on random values: {first_line(error)}") from error


def _is_inside(path: str, outer: Sequence[str]) -> bool:
    return any(path == other or path.startswith(f"{other}.") for other in outer)


def _equal_as(tensor: Tensor, final: Tensor, shape: Sequence[int]) -> bool:
    """Whether a returned tensor is a final state, in its own shape or in that of the argument it belongs to."""
    return tuple(tensor.shape) == tuple(shape) and torch.equal(tensor.reshape(final.shape), final)


def _layer_site(path: str, layer: nn.RNNBase, run: Run) -> LayerSite:
    where = path or "the module"
    calls = run.of(path)
    if len(calls) != 1:
        raise LiftError(f"{where}: forward calls this recurrent layer {len(calls)} times; it must call it once")
    if type(layer).forward not in _TORCHS_OWN:
        raise LiftError(f"{where}: {type(layer).__name__} has a forward of its own; wrap the layer in a module instead")
    site = LayerSite(path, layer)
    x = site.x(calls[0])
    if not isinstance(x, Tensor) or x.ndim != 3:
        what = f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise LiftError(f"{where}: a recurrent layer must be given a batch of sequences, got {what}")
    return site


def _argument_shape(name: str, argument: Tensor, whole: Tensor) -> tuple[int, ...] | None:
    """The shape of an argument that is a view of what a site is given, `(..., B, H)`, with -1 for the batch."""
    if argument.shape == whole.shape:
        return None
    front = math.prod(whole.shape[:-2])
    for axis, size in enumerate(argument.shape):
        if size == whole.shape[-2] and math.prod(argument.shape[:axis]) == front:
            return (*argument.shape[:axis], -1, *argument.shape[axis + 1 :])
    raise LiftError(f"{name}: a state has the shape (layers, batch, hidden) or (batch, hidden), got {tuple(argument.shape)}")


def _refuse_unsupported(eager: EagerModule) -> None:
    for path, layer in eager.layers().items():
        where = path or "the module"
        if layer.bidirectional:
            raise LiftError(f"{where}: a bidirectional layer needs the whole sequence and cannot be stepped")
        if layer.proj_size:
            raise LiftError(f"{where}: proj_size is not supported yet")
    for name, weight in (*eager.module.named_parameters(), *eager.module.named_buffers()):
        if weight.is_floating_point() and weight.dtype != torch.float32:
            raise LiftError(f"{name} is {weight.dtype}; ONNX Runtime's recurrent operators are float32: export module.float()")
        if weight.is_floating_point() and not weight.isfinite().all():
            raise LiftError(f"{name} holds NaN or infinity; train the module again")
