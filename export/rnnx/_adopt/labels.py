"""The ways to call a graph's axes batch and time, the most plausible first. Which one is right, running the graph tells."""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rnnx._adopt.borders import Border
from rnnx._adopt.calls import Shape
from rnnx._errors import AdoptError
from rnnx_runtime.artifact import BATCH, TIME, Dimension

Letters = Mapping[str, tuple[int | str, ...]]

_MOST: Final = 64  # ways that are tried
_MOST_ELEMENTS: Final = 1 << 23  # of an input or a state, for each row and step
_MOST_BATCHES: Final = 4
_SOME: Final = 2  # the size of a state's second free axis, to see whether it grows
_BATCH_LIKE: Final = frozenset("batch b n bs batchsize batch_size nbatch streams num_streams".split())
_TIME_LIKE: Final = frozenset(
    """
    time t seq s l len length sequence sequence_length seq_len seqlen seq_length frames frame num_frames n_frames nframes steps
    timesteps time_steps chunk chunk_size
    """.split()
)


@dataclass(frozen=True)
class Assignment:
    """One way to call the axes.

    Attributes:
        shapes: of the inputs and states, with the symbols of a manifest.
        batch: the one batch size that is taken; None where any is.
        one_step: a call takes one step.
        against: it goes against what the file calls its axes.
    """

    shapes: Mapping[str, Shape]
    batch: int | None
    one_step: bool
    against: bool

    @property
    def free(self) -> bool:
        """Whether any number of rows and of steps is taken."""
        return self.batch is None and not self.one_step


def is_time_like(symbol: str) -> bool:
    """Whether a file's own name of an axis says that it is time."""
    return symbol.lower() in _TIME_LIKE


def check_elements(borders: Sequence[Border]) -> None:
    """Refuse sizes of which not even a few rows and steps can be drawn.

    Raises:
        AdoptError: there is one.
    """
    for border in borders:
        elements = math.prod(size for size in border.sizes or () if isinstance(size, int))
        if elements > _MOST_ELEMENTS:
            raise AdoptError(f"{border} has {elements} values for each row and step; at most {_MOST_ELEMENTS} are adopted")


def check_inputs(inputs: Sequence[Border], states: Collection[str], letters: Letters) -> None:
    """Refuse inputs that cannot be what a step is given, and shapes of which too little is known.

    Raises:
        AdoptError: there is one.
    """
    check_elements(inputs)
    given = [border for border in inputs if border.name not in states]
    single = [border for border in given if border.sizes is not None and all(size == 1 for size in border.sizes)]
    for border in single:
        if not border.sizes or len(single) < len(given):
            raise AdoptError(
                f"{border} is one number, which has no rows and cannot be given with each step; if it is the same for all of them, "
                f"--set {border.name}=VALUE makes it a constant"
            )
    for border in inputs:
        if border.sizes is None:
            raise AdoptError(f"the file declares no shape for {border.name}; say its axes, such as --axes {border.name}=BT80")
        unknown = [axis for axis in border.free if border.name in letters and border.sizes[axis] not in (BATCH, TIME)]
        if unknown or (border.name not in states and len(border.free) > 2):
            raise AdoptError(too_free(border, "one may be batch, and one time"))


def too_free(border: Border, which: str) -> str:
    """What to say where more axes have no fixed size than batch and time."""
    return (
        f"{border} has {len(border.free)} axes without a fixed size, of which {which}; say what they are, a letter or a size each, such as "
        f"--axes {border.name}={example(border, symbols='BT' if 'time' in which else 'B')}"
    )


def example(border: Border, symbols: str = "BT") -> str:
    """How a person may say the axes of an input."""
    left = list(symbols)
    parts = [str(size) if isinstance(size, int) else left.pop(0) if left else "80" for size in border.sizes or ()]
    return "".join(parts) if sum(part.isdigit() for part in parts) < 2 else ",".join(parts)


def assignments(inputs: Sequence[Border], states: Sequence[Border], letters: Letters) -> Iterator[Assignment]:
    """All ways: those that agree with the file's own names first, and of these the freest.

    What goes against the names, but is free, comes before what agrees with them and is not.

    Args:
        inputs: what a step is given.
        letters: axes that a person named, by input.
    """
    ways = _ways(inputs, states, letters)
    free = (True, True)
    fixed = ((False, True), (True, False), (False, False))
    for against, freedoms in ((False, (free,)), (True, (free,)), (False, fixed), (True, fixed)):
        for any_batch, any_steps in freedoms:
            for shapes in [shapes for other, shapes in ways if other == against]:
                if (any_batch and not all(BATCH in shape for shape in shapes.values())) or (
                    any_steps and not any(TIME in shape for shape in shapes.values())
                ):
                    continue
                for batch in (None,) if any_batch else _batches(shapes, states, letters):
                    found = shapes if batch is None else _at_batch(shapes, inputs, states, letters, batch)
                    yield Assignment(found if any_steps else _one_step(found, inputs, letters), batch, not any_steps, against)


