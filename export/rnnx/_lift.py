"""Lift: the state of a module, however it is written, made explicit; and what its axes mean.

    forward(x)             builds its initial state itself, or passes none       hidden
    forward(x, hidden)     is given it and returns the next one                  explicit
    forward(image, x)      computes it from an input                             computed

State passes through sites (`_sites.py`): recurrent layers, and cells called once per step. Each site is made to take its state
from the lift and to hand the next one back: `rnn.l0.h` -> `rnn.l0.h.next`. What the module itself passed is the initial
state, and must not depend on the sequence; that is tested, not assumed. The caller's module is never changed.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import torch
from torch import Tensor, nn

from rnnx._axes import Axes, batch_first, far_apart, find_axes, find_output_shapes, has_time
from rnnx._eager import Run, first_line, frozen_copy
from rnnx._errors import LiftError
from rnnx._sited import SitedModule
from rnnx._sites import Arguments, CellSite
from rnnx_runtime.artifact import BATCH, Dimension

_CUTS: Final = ((4, 7), (100, 130))  # where a sequence is cut in two, and its length
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
        return (
            torch.zeros(self.at(batch), dtype=torch.float32) if self.initial is None else self.initial.expand(self.at(batch))
        )


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
        """Random values of the example's kind: floats of its mean and spread, integers of its range."""
        shape = self.axes.resize(self.example, batch, steps).shape
        if self.vocabulary_size is not None:
            return torch.randint(self.vocabulary_size, shape, generator=generator, dtype=self.example.dtype)
        if self.example.dtype == torch.bool:
            return torch.rand(shape, generator=generator) < 0.5
        if not self.example.is_floating_point():
            low, high = int(self.example.min()), int(self.example.max())
            return torch.randint(low, high + 1, shape, generator=generator, dtype=self.example.dtype)
        spread = self.example.std(correction=0)
        noise = torch.randn(shape, generator=generator, dtype=torch.float32)
        return noise * spread + self.example.mean() if spread > 0 else noise


