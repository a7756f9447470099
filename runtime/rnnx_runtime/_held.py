"""Streams of a pool whose states lie ready in steppers: those that were stepped last, likely to be stepped again."""

from collections.abc import Hashable, Sequence
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from rnnx_runtime._engine import Engine
from rnnx_runtime._graph import Answers
from rnnx_runtime._inputs import Chunk
from rnnx_runtime._rows import Rows
from rnnx_runtime._stepper import Stepper

_SIZES: Final = 64  # so many steppers are kept in any case, each for another number of rows


@final
class Held:
    """One set of streams, in as many calls as their number needs.

    Attributes:
        steps: how many each of them was stepped since it is held. Where a step is done is here and nowhere else, so that it is
            done for all of them at once, wherever it is interrupted.
    """

    def __init__(self, engine: Engine, rows: Rows) -> None:
        self._engine = engine
        self._rows = rows
        self._epoch = engine.epoch
        self._kept: dict[tuple[int, int], Stepper] = {}  # by the place of the call and its number of rows
        self._keys: list[Hashable] = []
        self._places: dict[Hashable, int] = {}
        self._calls: list[tuple[int, Stepper]] = []  # from which place on
        self.steps = 0

    def __contains__(self, key: Hashable) -> bool:
        return key in self._places

    def holds(self, keys: Sequence[Hashable]) -> bool:
        """Whether it is these streams, in any order, and their states can be stepped."""
        if self._epoch != self._engine.epoch:
            return False
        return keys == self._keys or (len(keys) == len(self._keys) and all(map(self._places.__contains__, keys)))

    def hold(self, keys: Sequence[Hashable], most: int) -> None:
        """Hold these streams, `most` to a call; where it has held others, put them in their rows first."""
        self.settle()
        if self._epoch != self._engine.epoch or self._is_full():
            self._kept.clear()
            self._epoch = self._engine.epoch
        size = -(-len(keys) // -(-len(keys) // most))  # as many to each call
        calls = []
        for call, first in enumerate(range(0, len(keys), size)):
            part = keys[first : first + size]
            place = call, len(part)
            if place not in self._kept:
                self._kept[place] = self._engine.stepper(len(part))
            self._kept[place].load(self._rows.gather(part))
            calls.append((first, self._kept[place]))
        self._keys, self._places, self._calls = list(keys), {key: place for place, key in enumerate(keys)}, calls

    def _is_full(self) -> bool:
        """Whether more is kept than a pool of so many streams is likely to need again."""
        return len(self._kept) > _SIZES and sum(stepper.batch for stepper in self._kept.values()) > 2 * len(self._rows)

    def look_ahead(self, keys: Sequence[Hashable], chunk: Chunk) -> Answers:
        """Answer a checked chunk of one step with a row for each of `keys`, which it holds. All states are as before until `steps` is
        one more.
        """
        order = None if keys == self._keys else np.array([self._places[key] for key in keys])
        arrays = chunk.arrays if order is None else {name: _sorted(array, order) for name, array in chunk.arrays.items()}
        answers = []
        for first, stepper in self._calls:
            rows = {name: array[first : first + stepper.batch] for name, array in arrays.items()}
            answers.append(stepper.look_ahead(Chunk(rows, stepper.batch, 1), self.steps))
        found = (
            answers[0] if len(answers) == 1 else {name: np.concatenate([one[name] for one in answers]) for name in answers[0]}
        )
        return found if order is None else {name: array[order] for name, array in found.items()}

    def settle(self) -> None:
        """Put the states in their rows, and hold none."""
        for first, stepper in self._calls:
            self._rows.scatter(self._keys[first : first + stepper.batch], stepper.peek(self.steps))
        places = self._rows.places(self._keys)
        # From the change of the positions on no call is begun: nothing can interrupt it.
        self._rows.advance(places, self.steps)
        self._keys, self._places, self._calls, self.steps = [], {}, [], 0


def _sorted(array: NDArray[Any], order: NDArray[np.int64]) -> NDArray[Any]:
    """The rows, each at its place."""
    found = np.empty_like(array)
    found[order] = array
    return found
