"""A loaded artifact: immutable, and shared by any number of streams and threads."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnnx_runtime._artifact import open_artifact
from rnnx_runtime._errors import ExecutionError, InputError, StateError
from rnnx_runtime._inputs import Chunk, Port, by_name, check_chunk, whole
from rnnx_runtime._layout import Layout
from rnnx_runtime._manifest import Computed, Manifest
from rnnx_runtime._session import Session, as_declared
from rnnx_runtime._state import State, make_state, state_array
from rnnx_runtime._stepper import Stepper
from rnnx_runtime._stream import Stream

_MOST_THREADS: Final = 256
_LARGEST_STATE: Final = 1 << 34  # elements, over all rows


def load(source: str | os.PathLike[str] | bytes | bytearray | memoryview, *, threads: int = 1) -> "Model":
    """Open an artifact made by `rnnx export`, from a path or from its bytes.

    Args:
        source: a path, or the content of the file.
        threads: used inside one call, 1 to 256; recurrent steps are small and rarely gain from more than one.

    Raises:
        ArtifactNotFoundError: there is no file at the path.
        ArtifactError: the file is not a whole, valid artifact.
        ExecutionError: ONNX Runtime cannot load it.
        InputError: `threads` is out of range.
    """
    count = whole("threads", threads, 1, _MOST_THREADS)
    artifact = open_artifact(source)
    initial = None if artifact.initial is None else Session(artifact.initial, count)
    return Model(artifact.manifest, artifact.digest, Session(artifact.data, count), initial)


@final
class Model:
    """A loaded artifact. Get one from `load`.

    Arrays are batch-first whatever layout the module had: a step is `(B, ...)`, a chunk `(B, T, ...)`. Where the model has
    one input or output it is an array; where it has several, a mapping by name. What breaks this contract raises
    `InputError`; a failure of ONNX Runtime itself `ExecutionError`.
    """

    def __init__(self, manifest: Manifest, digest: str, session: Session, initial: Session | None = None) -> None:
        self._manifest = manifest
        self._digest = digest
        self._session = session
        self._initial = initial
        self._inputs = {spec.name: Port(spec) for spec in manifest.inputs}
        self._conditions = {spec.name: Port(spec) for spec in manifest.conditions}
        self._outputs = {spec.name: Layout(spec.shape) for spec in manifest.outputs}
        self._fetches = [*self._outputs, *(state.output for state in manifest.states)]

    @property
    def manifest(self) -> Manifest:
        """The artifact's contract."""
        return self._manifest

    @property
    def digest(self) -> str:
        """SHA-256 of the artifact's content, 64 hex digits."""
        return self._digest

    def __repr__(self) -> str:
        return f"Model({self._manifest.name!r}, {self._digest[:12]})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a model cannot be pickled yet; give the path of the artifact, and load it in the other process")

    def stream(self, batch: int = 1, **conditions: ArrayLike) -> Stream:
        """A new sequence in progress, or a batch of them in lockstep, at the initial state.

        Args:
            batch: the number of rows; the conditions' own where there are any.
            conditions: as `initial_state`.

        Raises:
            InputError: the model cannot be stepped, or as `initial_state`.
        """
        return Stream(self, self.initial_state(batch, **conditions))

    def initial_state(self, batch: int = 1, **conditions: ArrayLike) -> State:
        """The state that new sequences start with.

        Args:
            batch: the number of rows; the conditions' own where there are any.
            conditions: `(B, ...)` each, by name: what the manifest's `conditions` lists, for a model whose initial state
                is computed.

        Raises:
            InputError: `batch` is out of range, a condition is missing or unknown, or its content is not allowed.
        """
        if conditions or self._conditions:
            return self._computed_state(conditions)
        rows = whole("batch", batch, 1, _LARGEST_STATE)
        if any(rows * int(np.prod(spec.sized(1))) > _LARGEST_STATE for spec in self._manifest.states):
            raise InputError(f"a batch of {rows} needs states of more than {_LARGEST_STATE} elements")
        return make_state(self._digest, rows, {spec.name: spec.initial(rows) for spec in self._manifest.states})

    def make_state(self, arrays: Mapping[str, ArrayLike]) -> State:
        """A state with these values, by state name, in the shapes that the manifest gives; the values are copied.

        Raises:
            StateError: a name, shape or type differs, the batch sizes disagree, or a value is not finite.
        """
        specs = {spec.name: spec for spec in self._manifest.states}
        if not isinstance(arrays, Mapping) or arrays.keys() != specs.keys():
            got = sorted(map(str, arrays)) if isinstance(arrays, Mapping) else type(arrays).__name__
            raise StateError(f"the states are {sorted(specs)}, got {got}")
        owned: dict[str, NDArray[Any]] = {}
        batch: int | None = None
        for name, spec in specs.items():
            array = state_array(name, arrays[name], np.dtype(spec.dtype))
            if batch is None and array.ndim == len(spec.shape):
                batch = array.shape[spec.batch_axis]
            if not batch or array.shape != spec.sized(batch):
                rows = "" if batch is None else f" in a batch of {batch}"
                raise StateError(f"{name}: expected the shape {spec.shape}, got {array.shape}{rows}")
            owned[name] = array
        return make_state(self._digest, batch or 1, owned)

    def run(self, chunk: Any, state: State | None = None) -> tuple[Any, State]:
        """Answer a chunk, and hand on the state: a pure function.

        Args:
            chunk: `(B, T, ...)`; T may be 0, and then the state comes back as it was.
            state: of the same batch size; the initial state when None.

        Returns:
            The outputs, `(B, T, ...)` for each that has a value per step, else `(B, ...)`; and the next state.

        Raises:
            InputError: the chunk breaks the contract, or a state is given to a model that is not streamable.
            StateError: the state is another model's, or of another batch size.
        """
        checked = self.check_chunk(chunk)
        return self.answer(
            checked, self.initial_state(checked.batch) if state is None else self.check_state(state, checked.batch)
        )

    def step(self, x: Any, state: State) -> tuple[Any, State]:
        """Answer one step, `(B, ...)`, and hand on the state: a pure function. `Stream.step` is faster.

        Raises:
            InputError, StateError: as `run`.
        """
        chunk = {}
        for name, array in by_name(self._inputs, x).items():
            layout = self._inputs[name].layout
            if array.ndim != 1 + len(layout.inner) or array.shape[1:] != layout.inner:
                wanted = ", ".join(["B", *map(str, layout.inner)])
                raise InputError(f"{name}: expected the shape ({wanted}) for one step, got {array.shape}")
            chunk[name] = array[:, None] if layout.has_time else array
        checked = check_chunk(self._inputs, chunk)
        answers, following = self._run(checked, self.check_state(state, checked.batch))
        steps = {name: array[:, 0] if self._outputs[name].has_time else array for name, array in answers.items()}
        return self._single(steps), following

    def infer(self, sequence: str | ArrayLike) -> Any:
        """Answer a whole sequence from the initial state.

        Args:
            sequence: text, where the artifact has a codec: the answer is text too, the most likely symbol of each step. Or
                an array `(B, T, ...)`: the answer is what `run` returns, without the state.

        Raises:
            InputError: the sequence breaks the contract.
        """
        if not isinstance(sequence, str):
            return self.run(sequence)[0]
        chunk = self.encode(sequence)[None]  # (B=1, T) or (B=1, T, V)
        return self.decode(self.logits(self.run(chunk)[0])[0].argmax(axis=-1))

    def encode(self, text: str) -> NDArray[Any]:
        """What the model takes for `text`, one row per character: tokens `(T,)`, or one-hot `(T, V)`.

        Raises:
            InputError: the artifact has no text codec, or a character is not in its vocabulary.
        """
        if self._manifest.codec is None:
            raise InputError("this artifact has no text codec; give arrays instead of text")
        return self._manifest.codec.encode(text)

    def decode(self, tokens: Sequence[int] | NDArray[Any]) -> str:
        """The text of tokens.

        Raises:
            InputError: the artifact has no text codec, or a token is outside its vocabulary.
        """
        if self._manifest.codec is None:
            raise InputError("this artifact has no text codec; it takes and gives numbers")
        return self._manifest.codec.decode(tokens)

    def logits(self, answer: Any) -> NDArray[Any]:
        """The scores of the codec's symbols in an answer of `run`, `step` or `feed`: `(B, T, V)` or `(B, V)`.

        Raises:
            InputError: the artifact does not answer in text.
        """
        names = [spec.name for spec in self._manifest.outputs if spec.role == "logits"]
        if self._manifest.codec is None or len(names) != 1:
            raise InputError("this artifact does not answer in text; give it an array instead")
        scores: NDArray[Any] = answer[names[0]] if isinstance(answer, dict) else answer
        return scores

    def stepper(self, batch: int) -> Stepper:
        """The fast path under `Stream.step`; for this package."""
        return Stepper(self._manifest, self._session, self._inputs, self._outputs, batch)

    def check_state(self, state: State, batch: int | None = None) -> State:
        """`state`, if it fits; for this package.

        Raises:
            InputError: the model is not streamable, so that no state can be given to it.
            StateError: it is another model's, or of another batch size.
        """
        if not self._manifest.streamable:
            raise InputError(
                f"this model cannot go on from a state: {self._manifest.not_streamable_because}; run whole sequences"
            )
        if not isinstance(state, State):
            raise StateError(f"a state is made by Model.initial_state or Model.make_state, got {type(state).__name__}")
        if state.digest != self._digest:
            raise StateError(f"the state belongs to artifact {state.digest[:12]}, this model is {self._digest[:12]}")
        if batch is not None and state.batch != batch:
            raise StateError(f"the state has a batch of {state.batch}, the input one of {batch}")
        return state

    def check_chunk(self, chunk: Any) -> Chunk:
        """A chunk made ready for `answer`; for this package.

        Raises:
            InputError: it breaks the contract.
        """
        return check_chunk(self._inputs, by_name(self._inputs, chunk))

    def answer(self, chunk: Chunk, state: State) -> tuple[Any, State]:
        """`run`, with both sides checked before; for this package."""
        answers, following = self._run(chunk, state)
        return self._single(answers), following

    def _run(self, chunk: Chunk, state: State) -> tuple[dict[str, NDArray[Any]], State]:
        """`answer`, by name on both sides."""
        arrays, batch, steps = chunk
        if steps == 0:
            return self._empty(batch), state
        feeds = {name: self._inputs[name].layout.to_graph(array, steps) for name, array in arrays.items()}
        feeds |= {spec.input: state[spec.name] for spec in self._manifest.states}
        found = self._session.run(self._fetches, feeds)
        outputs = {}
        for spec in self._manifest.outputs:
            layout = self._outputs[spec.name]
            array = as_declared(spec.name, found[spec.name], spec.dtype, layout.graph_shape(batch, steps))
            outputs[spec.name] = np.ascontiguousarray(layout.batch_first(array, batch, steps))
        following = {
            spec.name: as_declared(spec.output, found[spec.output], spec.dtype, spec.sized(batch))
            for spec in self._manifest.states
        }
        return outputs, make_state(self._digest, batch, following)

    def _single(self, answers: dict[str, NDArray[Any]]) -> Any:
        """What callers get: the array where the model has one output, else the mapping."""
        return next(iter(answers.values())) if len(answers) == 1 else answers

    def _empty(self, batch: int) -> dict[str, NDArray[Any]]:
        """What no steps are answered with."""
        for name, layout in self._outputs.items():
            if not layout.has_time:
                raise InputError(f"{name} answers the whole chunk; give at least one step")
        return {
            spec.name: np.empty((batch, 0, *self._outputs[spec.name].inner), spec.dtype) for spec in self._manifest.outputs
        }

    def _computed_state(self, conditions: Mapping[str, ArrayLike]) -> State:
        if conditions.keys() != self._conditions.keys() or self._initial is None:
            needs = f"is computed from {', '.join(self._conditions)}" if self._conditions else "is not computed"
            raise InputError(f"the initial state of this model {needs}; got {', '.join(conditions) or 'nothing'}")
        arrays, batch, _ = check_chunk(self._conditions, by_name(self._conditions, conditions))
        feeds = {name: self._conditions[name].layout.to_graph(array, 1) for name, array in arrays.items()}
        found = self._initial.run([s.name for s in self._manifest.states if isinstance(s.init, Computed)], feeds)
        states = {}
        for spec in self._manifest.states:
            if spec.name in found:
                states[spec.name] = as_declared(spec.name, found[spec.name], spec.dtype, spec.sized(batch))
                if not np.isfinite(states[spec.name]).all():
                    raise ExecutionError(f"{spec.name}: the initial state computed from the conditions is not finite")
            else:
                states[spec.name] = spec.initial(batch)
        return make_state(self._digest, batch, states)
