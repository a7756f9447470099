"""Lift: the state of a module, however it is written, made explicit; and what its axes mean.

    forward(x)             builds its initial state itself, or passes none       hidden
    forward(x, hidden)     is given it and returns the next one                  explicit
    forward(x)             finds it in self.hidden, and leaves the next there    kept
    forward(image, x)      computes it from an input                             computed

State passes through sites (`_sites.py`). Each site is made to take its state from the lift and to hand the next one back:
`rnn.l0.h` -> `rnn.l0.h.next`. What the module itself passed is the initial state, and must not depend on the sequence; that is
tested, not assumed. The caller's module is never changed. Which sites a module has is read by `_readings.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Literal

import torch
from torch import Tensor, nn

from rnnx._axes import Axes, Trial, axes_of, batch_first, far_apart, find_axes, find_output_shapes, has_time
from rnnx._checks import changed_arguments
from rnnx._eager import Run, first_line
from rnnx._errors import LiftError
from rnnx._find_sites import Reading
from rnnx._one_step import has_no_operator
from rnnx._sited import SitedModule
from rnnx._sites import Arguments
from rnnx._slots import LiftedInput, StateSlot, random_state
from rnnx_runtime.artifact import BATCH, Dimension

_CUTS: Final = (
    (4, 7),
    (100, 130),
    (600, 1200),
)  # where a sequence is cut in two, and its length; loops are slow, and stop earlier
_LONG: Final = 1100  # steps; what a loop does once must not have an end
_RANDOM_RUNS: Final = 16  # a state that the inputs mask now and then must show itself

Tensors = dict[str, Tensor]


class Lift:
    """A module whose state, axes and vocabulary are known.

    Attributes:
        sited: the eager module.
        lowering_because: why.
        lowering: whether every recurrence is a layer that ONNX has an operator for, or the steps must be scanned.
        inputs: what a step takes.
        conditions: what only the initial state is computed from.
        states: in the order of the sites.
        outputs: name and shape of what the artifact returns beside the states; `dtypes` has their types.
        steps: the number of steps in the example.
        not_streamable_because: why it cannot go on from a state; None where it can.
        chunks_matter_because: why an answer depends on where the calls of a stream begin; None where steps, chunks and the whole
            give the same.
    """

    def __init__(
        self, module: nn.Module, example: object, reading: Reading, axes: Mapping[str, str] | None = None, whole: str = ""
    ) -> None:
        self.sited = sited = SitedModule(module, example, reading)
        following = sited.example_run.following
        steps = sited.steps(sited.example_run)
        found = find_axes(sited.inputs, following, steps, self._try_size, _wanted(sited, axes or {}), sited.lengths)
        self.steps = found.steps
        sizes = _vocabulary_sizes(sited)
        self.inputs = tuple(
            LiftedInput(name, tensor, found.inputs[name], sizes.get(name), name in sited.lengths)
            for name, tensor in sited.inputs.items()
        )
        _refuse_constant_integers(self.inputs)
        self.conditions: tuple[LiftedInput, ...] = ()
        self.states = self._find_states(following, found.states)
        shapes = find_output_shapes(self._run_resized)
        kept = {name: shape for name, shape in shapes.items() if name not in sited.state_outputs}
        self.outputs = kept or shapes  # a cell may answer with its state alone
        self.dtypes = {name: str(sited.example_run.outputs[name].dtype).removeprefix("torch.") for name in self.outputs}
        if any(slot.computed for slot in self.states):
            self._part_conditions()
        self._refuse_changed_arguments()
        looped = self._operations_per_step() > 0 or sited.looped
        looped |= any(has_no_operator(layer) for layer in sited.eager.layers().values())
        self.lowering: Literal["recurrent", "scan"] = "scan" if looped else "recurrent"
        self.lowering_because = self._explain()
        self.not_streamable_because: str | None = None
        self.chunks_matter_because: str | None = None
        if sited.lengths and not whole:
            whole = f"{', '.join(sorted(sited.lengths))}: lengths are those of whole sequences"
        reason = whole or self._find_lookahead(looped)
        if reason is not None and looped:
            raise LiftError(f"{self.name}: {reason}, and its steps can only be taken one by one")
        if sited.has_border and reason is not None:
            self.chunks_matter_because = "forward does something once per call, whatever the number of steps"
        else:
            self.not_streamable_because = reason

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
        following = zip(states, run.following, strict=True)
        return {name: run.outputs[name] for name in self.outputs}, dict(following)

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
        known = sited.explicit | sited.kept_slots
        if len(known) != len(self.states) or any(a.returned is None for a in sited.state_arguments.values()):
            return None
        run, kept = sited.call_as_owner(self._completed(inputs), list(states.values()))
        following = dict(states) | {
            slot.name: tensor for slot, tensor in zip(self.states, kept, strict=True) if tensor is not None
        }
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
            given = self.sited.run_untouched(self._completed(inputs), states).given
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

    def _try_size(self, inputs: Mapping[str, Tensor], states: Sequence[Tensor]) -> Trial:
        run, trace = self.sited.trace_of(inputs, states)
        return Trial(self.sited.steps(run), trace, run.following)

    def _operations_per_step(self) -> int:
        """How many operations a step adds to a call: none where there is no loop in Python.

        Raises:
            LiftError: later steps add others than the first ones.
        """
        counts = []
        for steps in (2, 3, _LONG):
            inputs = self.sample(1, steps, torch.Generator().manual_seed(0))
            counts.append(self.sited.count_operations(inputs, [slot.start(1) for slot in self.states]))
        added = counts[1] - counts[0]
        if added and counts[2] != counts[0] + (_LONG - 2) * added:  # without a loop, torch notes what depends on the length
            raise LiftError(
                f"{self.name}: the steps from 3 to {_LONG} do other things than the first ones; every step must do the same"
            )
        return added

    def _find_states(self, following: Sequence[Tensor], batch_axes: Sequence[int]) -> tuple[StateSlot, ...]:
        """Names, shapes and initial values; a value that random inputs change is computed."""
        sited, generator = self.sited, torch.Generator().manual_seed(0)
        given = sited.example_run.given
        handed = [random_state(after.shape, after.dtype, generator) for after in following]
        batch = self.batch_of(sited.inputs)
        try:
            others = [
                sited.run_untouched(self.sample(batch, self.steps, generator), handed).given for _ in range(_RANDOM_RUNS)
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
            initial = None if start is None or computed else _initial(name, start, axis, explicit)
            slots.append(StateSlot(name, tuple(sizes), axis, initial, computed, following[place].dtype))
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
        if not self.conditions:
            raise LiftError(
                f"{name}: the initial state differs from call to call, and no input decides it; start every call alike"
            )
        self.inputs = tuple(spec for spec in self.inputs if spec not in self.conditions)

    def _answer(self, inputs: Tensors) -> Tensors:
        outputs, following = self.run(inputs, {slot.name: torch.zeros(slot.at(2), dtype=slot.dtype) for slot in self.states})
        return outputs | following

    def _answer_of(self, output: str, inputs: Tensors) -> Tensors:
        run = self.sited.run_untouched(self._completed(inputs), [slot.start(2) for slot in self.states])
        return {output: run.outputs[output]}

    def _changes(self, spec: LiftedInput, answer: Callable[[Tensors], Tensors]) -> bool:
        """Whether another value of one input changes an answer."""
        generator = torch.Generator().manual_seed(0)
        for _ in range(_RANDOM_RUNS):
            inputs = self.sample(2, 3, generator)
            before, after = answer(inputs), answer(inputs | {spec.name: spec.sample(2, 3, generator)})
            if any(not torch.equal(before[name], after[name]) for name in before):
                return True
        return False

    def _refuse_changed_arguments(self) -> None:
        """Refuse a state that the caller hands over and finds changed, without that it is returned."""
        changed = changed_arguments(self.sited.eager, self.sited.example)
        for spec in self._all_inputs:
            if spec.name in changed and spec.axes.time is None:
                raise LiftError(f"{spec.name}: forward changes this argument in place; return what it becomes")

    def _explain(self) -> str:
        """Why the recurrence is lowered as it is."""
        written_out = [path for path, layer in self.sited.eager.layers().items() if has_no_operator(layer)]
        if self.lowering == "recurrent":
            return "every recurrence is a layer that ONNX has an operator for"
        if written_out:
            return f"ONNX Runtime has no operator for {', '.join(path or 'the module' for path in written_out)}: float64 or a projection"
        return "a loop over time calls it step by step"

    def loose_ends(self) -> list[tuple[str, str]]:
        """Inputs without steps, and outputs of their shape that they decide: the caller may carry them from call to call."""
        return [
            (spec.name, name)
            for spec in self._all_inputs
            for name, output in self.sited.example_run.outputs.items()
            if spec.axes.time is None
            and output.shape == spec.example.shape
            and output.dtype == spec.example.dtype
            and spec.example.is_floating_point()
            and (name in self.sited.state_outputs or self._changes(spec, partial(self._answer_of, name)))
        ]

    def _find_lookahead(self, looped: bool) -> str | None:
        """Run a sequence whole and in two chunks with the state carried; an output that differs looks beyond its chunk."""
        for cut, steps in _CUTS[:2] if looped else _CUTS:
            inputs = self.sample(2, steps, torch.Generator().manual_seed(0))
            whole, ended = self.run(inputs)
            first, state = self.run(self.chunk(inputs, 0, cut))
            second, state = self.run(self.chunk(inputs, cut, steps), state)
            for name, tensor in ended.items():
                if far_apart(state[name], tensor):
                    return f"{name} depends on more than the state before and the steps since"
            for name, shape in self.outputs.items():
                parts = [batch_first(part[name], shape, 2, n) for part, n in ((first, cut), (second, steps - cut))]
                joined = torch.cat(parts, dim=1) if has_time(shape) else parts[1]
                if far_apart(joined, batch_first(whole[name], shape, 2, steps)):
                    return f"{name} depends on more than the state and the steps so far"
        return None

    def _run_resized(self, batch: int, steps: int) -> Run:
        sampled = self.sample(7, 7, torch.Generator().manual_seed(0))
        inputs = {
            spec.name: spec.example.new_full((batch,), steps)
            if spec.lengths
            else spec.axes.resize(sampled[spec.name], batch, steps)
            for spec in self.inputs
        }
        try:
            run = self.sited.run(inputs, [torch.zeros(slot.at(batch), dtype=slot.dtype) for slot in self.states])
            self.sited.steps(run)  # every site must be passed at every size
            return run
        except LiftError:
            raise
        except Exception as error:
            raise LiftError(f"{self.name} does not run on {batch} rows of {steps} steps: {first_line(error)}") from error


def _wanted(sited: SitedModule, axes: Mapping[str, str]) -> dict[str, Axes]:
    return {name: axes_of(name, sited.inputs[name], letters) for name, letters in axes.items() if name in sited.inputs}


def _initial(name: str, start: Tensor, batch_axis: int, explicit: bool) -> Tensor | None:
    """The initial value with a batch of 1; None for zeros.

    What the caller hands over is a running state, and a new sequence starts with zeros, unless his rows all start alike.
    """
    row = start.narrow(batch_axis, 0, 1)
    alike = torch.equal(start, row.expand_as(start))
    if explicit and (not alike or start.shape[batch_axis] == 1):
        return None
    if not alike:
        raise LiftError(
            f"{name}: the initial state differs from row to row of the batch; start every row alike, and reset what the module keeps "
            "before it is exported"
        )
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
        if integers and not spec.lengths and spec.vocabulary_size is None and spec.example.min() == spec.example.max():
            raise LiftError(
                f"{spec.name}: the example holds {int(spec.example.min())} only; give different values, so that it shows what "
                "depends on them"
            )
