"""One step at a time, with everything prepared: fixed buffers, cached bindings, two sets of states that alternate.

A step of a small model is all overhead. `session.run(dict)` builds its inputs and outputs anew each time; here a step is
a copy into a buffer, one bound call, and a copy out. The states are written to the other set, so a call that fails
leaves the state as it was. They stay where the provider has them at hand: on a GPU, in its memory.
"""

from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from rnnx_runtime._errors import InputError
from rnnx_runtime._graph import Answers, Graph
from rnnx_runtime._inputs import Chunk, by_name
from rnnx_runtime._session import Session
from rnnx_runtime._state import State, make_state


@final
class Stepper:
    """The buffers and bindings of one stream. It belongs to one thread at a time.

    Attributes:
        position: of the state that it holds.
    """

    def __init__(self, graph: Graph, session: Session, batch: int) -> None:
        self._graph = graph
        self._ports = graph.inputs
        self.batch = batch
        self.position = 0
        # Graph-layout buffers, and the caller's (B, ...) views of them.
        manifest, ports, outputs = graph.manifest, graph.inputs, graph.outputs
        given = {spec.name: np.zeros(ports[spec.name].layout.graph_shape(batch, 1), spec.dtype) for spec in manifest.inputs}
        found = {spec.name: np.zeros(outputs[spec.name].graph_shape(batch, 1), spec.dtype) for spec in manifest.outputs}
        self._given = {name: ports[name].layout.step(array, batch) for name, array in given.items()}
        self._found = {name: outputs[name].step(array, batch) for name, array in found.items()}
        self._single = next(iter(self._found.values())) if len(self._found) == 1 else None
        self._sets = [
            {name: session.buffer(np.zeros(spec.sized(batch), spec.dtype)) for name, spec in graph.states.items()}
            for _ in range(2)
        ]
        self._calls = [
            session.bind(
                given,
                found,
                {spec.input: self._sets[now][name] for name, spec in graph.states.items()},
                {spec.output: self._sets[1 - now][name] for name, spec in graph.states.items()},
            )
            for now in range(2)
        ]
        self._now = 0

    def load(self, state: State) -> None:
        """Continue from `state`, already checked."""
        for name, buffer in self._sets[self._now].items():
            buffer.write(state[name])
        self.position = state.position

    def state(self) -> State:
        """The state after the last step, as a value."""
        return make_state(self._graph.digest, self.batch, self.arrays(), self.position)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Copies of the states after the last step."""
        return {name: buffer.read() for name, buffer in self._sets[self._now].items()}

    def step(self, x: Any) -> Any:
        """Answer one step; see `Stream.step`."""
        for name, array in by_name(self._ports, x).items():
            view = self._given[name]
            if array.shape != view.shape:
                if array.ndim == view.ndim and array.shape[1:] == view.shape[1:]:
                    self._graph.check_batch(array.shape[0])
                raise InputError(
                    f"{name}: expected the shape {view.shape} for one step of this stream, got {array.shape}; "
                    "a chunk goes to feed, another batch size to a stream of its own"
                )
            view[...] = self._ports[name].checked(array, 1)
        self._call()
        if self._single is not None:
            return self._single.copy()
        return {name: view.copy() for name, view in self._found.items()}

    def answer(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Answer a chunk of one step, checked before: `(B, 1, ...)`, and `(B, ...)` of inputs without time."""
        for name, view in self._given.items():
            view[...] = arrays[name][:, 0] if self._ports[name].layout.has_time else arrays[name]
        self._call()
        return {name: view.copy() for name, view in self._found.items()}

    def answers(self, chunk: Chunk) -> Answers:
        """Answer a chunk of several steps, checked before, of a graph of one step."""
        steps = [self.answer(self._graph.cut(chunk, step, step + 1).arrays) for step in range(chunk.steps)]
        return {name: np.stack([step[name] for step in steps], axis=1) for name in self._found}

    def _call(self) -> None:
        self._calls[self._now]()
        self._now = 1 - self._now
        self.position += 1
