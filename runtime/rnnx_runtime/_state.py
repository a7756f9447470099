"""The state of a stream, as a value."""

from collections.abc import Iterator, Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray


@final
class State(Mapping[str, NDArray[Any]]):
    """What one step hands to the next: read-only arrays by state name, in the shapes that the manifest gives.

    Two states are equal when they belong to the same artifact and all their bits are equal. A state never changes: make
    one with `Model.initial_state` or `Model.make_state`, or take it from a stream.

    Attributes:
        digest: of the artifact that it belongs to.
        batch: the number of rows.
    """

    __slots__ = ("_arrays", "batch", "digest")

    def __init__(self, digest: str, batch: int, arrays: dict[str, NDArray[Any]]) -> None:
        for array in arrays.values():
            array.flags.writeable = False
        self.digest = digest
        self.batch = batch
        self._arrays = arrays

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
            self.digest == other.digest
            and self.batch == other.batch
            and all(self._arrays[name].tobytes() == other._arrays[name].tobytes() for name in self._arrays)
        )

    __hash__ = None  # type: ignore[assignment]  # equal by content, and the content is large

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in self._arrays.items())
        return f"State(batch={self.batch}, {shapes})"

    def copies(self) -> dict[str, NDArray[Any]]:
        """The arrays, writable and the caller's own."""
        return {name: np.array(array) for name, array in self._arrays.items()}
