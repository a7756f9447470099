"""The states of many streams, a row each, so that any of them can be gathered into one batch."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from rnnx_runtime._errors import StateError
from rnnx_runtime._graph import Graph
from rnnx_runtime._manifest import StateSpec
from rnnx_runtime._state import State, make_state

_FIRST: Final = 16  # rows that there is room for at first; doubled where they do not suffice


@final
class Rows:
    """States by key. Rows of streams that left are used again."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._places: dict[Hashable, int] = {}
        self._free: list[int] = []
        self._arrays = {name: _room(spec, _FIRST) for name, spec in graph.states.items()}
        self._positions = np.zeros(_FIRST, np.int64)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(list(self._places))  # a copy at once: other threads may add and remove

    def missing(self, keys: Sequence[Hashable]) -> list[Hashable]:
        """Those of `keys` that have no row."""
        places = self._places
        return [key for key in keys if key not in places]

    def put(self, key: Hashable, state: State) -> None:
        """Set the row of `key`, which may be new, to this state of a batch of 1."""
        self.put_all({key: state})

    def put_all(self, states: Mapping[Hashable, State]) -> None:
        """Set these rows: all of them or, where that fails or is interrupted, none. The states go to rows that are free."""
        if len(self._free) < len(states):
            self._grow(len(states))
        left = len(self._free) - len(states)
        free, places = self._free[:left], dict(zip(states, self._free[left:], strict=True))
        for key, place in places.items():
            self._write(np.array([place]), states[key])
            self._positions[place] = states[key].position
        before = [self._places[key] for key in states if key in self._places]
        # Where it is interrupted from here on, some rows are never used again, and none is used twice.
        self._free = free
        self._places.update(places)
        self._free.extend(before)

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
        places = self.places(keys)
        arrays = {}
        for name, array in self._arrays.items():
            axis = self._graph.batch_axes[name]
            arrays[name] = np.array(array[places[0]]) if axis is None else np.take(array, places, axis=axis)
        return make_state(self._graph.digest, len(places), arrays, 0)

    def scatter(self, keys: Sequence[Hashable], state: Mapping[str, NDArray[Any]]) -> None:
        """Set the rows of `keys` to those of `state`; their positions stay."""
        self._write(self.places(keys), state)

    def advance(self, places: NDArray[np.intp], steps: int) -> None:
        """So many more steps lie behind these rows."""
        self._positions[places] += steps

    def _write(self, places: NDArray[np.intp], state: Mapping[str, NDArray[Any]]) -> None:
        for name, array in self._arrays.items():
            array[_at(self._graph.batch_axes[name], places)] = state[name]

    def places(self, keys: Sequence[Hashable]) -> NDArray[np.intp]:
        """Which rows those of `keys` are."""
        return np.array([self._places[key] for key in keys], np.intp)

    def _grow(self, rows: int) -> None:
        """Make room for so many more rows, and as many again as there are."""
        have = len(self._positions) if self._places else 0
        room = max(_FIRST, 2 * have, have + rows)
        arrays = {name: _room(spec, room) for name, spec in self._graph.states.items()}
        for name, spec in self._graph.states.items():
            if have:
                arrays[name][_at(spec.batch_axis, slice(have))] = self._arrays[name]
        positions = np.concatenate([self._positions[:have], np.zeros(room - have, np.int64)])
        free = [*range(room - 1, have - 1, -1), *(self._free if have else [])]
        self._arrays, self._positions, self._free = arrays, positions, free


def _room(spec: StateSpec, rows: int) -> NDArray[Any]:
    """Where so many rows of a state have room: along its axis for them, or side by side where it has none."""
    return np.zeros(spec.sized(rows) if spec.batch_axis is not None else (rows, *spec.sized(1)), spec.dtype)


def _at(axis: int | None, places: NDArray[np.intp] | slice) -> tuple[Any, ...]:
    """The index of these rows."""
    return (*(slice(None),) * (axis or 0), places)
