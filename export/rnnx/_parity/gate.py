"""The checks of the parity gate: each compares a subject with the eager module.

untouched     the module as its forward starts it, at every batch size that it accepts
whole         every shape of a grid, from the initial state and from random ones, outputs and states
padding       what stands behind the lengths of a padded batch has no influence
one step      256 random states at once: a wrong gate order, bias or layout shows here whatever the dynamics do later
strict        64 sequences of 3 steps, where none can be given a state
visited       the same from states that the module comes to by itself, up to 1000 steps on
chunks, steps the same sequence in random chunks and step by step, through a stream
long          1100 steps in one call of plain ONNX Runtime
equal         the artifact's own whole, chunks and steps against each other
protocol      as a caller goes on who hands the states over himself, without a hook anywhere
reference     the graph in onnx's own evaluator, where that can judge it
trajectory    thousands of steps, inside what the module's own rounding makes of them (`_parity/trajectory.py`)

TorchScript goes through whole, one step and chunks too.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Final, final

import numpy as np
import torch
from torch import Tensor

from rnnx._axes import batch_first
from rnnx._parity.cases import Case
from rnnx._parity.compare import Arrays, allowed, allowed_in_one_step, compare, difference, within
from rnnx._parity.eager import Eager, Expected, as_it_starts, by_hand, in_calls, in_one_call, outputs_only, same
from rnnx._parity.rounding import Rounding
from rnnx._parity.second_opinion import SecondOpinion, Unable
from rnnx._parity.subjects import ArtifactSubject, Subject, as_answers, as_arrays
from rnnx._parity.tolerances import Precision, tolerance_of
from rnnx._parity.twins import Twins
from rnnx._slots import random_state
from rnnx_runtime import ExecutionError, Stream

Found = tuple[Arrays, Arrays]  # outputs and next states

_LONGEST: Final = 300  # steps of the grid; longer examples are cut to it
_STATES: Final = 256  # random states of the one-step check
_VISITORS: Final = 16  # rows, whose states are taken at each of these steps
_VISITED: Final = (1, 10, 100, 1000)
_ROWS: Final = 64  # and steps, of the strict check of what cannot be stepped
_STEPS: Final = 3
_LONG: Final = 1100  # steps of one call; longer than any call of the runtime


@dataclass(frozen=True)
class Depth:
    """How much is compared: batch sizes, the example's length in multiples, and the steps of the trajectory."""

    batches: tuple[int, ...]
    multiples: tuple[int, ...]
    trajectory: int


