"""Which axes are batch and time: from symbols, from what a person said, and always by running the graph at several sizes.

An axis is batch where rows do not change each other, and time where every tensor follows it. What the graph does not take at any
other size is fixed: one batch size, or one step in each call.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rnnx._adopt.borders import Border
from rnnx._adopt.calls import Arrays, Contract, PlainSession, Shape, call, sized, words
from rnnx._adopt.labels import Assignment, Letters, assignments, example, too_free
from rnnx._adopt.pairs import Pair
from rnnx._adopt.samples import Sampler
from rnnx._errors import AdoptError
from rnnx._parity.compare import compare
from rnnx._parity.tolerances import tolerance_of
from rnnx_runtime.artifact import BATCH, TIME, Dimension

_SIZES: Final = ((2, 3), (5, 7), (5, 3))  # batch and steps, such that no size and no product is taken for another's
_CERTAIN: Final = 4  # the depth of a failure that no other assignment would cure


@dataclass(frozen=True)
class Found:
    """What running the graph told of its axes: its contract, inputs that it takes, and why sizes are fixed, in words."""

    contract: Contract
    sampler: Sampler
    notes: tuple[str, ...]


class _UnfitError(Exception):
    """The graph is not what an assignment says. `depth`: how far it agreed."""

    def __init__(self, depth: int, reason: str) -> None:
        super().__init__(reason)
        self.depth = depth


def find_contract(
    session: PlainSession,
    inputs: Sequence[Border],
    outputs: Sequence[Border],
    pairs: Sequence[Pair],
    letters: Letters,
    vocabularies: Mapping[str, int],
) -> Found:
    """The contract of a graph, and inputs that it takes.

    Args:
        inputs: all of the graph's, those of states too.
        outputs: likewise.
        letters: axes that a person named, by input.
        vocabularies: sizes, by the inputs that hold tokens.

    Raises:
        AdoptError: no assignment of batch and time to its axes is what the graph does.
    """
    names = {pair.input for pair in pairs}
    given, states = ([border for border in inputs if (border.name in names) == state] for state in (False, True))
    free = [border for border in states if len(border.free) > 1 and border.name not in letters]
    search = _Search(session, given, outputs, pairs, vocabularies)
    failures: list[_UnfitError] = []
    for one in assignments(given, states, letters):
        try:
            contract, sampler = search.attempt(one)
        except _UnfitError as failure:
            failures.append(failure)
            continue
        if one.against and one.free and failures:
            _refuse_swapped(given, contract)
        if not free:
            return Found(contract, sampler, _why_fixed(contract, inputs, failures))
    deepest = max(failures, key=lambda failure: failure.depth, default=_UnfitError(0, "no axis can be batch"))
    if deepest.depth == _CERTAIN:
        raise AdoptError(str(deepest))
    if free:
        raise AdoptError(too_free(free[0], "one may be batch"))
    said = next((border for border in given if border.free), given[0])
    raise AdoptError(
        f"the graph takes no sizes that were tried: {deepest}; say what the axes are, a letter or a size each, such as "
        f"--axes {said.name}={example(said)}, or a size where a step takes several values"
    )


def _refuse_swapped(given: Sequence[Border], contract: Contract) -> None:
    """Ask where the file calls batch what the graph takes for time.

    Raises:
        AdoptError: always.
    """
    border = next(one for one in given if TIME in contract.shapes[one.name])
    letters = "".join({BATCH: "B", TIME: "T"}.get(str(size), "F") for size in contract.shapes[border.name])
    turned = letters.translate(str.maketrans("BT", "TB"))
    raise AdoptError(
        f"{border} says what is batch and what is time, but its rows change each other where it says so, and not the other way round; "
        f"say which it is: --axes {border.name}={letters}, or, where rows do change each other, --axes {border.name}={turned}"
    )


def _why_fixed(contract: Contract, borders: Sequence[Border], failures: Sequence[_UnfitError]) -> tuple[str, ...]:
    """Why the freer assignments were not it."""
    without = [border.name for border in borders if not border.free]
    if contract.fixed_batch is not None and without and any(BATCH in contract.shapes[one.name] for one in borders if one.free):
        return (f"a call takes a batch of {contract.fixed_batch}: {without[0]} has no axis that takes any number of rows",)
    if not failures or (contract.fixed_batch is None and not contract.one_step):
        return ()
    batch = [] if contract.fixed_batch is None else [f"a batch of {contract.fixed_batch}"]
    takes = " and ".join([*batch, *(["one step"] if contract.one_step else [])])
    return (f"a call takes {takes}: with others {max(failures, key=lambda one: one.depth)}",)


class _Search:
    """What comes of an assignment of batch and time to a graph's axes."""

    def __init__(
        self,
        session: PlainSession,
        inputs: Sequence[Border],
        outputs: Sequence[Border],
        pairs: Sequence[Pair],
        vocabularies: Mapping[str, int],
    ) -> None:
        self._session = session
        self._pairs = tuple(pairs)
        self._vocabularies = vocabularies
        self._inputs = tuple(inputs)
        handed_back = {pair.output for pair in pairs}
        self._outputs = tuple(border for border in outputs if border.name not in handed_back)

    def attempt(self, one: Assignment) -> tuple[Contract, Sampler]:
        """What the graph does where its shapes are these.

        Raises:
            _UnfitError: something else.
        """
        steps = 1 if one.one_step else None
        sizes = list(dict.fromkeys((one.batch or rows, steps or length) for rows, length in _SIZES))
        sampler = Sampler(self._vocabularies)
        seen: list[Arrays] = []
        for rows, length in sizes:
            found = self._run(one.shapes, sampler, rows, length)
            if not seen and not _finite(found):
                sampler = replace(sampler, positive=True)
                found = self._run(one.shapes, sampler, rows, length)
            self._check_states(one.shapes, found, rows, length)
            seen.append(found)
        given = [border.name for border in self._outputs] + [pair.output for pair in self._pairs]
        wild = [name for name in given if not all(_finite({name: found[name]}) for found in seen)]
        if wild:
            raise _UnfitError(
                _CERTAIN,
                f"{wild[0]} is not finite for random inputs, with numbers around 0 and with positive ones; a graph that divides, or takes "
                "logarithms or roots, must keep them off what has none: export it with a small number added there",
            )
        shapes = self._with_outputs(one, seen, sizes)
        contract = Contract(self._inputs, self._outputs, self._pairs, shapes, one.batch, one.one_step, self._vocabularies)
        contract = self._unflattened(contract, sampler)
        if one.batch is None:
            self._check_rows(contract, sampler)
        elif one.batch > 1:
            self._check_order(contract, sampler, one.batch)
        return contract, sampler

    def _run(self, shapes: Mapping[str, Shape], sampler: Sampler, batch: int, steps: int) -> Arrays:
        start = Contract((), (), self._pairs, shapes, None, one_step=False).initial(batch)
        feeds = {
            border.name: sampler.in_graph(border, shapes[border.name], batch, steps, place)
            for place, border in enumerate(self._inputs)
        }
        try:
            return self._session.run({**feeds, **start})
        except Exception as error:
            raise _UnfitError(0, f"it does not run on {_counted(batch, steps)} ({words(error)})") from None

    def _check_states(self, shapes: Mapping[str, Shape], found: Arrays, batch: int, steps: int) -> None:
        for pair in self._pairs:
            before, after = sized(shapes[pair.input], batch, steps), found[pair.output].shape
            if before == after:
                continue
            grown = [two - one for one, two in zip(before, after, strict=False) if one != two]
            if len(before) == len(after) and grown == [steps]:
                raise _UnfitError(
                    _CERTAIN,
                    f"{pair.output} is {list(after)} where {pair.input} was {list(before)}: it grows with every call, as the keys and "
                    "values of attention do, and is no state of one size; rnnx streams recurrent models",
                )
            raise _UnfitError(
                1, f"{pair.output} is {list(after)} where {pair.input} was {list(before)}; a state keeps its shape"
            )

    def _with_outputs(self, one: Assignment, seen: Sequence[Arrays], sizes: Sequence[tuple[int, int]]) -> dict[str, Shape]:
        found = dict(one.shapes)
        for border in self._outputs:
            lengths = [answer[border.name].shape for answer in seen]
            if len(set(map(len, lengths))) > 1:
                raise _UnfitError(2, f"{border.name} has the shapes {lengths} for {sizes} rows and steps")
            measured = [_dimension(border.name, axis, along, sizes) for axis, along in enumerate(zip(*lengths, strict=True))]
            found[border.name] = self._labelled(measured, one)
        without = [name for name, shape in found.items() if not any(BATCH in str(size) for size in shape)]
        if one.batch != 1 and without:
            raise _UnfitError(2, f"{without[0]} has no axis that follows the number of rows")
        return found

    def _labelled(self, measured: list[Dimension], one: Assignment) -> Shape:
        """The symbols where only one size was seen: at the places where an input has them, else at the first axis of that size."""
        for symbol, size in ((BATCH, one.batch), (TIME, 1 if one.one_step else None)):
            if size is None or symbol in measured:
                continue
            places = [one.shapes[border.name].index(symbol) for border in self._inputs if symbol in one.shapes[border.name]]
            axes = [axis for axis in (*places, *range(len(measured))) if axis < len(measured) and measured[axis] == size]
            if places and axes:
                measured[axes[0]] = symbol
        return tuple(measured)

    def _unflattened(self, contract: Contract, sampler: Sampler) -> Contract:
        """With the order of batch and time where an output has both on one axis: a row alone must be found in the batch."""
        flat = f"{BATCH}*{TIME}"
        shapes = dict(contract.shapes)
        if not any(flat in shape for shape in shapes.values()):
            return contract
        if contract.fixed_batch is not None:
            raise _UnfitError(2, "an output has rows and steps on one axis, and nothing tells which are outermost")
        batch, steps = _SIZES[1]
        chunk = sampler.chunk(contract, batch, steps, 1)
        many, _ = call(self._session, contract, chunk, contract.initial(batch), batch)
        alone, _ = call(self._session, contract, {name: array[:1] for name, array in chunk.items()}, contract.initial(1), 1)
        turned = replace(
            contract,
            shapes={n: tuple(f"{TIME}*{BATCH}" if size == flat else size for size in shape) for n, shape in shapes.items()},
        )
        other, _ = call(self._session, turned, chunk, contract.initial(batch), batch)
        for border in self._outputs:
            if flat in shapes[border.name]:
                errors = [np.abs(answer[border.name][:1] - alone[border.name]).sum() for answer in (many, other)]
                shapes[border.name] = contract.shapes[border.name] if errors[0] <= errors[1] else turned.shapes[border.name]
        return replace(contract, shapes=shapes)

    def _check_rows(self, contract: Contract, sampler: Sampler) -> None:
        """A row alone must be answered as in a batch."""
        batch, steps = 3, 1 if contract.one_step else 4
        chunk = sampler.chunk(contract, batch, steps, 2)
        try:
            _, states = call(self._session, contract, chunk, contract.initial(batch), batch)
            many, after = call(self._session, contract, chunk, states, batch)
            row = {name: array[1:2] for name, array in chunk.items()}
            own = {name: _row(array, contract.shapes[name], 1) for name, array in states.items()}
            alone, following = call(self._session, contract, row, own, 1)
        except Exception as error:
            raise _UnfitError(0, f"it does not run on {_counted(1, steps)} ({words(error)})") from None
        expected = {name: array[1:2] for name, array in many.items()}
        expected |= {f"{name} after": _row(array, contract.shapes[name], 1) for name, array in after.items()}
        found = {**alone, **{f"{name} after": array for name, array in following.items()}}
        apart, wrong = compare(found, expected, tolerance_of("float32", on_cpu=True))
        if wrong:
            raise _UnfitError(
                3,
                f"a row alone is answered otherwise than among others, off by {max(apart.values()):.1g}: rows change each other",
            )

    def _check_order(self, contract: Contract, sampler: Sampler, batch: int) -> None:
        """Where one batch size is taken, rows in another order must be answered in that order."""
        chunk = sampler.chunk(contract, batch, 1 if contract.one_step else 4, 2)
        order = [*range(1, batch), 0]
        answers, states = call(self._session, contract, chunk, contract.initial(batch), batch)
        turned, after = call(
            self._session, contract, {name: array[order] for name, array in chunk.items()}, contract.initial(batch), batch
        )
        expected = {name: array[order] for name, array in answers.items()}
        expected |= {f"{name} after": array.take(order, contract.shapes[name].index(BATCH)) for name, array in states.items()}
        found = {**turned, **{f"{name} after": array for name, array in after.items()}}
        apart, wrong = compare(found, expected, tolerance_of("float32", on_cpu=True))
        if wrong:
            raise _UnfitError(
                3,
                f"rows in another order are answered otherwise, off by {max(apart.values()):.1g}: the axis taken for batch is not one",
            )


def _row(array: NDArray[Any], shape: Shape, row: int) -> NDArray[Any]:
    taken: NDArray[Any] = np.take(array, [row], axis=shape.index(BATCH))
    return taken


def _dimension(name: str, axis: int, lengths: Sequence[int], sizes: Sequence[tuple[int, int]]) -> Dimension:
    if len(set(lengths)) == 1:
        return int(lengths[0])
    for symbol, wanted in (
        (BATCH, [batch for batch, _ in sizes]),
        (TIME, [steps for _, steps in sizes]),
        (f"{BATCH}*{TIME}", [batch * steps for batch, steps in sizes]),
    ):
        if list(lengths) == wanted:
            return symbol
    raise _UnfitError(2, f"axis {axis} of {name} has the sizes {list(lengths)} for {sizes} rows and steps; it must follow one")


def _counted(batch: int, steps: int) -> str:
    return f"{batch} row{'s' * (batch > 1)} and {steps} step{'s' * (steps > 1)}"


def _finite(arrays: Arrays) -> bool:
    return all(np.isfinite(array).all() for array in arrays.values())
