"""A stream: one sequence in progress, or a batch of them in lockstep."""

from typing import TYPE_CHECKING, Any, final

from rnnx_runtime._errors import InputError
from rnnx_runtime._state import State
from rnnx_runtime._stepper import Stepper

if TYPE_CHECKING:
    from rnnx_runtime._model import Model


@final
class Stream:
    """A model and its own state. Cheap to make; get one from `Model.stream`. It belongs to one thread at a time."""

    def __init__(self, model: "Model", batch: int = 1) -> None:
        if not model.manifest.streamable:
            raise InputError(f"this model cannot be stepped: {model.manifest.not_streamable_because}; use Model.run")
        self._model = model
        self._resting: State | None = model.initial_state(batch)  # None while the stepper holds the state
        self._batch = batch
        self._stepper: Stepper | None = None  # made by the first step: a stream that is only fed needs none

    @property
    def batch(self) -> int:
        """The number of rows in lockstep."""
        return self._batch

    @property
    def state(self) -> State:
        """The state after the last step, as a value: it does not change when the stream goes on."""
        if self._resting is not None:
            return self._resting
        assert self._stepper is not None
        return self._stepper.state()

    def step(self, x: Any) -> Any:
        """Answer one step and carry the state on.

        Args:
            x: `(B,)` tokens or `(B, F)` values; a mapping by name where the model has several inputs.

        Returns:
            `(B, ...)`, the caller's own array; a mapping by name where the model has several outputs.

        Raises:
            InputError: `x` breaks the contract; the state is as before.
        """
        stepper = self._stepper
        if self._resting is not None:
            if stepper is None:
                stepper = self._stepper = self._model.stepper(self._batch)
            stepper.load(self._resting)
            self._resting = None
        assert stepper is not None
        return stepper.step(x)

    def feed(self, chunk: Any) -> Any:
        """Answer a chunk in one call and carry the state on: the same as its steps, and much faster.

        Args:
            chunk: `(B, T)` tokens or `(B, T, F)` values; T may be 0, and then nothing changes.

        Returns:
            `(B, T, ...)`; `(B, ...)` for an output that has one value per chunk.

        Raises:
            InputError: `chunk` breaks the contract; the state is as before.
            StateError: `chunk` has another batch size than the stream; the state is as before.
        """
        answer, state = self._model.run(chunk, self.state)
        self._resting = state
        return answer

    def reset(self) -> None:
        """Start a new sequence."""
        self._resting = self._model.initial_state(self._batch)

    def restore(self, state: State) -> None:
        """Continue from `state`.

        Raises:
            StateError: it is another model's or of another batch size; the stream is as before.
        """
        self._resting = self._model.check_state(state, self._batch)
