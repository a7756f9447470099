"""A stream: one sequence in progress, or a batch of them in lockstep."""

from collections.abc import Iterator, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from rnnx_runtime._errors import InputError, StateError
from rnnx_runtime._generation import Sampler, until_stop
from rnnx_runtime._inputs import whole
from rnnx_runtime._state import State, make_state
from rnnx_runtime._stepper import Stepper

if TYPE_CHECKING:
    from rnnx_runtime._model import Model


@final
class _Turn:
    """Lets one caller in at a time, and refuses a second one: a step that waited would come at the wrong place."""

    __slots__ = ("_lock",)

    def __init__(self, lock: Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(False):
            raise _in_use()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _in_use() -> InputError:
    return InputError("this stream is in use by another call; give each thread a stream of its own")


@final
class Stream:
    """A model and its own state. Cheap to make; get one from `Model.stream`.

    One call at a time: while one is running, a second raises `InputError` and changes nothing.
    """

    def __init__(self, model: "Model", initial: State) -> None:
        if not model.manifest.streamable:
            raise InputError(f"this model cannot be stepped: {model.manifest.not_streamable_because}; use Model.run")
        self._model = model
        self._lock = Lock()
        self._turn = _Turn(self._lock)
        self._initial = initial
        self._resting: State | None = initial  # None while the stepper holds the state
        self._stepper: Stepper | None = None  # made by the first step: a stream that is only fed needs none

    @property
    def batch(self) -> int:
        """The number of rows in lockstep."""
        return self._initial.batch

    @property
    def state(self) -> State:
        """The state after the last step, as a value: it does not change when the stream goes on."""
        with self._turn:
            return self._now()

    def step(self, x: Any) -> Any:
        """Answer one step and carry the state on.

        Args:
            x: `(B,)` tokens or `(B, F)` values; a mapping by name where the model has several inputs.

        Returns:
            `(B, ...)`, the caller's own array; a mapping by name where the model has several outputs.

        Raises:
            InputError: `x` breaks the contract; the state is as before.
        """
        if not self._lock.acquire(False):  # as `with self._turn`, a tenth of a step faster
            raise _in_use()
        try:
            stepper = self._stepper
            if self._resting is not None:
                if stepper is None:
                    stepper = self._stepper = self._model.stepper(self.batch)
                stepper.load(self._resting)
                self._resting = None
            assert stepper is not None
            return stepper.step(x)
        finally:
            self._lock.release()

    def feed(self, chunk: Any) -> Any:
        """Answer a chunk in one call and carry the state on: the same as its steps, and much faster.

        Args:
            chunk: `(B, T)` tokens or `(B, T, F)` values; T may be 0, and then nothing changes.

        Returns:
            `(B, T, ...)`; `(B, ...)` for an output that has one value per chunk.

        Raises:
            InputError: `chunk` breaks the contract, or has another batch size than the stream; the state is as before.
        """
        with self._turn:
            checked = self._model.check_chunk(chunk)
            if checked.batch != self.batch:
                raise InputError(
                    f"the chunk has a batch of {checked.batch}, this stream one of {self.batch}; "
                    "another batch size needs a stream of its own"
                )
            answer, self._resting = self._model.answer(checked, self._now())
            return answer

    def generate(
        self,
        prompt: str = "",
        max_new_tokens: int = 256,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
    ) -> Iterator[str]:
        """Go on writing: pieces of text, as they come. The stream's state goes with them.

        Args:
            prompt: read first; it is not part of the answer. A model that has read nothing yet needs at least one symbol.
            max_new_tokens: ends the answer.
            temperature, top_k, top_p, seed: as `Sampler`.
            stop: the answer ends before the first of these strings, or before this one.

        Raises:
            InputError: the artifact has no text codec or does not answer in text, the batch is not 1, the prompt is empty or
                has an unknown character, or a value is out of range or of the wrong type.
        """
        model = self._model
        if self.batch != 1:
            raise InputError(f"text is generated one stream at a time, this one has a batch of {self.batch}")
        if not prompt:
            raise InputError("the prompt is empty; give at least one character to begin with")
        count = whole("max_new_tokens", max_new_tokens, 0)
        words = _stop_strings(stop)
        sampler = Sampler(temperature, top_k, top_p, seed)
        logits = model.logits(self.feed(model.encode(prompt)[None]))[0, -1]
        return until_stop(self._pieces(logits, sampler, count), words)

    def _pieces(self, logits: NDArray[Any], sampler: Sampler, count: int) -> Iterator[str]:
        for place in range(count):
            piece = self._model.decode([sampler.draw(logits)])
            yield piece
            if place + 1 < count:
                logits = self._model.logits(self.step(self._model.encode(piece)))[0]

    def reset(self) -> None:
        """Start a new sequence, from the state that the stream was made with."""
        with self._turn:
            self._resting = self._initial

    def restore(self, state: State) -> None:
        """Continue from `state`.

        Raises:
            StateError: it is another model's, of another batch size, or not finite; the stream is as before.
        """
        self._model.check_state(state)
        if state.batch != self.batch:
            raise StateError(f"the state has a batch of {state.batch}, this stream one of {self.batch}")
        for name, array in state.items():
            if not np.isfinite(array).all():
                raise StateError(f"{name}: a value is not finite; restore a state from before the model overflowed")
        with self._turn:
            self._resting = state

    def _now(self) -> State:
        """The state, for a call that has the turn."""
        if self._resting is not None:
            return self._resting
        assert self._stepper is not None
        return make_state(self._model.digest, self.batch, self._stepper.arrays())

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a stream cannot be copied or pickled; keep its state, and restore it in another stream")


def _stop_strings(stop: Any) -> list[str]:
    """One stop string, or any number of them, as a list."""
    try:
        words = [stop] if isinstance(stop, str) else list(stop)
    except TypeError:
        raise InputError(f"stop must be a text or several, got {stop!r}") from None
    if not all(isinstance(word, str) and word for word in words):
        raise InputError(f"stop strings are texts and not empty, got {stop!r}")
    return words