class Lift:
    """A module whose state, axes and vocabulary are known.

    Attributes:
        sited: the eager module.
        lowering: whether every recurrence is a layer that ONNX has an operator for, or the steps must be scanned.
        inputs: what a step takes.
        conditions: what only the initial state is computed from.
        states: in the order of the sites.
        outputs: name and shape of what the artifact returns beside the states; `dtypes` has their types.
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
        sizes = _vocabulary_sizes(sited)
        self.inputs = tuple(
            LiftedInput(name, tensor, found.inputs[name], sizes.get(name)) for name, tensor in sited.inputs.items()
        )
        _refuse_constant_integers(self.inputs)
        self.conditions: tuple[LiftedInput, ...] = ()
        self.states = self._find_states(following, found.states)
        shapes = find_output_shapes(self._run_resized)
        kept = {name: shape for name, shape in shapes.items() if name not in sited.state_outputs}
        self.outputs = kept or shapes  # a cell may answer with its state alone
        self.dtypes = {name: str(sited.example_run.outputs[name].dtype).removeprefix("torch.") for name in self.outputs}
        self._refuse_hidden_loops()
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

    def run_exact(self, inputs: Mapping[str, Tensor], states: Mapping[str, Tensor]) -> Tensors | None:
        """The next states in float64; None where the module cannot run in it."""
        exact = copy.copy(self.sited)
        exact.eager = copy.copy(self.sited.eager)
        exact.eager.module = frozen_copy(self.sited.eager.module).double()
        doubled = {name: t.double() if t.is_floating_point() else t for name, t in self._completed(inputs).items()}
        try:
            run = exact.run(doubled, [state.double() for state in states.values()])
        except RuntimeError:
            return None
        return dict(zip(states, exact.following(run), strict=True))

    def run_untouched(self, inputs: Mapping[str, Tensor]) -> Tensors:
        """The eager module's outputs as its own `forward` starts it, without a hand on its state."""
        batch = self.batch_of(inputs)
        run = self.sited.run_untouched(inputs, [slot.start(batch) for slot in self.states])
        return {name: run.outputs[name] for name in self.outputs}

    def run_protocol(self, inputs: Mapping[str, Tensor], states: Mapping[str, Tensor]) -> tuple[Tensors, Tensors] | None:
        """Outputs and next states as a caller gets them who hands the states over himself, without a hook anywhere.

        None where that cannot be done: a state is not an argument, or forward does not return the next one.
        """
        sited = self.sited
        if len(sited.explicit) != len(self.states) or any(a.returned is None for a in sited.state_arguments.values()):
            return None
        run = sited.eager.run(sited.arguments(self._completed(inputs), list(states.values())))
        following = dict(states)
        for argument in sited.state_arguments.values():
            slots = [self.states[slot] for slot in argument.slots]
            whole = run.outputs[argument.returned or ""]
            parts = whole.reshape(-1, *states[slots[0].name].shape[1:]).chunk(len(slots))
            following |= {slot.name: part.reshape(states[slot.name].shape) for slot, part in zip(slots, parts, strict=True)}
        return {name: run.outputs[name] for name in self.outputs}, following

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

    def arguments(self, inputs: Mapping[str, Tensor], states: Sequence[Tensor] | None = None) -> Arguments:
        """How the lifted modules call the original one, with the states in the arguments that ask for them."""
        if states is None:
            states = [slot.start(self.batch_of(inputs)) for slot in self.states]
        return self.sited.arguments(self._completed(inputs), states)

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
        handed = [torch.randn(after.shape, generator=generator) for after in following]
        batch = self.batch_of(sited.inputs)
        try:
            others = [
                sited.given(sited.run_untouched(self.sample(batch, self.steps, generator), handed))
                for _ in range(_RANDOM_RUNS)
            ]
        except Exception as error:
            raise LiftError(f"{self.name} does not run on random inputs of the example's kind: {first_line(error)}") from error
        slots = []
        for place, (name, start, axis) in enumerate(zip(sited.names, given, batch_axes, strict=True)):
            explicit = place in sited.explicit
            computed = any(not _equal(handed[place] if explicit else start, other[place]) for other in others)
            if computed and explicit:
                raise LiftError(f"{name}: the state is changed on its way in, depending on the inputs; hand it over as it is")
            sizes: list[Dimension] = list(following[place].shape)
            sizes[axis] = BATCH
            # What the caller hands over is a running state; a new sequence starts with zeros.
            initial = None if start is None or computed or explicit else _initial(name, start, axis)
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
            if self._changes(spec, self._answer):
                raise LiftError(
                    f"{name}: {spec.name} decides the initial state and every step as well; pass the state as an argument"
                )
            self.conditions = (*self.conditions, spec)
        self.inputs = tuple(spec for spec in self.inputs if spec not in self.conditions)

    def _answer(self, inputs: Tensors) -> Tensors:
        outputs, following = self.run(inputs, {slot.name: torch.zeros(slot.at(2)) for slot in self.states})
        return outputs | following

    def _answer_of(self, output: str, inputs: Tensors) -> Tensors:
        return {output: self._answer(inputs)[output]}

    def _changes(self, spec: LiftedInput, answer: Callable[[Tensors], Tensors]) -> bool:
        """Whether another value of one input changes an answer."""
        generator = torch.Generator().manual_seed(0)
        for _ in range(_RANDOM_RUNS):
            inputs = self.sample(2, 3, generator)
            before, after = answer(inputs), answer(inputs | {spec.name: spec.sample(2, 3, generator)})
            if any(not torch.equal(before[name], after[name]) for name in before):
                return True
        return False

    def _refuse_hidden_loops(self) -> None:
        """Refuse a state that the caller carries from call to call, and that no site was seen to take."""
        for spec in self.inputs:
            for name, output in self.sited.example_run.outputs.items():
                looped = spec.axes.time is None and output.shape == spec.example.shape and output.dtype == spec.example.dtype
                if looped and name in self.outputs and self._changes(spec, partial(self._answer_of, name)):
                    raise LiftError(
                        f"{spec.name} looks like a state that {name} hands back, but no recurrent layer or cell is given it as it "
                        "is; hand it to one as it is"
                    )

    def _find_lookahead(self) -> str | None:
        """Run a sequence whole and in two chunks with the state carried; an output that differs looks beyond its chunk."""
        for cut, steps in _CUTS:
            inputs = self.sample(2, steps, torch.Generator().manual_seed(0))
            whole, _ = self.run(inputs)
            first, state = self.run(self.chunk(inputs, 0, cut))
            second, _ = self.run(self.chunk(inputs, cut, steps), state)
            for name, shape in self.outputs.items():
                parts = [batch_first(part[name], shape, 2, n) for part, n in ((first, cut), (second, steps - cut))]
                joined = torch.cat(parts, dim=1) if has_time(shape) else parts[1]
                if far_apart(joined, batch_first(whole[name], shape, 2, steps)):
                    return f"{name} depends on more than the state and the steps so far"
        return None

    def _run_resized(self, batch: int, steps: int) -> Run:
        sampled = self.sample(7, 7, torch.Generator().manual_seed(0))
        inputs = {spec.name: spec.axes.resize(sampled[spec.name], batch, steps) for spec in self.inputs}
        try:
            return self.sited.run(inputs, [torch.zeros(slot.at(batch)) for slot in self.states])
        except LiftError:
            raise
        except Exception as error:
            raise LiftError(f"{self.name} does not run on {batch} rows of {steps} steps: {first_line(error)}") from error


def _initial(name: str, start: Tensor, batch_axis: int) -> Tensor | None:
    """The initial value with a batch of 1; None for zeros."""
    row = start.narrow(batch_axis, 0, 1)
    if not torch.equal(start, row.expand_as(start)):
        raise LiftError(f"{name}: the initial state differs from row to row of the batch; start every row alike")
    return row.clone() if row.any() else None


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)


def _vocabulary_sizes(sited: SitedModule) -> dict[str, int]:
    """Per integer input, the smallest embedding that is given its values, all of them, whatever their order and type."""
    sizes: dict[str, int] = {}
    for name, tensor in sited.inputs.items():
        if tensor.is_floating_point() or tensor.dtype == torch.bool:
            continue
        found: dict[int, list[Tensor]] = {}
        for given, rows in sited.example_run.embedded:
            found.setdefault(rows, []).append(given.flatten())
        values = tensor.flatten().long().sort().values
        for rows, parts in found.items():
            together = torch.cat(parts).long().sort().values
            if any(torch.equal(values, part.long().sort().values) for part in (together, *parts)):
                sizes[name] = min(rows, sizes.get(name, rows))
    return sizes


def _refuse_constant_integers(inputs: Sequence[LiftedInput]) -> None:
    for spec in inputs:
        integers = not spec.example.is_floating_point() and spec.example.dtype != torch.bool
        if integers and spec.vocabulary_size is None and spec.example.min() == spec.example.max():
            raise LiftError(
                f"{spec.name}: the example holds {int(spec.example.min())} only; give different values, so that it shows what "
                "depends on them"
            )
