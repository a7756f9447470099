"""What a model is given while it is timed."""

from collections.abc import Mapping
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from rnnx_runtime import Model, State
from rnnx_runtime.artifact import Input, Layout, golden_start

DIFFERENT: Final = 16  # calls, each with other inputs; then they begin again
WHOLE: Final = 64  # steps of a sequence, of models that cannot be stepped
_SEED: Final = 0

Arrays = dict[str, NDArray[Any]]


@final
class Samples:
    """Inputs and states like those that the artifact was proven with, for any number of rows and steps, batch-first.

    Tokens are drawn from the whole vocabulary; other values are those of the golden trace, over and over.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.manifest = model.manifest
        start = golden_start(model)
        self._golden: Mapping[str, NDArray[Any]] = {} if start is None else start[0]
        self._start = None if start is None else start[1]
        self._random = np.random.default_rng(_SEED)

    def chunk(self, batch: int, steps: int) -> Arrays:
        """`(B, T, ...)` for each input, and `(B, ...)` for one without time."""
        return {
            spec.name: self._values(spec, batch, steps, self.manifest.has_time(spec), steps) for spec in self.manifest.inputs
        }

    def steps(self, batch: int, count: int = DIFFERENT) -> list[Arrays]:
        """So many steps, `(B, ...)` each."""
        chunk = self.chunk(batch, count)
        timed = {spec.name for spec in self.manifest.inputs if self.manifest.has_time(spec)}
        return [{name: array[:, step] if name in timed else array for name, array in chunk.items()} for step in range(count)]

    def state(self, batch: int) -> State:
        """Where sequences begin: as the golden trace does, where the model can be stepped."""
        manifest = self.manifest
        if self._start is None or not manifest.streamable:
            conditions = {spec.name: self._values(spec, batch, 1, False, 1) for spec in manifest.conditions}
            return self.model.initial_state(None if conditions else batch, **conditions)
        if self._start.batch == batch:
            return self._start
        rows = np.arange(batch) % self._start.batch
        axes = {spec.name: spec.batch_axis or 0 for spec in manifest.states}
        if not axes:
            return self.model.initial_state(batch)
        return self.model.make_state({name: np.take(array, rows, axes[name]) for name, array in self._start.items()})

    def _values(self, spec: Input, batch: int, steps: int, timed: bool, longest: int) -> NDArray[Any]:
        dtype = np.dtype(spec.dtype)
        layout = Layout(spec.shape, one_step=self.manifest.one_step)
        shape = (batch, *((steps,) if timed else ()), *layout.inner)
        if spec.role == "lengths":
            return np.full(shape, longest, dtype)
        if spec.vocabulary_size is not None:
            return self._random.integers(spec.vocabulary_size, size=shape).astype(dtype)
        known = self._golden.get(spec.name)
        if known is not None:
            rows = known[np.arange(batch) % len(known)]
            return np.ascontiguousarray(rows[:, np.arange(steps) % rows.shape[1]] if timed else rows)
        if dtype.kind == "f":
            return self._random.standard_normal(shape).astype(dtype)
        return self._random.integers(2, size=shape).astype(dtype)


@final
class Task:
    """What every contender does: the same steps of one stream, or where the model cannot be stepped, the same whole sequences.

    Attributes:
        calls: what they are given, batch-first.
        steps: of one call.
        begin: the state that the first call begins with.
    """

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.model = samples.model
        self.manifest = samples.manifest
        self.stepped = samples.manifest.streamable
        self.batch = samples.manifest.fixed_batch or 1
        self.steps = 1 if self.stepped else WHOLE
        self.begin = samples.state(self.batch)
        self.calls = (
            samples.steps(self.batch)
            if self.stepped
            else [samples.chunk(self.batch, self.steps) for _ in range(DIFFERENT // 4)]
        )
        one_step = self.manifest.one_step
        self._inputs = {spec.name: Layout(spec.shape, one_step=one_step) for spec in self.manifest.inputs}
        self._outputs = {spec.name: Layout(spec.shape, one_step=one_step) for spec in self.manifest.outputs}

    @property
    def single_input(self) -> bool:
        return len(self._inputs) == 1

    def given(self, arrays: Arrays) -> Any:
        """As the runtime's callers write it: the array itself, where there is one input."""
        return next(iter(arrays.values())) if self.single_input else arrays

    def answered(self, answer: Any) -> Arrays:
        """What the runtime answered, by name."""
        return answer if isinstance(answer, dict) else {next(iter(self._outputs)): answer}

    def feeds(self) -> list[Arrays]:
        """The calls in the graph's own layout, by the graph's names."""
        return [
            {
                name: self._inputs[name].to_graph(
                    array[:, None] if self.stepped and self._inputs[name].has_time else array, self.steps
                )
                for name, array in call.items()
            }
            for call in self.calls
        ]

    def states(self) -> Arrays:
        """The first states, by the names of the graph's inputs."""
        return {spec.input: np.ascontiguousarray(self.begin[spec.name]) for spec in self.manifest.states}

    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the graph's outputs, without states."""
        return {name: layout.graph_shape(self.batch, self.steps) for name, layout in self._outputs.items()}

    def batch_first(self, outputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """The graph's outputs of one call as the runtime answers them, copied."""
        return {
            name: np.array(
                layout.step(outputs[name], self.batch)
                if self.stepped
                else layout.batch_first(outputs[name], self.batch, self.steps)
            )
            for name, layout in self._outputs.items()
        }
