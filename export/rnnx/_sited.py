"""The eager module with its sites of state: called with inputs by name, and from given states.

What can be known of a module before its axes are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rnnx._eager import EagerModule, Example, Run
from rnnx._errors import LiftError
from rnnx._sites import Arguments, CellSite, LayerSite, Site, find_cells, is_same


@dataclass(frozen=True)
class _Argument:
    """A state that the caller hands over: the states of these slots, joined along axis 0, in the argument's shape."""

    slots: tuple[int, ...]
    shape: tuple[int, ...] | None  # -1 for the batch; None where joining is all there is to do

    def of(self, states: Sequence[Tensor]) -> Tensor:
        joined = torch.cat([states[slot] for slot in self.slots])
        return joined if self.shape is None else joined.reshape(self.shape)


class SitedModule:
    """An eager module whose sites are known.

    Attributes:
        eager: the reference.
        sites: where state passes through, in the order of their first calls.
        inputs: the example's tensors by name, without states.
        explicit: which states the caller hands over as arguments, by number.
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
        self._arguments = self._find_arguments(self.example_run)
        self.explicit = {slot for argument in self._arguments.values() for slot in argument.slots}
        self.inputs = {name: tensor for name, tensor in self._example.tensors.items() if name not in self._arguments}

    @property
    def names(self) -> list[str]:
        """The names of all states, in the order of the sites."""
        return [name for site in self.sites for name in site.names]

    def arguments(self, inputs: Mapping[str, Tensor], states: Sequence[Tensor]) -> Arguments:
        """What `forward` is called with; the states fill the arguments that ask for them."""
        tensors = [
            self._arguments[name].of(states) if name in self._arguments else inputs[name] for name in self._example.tensors
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
            LiftError: the sites don't agree.
        """
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

    def is_state(self, output: str) -> bool:
        """Whether a tensor that the module returns is nothing but a site's final state."""
        tensor, run = self.example_run.outputs[output], self.example_run
        return any(is_same(tensor, whole) for site in self.sites for whole in site.final(run.of(site.path)[-1].returned))

    def _check_function(self, arguments: Arguments) -> None:
        """Refuse a module that is not a function of its inputs."""
        try:
            first, second = self.eager.run(arguments), self.eager.run(arguments)
        except Exception as error:
            reason = str(error).strip().split("\n", 1)[0]
            raise LiftError(f"{self.eager.name} does not run on the example: {type(error).__name__}: {reason}") from error
        if not first.outputs:
            raise LiftError(f"{self.eager.name} returns no tensor")
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
        run = self.eager.run(arguments, watch=[*watch, *layers])
        cells = find_cells(run.calls)
        if not cells and not any(run.of(path) for path in layers):
            cells = self._find_cells_in_longer_example(watch)
        sites: dict[str, Site] = {cell.path: cell for cell in cells}
        for path, layer in layers.items():
            if not any(path == cell.path or path.startswith(f"{cell.path}.") for cell in cells):
                sites[path] = _layer_site(path, layer, run)
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

    def _find_arguments(self, run: Run) -> dict[str, _Argument]:
        """Which of the module's arguments are states: those that a site is given as they are."""
        arguments: dict[str, _Argument] = {}
        offset = 0
        for site in self.sites:
            for whole, slots in site.wholes(run.of(site.path)[0]):
                for name, tensor in self._example.tensors.items():
                    if is_same(tensor, whole):
                        shape = _argument_shape(name, tensor, whole)
                        arguments[name] = _Argument(tuple(offset + slot for slot in slots), shape)
            offset += len(site.names)
        return arguments


def _layer_site(path: str, layer: nn.RNNBase, run: Run) -> LayerSite:
    where = path or "the module"
    calls = run.of(path)
    if len(calls) != 1:
        raise LiftError(f"{where}: forward calls this recurrent layer {len(calls)} times; it must call it once")
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
    for name, parameter in eager.module.state_dict().items():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise LiftError(
                f"{name} is {parameter.dtype}; ONNX Runtime's recurrent operators are float32: export module.float()"
            )
        if parameter.is_floating_point() and not parameter.isfinite().all():
            raise LiftError(f"{name} holds NaN or infinity; train the module again")
