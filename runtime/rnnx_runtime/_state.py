"""The state of a stream, as a value."""

from collections.abc import Iterator, Mapping
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from rnnx_runtime._errors import StateError, printable


@final
class State(Mapping[str, NDArray[Any]]):
    """What one step hands to the next: read-only arrays by state name, in the shapes that the manifest gives.

    Two states are equal when they belong to the same artifact and all their bits are equal. A state never changes: make
    one with `Model.initial_state` or `Model.make_state`, or take it from a stream.
    """

    __slots__ = ("_arrays", "_batch", "_digest")

    _arrays: dict[str, NDArray[Any]]
    _batch: int
    _digest: str

    def __new__(cls, *_: object, **__: object) -> Self:
        raise TypeError("a state is made by Model.initial_state or Model.make_state, or taken from a stream")

    @classmethod
    def _of(cls, digest: str, batch: int, arrays: dict[str, NDArray[Any]]) -> Self:
        """A state of arrays that the caller gives away, checked by the model."""
        state = super().__new__(cls)
        for array in arrays.values():
            array.flags.writeable = False
        for name, value in (("_digest", digest), ("_batch", batch), ("_arrays", arrays)):
            object.__setattr__(state, name, value)
        return state

    @property
    def digest(self) -> str:
        """Of the artifact that it belongs to."""
        return self._digest

    @property
    def batch(self) -> int:
        """The number of rows."""
        return self._batch

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a state does not change; make another one with Model.make_state")

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, State):
            return NotImplemented
        return (
            self._digest == other._digest
            and self._batch == other._batch
            and all(self._arrays[name].tobytes() == other._arrays[name].tobytes() for name in self._arrays)
        )

    __hash__ = None  # type: ignore[assignment]  # equal by content, and the content is large

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self._digest, self._batch, self._arrays)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in self._arrays.items())
        return f"State(batch={self._batch}, {shapes})"


def make_state(digest: str, batch: int, arrays: dict[str, NDArray[Any]]) -> State:
    """A state of arrays that the caller gives away, already checked. For this package; others ask a model."""
    return State._of(digest, batch, arrays)


def _unpickled(digest: str, batch: int, arrays: dict[str, NDArray[Any]]) -> State:
    return State._of(digest, batch, arrays)


def state_array(name: str, value: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A copy of `value` in the state's type, finite.

    Raises:
        StateError: it is no array of such numbers.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise StateError(f"{name}: a masked array; fill what is masked first")
    try:
        array = np.array(value, order="C")
    except Exception as error:
        raise StateError(f"{name}: {type(value).__name__} is no array of numbers: {printable(str(error))}") from None
    if not np.can_cast(array.dtype, dtype, "same_kind") or (array.dtype == np.bool_) != (dtype == np.bool_):
        raise StateError(f"{name}: expected {dtype}, got {array.dtype}")
    with np.errstate(over="ignore"):
        array = array.astype(dtype, copy=False)
    if not np.isfinite(array).all():
        raise StateError(f"{name}: a value is not finite")
    return array
