"""A loaded artifact: immutable, and shared by any number of streams and threads."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnnx_runtime._artifact import open_artifact
from rnnx_runtime._errors import InputError, StateError
from rnnx_runtime._manifest import Computed, Manifest
from rnnx_runtime._session import Session
from rnnx_runtime._state import State
from rnnx_runtime._stepper import Stepper
from rnnx_runtime._stream import Stream
from rnnx_runtime._tensors import Layout, check_inputs, named_or_single


def load(source: str | os.PathLike[str] | bytes, *, threads: int = 1) -> "Model":
    """Open an artifact made by `rnnx export`, from a path or from its bytes.

    Args:
        threads: used inside one call; recurrent steps are small and rarely gain from more than one.

    Raises:
        ArtifactNotFoundError: there is no file at the path.
        ArtifactError: the file is not a whole, valid artifact.
        ExecutionError: ONNX Runtime cannot load it.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    artifact = open_artifact(source)
    initial = None if artifact.initial is None else Session(artifact.initial, threads)
    return Model(artifact.manifest, artifact.digest, Session(artifact.data, threads), initial)


@final
class Model:
    """A loaded artifact. Get one from `load`.

    Arrays are batch-first whatever layout the module had: a step is `(B, ...)`, a chunk `(B, T, ...)`. Where the model has
    one input or output it is an array; where it has several, a mapping by name.
    """

    def __init__(self, manifest: Manifest, digest: str, session: Session, initial: Session | None = None) -> None:
        self._manifest = manifest
        self._digest = digest
        self._session = session
        self._initial = initial
        self._inputs = {spec.name: Layout(spec.shape) for spec in (*manifest.inputs, *manifest.conditions)}
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
            InputError: `batch` is less than 1, a condition is missing or unknown, or its content is not allowed.
        """
        if conditions or self._manifest.conditions:
            return self._computed_state(conditions)
        if batch < 1:
            raise InputError(f"batch must be at least 1, got {batch}")
        return State(self._digest, batch, {spec.name: spec.initial(batch) for spec in self._manifest.states})

    def make_state(self, arrays: Mapping[str, ArrayLike]) -> State:
        """A state with these values, by state name, in the shapes and types that the manifest gives.

        Raises:
            StateError: a name, shape or type differs, the batch sizes disagree, or a value is not finite.
        """
        specs = {spec.name: spec for spec in self._manifest.states}
        if arrays.keys() != specs.keys():
            raise StateError(f"the states are {sorted(specs)}, got {sorted(arrays)}")
        owned = {name: np.array(arrays[name], order="C") for name in specs}
        batch = next((a.shape[specs[n].batch_axis] for n, a in owned.items() if a.ndim == len(specs[n].shape)), 1)
        for name, array in owned.items():
            spec = specs[name]
            if array.shape != spec.sized(batch) or array.dtype != spec.dtype or batch < 1:
                raise StateError(
                    f"{name}: expected {spec.dtype} {spec.shape}, got {array.dtype} {array.shape} in a batch of {batch}"
                )
            if not np.isfinite(array).all():
                raise StateError(f"{name}: a value is not finite")
        return State(self._digest, batch, owned)

    def run(self, chunk: Any, state: State | None = None) -> tuple[Any, State]:
        """Answer a chunk, and hand on the state: a pure function.

        Args:
            chunk: `(B, T, ...)`; T may be 0, and then the state comes back as it was.
            state: of the same batch size; the initial state when None.

        Returns:
            The outputs, `(B, T, ...)` for each that has a value per step, else `(B, ...)`; and the next state.

        Raises:
            InputError: the chunk breaks the contract.
            StateError: the state is another model's, or of another batch size.
        """
        arrays = check_inputs(self._manifest.inputs, chunk)
        batch, steps = self._chunk_size(arrays)
        state = self.initial_state(batch) if state is None else self.check_state(state, batch)
        if steps == 0:
            return named_or_single(self._empty(batch)), state
        feeds = {name: self._inputs[name].to_graph(array, steps) for name, array in arrays.items()}
        feeds |= {spec.input: state[spec.name] for spec in self._manifest.states}
        found = self._session.run(self._fetches, feeds)
        outputs = {
            name: np.ascontiguousarray(layout.batch_first(found[name], batch, steps)) for name, layout in self._outputs.items()
        }
        return named_or_single(outputs), State(
            self._digest, batch, {spec.name: found[spec.output] for spec in self._manifest.states}
        )

    def step(self, x: Any, state: State) -> tuple[Any, State]:
        """Answer one step, `(B, ...)`, and hand on the state: a pure function. `Stream.step` is faster.

        Raises:
            InputError, StateError: as `run`.
        """
        arrays = check_inputs(self._manifest.inputs, x)
        chunk = {name: array[:, None] if self._inputs[name].has_time else array for name, array in arrays.items()}
        answer, state = self.run(chunk, state)
        answers = answer if isinstance(answer, dict) else {next(iter(self._outputs)): answer}
        steps = {name: array[:, 0] if self._outputs[name].has_time else array for name, array in answers.items()}
        return named_or_single(steps), state

    def encode(self, text: str) -> NDArray[Any]:
        """What the model takes for `text`, one row per character: tokens `(T,)`, or one-hot `(T, V)`.

        Raises:
            InputError: the artifact has no text codec, or a character is not in its vocabulary.
        """
        if self._manifest.codec is None:
            raise InputError("this artifact has no text codec; give arrays instead of text")
        return self._manifest.codec.encode(text)

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

    def decode(self, tokens: Sequence[int] | NDArray[Any]) -> str:
        """The text of tokens.

        Raises:
            InputError: the artifact has no text codec, or a token is outside its vocabulary.
        """
        if self._manifest.codec is None:
            raise InputError("this artifact has no text codec; it takes and gives numbers")
        return self._manifest.codec.decode(tokens)

    def stepper(self, batch: int) -> Stepper:
        """The fast path under `Stream.step`."""
        return Stepper(self._manifest, self._session, self._digest, self._inputs, self._outputs, batch)

    def check_state(self, state: State, batch: int) -> State:
        """`state`, if it fits.

        Raises:
            StateError: it is another model's, or of another batch size.
        """
        if not isinstance(state, State):
            raise StateError(f"a state is made by Model.initial_state or Model.make_state, got {type(state).__name__}")
        if state.digest != self._digest:
            raise StateError(f"the state belongs to artifact {state.digest[:12]}, this model is {self._digest[:12]}")
        if state.batch != batch:
            raise StateError(f"the state has a batch of {state.batch}, the input one of {batch}")
        return state

    def _computed_state(self, conditions: Mapping[str, ArrayLike]) -> State:
        wanted = [spec.name for spec in self._manifest.conditions]
        if sorted(conditions) != sorted(wanted) or self._initial is None:
            needs = f"is computed from {', '.join(wanted)}" if wanted else "is computed from nothing"
            raise InputError(f"the initial state of this model {needs}; got {sorted(conditions) or 'nothing'}")
        arrays = check_inputs(self._manifest.conditions, conditions)
        batch, _ = self._chunk_size(arrays)
        feeds = {name: self._inputs[name].to_graph(array, 1) for name, array in arrays.items()}
        computed = [spec.name for spec in self._manifest.states if isinstance(spec.init, Computed)]
        found = self._initial.run(computed, feeds)
        return State(
            self._digest,
            batch,
            {spec.name: found[spec.name] if spec.name in found else spec.initial(batch) for spec in self._manifest.states},
        )

    def _chunk_size(self, arrays: dict[str, NDArray[Any]]) -> tuple[int, int]:
        """Batch size and steps, the same in every input."""
        sizes: dict[str, int] = {}
        for name, array in arrays.items():
            layout = self._inputs[name]
            axes = ("B", "T") if layout.has_time else ("B",)
            if array.ndim != len(axes) + len(layout.inner) or array.shape[len(axes) :] != layout.inner:
                want = ", ".join([*axes, *map(str, layout.inner)])
                raise InputError(f"{name}: expected the shape ({want}), got {array.shape}")
            for axis, size in zip(axes, array.shape, strict=False):
                if sizes.setdefault(axis, size) != size:
                    raise InputError(f"{name}: {axis} is {size}, but {sizes[axis]} in another input")
        if sizes["B"] == 0:
            raise InputError("the batch is empty; give at least one row")
        return sizes["B"], sizes.get("T", 1)

    def _empty(self, batch: int) -> dict[str, NDArray[Any]]:
        """What no steps are answered with."""
        for name, layout in self._outputs.items():
            if not layout.has_time:
                raise InputError(f"{name} answers the whole chunk; give at least one step")
        return {
            spec.name: np.empty((batch, 0, *self._outputs[spec.name].inner), spec.dtype) for spec in self._manifest.outputs
        }
