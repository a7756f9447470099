"""Lift: the state of a module, however it is written, made explicit; and what its axes mean.

    forward(x)             builds its initial state itself, or passes none       hidden
    forward(x, hidden)     is given it and returns the next one                  explicit
    forward(image, x)      computes it from an input                             computed

State passes through sites (`_sites.py`): recurrent layers, and cells called once per step. Each site is made to take its state
from the lift and to hand the next one back: `rnn.l0.h` -> `rnn.l0.h.next`. What the module itself passed is the initial
state, and must not depend on the sequence; that is tested, not assumed. The caller's module is never changed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor, nn

from rnnx._axes import Axes, batch_first, find_axes, find_output_shapes, has_time
from rnnx._eager import Run
from rnnx._errors import LiftError
from rnnx._sited import SitedModule
from rnnx._sites import Arguments, CellSite, shares_memory
from rnnx_runtime.artifact import BATCH, Dimension

_RANDOM_RUNS: Final = 16  # a state that the inputs mask now and then must show itself

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class StateSlot:
    """One state tensor. `initial` has a batch of 1, None stands for zeros; where `computed`, an input decides."""

    name: str
    shape: tuple[Dimension, ...]
    batch_axis: int
    initial: Tensor | None
    computed: bool

    def at(self, batch: int) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else batch for size in self.shape)

    def start(self, batch: int) -> Tensor:
        """The initial value for a batch."""
        return torch.zeros(self.at(batch)) if self.initial is None else self.initial.expand(self.at(batch))


@dataclass(frozen=True)
class LiftedInput:
    """An input of the module. `vocabulary_size` is set where an embedding looks its values up."""

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


class Lift:
    """A module whose state, axes and vocabulary are known.

    Attributes:
        sited: the eager module.
        lowering: whether every recurrence is a layer that ONNX has an operator for, or the steps must be scanned.
        inputs: what a step takes.
        conditions: what only the initial state is computed from.
        states: in the order of the sites.
        outputs: name and shape of what the artifact returns beside the states.
        steps: the number of steps in the example.
        not_streamable_because: why its steps don't give what the whole sequence gives; None where they do.
    """

    def __init__(self, module: nn.Module, example: object) -> None:
        self.sited = sited = SitedModule(module, example)
        scanned = any(isinstance(site, CellSite) for site in sited.sites)
        self.lowering: Literal["recurrent", "scan"] = "scan" if scanned else "recurrent"
        self.steps = sited.steps(sited.example_run)
        following = sited.following(sited.example_run)
        found = find_axes(sited.inputs, following, self.steps, self._try_size)
        self.inputs = tuple(
            LiftedInput(name, tensor, found.inputs[name], _vocabulary_size(tensor, sited.example_run))
            for name, tensor in sited.inputs.items()
        )
        self.conditions: tuple[LiftedInput, ...] = ()
        self.states = self._find_states(following, found.states)
        shapes = find_output_shapes(self._run_resized)
        kept = {name: shape for name, shape in shapes.items() if not sited.is_state(name)}
        self.outputs = kept or shapes  # a cell may answer with its state alone
        if any(slot.computed for slot in self.states):
            self._part_conditions()
        self.not_streamable_because = self._find_lookahead()

    @property
    def name(self) -> str:
        """Of the module's class."""
        return self.sited.eager.name

    def run(self, inputs: Mapping[str, Tensor], states: Mapping[str, Tensor] | None = None) -> tuple[Tensors, Tensors]:
        """The eager module's outputs and next states, from given states or from the initial ones.

        Args:
            inputs: by name, in the module's own layout; conditions may be left out where states are given.
            states: by name.
        """
        states = self.initial_states(inputs) if states is None else states
        run = self.sited.run(self._completed(inputs), list(states.values()))
        following = zip(states, self.sited.following(run), strict=True)
        return {name: run.outputs[name] for name in self.outputs}, dict(following)

    def run_untouched(self, inputs: Mapping[str, Tensor]) -> Tensors:
        """The eager module's outputs as its own `forward` starts it, without a hand on its state."""
        batch = self.batch_of(inputs)
        run = self.sited.run_untouched(inputs, [slot.start(batch) for slot in self.states])
        return {name: run.outputs[name] for name in self.outputs}

    def initial_states(self, inputs: Mapping[str, Tensor]) -> Tensors:
        """What a sequence with these inputs, conditions included, starts with, by name."""
        batch = self.batch_of(inputs)
        states = [slot.start(batch) for slot in self.states]
        if any(slot.computed for slot in self.states):
            given = self.sited.given(self.sited.run_untouched(self._completed(inputs), states))
            for place, (slot, value) in enumerate(zip(self.states, given, strict=True)):
                if slot.computed and value is not None:
                    states[place] = value
        return {slot.name: state for slot, state in zip(self.states, states, strict=True)}

    def arguments(self, inputs: Mapping[str, Tensor]) -> Arguments:
        """How the lifted module calls the original one; states that it asks for are zeros, for they are ignored."""
        batch = self.batch_of(inputs)
        return self.sited.arguments(self._completed(inputs), [torch.zeros(slot.at(batch)) for slot in self.states])

    def batch_of(self, inputs: Mapping[str, Tensor]) -> int:
        return next(inputs[spec.name].shape[spec.axes.batch] for spec in self._all_inputs if spec.name in inputs)

    def steps_of(self, inputs: Mapping[str, Tensor]) -> int:
        return next(inputs[spec.name].shape[spec.axes.time] for spec in self.inputs if spec.axes.time is not None)

    def sample(self, batch: int, steps: int, generator: torch.Generator) -> Tensors:
        """Random inputs and conditions by name."""
        return {spec.name: spec.sample(batch, steps, generator) for spec in self._all_inputs}

    def chunk(self, inputs: Mapping[str, Tensor], start: int, stop: int) -> Tensors:
        """Some of the steps of inputs and conditions."""
        return {spec.name: spec.axes.between(inputs[spec.name], start, stop) for spec in self._all_inputs}

    @property
    def _all_inputs(self) -> tuple[LiftedInput, ...]:
        return (*self.inputs, *self.conditions)

    def _completed(self, inputs: Mapping[str, Tensor]) -> Tensors:
        """Inputs that were left out are the example's first row: what is computed from them is not used."""
        batch, completed = self.batch_of(inputs), dict(inputs)
        for spec in self._all_inputs:
            if spec.name not in completed:
                row = spec.example.narrow(spec.axes.batch, 0, 1)
                completed[spec.name] = row.expand([batch if i == spec.axes.batch else n for i, n in enumerate(row.shape)])
        return completed

    def _try_size(self, inputs: Mapping[str, Tensor], states: Sequence[Tensor]) -> tuple[int, list[Tensor]]:
        run = self.sited.run(inputs, states)
        return self.sited.steps(run), self.sited.following(run)

    def _find_states(self, following: Sequence[Tensor], batch_axes: Sequence[int]) -> tuple[StateSlot, ...]:
        """Names, shapes and initial values; a value that random inputs change is computed."""
        sited, generator = self.sited, torch.Generator().manual_seed(0)
        given = sited.given(sited.example_run)
        handed = [torch.zeros_like(after) if start is None else start for start, after in zip(given, following, strict=True)]
        batch = self.batch_of(sited.inputs)
        try:
            others = [
                sited.given(sited.run_untouched(self.sample(batch, self.steps, generator), handed))
                for _ in range(_RANDOM_RUNS)
            ]
        except Exception as error:
            raise LiftError(f"{self.name} does not run on random inputs of the example's kind: {error}") from error
        slots = []
        for place, (name, start, axis) in enumerate(zip(sited.names, given, batch_axes, strict=True)):
            computed = any(not _equal(start, other[place]) for other in others)
            sizes: list[Dimension] = list(following[place].shape)
            sizes[axis] = BATCH
            initial = None if start is None or computed else _initial(name, start, axis, explicit=place in sited.explicit)
            slots.append(StateSlot(name, tuple(sizes), axis, initial, computed))
        return tuple(slots)

    def _part_conditions(self) -> None:
        """Part the inputs that only the initial state is computed from, from those that a step takes."""
        name = next(slot.name for slot in self.states if slot.computed)
        for spec in self.inputs:
            if not self._changes(spec, self.initial_states):
                continue
            if spec.axes.time is not None:
                raise LiftError(
                    f"{name}: the initial state depends on the sequence {spec.name}; compute it from an input without a time "
                    "axis, or pass the state as an argument"
                )
            if self._changes(spec, self._answer_from_zeros):
                raise LiftError(
                    f"{name}: {spec.name} decides the initial state and every step as well; pass the state as an argument"
                )
            self.conditions = (*self.conditions, spec)
        self.inputs = tuple(spec for spec in self.inputs if spec not in self.conditions)

    def _answer_from_zeros(self, inputs: Tensors) -> Tensors:
        outputs, following = self.run(inputs, {slot.name: torch.zeros(slot.at(2)) for slot in self.states})
        return outputs | following

    def _changes(self, spec: LiftedInput, answer: Callable[[Tensors], Tensors]) -> bool:
        """Whether another value of one input changes an answer."""
        generator = torch.Generator().manual_seed(0)
        for _ in range(_RANDOM_RUNS):
            inputs = self.sample(2, 3, generator)
            before, after = answer(inputs), answer(inputs | {spec.name: spec.sample(2, 3, generator)})
            if any(not torch.equal(before[name], after[name]) for name in before):
                return True
        return False

    def _find_lookahead(self) -> str | None:
        """Run a sequence whole and in two chunks with the state carried; an output that differs looks beyond its chunk."""
        inputs = self.sample(2, 7, torch.Generator().manual_seed(0))
        whole, _ = self.run(inputs)
        state, parts = None, []
        for start, stop in ((0, 4), (4, 7)):
            part, state = self.run(self.chunk(inputs, start, stop), state)
            parts.append(part)
        for name, shape in self.outputs.items():
            chunks = [batch_first(part[name], shape, 2, steps) for part, steps in zip(parts, (4, 3), strict=True)]
            joined = torch.cat(chunks, dim=1) if has_time(shape) else chunks[-1]
            if not torch.allclose(joined, batch_first(whole[name], shape, 2, 7), rtol=1e-3, atol=1e-4):
                return f"{name} depends on more than the state and the steps so far"
        return None

    def _run_resized(self, batch: int, steps: int) -> Run:
        sampled = self.sample(7, 7, torch.Generator().manual_seed(0))
        inputs = {spec.name: spec.axes.resize(sampled[spec.name], batch, steps) for spec in self.inputs}
        return self.sited.run(inputs, [torch.zeros(slot.at(batch)) for slot in self.states])


def _initial(name: str, start: Tensor, batch_axis: int, *, explicit: bool) -> Tensor | None:
    """The initial value with a batch of 1; None for zeros."""
    row = start.narrow(batch_axis, 0, 1)
    if not torch.equal(start, row.expand_as(start)):
        if explicit:
            return None  # the caller's example of a running state; a new sequence starts with zeros
        raise LiftError(f"{name}: the initial state differs from row to row of the batch; start every row alike")
    return row.clone() if row.any() else None


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)


def _vocabulary_size(tensor: Tensor, run: Run) -> int | None:
    sizes = [rows for given, rows in run.embedded if shares_memory(given, tensor)]
    return min(sizes, default=None)
