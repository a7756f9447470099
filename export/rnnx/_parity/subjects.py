"""What the parity gate asks: an exported form of a lifted module, in the eager module's own terms.

Inputs and states go in as the eager module takes them; outputs come back batch-first, `(B, T, ...)` or `(B, ...)`, states as they are.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rnnx._axes import batch_first, has_time
from rnnx._eager import first_line
from rnnx._lift import Lift
from rnnx_runtime import ExecutionError, Model, State, Stream

Arrays = dict[str, NDArray[Any]]
Script = Callable[..., tuple[Tensor, ...]]


class Subject(ABC):
    """One exported form. `form` is its name in reports."""

    form: str

    def __init__(self, lift: Lift) -> None:
        self.lift = lift

    @abstractmethod
    def run(self, inputs: Mapping[str, Tensor], states: Mapping[str, Tensor] | None = None) -> tuple[Arrays, Arrays]:
        """One call, from given states or, where None, from the initial ones: outputs and next states."""

    def chunks(
        self, inputs: Mapping[str, Tensor], states: Mapping[str, Tensor], bounds: Sequence[int]
    ) -> tuple[Arrays, Arrays]:
        """A sequence in chunks between `bounds`, the state carried: the joined outputs, and the states behind them."""
        parts: list[Arrays] = []
        given, ended = dict(states), as_arrays(states)
        for start, stop in itertools.pairwise(bounds):
            found, ended = self.run(self.lift.chunk(inputs, start, stop), given)
            parts.append(found)
            given = {name: torch.from_numpy(array) for name, array in ended.items()}
        return joined(self.lift, parts), ended


@final
class ArtifactSubject(Subject):
    """The artifact, run by the runtime as its users run it: `Model.run`, and streams where states are carried."""

    form = "onnx"

    def __init__(self, lift: Lift, model: Model) -> None:
        super().__init__(lift)
        self.model = model

    def run(self, inputs: Mapping[str, Tensor], states: Mapping[str, Tensor] | None = None) -> tuple[Arrays, Arrays]:
        state = None
        if self.model.manifest.streamable:
            state = self._state(states) if states is not None else self._initial_state(inputs)
        answer, following = self.model.run(self._given(inputs), state)
        return self._answers(answer), dict(following)

    def chunks(
        self, inputs: Mapping[str, Tensor], states: Mapping[str, Tensor], bounds: Sequence[int]
    ) -> tuple[Arrays, Arrays]:
        stream = self.stream(states)
        pieces = [self.feed(stream, self.lift.chunk(inputs, *of)) for of in itertools.pairwise(bounds)]
        return joined(self.lift, pieces), dict(stream.state)

    def steps(self, inputs: Mapping[str, Tensor], states: Mapping[str, Tensor]) -> tuple[Arrays, Arrays]:
        """A sequence step by step, as `Stream.step` takes it."""
        stream = self.stream(states)
        parts = []
        for step in range(self.lift.steps_of(inputs)):
            one = self._given(self.lift.chunk(inputs, step, step + 1))
            x = {s.name: one[s.name] if s.axes.time is None else one[s.name][:, 0] for s in self.lift.inputs}
            found = self._answers(stream.step(x))
            parts.append({n: found[n][:, None] if has_time(shape) else found[n] for n, shape in self.lift.outputs.items()})
        return joined(self.lift, parts), dict(stream.state)

    def stream(self, states: Mapping[str, Tensor]) -> Stream:
        """A stream that begins with these states."""
        return self.model.stream(state=self._state(states))

    def feed(self, stream: Stream, inputs: Mapping[str, Tensor]) -> Arrays:
        """The next chunk of a stream."""
        return self._answers(stream.feed(self._given(inputs)))

    def _initial_state(self, inputs: Mapping[str, Tensor]) -> State:
        batch = self.lift.batch_of(inputs)
        conditions = {s.name: batch_first(inputs[s.name], s.shape, batch, 1).numpy() for s in self.lift.conditions}
        return self.model.initial_state(batch, **conditions)

    def _state(self, states: Mapping[str, Tensor]) -> State:
        return self.model.make_state(as_arrays(states))

    def _given(self, inputs: Mapping[str, Tensor]) -> Arrays:
        batch, steps = self.lift.batch_of(inputs), self.lift.steps_of(inputs)
        return {s.name: batch_first(inputs[s.name], s.shape, batch, steps).numpy() for s in self.lift.inputs}

    def _answers(self, answer: Any) -> Arrays:
        """By name: a single output comes without its own."""
        return answer if isinstance(answer, dict) else {next(iter(self.lift.outputs)): answer}


@final
class FileSubject(Subject):
    """The artifact's file in plain ONNX Runtime, in one call whatever its length, as those run it who do not have our runtime."""

    form = "onnx"

    def __init__(self, lift: Lift, data: bytes) -> None:
        import onnxruntime

        super().__init__(lift)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(self, inputs: Mapping[str, Tensor], states: Mapping[str, Tensor] | None = None) -> tuple[Arrays, Arrays]:
        states = self.lift.initial_states(inputs) if states is None else states
        feeds = as_arrays({spec.name: inputs[spec.name] for spec in self.lift.inputs} | dict(states))
        names = [*self.lift.outputs, *(f"{name}.next" for name in states)]
        try:
            found = dict(zip(names, self._session.run(names, feeds), strict=True))
        except Exception as error:  # ONNX Runtime's have no base of their own
            raise ExecutionError(f"ONNX Runtime failed: {first_line(error)}") from error
        outputs = {name: torch.from_numpy(found[name]) for name in self.lift.outputs}
        return as_answers(self.lift, outputs, inputs), {name: found[f"{name}.next"] for name in states}


@final
class ScriptSubject(Subject):
    """The TorchScript module: `(*inputs, *states) -> (*outputs, *next states)`."""

    form = "torchscript"

    def __init__(self, lift: Lift, script: Script) -> None:
        super().__init__(lift)
        self._script = script

    def run(self, inputs: Mapping[str, Tensor], states: Mapping[str, Tensor] | None = None) -> tuple[Arrays, Arrays]:
        states = self.lift.initial_states(inputs) if states is None else states
        with torch.no_grad():
            returned = self._script(*(inputs[spec.name] for spec in self.lift.inputs), *states.values())
        named = dict(zip((*self.lift.outputs, *states), returned, strict=True))
        outputs = {name: named[name] for name in self.lift.outputs}
        return as_answers(self.lift, outputs, inputs), {name: named[name].numpy() for name in states}


def eager_answers(
    lift: Lift, inputs: Mapping[str, Tensor], states: Mapping[str, Tensor] | None = None
) -> tuple[Arrays, dict[str, Tensor]]:
    """What the eager module answers in one call, batch-first, and its next states."""
    outputs, following = lift.run(inputs, states)
    return as_answers(lift, outputs, inputs), following


def as_answers(lift: Lift, outputs: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Arrays:
    """Outputs in the module's layout, batch-first."""
    batch, steps = lift.batch_of(inputs), lift.steps_of(inputs)
    return {name: batch_first(outputs[name], shape, batch, steps).numpy() for name, shape in lift.outputs.items()}


def as_arrays(states: Mapping[str, Tensor]) -> Arrays:
    return {name: tensor.numpy() for name, tensor in states.items()}


def joined(lift: Lift, parts: Sequence[Arrays]) -> Arrays:
    """The answers to chunks as that to the whole: joined along time, or the last one's."""
    return {
        name: np.concatenate([part[name] for part in parts], axis=1) if has_time(shape) else parts[-1][name]
        for name, shape in lift.outputs.items()
    }
