"""The fast path under `Stream.step` and `Stream.feed`: two sets of states that alternate, and calls prepared over them.

`session.run(dict)` builds its inputs and outputs anew each time; here a step is a copy into a buffer, one bound call, and a copy out.
The states are written to the other set, so a call that fails leaves the state as it was. They stay where the provider has them at
hand: on a GPU, in its memory.
"""

import time
from collections.abc import Mapping
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from rnnx_runtime._buffers import Buffer
from rnnx_runtime._errors import InputError
from rnnx_runtime._graph import Answers, Graph
from rnnx_runtime._inputs import Chunk, by_name
from rnnx_runtime._prepared import Prepared
from rnnx_runtime._session import Session
from rnnx_runtime._state import State, make_state

_TRIALS: Final = 4  # the first of them is slow


@final
class Stepper:
    """The buffers and bindings of one stream. It belongs to one thread at a time.

    Attributes:
        position: of the state that it holds.
    """

    def __init__(self, graph: Graph, session: Session, batch: int) -> None:
        self._graph = graph
        self._session = session
        self.batch = batch
        self.position = 0
        self._sets = _buffers(graph, session, batch), _buffers(graph, session, batch)
        self._now = 0  # the set that holds the state
        self._one = Prepared(graph, session, self._sets, batch, None)
        self._many: Prepared | None = None
        self._steps = 0  # that `_many` takes

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

    def peek(self, ahead: int) -> dict[str, NDArray[Any]]:
        """The states after so many steps that were looked ahead, which the next but one overwrites."""
        return {name: buffer.peek() for name, buffer in self._sets[(self._now + ahead) & 1].items()}

    def step(self, x: Any) -> Any:
        """Answer one step; see `Stream.step`."""
        one = self._one
        if type(x) is np.ndarray and x.dtype is one.dtype and x.shape == one.shape:
            one.copy(x)
        else:
            self._put(x)
        one.calls[self._now]()
        view = one.answer
        answer = view.copy() if view is not None else one.answers()
        # Last, when nothing can fail any more.
        self._now = 1 - self._now
        self.position += 1
        return answer

    def _put(self, x: Any) -> None:
        for name, array in by_name(self._graph.inputs, x).items():
            view = self._one.given[name]
            if array.shape != view.shape:
                if array.ndim == view.ndim and array.shape[1:] == view.shape[1:]:
                    self._graph.check_batch(array.shape[0])
                raise InputError(
                    f"{name}: expected the shape {view.shape} for one step of this stream, got {array.shape}; "
                    "a chunk goes to feed, another batch size to a stream of its own"
                )
            view[...] = self._graph.inputs[name].checked(array, 1)

    def feed(self, chunk: Any) -> Any:
        """Answer a chunk for which a call is prepared, of the type and shape that it takes; None for any other."""
        many = self._many
        if many is None or type(chunk) is not np.ndarray or chunk.dtype is not many.dtype or chunk.shape != many.shape:
            return None
        many.copy(chunk)
        many.calls[self._now]()
        view = many.answer
        answer = view.copy() if view is not None else many.answers()
        self._now = 1 - self._now
        self.position += self._steps
        return answer

    def prepare(self, steps: int) -> None:
        """Prepare a call for chunks of so many steps, where that was not done."""
        if steps != self._steps:
            self._many, self._steps = Prepared(self._graph, self._session, self._sets, self.batch, steps), steps

    def run_chunk(self, chunk: Chunk) -> Answers:
        """Answer a checked chunk of as many steps as were prepared."""
        assert self._many is not None
        answers = self._run(self._many, chunk.arrays)
        self.advance(chunk.steps)
        return answers

    def run_step(self, chunk: Chunk) -> Answers:
        """Answer a checked chunk of one step: `(B, ...)`."""
        answers = self.look_ahead(chunk)
        self.advance(1)
        return answers

    def run_steps(self, chunk: Chunk) -> Answers:
        """Answer a checked chunk of several steps, of a graph of one step."""
        steps = [self.run_step(self._graph.cut(chunk, step, step + 1)) for step in range(chunk.steps)]
        return {name: np.stack([step[name] for step in steps], axis=1) for name in self._one.found}

    def look_ahead(self, chunk: Chunk, ahead: int = 0) -> Answers:
        """As `run_step`, but the state is as before; `ahead`: how many steps were looked ahead before, each in a call of this."""
        return self._run(self._one, self._graph.step_of(chunk, 0), ahead)

    def advance(self, steps: int) -> None:
        """Take the states that the last call wrote, of so many steps."""
        self._now = 1 - self._now
        self.position += steps

    def take_back(self) -> None:
        """Be where the last step found it: the state of before is there until the next."""
        self._now = 1 - self._now
        self.position -= 1

    def seconds(self) -> float:
        """What a call takes, of a stepper that nobody uses."""
        taken = []
        for _ in range(_TRIALS):
            started = time.perf_counter()
            self._one.calls[0]()
            taken.append(time.perf_counter() - started)
        return min(taken)

    def _run(self, prepared: Prepared, arrays: Mapping[str, NDArray[Any]], ahead: int = 0) -> Answers:
        prepared.put(arrays)
        prepared.calls[(self._now + ahead) & 1]()
        return prepared.answers()


def _buffers(graph: Graph, session: Session, batch: int) -> dict[str, Buffer]:
    return {name: session.buffer(np.zeros(spec.sized(batch), spec.dtype)) for name, spec in graph.states.items()}
