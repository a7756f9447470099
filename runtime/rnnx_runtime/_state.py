"""The state of a stream, as a value."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Self, final

import msgspec
import numpy as np
from numpy.typing import NDArray

from rnnx_runtime import _snapshot
from rnnx_runtime._errors import StateError, printable
from rnnx_runtime._inputs import is_masked
from rnnx_runtime._memory import within_memory

_FARTHEST: Final = 1 << 62  # a position that still fits where it is counted


class _Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    batch: int
    position: int


@final
class State(Mapping[str, NDArray[Any]]):
    """What one step hands to the next: read-only arrays by state name, in the shapes that the manifest gives.

    Two states are equal when they belong to the same artifact and all their bits are equal, whatever their position. A state never changes: make
    one with `Model.initial_state` or `Model.make_state`, take it from a stream, or read it with `State.from_bytes`.
    """

    __slots__ = ("_arrays", "_batch", "_digest", "_position")

    _arrays: dict[str, NDArray[Any]]
    _batch: int
    _digest: str
    _position: int

    def __new__(cls, *_: object, **__: object) -> Self:
        raise TypeError("a state is made by Model.initial_state or Model.make_state, or taken from a stream")

    @classmethod
    def _of(cls, digest: str, batch: int, arrays: dict[str, NDArray[Any]], position: int) -> Self:
        """A state of arrays that the caller gives away, checked by the model."""
        state = super().__new__(cls)
        for array in arrays.values():
            array.flags.writeable = False
        for name, value in (("_digest", digest), ("_batch", batch), ("_arrays", arrays), ("_position", position)):
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

    @property
    def position(self) -> int:
        """How many steps led here from the initial state; of a state made from arrays, from that one."""
        return self._position

    @within_memory
    def to_bytes(self) -> bytes:
        """A snapshot: the same bits in any process, on any machine, with any provider. It belongs to this artifact.

        Raises:
            StateError: it is larger than 2 GiB.
        """
        return _snapshot.to_bytes("state", self._digest, self._arrays, _Meta(self._batch, self._position))

    @classmethod
    @within_memory
    def from_bytes(cls, data: bytes) -> Self:
        """The state that `to_bytes` was called on.

        Whether it fits a model is checked where it is given to one.

        Raises:
            StateError: `data` is no whole snapshot of a state, it is damaged, or a value is not finite.
        """
        header, arrays = _snapshot.from_bytes("state", data)
        return cls._of_snapshot(header.digest, arrays, header.meta)

    @classmethod
    def _of_snapshot(cls, digest: str, arrays: dict[str, NDArray[Any]], meta: msgspec.Raw) -> Self:
        try:
            said = msgspec.json.decode(meta, type=_Meta)
        except msgspec.DecodeError as error:
            raise StateError(f"the snapshot's header is not valid: {printable(str(error))}") from None
        if said.batch < 1 or not 0 <= said.position <= _FARTHEST:
            raise StateError(f"the snapshot has a batch of {said.batch} at position {said.position}; it was not made by rnnx")
        check_finite(arrays)
        return cls._of(digest, said.batch, arrays, said.position)

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
            and self._arrays.keys() == other._arrays.keys()
            and all(self._arrays[name].tobytes() == other._arrays[name].tobytes() for name in self._arrays)
        )

    __hash__ = None  # type: ignore[assignment]  # equal by content, and the content is large

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return make_state, (self._digest, self._batch, self._arrays, self._position)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in self._arrays.items())
        return f"State(batch={self._batch}, {shapes})"


def make_state(digest: str, batch: int, arrays: dict[str, NDArray[Any]], position: int) -> State:
    """A state of arrays that the caller gives away, already checked. For this package; others ask a model."""
    return State._of(digest, batch, arrays, position)


def rows_of(state: State, rows: Sequence[int], axes: Mapping[str, int | None]) -> State:
    """A state of some of the rows, in this order; `axes` says where each array has them, None where it is one row."""
    arrays = {
        name: array if (axis := axes[name]) is None else np.take(array, rows, axis=axis) for name, array in state.items()
    }
    return make_state(state.digest, len(rows), arrays, state.position)


def check_finite(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raises StateError where a value is not finite."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise StateError(f"{name}: a value is not finite; restore a state from before the model overflowed")


def state_array(name: str, value: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A copy of `value` in the state's type, finite.

    Raises:
        StateError: it is no array of such numbers.
    """
    if is_masked(value):
        raise StateError(f"{name}: a masked array; fill what is masked first")
    try:
        array = np.array(value, order="C")
    except Exception as error:
        raise StateError(f"{name}: {type(value).__name__} is no array of numbers: {printable(str(error))}") from None
    if not np.can_cast(array.dtype, dtype, "same_kind") or (array.dtype == np.bool_) != (dtype == np.bool_):
        raise StateError(f"{name}: expected {dtype}, got {array.dtype}")
    if dtype.kind == "i" and array.size:
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise StateError(f"{name}: a value does not fit {dtype}, {limits.min} to {limits.max}")
    with np.errstate(over="ignore"):
        array = array.astype(dtype, copy=False)
    if not np.isfinite(array).all():
        raise StateError(f"{name}: a value is not finite")
    return array