def _ways(inputs: Sequence[Border], states: Sequence[Border], letters: Letters) -> list[tuple[bool, dict[str, Shape]]]:
    """Shapes with the free axes called batch or time, and whether that goes against what the file calls them."""
    of_states = {size for border in states for size in border.sizes or () if isinstance(size, str)} - {""}
    ways: list[tuple[float, bool, dict[str, Shape], dict[str, Dimension]]] = [(0.0, False, {}, {})]
    for border in (*inputs, *states):
        symbols: tuple[Dimension, ...] = (BATCH, TIME) if border in inputs else (BATCH, *[_SOME] * (len(border.free) - 1))
        said = border.name in letters
        choices = [(0.0, False, border.sizes or ())] if said else list(_choices(border, symbols, of_states))
        longer = [
            (score + more, against or anew, {**shapes, border.name: shape}, means)
            for score, against, shapes, meaning in ways
            for more, anew, shape in choices
            if (means := _meaning(meaning, border, shape)) is not None
        ]
        ways = sorted(longer, key=lambda way: -way[0])[:_MOST]
    return [(against, shapes) for _, against, shapes, _ in ways]


def _choices(border: Border, symbols: Sequence[Dimension], of_states: set[str]) -> Iterator[tuple[float, bool, Shape]]:
    """Every way for one tensor: how plausible it is, and whether it goes against the file's names."""
    sizes = border.sizes or ()
    for labels in dict.fromkeys(itertools.permutations(symbols, len(border.free))):
        shape: list[Dimension] = list(sizes)
        score = (labels == (BATCH, TIME)) + (labels == (BATCH,)) / 2
        against = False
        for axis, label in zip(border.free, labels, strict=True):
            symbol = str(sizes[axis]).lower()
            batch_like, time_like = symbol in _BATCH_LIKE or sizes[axis] in of_states, symbol in _TIME_LIKE
            score += 2 * ((batch_like and label == BATCH) or (time_like and label == TIME))
            against = against or (time_like if label == BATCH else batch_like and label == TIME)
            shape[axis] = label
        yield score, against, tuple(shape)


def _meaning(meaning: Mapping[str, Dimension], border: Border, shape: Shape) -> dict[str, Dimension] | None:
    """What each symbol of the file means, with those of one more tensor; None where one would mean two things."""
    found = dict(meaning)
    for size, label in zip(border.sizes or (), shape, strict=True):
        if size and isinstance(size, str) and found.setdefault(size, label) != label:
            return None
    return found


def _batches(shapes: Mapping[str, Shape], states: Sequence[Border], letters: Letters) -> list[int]:
    """The batch sizes that may be the one: as a person said, else 1, and those that states are fixed to."""
    for name, said in letters.items():
        for letter, size in zip(said, shapes.get(name, ()), strict=False):
            if letter == "B" and isinstance(size, int):
                return [size]
    if not any(BATCH in shape for shape in shapes.values()):
        return [1]
    fixed = {size for border in states for size in shapes[border.name] if isinstance(size, int)} - {1}
    return [1, *sorted(fixed)[:_MOST_BATCHES]]


def _at_batch(
    shapes: Mapping[str, Shape], inputs: Sequence[Border], states: Sequence[Border], letters: Letters, batch: int
) -> dict[str, Shape]:
    """The shapes where one batch size is taken; a state of one row needs no axis for rows."""
    found = {}
    for border in inputs:
        shape, said = list(shapes[border.name]), letters.get(border.name, ())
        if BATCH not in shape and "B" in said:
            shape[said.index("B")] = BATCH
        elif BATCH not in shape and shape and shape[0] == batch == 1:
            shape[0] = BATCH
        found[border.name] = tuple(shape)
    for border in states:
        shape = [batch if size == BATCH else size for size in shapes[border.name]]
        if batch > 1 and batch in shape:
            shape[_rows_of(batch, shape, letters.get(border.name, ()))] = BATCH
        found[border.name] = tuple(shape)
    return found


def _rows_of(batch: int, shape: Sequence[Dimension], said: Sequence[int | str]) -> int:
    """Where a state has its rows: where a person said, else on the last axis of that size but the last one."""
    if "B" in said:
        return said.index("B")
    places = [axis for axis, size in enumerate(shape) if size == batch]
    return next((axis for axis in reversed(places) if axis < len(shape) - 1), places[0])


def _one_step(shapes: Mapping[str, Shape], inputs: Sequence[Border], letters: Letters) -> dict[str, Shape]:
    """The shapes where a call takes one step: an axis of 1 is as good as one for time, and callers need not give it."""
    found = dict(shapes)
    for border in inputs:
        shape, said = list(shapes[border.name]), letters.get(border.name)
        places = [axis for axis, size in enumerate(shape) if size == 1 and (said is None or said[axis] == "T")]
        if TIME not in shape and places:
            shape[places[0]] = TIME
        found[border.name] = tuple(shape)
    return found
