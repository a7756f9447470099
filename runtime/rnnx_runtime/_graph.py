"""An artifact's graph, seen through its manifest: batch-first arrays by name on this side, the module's own layout on that.

Nothing here changes, and nothing is run but what a session is handed for.
"""

import math
from collections.abc import Mapping
from typing import Any, Final, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnnx_runtime._codec import ScalerCodec, TextCodec
from rnnx_runtime._errors import ExecutionError, InputError, RnnxError, StateError
from rnnx_runtime._inputs import Chunk, Port, by_name, check_chunk, whole
from rnnx_runtime._layout import Layout
from rnnx_runtime._manifest import Computed, Manifest
from rnnx_runtime._session import Session, as_declared
from rnnx_runtime._state import State, make_state, state_array

_LARGEST_STATE: Final = 1 << 34  # elements, over all rows

_SYMBOLS: Final = 1024  # rows that are kept: a one-hot row is as long as the vocabulary

Answers = dict[str, NDArray[Any]]


@final
class Graph:
    """What goes in and out of one call, checked on both sides."""

    def __init__(self, manifest: Manifest, digest: str) -> None:
        self.manifest = manifest
        self.digest = digest
        self.inputs = {spec.name: Port(spec, one_step=manifest.one_step) for spec in manifest.inputs}
        self.outputs = {spec.name: Layout(spec.shape, one_step=manifest.one_step) for spec in manifest.outputs}
        self.conditions = {spec.name: Port(spec) for spec in manifest.conditions}
        self.states = {spec.name: spec for spec in manifest.states}
        self.batch_axes = {spec.name: spec.batch_axis for spec in manifest.states}
        logits = [spec.name for spec in manifest.outputs if spec.role == "logits"]
        self._logits = logits[0] if len(logits) == 1 else None
        self._symbols: dict[int, NDArray[Any]] = {}
        self._fetches = [*self.outputs, *(spec.output for spec in manifest.states)]

    def check_chunk(self, chunk: Any) -> Chunk:
        """A chunk, `(B, T, ...)` by input name, ready for `call`.

        Raises:
            InputError: it breaks the contract.
        """
        return self._checked(self.inputs, by_name(self.inputs, chunk))

    def check_step(self, x: Any) -> Chunk:
        """One step, `(B, ...)` by input name, as a chunk of one.

        Raises:
            InputError: it breaks the contract.
        """
        chunk = {}
        for name, array in by_name(self.inputs, x).items():
            layout = self.inputs[name].layout
            if array.ndim != 1 + len(layout.inner) or array.shape[1:] != layout.inner:
                wanted = ", ".join(["B", *map(str, layout.inner)])
                raise InputError(f"{name}: expected the shape ({wanted}) for one step, got {array.shape}")
            chunk[name] = array[:, None] if layout.has_time else array
        return self._checked(self.inputs, chunk)

    def _checked(self, ports: Mapping[str, Port], arrays: dict[str, NDArray[Any]]) -> Chunk:
        chunk = check_chunk(ports, arrays)
        self.check_batch(chunk.batch)
        return chunk

    def check_batch(self, batch: int, error: type[RnnxError] = InputError) -> None:
        """Raises `error` where the graph takes no batch of this size."""
        fixed = self.manifest.fixed_batch
        if fixed is not None and batch != fixed:
            remedy = "give each row a stream of its own" if fixed == 1 else f"give {fixed} rows in each call"
            raise error(f"this graph takes a batch of {fixed}, got {batch}; {remedy}")

    def check_streamable(self) -> None:
        """Raises InputError where steps cannot go on from a state."""
        if not self.manifest.streamable:
            raise InputError(f"this model cannot be stepped: {self.manifest.not_streamable_because}; run whole sequences")

    def check_state(self, state: State, batch: int | None = None) -> State:
        """`state`, if it fits.

        Raises:
            InputError: the model is not streamable, so that no state can be given to it.
            StateError: it is another model's, or of another batch size, or a snapshot that is not what it says.
        """
        self.check_streamable()
        if not isinstance(state, State):
            raise StateError(f"a state is made by Model.initial_state or Model.make_state, got {type(state).__name__}")
        if state.digest != self.digest:
            raise StateError(f"the state belongs to artifact {state.digest[:12]}, this model is {self.digest[:12]}")
        if batch is not None and state.batch != batch:
            raise StateError(f"the state has a batch of {state.batch}, the input one of {batch}")
        self.check_batch(state.batch, StateError)
        for name, spec in self.states.items():
            if name not in state or state[name].shape != spec.sized(state.batch) or state[name].dtype != spec.dtype:
                raise StateError(f"the state lacks {name}, {spec.dtype} {spec.sized(state.batch)}; it was not made by rnnx")
        if state.keys() - self.states.keys():
            raise StateError(
                f"the state has {min(state.keys() - self.states.keys())!r}, the model has not; it was not made by rnnx"
            )
        return state

    def initial_state(self, batch: Any) -> State:
        """The state that new sequences start with, where none is computed; None for the batch that the graph takes, else 1.

        Raises:
            InputError: `batch` is no number of rows, or not one that the graph takes.
        """
        rows = self.manifest.fixed_batch or 1 if batch is None else whole("batch", batch, 1, _LARGEST_STATE)
        self.check_batch(rows)
        if any(rows * math.prod(spec.sized(1)) > _LARGEST_STATE for spec in self.states.values()):
            raise InputError(f"a batch of {rows} needs states of more than {_LARGEST_STATE} elements")
        return make_state(self.digest, rows, {name: spec.initial(rows) for name, spec in self.states.items()}, 0)

    def computed_state(self, session: Session | None, conditions: Mapping[str, ArrayLike]) -> State:
        """The state that new sequences start with, computed by the second graph.

        Raises:
            InputError: a condition is missing or unknown, or its content is not allowed.
            ExecutionError: what was computed is not finite, or not what the manifest declares.
        """
        if conditions.keys() != self.conditions.keys() or session is None:
            needs = f"is computed from {', '.join(self.conditions)}" if self.conditions else "is not computed"
            raise InputError(f"the initial state of this model {needs}; got {', '.join(conditions) or 'nothing'}")
        arrays, batch, _ = self._checked(self.conditions, by_name(self.conditions, conditions))
        feeds = {name: self.conditions[name].layout.to_graph(array, 1) for name, array in arrays.items()}
        found = session.run([name for name, spec in self.states.items() if isinstance(spec.init, Computed)], feeds)
        states = {}
        for name, spec in self.states.items():
            if name in found:
                states[name] = as_declared(name, found[name], spec.dtype, spec.sized(batch))
                if not np.isfinite(states[name]).all():
                    raise ExecutionError(f"{name}: the initial state computed from the conditions is not finite")
            else:
                states[name] = spec.initial(batch)
        return make_state(self.digest, batch, states, 0)

    def make_state(self, arrays: Any) -> State:
        """A state with these values; see `Model.make_state`."""
        if not isinstance(arrays, Mapping) or arrays.keys() != self.states.keys():
            got = sorted(map(str, arrays)) if isinstance(arrays, Mapping) else type(arrays).__name__
            raise StateError(f"the states are {sorted(self.states)}, got {got}")
        owned: dict[str, NDArray[Any]] = {}
        batch: int | None = None
        for name, spec in self.states.items():
            array = state_array(name, arrays[name], np.dtype(spec.dtype))
            if batch is None and array.ndim == len(spec.shape):
                batch = 1 if spec.batch_axis is None else array.shape[spec.batch_axis]
            if not batch or array.shape != spec.sized(batch):
                rows = "" if batch is None else f" in a batch of {batch}"
                raise StateError(f"{name}: expected the shape {spec.shape}, got {array.shape}{rows}")
            owned[name] = array
        batch = batch or self.manifest.fixed_batch or 1
        self.check_batch(batch, StateError)
        return make_state(self.digest, batch, owned, 0)

    def call(self, session: Session, chunk: Chunk, state: State) -> tuple[Answers, State]:
        """Answer a chunk of at least one step, in as many calls as the graph needs; both sides are checked."""
        if not self.manifest.one_step:
            return self._call(session, chunk, state)
        pieces = []
        for step in range(chunk.steps):
            answers, state = self._call(session, self.cut(chunk, step, step + 1), state)
            pieces.append(answers)
        return self.joined(pieces), state

    def _call(self, session: Session, chunk: Chunk, state: State) -> tuple[Answers, State]:
        arrays, batch, steps = chunk
        feeds = {name: self.inputs[name].layout.to_graph(array, steps) for name, array in arrays.items()}
        feeds |= {spec.input: state[name] for name, spec in self.states.items()}
        found = session.run(self._fetches, feeds)
        answers = {}
        for spec in self.manifest.outputs:
            layout = self.outputs[spec.name]
            array = as_declared(spec.name, found[spec.name], spec.dtype, layout.graph_shape(batch, steps))
            answers[spec.name] = np.ascontiguousarray(layout.batch_first(array, batch, steps))
        following = {
            name: as_declared(spec.output, found[spec.output], spec.dtype, spec.sized(batch))
            for name, spec in self.states.items()
        }
        return answers, make_state(self.digest, batch, following, state.position + steps)

    def empty(self, batch: int) -> Answers:
        """What no steps are answered with.

        Raises:
            InputError: an output has one value for the whole chunk.
        """
        for name, layout in self.outputs.items():
            if not layout.has_time:
                raise InputError(f"{name} answers the whole chunk; give at least one step")
        return {spec.name: np.empty((batch, 0, *self.outputs[spec.name].inner), spec.dtype) for spec in self.manifest.outputs}

    def cut(self, chunk: Chunk, first: int, last: int) -> Chunk:
        """The steps of a chunk from `first` to before `last`."""
        arrays = {
            name: array[:, first:last] if self.inputs[name].layout.has_time else array for name, array in chunk.arrays.items()
        }
        return Chunk(arrays, chunk.batch, last - first)

    def step_of(self, chunk: Chunk, step: int) -> Answers:
        """One step of a chunk, `(B, ...)` each."""
        return {name: array[:, step] if self.inputs[name].layout.has_time else array for name, array in chunk.arrays.items()}

    def together(self, states: list[State]) -> State:
        """States of a batch of 1 each as one; its position says nothing, for each has its own."""
        if len(states) == 1:  # of a graph without an axis for rows, there are never more
            return states[0]
        arrays = {
            name: np.concatenate([state[name] for state in states], axis=axis or 0) for name, axis in self.batch_axes.items()
        }
        return make_state(self.digest, len(states), arrays, 0)

    def joined(self, pieces: list[Answers]) -> Answers:
        """The answers of consecutive chunks as those of one."""
        if len(pieces) == 1:
            return pieces[0]
        return {
            name: np.concatenate([piece[name] for piece in pieces], axis=1) if layout.has_time else pieces[-1][name]
            for name, layout in self.outputs.items()
        }

    def of_step(self, answers: Answers) -> Answers:
        """The answers of a chunk of one, `(B, ...)` each."""
        return {name: array[:, 0] if self.outputs[name].has_time else array for name, array in answers.items()}

    def single(self, answers: Answers) -> Any:
        """What callers get: the array where the model has one output, else the mapping."""
        return next(iter(answers.values())) if len(answers) == 1 else answers

    def text_codec(self) -> TextCodec:
        """The codec of an artifact that reads and writes text.

        Raises:
            InputError: this one does not.
        """
        codec = self.manifest.codec
        if codec is None or isinstance(codec, ScalerCodec) or not any(spec.role == "logits" for spec in self.manifest.outputs):
            raise InputError("this artifact does not answer in text; it takes and gives numbers")
        return codec

    def symbols(self, tokens: Any) -> Chunk:
        """Tokens `(T,)` of the codec as a chunk of one row."""
        return self.check_chunk(self.text_codec().rows(np.asarray(tokens))[None])

    def symbol(self, token: int) -> NDArray[Any]:
        """A token of the codec as one step of one row: read-only."""
        row = self._symbols.get(token)
        if row is None:
            row = self.text_codec().rows(np.array([token])).astype(next(iter(self.manifest.inputs)).dtype)
            row.flags.writeable = False
            if len(self._symbols) < _SYMBOLS:
                self._symbols[token] = row
        return row

    def logits(self, answer: Any) -> NDArray[Any]:
        """The scores of the codec's symbols in an answer: `(B, T, V)` or `(B, V)`.

        Raises:
            InputError: the artifact does not answer in text.
        """
        if self._logits is None:
            raise InputError("this artifact does not answer in text; it takes and gives numbers")
        scores = answer.get(self._logits) if isinstance(answer, dict) else answer
        if not isinstance(scores, np.ndarray):
            raise InputError(f"logits are in what run, step or feed answered, got {type(answer).__name__}")
        return scores

    def last_logits(self, answer: Any) -> NDArray[Any]:
        """The scores `(B, V)` of what comes after a chunk, in an answer to it."""
        scores = self.logits(answer)
        return scores[:, -1] if scores.ndim == 3 else scores
