"""Lift: find the state of a module, however it is written, and make it explicit.

    forward(x)             builds its initial state itself, or passes none       hidden
    forward(x, hidden)     is given it and returns the next one                  explicit

Either way each recurrent layer is made to take its state from the lift and to hand the next one back, one tensor per layer and
kind: `rnn.l0.h` -> `rnn.l0.h.next`. What the module itself passed is ignored, which is right only where it does not depend
on the inputs; that is tested, not assumed. The caller's module is never changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from rnnx._axes import Axes, batch_first, find_input_axes, find_output_shapes, has_time, size_seen
from rnnx._eager import EagerModule, Example, Run, kinds
from rnnx._errors import LiftError
from rnnx_runtime.artifact import Dimension

_RANDOM_RUNS: Final = 16  # a state that the inputs mask now and then must show itself


Tensors = tuple[dict[str, Tensor], dict[str, Tensor]]  # outputs, next states


@dataclass(frozen=True)
class StateSlot:
    """One state tensor: a layer's, of one kind. Its shape in the artifact is `(1, B, size)`."""

    name: str
    path: str
    layer: int
    kind: int
    size: int
    initial: Tensor | None  # (1, 1, size); None for zeros


@dataclass(frozen=True)
class LiftedInput:
    """An input of the artifact. `vocabulary_size` is set where an embedding looks its values up."""

    name: str
    example: Tensor
    axes: Axes
    vocabulary_size: int | None

    @property
    def shape(self) -> tuple[Dimension, ...]:
        return self.axes.shape(self.example)

    def sample(self, batch: int, steps: int, generator: torch.Generator) -> Tensor:
        """Random values of the example's kind."""
        shape = self.axes.resize(self.example, batch, steps).shape
        if self.vocabulary_size is not None:
            return torch.randint(self.vocabulary_size, shape, generator=generator, dtype=self.example.dtype)
        values = self.example.flatten()
        if self.example.is_floating_point():
            spread = values.std(correction=0) if values.numel() > 1 else torch.tensor(0.0)
            centre, scale = (values.mean(), spread) if spread > 0 else (torch.tensor(0.0), torch.tensor(1.0))
            return torch.randn(shape, generator=generator, dtype=self.example.dtype) * scale + centre
        return values[torch.randint(len(values), shape, generator=generator)]


@dataclass(frozen=True)
class _Argument:
    """A state that the caller hands over: a tensor `(L, B, H)`, perhaps without its leading axis, for one layer and kind."""

    path: str
    kind: int
    shape: tuple[int, ...]
    batch_axis: int

    def at(self, batch: int) -> tuple[int, ...]:
        return tuple(batch if axis == self.batch_axis else size for axis, size in enumerate(self.shape))


