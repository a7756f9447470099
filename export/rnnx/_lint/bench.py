"""The runs of one model: sizes that it takes, then what depends on what."""

import math
import re
import time
from collections.abc import Mapping
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from rnnx._lint.trials import Plan, Run, Sizes, TrialInput, Trials

_DEADLINE: Final = 20.0  # seconds, after which no further run begins
_FEW: Final = (1, 2, 3, 5)  # sizes that every free axis is tried at; never 0, where ONNX Runtime ends the process
_MORE: Final = (4, 8, 16, 32, 64, 80, 128, 160, 256, 320, 480, 512, 1024)  # for models that take none of the few
_SEEDS: Final = (1, 2, 3)

Arrays = dict[str, NDArray[Any]]


@final
class Bench:
    """One session with what it was seen to do."""

    def __init__(self, session: Any, plan: Plan) -> None:
        self._session = session
        self._plan = plan
        self._end = time.monotonic() + _DEADLINE
        symbols = [symbol for spec in plan.inputs for size in spec.shape for symbol in symbols_of(size)]
        self._symbols = list(dict.fromkeys(symbols))
        self._together: dict[str, list[str]] = {}  # a symbol, and those that must be as large
        self._trials = Trials()

    def trials(self) -> Trials:
        """All that can be found out in the time."""
        base = self._find_base()
        if base is not None:
            for symbol in self._symbols:
                varies = self._vary(base, symbol)
                if not varies and self._time_left():
                    self._trials.frozen[symbol] = base[symbol]
            self._repeat(base)
            self._disturb_steps(base)
            self._disturb_rows(base)
            self._feed_back(base)
        return self._trials

    def _time_left(self) -> bool:
        return time.monotonic() < self._end

    def _find_base(self) -> Sizes | None:
        """Sizes that the model runs at, with several rows and steps where it takes them."""
        usual = {self._plan.batch: 3, self._plan.time: 4}
        tries: list[Sizes] = [{symbol: usual.get(symbol, 2) for symbol in self._symbols}]
        tries += [dict.fromkeys(self._symbols, size) for size in (2, 3, 1) if self._symbols]
        for size in dict.fromkeys((*self._plan.hints, *_MORE)):
            tries += [{**dict.fromkeys(self._symbols, other), symbol: size} for symbol in self._symbols for other in (1, 2)]
        for sizes in tries:
            if self._time_left() and self._try(sizes):
                self._trials.runs.insert(0, self._trials.runs.pop())
                return sizes
        return None

    def _vary(self, base: Sizes, symbol: str) -> bool:
        """Whether an axis takes another size than the base's, alone or together with others."""
        others = [other for other in self._symbols if other != symbol]
        groups = [[symbol], *([symbol, other] for other in others), *([self._symbols] if len(others) > 1 else [])]
        sizes = [size for size in dict.fromkeys((base[symbol] + 1, *_FEW, 2 * base[symbol])) if size != base[symbol]]
        runs = self._trials.runs
        for group in groups:
            before = len(runs)
            worked = [self._try({**base, **dict.fromkeys(group, size)}) for size in sizes if self._time_left()]
            failed = {run.sizes[symbol]: run.failed_because for run in runs[before:] if run.failed_because is not None}
            if any(worked):
                self._together[symbol] = group
                self._trials.refused[symbol] = failed
                return True
            if group != groups[-1]:
                del runs[before:]  # perhaps these axes do not belong together: that it failed says nothing
        return False

    def _at(self, sizes: Sizes, **others: tuple[str | None, int]) -> Sizes:
        """Sizes with some axes changed, and those that go with them."""
        changed = dict(sizes)
        for symbol, size in others.values():
            if symbol is not None:
                changed |= dict.fromkeys(self._together.get(symbol, [symbol]), size)
        return changed

    def _try(self, sizes: Sizes) -> bool:
        try:
            found = self._run(self._make(sizes))
        except Exception as error:
            self._trials.runs.append(Run(sizes, failed_because=words(error)))
            return False
        self._trials.runs.append(Run(sizes, {name: array.shape for name, array in found.items()}))
        return True

    def _run(self, inputs: Arrays) -> Arrays:
        answers = self._session.run(list(self._plan.outputs), inputs)
        return {name: np.asarray(answer) for name, answer in zip(self._plan.outputs, answers, strict=True)}

    def _answer(self, inputs: Arrays) -> Arrays | None:
        """The outputs; None where it fails or no time is left."""
        try:
            return self._run(inputs) if self._time_left() else None
        except Exception:
            return None

    def _make(self, sizes: Mapping[str, int], seed: int = 0) -> Arrays:
        draw = np.random.default_rng(seed)
        return {spec.name: self._one(spec, sizes, draw) for spec in self._plan.inputs}

    def _one(self, spec: TrialInput, sizes: Mapping[str, int], draw: np.random.Generator) -> NDArray[Any]:
        shape = tuple(extent(size, sizes) or 1 for size in spec.shape)
        if spec.value is not None:
            return np.full(shape, sizes.get(self._plan.time or "", 1) if spec.value == "time" else spec.value, spec.dtype)
        if np.dtype(spec.dtype).kind in "iub":
            return np.asarray(draw.integers(0, 2 if spec.dtype == "bool" else spec.below, shape), spec.dtype)
        return np.asarray(draw.standard_normal(shape) / 2, spec.dtype)  # of no axes, it would be no array

    def _repeat(self, base: Sizes) -> None:
        """The same again; and again with one input's values changed at a time."""
        inputs = self._make(base)
        first = self._run(inputs)
        self._trials.repeated = _apart(first, self._run(inputs))
        if any(self._trials.repeated.values()):
            return
        self._trials.unchanged = [given for given, gave in self._plan.pairs if np.array_equal(inputs[given], first[gave])]
        for spec in self._plan.inputs:
            if spec.value is None:
                drawn = [self._make(base, seed)[spec.name] for seed in _SEEDS]
                if all(np.array_equal(array, inputs[spec.name]) for array in drawn):
                    continue  # it has one value only: tokens of a single symbol
                answers = [self._answer({**inputs, spec.name: array}) for array in drawn]
                if all(answer is not None and not any(_apart(first, answer).values()) for answer in answers):
                    self._trials.idle.append(spec.name)

    def _disturb_steps(self, base: Sizes) -> None:
        """Give the later half of the steps other values."""
        free = self._plan.time
        if free is None or any(self._trials.repeated.values()):
            return
        for sizes in (self._at(base, steps=(free, 2 * base[free])), base):
            inputs, others = self._make(sizes), self._make(sizes, 1)
            half = sizes[free] // 2
            for name, axis in self._axes_given(free).items():
                later = np.moveaxis(inputs[name], axis, 0)[half:]
                later[...] = np.moveaxis(others[name], axis, 0)[half:]
            as_drawn = self._make(sizes)
            if all(np.array_equal(array, inputs[name]) for name, array in as_drawn.items()):
                return  # there are no other values
            before, after = self._answer(as_drawn), self._answer(inputs)
            if before is not None and after is not None and half:
                if not any(_apart(before, after).values()):
                    self._trials.idle_steps = sizes[free]
                return

    def _disturb_rows(self, base: Sizes) -> None:
        """Give all rows but the first other values. One step, where it takes that: then a flattened axis is one of rows."""
        batch, step = self._plan.batch, self._plan.time
        if batch is None:
            return
        tries = [
            self._at(base, rows=(batch, rows), steps=(step, steps))
            for rows in (3, 2)
            for steps in (1, base.get(step or "", 1))
        ]
        sizes = next((sizes for sizes in tries if self._answer(self._make(sizes)) is not None), None)
        if sizes is None:
            return
        inputs, others = self._make(sizes), self._make(sizes, 1)
        mixed = {name: array.copy() for name, array in others.items()}
        for name, axis in self._axes_given(batch).items():
            mixed[name][_first(axis)] = inputs[name][_first(axis)]
        for spec in self._plan.inputs:
            if spec.name not in self._axes_given(batch):
                mixed[spec.name] = inputs[spec.name]
        found, moved = self._answer(inputs), self._answer(mixed)
        axes = self._axes_gained(sizes, batch)
        if found is not None and moved is not None:
            rows = [{name: side[name][_first(axis)] for name, axis in axes.items()} for side in (found, moved)]
            self._trials.rows = _apart(*rows)

    def _axes_given(self, symbol: str) -> dict[str, int]:
        """The axis of each input that has a symbol, where it has one."""
        group = self._together.get(symbol, [symbol])
        axes = {}
        for spec in self._plan.inputs:
            found = [axis for axis, size in enumerate(spec.shape) if size in group]
            if found:
                axes[spec.name] = found[0]
        return axes

    def _axes_gained(self, sizes: Sizes, symbol: str) -> dict[str, int]:
        """The axis of each output that is as large as a symbol, and grows with it."""
        size = sizes[symbol]
        small, large = self._answer(self._make(sizes)), self._answer(self._make(self._at(sizes, grown=(symbol, size + 1))))
        axes = {}
        for name in self._plan.outputs if small is not None and large is not None else ():
            before, after = small[name].shape, large[name].shape  # type: ignore[index]
            grown = [axis for axis, pair in enumerate(zip(before, after, strict=False)) if pair == (size, size + 1)]
            if len(before) == len(after) and len(grown) == 1:
                axes[name] = grown[0]
        return axes

    def _feed_back(self, base: Sizes) -> None:
        """A call with the states of another; and where time is free, the whole against two halves of it."""
        pairs = dict(self._plan.pairs)
        inputs = self._make(base)
        found = self._run(inputs)
        for given, gave in pairs.items():
            before, after = inputs[given], found[gave]
            if (before.dtype, before.shape) != (after.dtype, after.shape):
                self._trials.unfit[given] = _kind(before), _kind(after)
        if self._trials.unfit or not pairs:
            return
        try:
            self._run({**inputs, **{given: found[gave] for given, gave in pairs.items()}})
        except Exception as error:
            self._trials.not_fed_because = words(error)
            return
        if self._plan.time is not None:
            self._compare_halves(base, self._plan.time)

    def _compare_halves(self, base: Sizes, free: str) -> None:
        """Of one row, where the model takes that: then a flattened axis is one of steps."""
        given = self._axes_given(free)
        rows = self._at(base, rows=(self._plan.batch, 1))
        tries = [(self._at(sizes, steps=(free, 2 * half)), half) for sizes in (rows, base) for half in (2, 1, base[free])]
        works = [(sizes, half) for sizes, half in tries if self._answer(self._make(sizes)) is not None]
        if not given or not works:
            return
        sizes, half = works[0]
        axes = self._axes_gained(sizes, free)
        inputs, shorter = self._make(sizes), self._make(self._at(sizes, steps=(free, half)))
        whole, pieces = self._answer(inputs), []
        states: Arrays = {}
        for begin in (0, half):
            fixed = {spec.name: shorter[spec.name] for spec in self._plan.inputs if spec.value is not None}
            chunk = {name: np.take(inputs[name], range(begin, begin + half), axis) for name, axis in given.items()}
            piece = self._answer({**inputs, **chunk, **fixed, **states})
            if piece is None or whole is None:
                return
            states = {given: piece[gave] for given, gave in self._plan.pairs}
            pieces.append(piece)
        have = {gave: states[given] for given, gave in self._plan.pairs}
        for name, axis in axes.items():
            have.setdefault(name, np.concatenate([piece[name] for piece in pieces], axis))
        self._trials.steps = _apart({name: whole[name] for name in have}, have)  # type: ignore[index]


