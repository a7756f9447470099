"""The states of many streams, a row each, so that any of them can be gathered into one batch."""

from collections.abc import Hashable, Iterator, Sequence
from typing import Final, final

import numpy as np

from rnnx_runtime._errors import StateError
from rnnx_runtime._graph import Graph
from rnnx_runtime._state import State, make_state

_FIRST: Final = 16  # rows that there is room for at first; doubled where they do not suffice


@final
class Rows:
    """States by key. Rows of streams that left are used again."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._places: dict[Hashable, int] = {}
        self._free: list[int] = []
        self._arrays = {name: np.zeros(spec.sized(_FIRST), spec.dtype) for name, spec in graph.states.items()}
        self._positions = np.zeros(_FIRST, np.int64)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(list(self._places))  # a copy at once: other threads may add and remove

    def put(self, key: Hashable, state: State) -> None:
        """Set the row of `key`, which may be new, to this state of a batch of 1."""
        if key not in self._places:
            if not self._free:
                self._grow()
            self._places[key] = self._free.pop()
        self.scatter([key], state)
        self._positions[self._places[key]] = state.position

    def drop(self, key: Hashable) -> None:
        """Forget the row of `key`."""
        self._free.append(self._places.pop(key))

    def state(self, key: Hashable) -> State:
        """The row of `key`, as a state of a batch of 1."""
        position = self.position(key)
        gathered = self.gather([key])
        return make_state(gathered.digest, 1, dict(gathered), position)

    def position(self, key: Hashable) -> int:
        """How many steps lie behind the row of `key`."""
        if key not in self._places:
            raise StateError(f"there is no stream {key!r} in this pool")
        return int(self._positions[self._places[key]])

    def gather(self, keys: Sequence[Hashable]) -> State:
        """The rows of `keys` as one state; its position says nothing, for each row has its own."""
        places = [self._places[key] for key in keys]
        arrays = {name: np.take(array, places, axis=self._graph.batch_axes[name]) for name, array in self._arrays.items()}
        return make_state(self._graph.digest, len(places), arrays, 0)

    def scatter(self, keys: Sequence[Hashable], state: State) -> None:
        """Set the rows of `keys` to those of `state`; their positions stay."""
        places = [self._places[key] for key in keys]
        for name, array in self._arrays.items():
            array[(slice(None),) * self._graph.batch_axes[name] + (places,)] = state[name]

    def advance(self, keys: Sequence[Hashable], steps: int | Sequence[int]) -> None:
        """So many more steps lie behind the rows of `keys`."""
        self._positions[[self._places[key] for key in keys]] += steps

    def _grow(self) -> None:
        have = len(self._positions) if self._places else 0
        room = max(_FIRST, 2 * have)
        for name, spec in self._graph.states.items():
            larger = np.zeros(spec.sized(room), spec.dtype)
            if have:
                larger[(slice(None),) * spec.batch_axis + (slice(have),)] = self._arrays[name]
            self._arrays[name] = larger
        self._positions = np.concatenate([self._positions[:have], np.zeros(room - have, np.int64)])
        self._free = list(range(room - 1, have - 1, -1))