@final
class Gate:
    """The checks of one module; each compares a subject with the eager module."""

    def __init__(self, twins: Twins, depth: Depth, precision: Precision, *, on_cpu: bool) -> None:
        self._lift = twins.lift
        self._depth = depth
        self._rounding = Rounding(twins)
        self.tolerance = tolerance_of(precision, on_cpu=on_cpu)

    def untouched(self, subject: Subject) -> Iterator[Case]:
        """The example itself first, then random inputs at every size that the module accepts: it may bake in a batch size."""
        lift, generator = self._lift, torch.Generator().manual_seed(1)
        batch = lift.batch_of(lift.sited.inputs)
        example = partial(as_it_starts, lift.sited.inputs)
        yield self._untouched_case(subject, lift.sited.inputs, example, example(lift, same))
        for size in (*self._sizes(), (batch, 1), (batch, min(lift.steps, _LONGEST))):
            try:
                inputs = lift.sample(*size, generator)
                eager = partial(as_it_starts, inputs)
                expected = eager(lift, same)
            except Exception:
                continue
            yield self._untouched_case(subject, inputs, eager, expected)

    def whole(self, subject: Subject) -> Iterator[Case]:
        lift, generator = self._lift, torch.Generator().manual_seed(0)
        for batch, steps in self._sizes():
            for start in ("initial", "random") if lift.not_streamable_because is None else ("initial",):
                inputs = lift.sample(batch, steps, generator)
                states = lift.initial_states(inputs) if start == "initial" else self._random_states(batch, generator)
                eager = partial(in_one_call, inputs, states)
                yield self._case("whole", subject, batch, steps, start, partial(subject.run, inputs, states), eager)

    def padding(self, subject: Subject) -> Iterator[Case]:
        """What stands in the padding of a batch with lengths must not matter."""
        lift = self._lift
        lengths = [spec.name for spec in lift.inputs if spec.lengths]
        if not lengths:
            return
        generator = torch.Generator().manual_seed(6)
        for batch, steps in self._sizes():
            inputs, others = lift.sample(batch, steps, generator), lift.sample(batch, steps, generator)
            longest = torch.stack([inputs[name] for name in lengths]).amax(0)  # (B,)
            inside = torch.arange(steps) < longest[:, None]  # (B, T)
            changed = dict(inputs)
            for spec in lift.inputs:
                if spec.axes.time is not None:
                    given = batch_first(inputs[spec.name], spec.shape, batch, steps)
                    other = batch_first(others[spec.name], spec.shape, batch, steps)
                    mixed = torch.where(inside.reshape(batch, steps, *(1,) * (given.ndim - 2)), given, other)
                    changed[spec.name] = mixed.movedim((0, 1), (spec.axes.batch, spec.axes.time))
            ask, eager = partial(_answer, subject, changed), partial(outputs_only, inputs)
            yield self._case("padding", subject, batch, steps, "initial", ask, eager)

    def one_step(self, subject: Subject) -> Iterator[Case]:
        """Strict, whatever the dynamics do later."""
        generator = torch.Generator().manual_seed(2)
        inputs = self._lift.sample(_STATES, 1, generator)
        yield self._strict("one step", subject, "random", inputs, self._random_states(_STATES, generator))

    def strict(self, subject: Subject) -> Iterator[Case]:
        """A few steps of many sequences, where none can be given a state: their outputs as strictly as states after one step."""
        generator = torch.Generator().manual_seed(11)
        inputs = self._lift.sample(_ROWS, _STEPS, generator)
        yield self._strict("strict", subject, "initial", inputs, self._lift.initial_states(inputs))

    def long(self, subject: Subject) -> Iterator[Case]:
        """One call of many steps: what the runtime cuts into several, others do not."""
        generator = torch.Generator().manual_seed(12)
        inputs = self._lift.sample(1, _LONG, generator)
        states = self._lift.initial_states(inputs)
        eager = partial(in_one_call, inputs, states)
        yield self._case("long", subject, 1, _LONG, "initial", partial(subject.run, inputs, states), eager)

    def visited(self, subject: Subject) -> Iterator[Case]:
        """One step from where the module comes to by itself."""
        lift, generator = self._lift, torch.Generator().manual_seed(8)
        states = lift.initial_states(lift.sample(_VISITORS, 1, generator))
        for start, stop in itertools.pairwise((0, *_VISITED)):
            for first in range(start, stop, _LONGEST):
                states = lift.run(lift.sample(_VISITORS, min(_LONGEST, stop - first), generator), states)[1]
            if not all(t.isfinite().all() for t in states.values() if t.is_floating_point()):
                return
            yield self._strict("visited", subject, f"step {stop}", lift.sample(_VISITORS, 1, generator), states)

    def stepping(self, subject: ArtifactSubject) -> Iterator[Case]:
        """Chunks and steps against the eager module, and the artifact against itself."""
        for batch, steps, inputs, states, cuts in self._sequences():
            once = self._lift.chunks_matter_because is None
            ways = {
                "chunks": (cache(partial(subject.chunks, inputs, states, cuts)), cuts),
                "steps": (cache(partial(subject.steps, inputs, states)), list(range(steps + 1))),
            }
            for check, (ask, bounds) in ways.items():
                eager = partial(in_calls, inputs, states, [0, steps] if once else bounds)
                yield self._case(check, subject, batch, steps, "random", ask, eager)
            if once:
                try:
                    outputs, ended = subject.run(inputs, states)
                except ExecutionError:
                    continue  # `whole` has said so
                whole = outputs, {name: torch.from_numpy(array) for name, array in ended.items()}
                eager = partial(in_one_call, inputs, states)
                for ask, _ in ways.values():
                    yield self._case("equal", subject, batch, steps, "random", ask, eager, whole)

    def in_chunks(self, subject: Subject) -> Iterator[Case]:
        for batch, steps, inputs, states, cuts in self._sequences():
            eager = partial(in_calls, inputs, states, [0, steps] if self._lift.chunks_matter_because is None else cuts)
            yield self._case("chunks", subject, batch, steps, "random", partial(subject.chunks, inputs, states, cuts), eager)

    def protocol(self, subject: ArtifactSubject) -> Iterator[Case]:
        """As a caller goes on who hands the states over himself: what forward returned goes back into it, three times."""
        lift, generator = self._lift, torch.Generator().manual_seed(5)
        states = self._random_states(2, generator)
        stream = subject.stream(states)
        for steps in (1, 3, 2):
            inputs = lift.sample(2, steps, generator)
            eager = partial(by_hand, inputs, states)
            found = eager(lift, same)
            if found is None:
                return
            yield self._case("protocol", subject, 2, steps, "random", partial(_fed, subject, stream, inputs), eager, found)
            states = dict(found[1])

    def second_opinion(self, opinion: SecondOpinion) -> list[Case] | Unable:
        """The graph as another program computes it, against the eager module."""
        lift, generator = self._lift, torch.Generator().manual_seed(9)
        cases = []
        for batch, steps in ((1, 1), (2, 3)):
            inputs, states = lift.sample(batch, steps, generator), self._random_states(batch, generator)
            given = {spec.name: inputs[spec.name] for spec in lift.inputs} | states
            found = opinion.run(as_arrays(given))
            if isinstance(found, Unable):
                return found
            eager = partial(in_one_call, inputs, states)
            answer = {name: torch.from_numpy(np.ascontiguousarray(found[name])) for name in lift.outputs}
            ended = {name: found[f"{name}.next"] for name in states}
            try:
                arrays = as_answers(lift, answer, inputs)
            except RuntimeError:  # another shape
                arrays = dict.fromkeys(answer, np.empty(0))
            cases.append(
                self._compared("reference", "onnx", batch, steps, "random", (arrays, ended), eager(lift, same), eager)
            )
        return cases

    def _sizes(self) -> list[tuple[int, int]]:
        example = min(self._lift.steps, _LONGEST)
        lengths = sorted({1, 2, 3, *(min(times * example, _LONGEST) for times in self._depth.multiples)})
        return [(batch, steps) for batch in self._depth.batches for steps in lengths]

    def _sequences(self) -> Iterator[tuple[int, int, dict[str, Tensor], dict[str, Tensor], list[int]]]:
        """Longer sequences from random states, and where they are cut into chunks."""
        lift, generator = self._lift, torch.Generator().manual_seed(3)
        steps = min(max(3 * lift.steps, 12), _LONGEST)
        for batch in self._depth.batches:
            inputs, states = lift.sample(batch, steps, generator), self._random_states(batch, generator)
            yield (
                batch,
                steps,
                inputs,
                states,
                sorted({0, steps, *torch.randint(1, steps, (4,), generator=generator).tolist()}),
            )

    def _untouched_case(self, subject: Subject, inputs: Mapping[str, Tensor], eager: Eager, expected: Expected) -> Case:
        batch, steps = self._lift.batch_of(inputs), self._lift.steps_of(inputs)
        return self._case("untouched", subject, batch, steps, "initial", partial(_answer, subject, inputs), eager, expected)

    def _strict(
        self, check: str, subject: Subject, start: str, inputs: Mapping[str, Tensor], states: dict[str, Tensor]
    ) -> Case:
        """One step: the states within the stated difference, or within the rounding of the eager module itself."""
        batch, steps = self._lift.batch_of(inputs), self._lift.steps_of(inputs)
        eager = partial(in_one_call, inputs, states)
        expected = eager(self._lift, same)
        try:
            found = subject.run(inputs, states)
        except ExecutionError as error:
            return _broken(check, subject.form, batch, steps, start, expected, error)
        case = self._compared(check, subject.form, batch, steps, start, found, expected, eager)
        wanted = expected[0], as_arrays(expected[1])
        judged = wanted[0] if check == "strict" else {}, wanted[1]
        bounds = tuple({n: allowed_in_one_step(want, self.tolerance) for n, want in side.items()} for side in judged)
        apart = [(difference(found[i][n], judged[i][n]), b) for i in range(2) for n, b in bounds[i].items()]
        if all(within(one, bound, self.tolerance) for one, bound in apart):
            return case
        explained = self._rounding.explains(found, wanted, eager, (bounds[0], bounds[1]))
        return replace(case, passed=case.passed and explained, explained=explained)

    def _random_states(self, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
        """States between -1 and 1; where the module does not take those, such that it comes to by itself."""
        lift = self._lift
        drawn = {slot.name: random_state(slot.at(batch), slot.dtype, generator) for slot in lift.states}
        answer, following = lift.run(lift.sample(batch, 2, generator), drawn)
        if all(t.isfinite().all() for t in (*answer.values(), *following.values()) if t.is_floating_point()):
            return drawn
        inputs = lift.sample(batch, 3, generator)
        return lift.run(inputs, lift.initial_states(inputs))[1]

    def _case(
        self,
        check: str,
        subject: Subject,
        batch: int,
        steps: int,
        start: str,
        ask: Callable[[], Found],
        eager: Eager,
        expected: Expected | None = None,
    ) -> Case:
        """What the subject answers, compared with the eager module, or with what else is expected.

        A graph that does not run at this size is a case that failed.
        """
        expected = eager(self._lift, same) if expected is None else expected
        assert expected is not None
        try:
            found = ask()
        except ExecutionError as error:
            return _broken(check, subject.form, batch, steps, start, expected, error)
        return self._compared(check, subject.form, batch, steps, start, found, expected, eager)

    def _compared(
        self, check: str, form: str, batch: int, steps: int, start: str, found: Found, expected: Expected, eager: Eager
    ) -> Case:
        wanted = expected[0], as_arrays(expected[1])
        outputs, wrong_outputs = compare(found[0], wanted[0], self.tolerance)
        states, wrong_states = compare(found[1], wanted[1], self.tolerance)
        if not wrong_outputs + wrong_states:
            return Case(check, form, batch, steps, start, outputs, states, passed=True)
        bounds = tuple({name: allowed(want, self.tolerance) for name, want in side.items()} for side in wanted)
        explained = self._rounding.explains(found, wanted, eager, (bounds[0], bounds[1]))
        return Case(check, form, batch, steps, start, outputs, states, passed=explained, explained=explained)


def _broken(check: str, form: str, batch: int, steps: int, start: str, expected: Expected, error: ExecutionError) -> Case:
    outputs, states = (dict.fromkeys(side, math.inf) for side in expected)
    return Case(check, form, batch, steps, start, outputs, states, passed=False, note=str(error))


def _answer(subject: Subject, inputs: Mapping[str, Tensor]) -> Found:
    """From the initial state, without looking at the next ones."""
    return subject.run(inputs)[0], {}


def _fed(subject: ArtifactSubject, stream: Stream, inputs: Mapping[str, Tensor]) -> Found:
    return subject.feed(stream, inputs), dict(stream.state)