def symbols_of(size: int | str) -> list[str]:
    """The symbols in a size; a product has several."""
    return [] if isinstance(size, int) else [part for part in size.split("*") if not part.isdigit()]


def extent(size: int | str, sizes: Mapping[str, int]) -> int | None:
    """What a size is where symbols have sizes; None where one of them has none."""
    if isinstance(size, int):
        return size
    parts = [int(part) if part.isdigit() else sizes.get(part) for part in size.split("*")]
    known = [part for part in parts if part is not None]
    return math.prod(known) if len(known) == len(parts) else None


def _first(axis: int) -> tuple[slice | int, ...]:
    """The index of the first row, on its axis."""
    return (*[slice(None)] * axis, 0)


def _apart(one: Arrays, two: Arrays) -> dict[str, float]:
    """The largest differences, relative above 1; infinite where shapes differ, or only one side is a number."""
    found = {}
    for name, array in one.items():
        if array.shape != two[name].shape:
            found[name] = math.inf
            continue
        a, b = array.astype(np.float64), two[name].astype(np.float64)
        scale = max(1.0, float(np.abs(a[np.isfinite(a)]).max(initial=0.0)))
        with np.errstate(invalid="ignore"):
            apart = np.where(
                (a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.nan_to_num(np.abs(a - b), nan=np.inf, posinf=np.inf)
            )
        found[name] = float(apart.max(initial=0.0)) / scale
    return found


def _kind(array: NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}"


def words(error: Exception) -> str:
    """What ONNX Runtime says, on one line, without the places in its own source."""
    text = " ".join(str(error).split())
    for begin in ("Exception during initialization: ", "Status Message: "):
        text = text.rpartition(begin)[2] or text
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"/\S*onnxruntime\S*:\d+ .*?\) (?=\S)", "", text)
    return "".join(char for char in text if char.isprintable())[:300]