class Lift:
    """A module whose state, axes and vocabulary are known.

    Attributes:
        eager: the reference.
        inputs, states: of the artifact, in its order.
        outputs: name and shape of what the artifact returns beside the states.
        steps: the number of steps in the example.
        not_streamable_because: why its steps don't give what the whole sequence gives; None where they do.
    """

    def __init__(self, module: nn.Module, example: object) -> None:
        self.eager = EagerModule(module)
        self._example = Example(module, example)
        _refuse_unsupported(self.eager)
        first = self._run_as_it_is()
        self._check_calls(first)
        self._arguments = self._find_arguments(first)
        given = {name: tensor for name, tensor in self._example.tensors.items() if name not in self._arguments}
        size = size_seen(self.eager, first.calls[0])
        axes = find_input_axes(given, size, self._run_from_zeros, lambda call: size_seen(self.eager, call))
        self.inputs = tuple(
            LiftedInput(name, tensor, axes[name], _vocabulary_size(tensor, first)) for name, tensor in given.items()
        )
        self.steps = size[1]
        self.states = self._find_states(first)
        shapes = find_output_shapes(self._run_resized)
        returned_states = {name for name, tensor in first.outputs.items() if _is_state(tensor, first)}
        self.outputs = {name: shape for name, shape in shapes.items() if name not in returned_states}
        if not self.outputs:
            raise LiftError("the module returns nothing but its state; return what a step should answer as well")
        self.not_streamable_because = self._find_lookahead()

    def run(self, inputs: Mapping[str, Tensor], states: Mapping[str, Tensor] | None = None) -> Tensors:
        """The eager module's outputs and next states, from given states or from the initial ones.

        Args:
            inputs: by name, in the module's own layout.
            states: by name, `(1, B, H)`.
        """
        batch = self.batch_of(inputs)
        states = self.initial_states(batch) if states is None else states
        hx = {path: self._stacked(path, states) for path in self.eager.layers}
        run = self.eager.run(self._arguments_for(inputs, batch, hx), hx)
        found = {slot.name: run.call(slot.path).hn[slot.kind][slot.layer : slot.layer + 1] for slot in self.states}
        return {name: run.outputs[name] for name in self.outputs}, found

    def run_untouched(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The eager module's outputs as its own `forward` starts it, without a hand on its state."""
        batch = self.batch_of(inputs)
        hx = {path: self._stacked(path, self.initial_states(batch)) for path in self.eager.layers}
        run = self.eager.run(self._arguments_for(inputs, batch, hx))
        return {name: run.outputs[name] for name in self.outputs}

    def batch_of(self, inputs: Mapping[str, Tensor]) -> int:
        return inputs[self.inputs[0].name].shape[self.inputs[0].axes.batch]

    def steps_of(self, inputs: Mapping[str, Tensor]) -> int:
        return next(inputs[spec.name].shape[spec.axes.time] for spec in self.inputs if spec.axes.time is not None)

    def initial_states(self, batch: int) -> dict[str, Tensor]:
        """What a new sequence starts with, `(1, B, H)` by name."""
        return {
            slot.name: torch.zeros(1, batch, slot.size) if slot.initial is None else slot.initial.expand(1, batch, -1)
            for slot in self.states
        }

    def sample(self, batch: int, steps: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Random inputs by name."""
        return {spec.name: spec.sample(batch, steps, generator) for spec in self.inputs}

    def arguments_for(self, inputs: Mapping[str, Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """How the lifted module calls the original one: states that it asks for are zeros, for they are ignored."""
        return self._arguments_for(inputs, self.batch_of(inputs), None)

    def _arguments_for(
        self, inputs: Mapping[str, Tensor], batch: int, hx: Mapping[str, tuple[Tensor, ...]] | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        tensors = []
        for name in self._example.tensors:
            argument = self._arguments.get(name)
            if argument is None:
                tensors.append(inputs[name])
            elif hx is None:
                tensors.append(torch.zeros(argument.at(batch)))
            else:
                tensors.append(hx[argument.path][argument.kind].reshape(argument.at(batch)))
        return self._example.arguments(tensors)

    def _run_as_it_is(self) -> Run:
        arguments = self._example.arguments(list(self._example.tensors.values()))
        try:
            first, second = self.eager.run(arguments), self.eager.run(arguments)
        except LiftError:
            raise
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
        return first

    def _check_calls(self, run: Run) -> None:
        counts = {path: sum(call.path == path for call in run.calls) for path in self.eager.layers}
        for path, count in counts.items():
            if count != 1:
                raise LiftError(
                    f"{path or 'the module'}: forward calls this recurrent layer {count} times; it must call it once"
                )
        if not run.calls:
            raise LiftError(f"{self.eager.name} has no nn.RNN, nn.LSTM or nn.GRU; there is no state to carry")
        sizes = {size_seen(self.eager, call) for call in run.calls}
        if len(sizes) > 1:
            raise LiftError(f"the recurrent layers see different (batch, steps): {sorted(sizes)}; they must run in lockstep")

    def _find_arguments(self, run: Run) -> dict[str, _Argument]:
        """Which of the module's arguments are states: those that a layer is given as they are."""
        arguments: dict[str, _Argument] = {}
        for call in run.calls:
            for kind, hx in enumerate(call.hx or ()):
                name = next((name for name, tensor in self._example.tensors.items() if _same_values(tensor, hx)), None)
                if name is not None:
                    shape = tuple(self._example.tensors[name].shape)
                    batch_axis = len(shape) - 2  # (L, B, H) or (B, H)
                    if batch_axis < 0 or shape[batch_axis] != hx.shape[1]:
                        raise LiftError(f"{name}: a state has the shape (layers, batch, hidden), got {shape}")
                    arguments[name] = _Argument(call.path, kind, shape, batch_axis)
        return arguments

    def _find_states(self, run: Run) -> tuple[StateSlot, ...]:
        others = self._run_on_random_inputs(run)
        slots = []
        explicit = {(argument.path, argument.kind) for argument in self._arguments.values()}
        for path, layer in self.eager.layers.items():
            given = run.call(path).hx
            for kind, label in enumerate(kinds(layer)):
                start = None if given is None else given[kind]
                if any(not _equal(start, hx[kind] if hx else None) for hx in (other.call(path).hx for other in others)):
                    raise LiftError(
                        f"{path or 'the module'}: its initial {label} depends on the inputs; pass the state as it is, or "
                        "compute it in a module of its own"
                    )
                if start is not None and (path, kind) in explicit and not _same_rows(start):
                    start = None  # the caller's example of a running state; a new sequence starts with zeros
                for number in range(layer.num_layers):
                    name = f"{path}.l{number}.{label}" if path else f"l{number}.{label}"
                    slots.append(StateSlot(name, path, number, kind, layer.hidden_size, _initial(name, start, number)))
        return tuple(sorted(slots, key=lambda slot: (list(self.eager.layers).index(slot.path), slot.layer, slot.kind)))

    def _run_on_random_inputs(self, run: Run) -> list[Run]:
        """Runs that differ from the example in every input, but not in the states that the caller handed over."""
        generator = torch.Generator().manual_seed(0)
        batch, steps = size_seen(self.eager, run.calls[0])
        hx = {call.path: call.hx for call in run.calls if call.hx is not None}
        try:
            return [
                self.eager.run(self._arguments_for(self.sample(batch, steps, generator), batch, hx))
                for _ in range(_RANDOM_RUNS)
            ]
        except Exception as error:
            raise LiftError(f"{self.eager.name} does not run on random inputs of the example's kind: {error}") from error

    def _find_lookahead(self) -> str | None:
        """Run a sequence whole and in two chunks with the state carried; an output that differs looks beyond its chunk."""
        generator = torch.Generator().manual_seed(0)
        inputs = self.sample(2, 7, generator)
        whole, _ = self.run(inputs)
        state, parts = None, []
        for start, stop in ((0, 4), (4, 7)):
            part, state = self.run({s.name: s.axes.between(inputs[s.name], start, stop) for s in self.inputs}, state)
            parts.append(part)
        for name, shape in self.outputs.items():
            chunks = [batch_first(part[name], shape, 2, steps) for part, steps in zip(parts, (4, 3), strict=True)]
            joined = torch.cat(chunks, dim=1) if has_time(shape) else chunks[-1]
            if not torch.allclose(joined, batch_first(whole[name], shape, 2, 7), rtol=1e-3, atol=1e-4):
                return f"{name} depends on more than the state and the steps so far"
        return None

    def _stacked(self, path: str, states: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        slots = [slot for slot in self.states if slot.path == path]
        kinds_found = sorted({slot.kind for slot in slots})
        return tuple(torch.cat([states[slot.name] for slot in slots if slot.kind == kind]) for kind in kinds_found)

    def _run_from_zeros(self, inputs: Mapping[str, Tensor], batch: int) -> Run:
        hx = {
            path: tuple(torch.zeros(layer.num_layers, batch, layer.hidden_size) for _ in kinds(layer))
            for path, layer in self.eager.layers.items()
        }
        return self.eager.run(self._arguments_for(inputs, batch, hx), hx)

    def _run_resized(self, batch: int, steps: int) -> Run:
        generator = torch.Generator().manual_seed(0)
        sampled = self.sample(7, 7, generator)
        return self._run_from_zeros(
            {spec.name: spec.axes.resize(sampled[spec.name], batch, steps) for spec in self.inputs}, batch
        )


def _initial(name: str, hx: Tensor | None, layer: int) -> Tensor | None:
    """The initial value of one layer, `(1, 1, H)`; None for zeros."""
    if hx is None:
        return None
    start = hx[layer : layer + 1]
    if not _same_rows(start):
        raise LiftError(f"{name}: the initial state differs from row to row of the batch; start every row alike")
    return start[:, :1].clone() if start.any() else None


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)


def _same_rows(hx: Tensor) -> bool:
    return torch.equal(hx, hx[:, :1].expand_as(hx))


def _is_state(tensor: Tensor, run: Run) -> bool:
    """Whether a returned tensor is nothing but a layer's final state."""
    return any(_same_values(hn, tensor) for call in run.calls for hn in call.hn)


def _same_values(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are one: the same memory, whole and in the same order."""
    return (
        a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
        and a.storage_offset() == b.storage_offset()
        and a.numel() == b.numel()
        and a.is_contiguous()
        and b.is_contiguous()
    )


def _vocabulary_size(tensor: Tensor, run: Run) -> int | None:
    sizes = [rows for given, rows in run.embedded if _same_values(given, tensor)]
    return min(sizes, default=None)


def _refuse_unsupported(eager: EagerModule) -> None:
    for path, layer in eager.layers.items():
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
