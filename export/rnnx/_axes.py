"""Which axis is batch and which is time: found by running the eager module at other sizes, never guessed.

The sites of a module say how many steps they took and how large their states were. So an input's axes are found by making
them longer and looking at what the sites see; an output's by looking at what becomes longer.
"""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rnnx._eager import Run, first_line
from rnnx._errors import LiftError
from rnnx_runtime.artifact import BATCH, TIME, Dimension

# (batch, seq_len), chosen so that no size of one axis, nor a product, is taken for another's.
_SIZES = ((2, 3), (5, 7), (5, 3))
_MOST_ASSIGNMENTS = 256


@dataclass(frozen=True)
class Axes:
    """The axes of one input."""

    batch: int
    time: int | None

    def resize(self, tensor: Tensor, batch: int, steps: int) -> Tensor:
        """`tensor` at another size, by repeating what it holds."""
        tensor = repeat(tensor, self.batch, batch)
        return tensor if self.time is None else repeat(tensor, self.time, steps)

    def between(self, tensor: Tensor, start: int, stop: int) -> Tensor:
        """Some of the steps; all of a tensor that has none."""
        return tensor if self.time is None else tensor.narrow(self.time, start, stop - start)

    def shape(self, tensor: Tensor) -> tuple[Dimension, ...]:
        sizes: list[Dimension] = list(tensor.shape)
        sizes[self.batch] = BATCH
        if self.time is not None:
            sizes[self.time] = TIME
        return tuple(sizes)


@dataclass(frozen=True)
class Assignment:
    """Axes that let the module run at other sizes: of every input, the batch axis of every state, and the example's steps."""

    inputs: dict[str, Axes]
    states: tuple[int, ...]
    steps: int


@dataclass(frozen=True)
class Trial:
    """A call of the module at another size.

    Attributes:
        steps: how many it took; None where its sites cannot tell.
        trace: what shows whether it took as many as another.
        following: the next states.
    """

    steps: int | None
    trace: object
    following: Sequence[Tensor]


def axes_of(name: str, tensor: Tensor, letters: str) -> Axes:
    """Axes written down by a person, a letter for each: "BTF", "TB", "B".

    Raises:
        LiftError: there is not one letter per axis, or B and T do not stand once, or at most once.
    """
    if len(letters) != tensor.ndim or letters.count("B") != 1 or letters.count("T") > 1:
        raise LiftError(
            f"axes of {name}: expected {tensor.ndim} letters, B once and T at most once, such as {'BTF'[: max(tensor.ndim, 1)]!r}; "
            f"got {letters!r}"
        )
    return Axes(letters.index("B"), letters.index("T") if "T" in letters else None)


def has_time(shape: tuple[Dimension, ...]) -> bool:
    return any(isinstance(size, str) and TIME in size for size in shape)


def batch_first(tensor: Tensor, shape: tuple[Dimension, ...], batch: int, steps: int) -> Tensor:
    """A tensor in the module's layout as the runtime has it: `(B, T, ...)`, or `(B, ...)`.

    Written apart from the runtime's own, so that the parity gate compares two opinions.
    """
    names = list(shape)
    for flat, sizes in ((f"{BATCH}*{TIME}", (batch, steps)), (f"{TIME}*{BATCH}", (steps, batch))):
        if flat in names:
            axis = names.index(flat)
            tensor = tensor.reshape(*tensor.shape[:axis], *sizes, *tensor.shape[axis + 1 :])
            names[axis : axis + 1] = flat.split("*")
    while names[0] == 1:
        tensor = tensor.squeeze(0)
        del names[0]
    front = [names.index(name) for name in (BATCH, TIME) if name in names]
    return tensor.movedim(front, list(range(len(front))))


def find_axes(
    inputs: Mapping[str, Tensor],
    states: Sequence[Tensor],
    steps: int | None,
    run: Callable[[Mapping[str, Tensor], Sequence[Tensor]], Trial],
    wanted: Mapping[str, Axes],
    lengths: Collection[str] = (),
) -> Assignment:
    """The axes of every input, and the batch axis of every state.

    Args:
        inputs: the example's, without states.
        states: as the sites saw them.
        steps: that the sites took on the example; None where they cannot tell.
        run: calls the module on other inputs and zero states.
        wanted: axes that are known beforehand, by input.
        lengths: inputs that say how many steps each row has.

    Raises:
        LiftError: no assignment of axes lets the module run at another batch size and length.
    """
    reason = ""
    for chosen in itertools.islice(_assignments(inputs, states, steps, wanted), _MOST_ASSIGNMENTS):
        batch = next(inputs[name].shape[axes.batch] for name, axes in chosen.inputs.items()) + 1
        try:
            longer = _try(inputs, states, chosen, batch, chosen.steps + 2, run, lengths)
            if longer is None or longer.steps not in (None, chosen.steps + 2):
                continue
            if longer.steps is None:
                same = _try(inputs, states, chosen, batch, chosen.steps, run, lengths)
                if same is None or same.trace == longer.trace:
                    continue
            return chosen
        except Exception as error:  # what shapes that don't fit raise
            reason = reason or first_line(error)
    shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in inputs.items())
    first, letters = next(((name, "BTFGHIJK"[: tensor.ndim]) for name, tensor in inputs.items()), ("x", "BTF"))
    took = "" if steps is None else f"the module takes {steps} steps on the example, but "
    raise LiftError(
        f"no axes of {shapes} can be batch and time: {took}it does not run on one row and two steps more"
        + (f" ({reason})" if reason else "")
        + ("" if wanted else f"; say which they are, a letter each: axes={{{first!r}: {letters!r}}}")
    )


def _try(
    inputs: Mapping[str, Tensor],
    states: Sequence[Tensor],
    chosen: Assignment,
    batch: int,
    steps: int,
    run: Callable[[Mapping[str, Tensor], Sequence[Tensor]], Trial],
    lengths: Collection[str],
) -> Trial | None:
    """A run at another size; None where its states do not keep theirs."""
    resized = {name: axes.resize(inputs[name], batch, steps) for name, axes in chosen.inputs.items()}
    resized |= {name: inputs[name].new_full((batch,), steps) for name in lengths}
    zeros = [repeat(torch.zeros_like(s), axis, batch) for s, axis in zip(states, chosen.states, strict=True)]
    trial = run(resized, zeros)
    return trial if [s.shape for s in trial.following] == [s.shape for s in zeros] else None


def find_output_shapes(run_at: Callable[[int, int], Run]) -> dict[str, tuple[Dimension, ...]]:
    """The shape of every output, in terms of batch and seq_len.

    Args:
        run_at: calls the module at a batch size and a number of steps; more rows and steps begin with the same values.

    Raises:
        LiftError: an axis follows neither, or an output has no batch axis.
    """
    runs = [run_at(*size) for size in _SIZES]
    row = run_at(1, _SIZES[1][1])
    smallest = [row, run_at(_SIZES[1][0], 1), run_at(1, 1)]
    shapes: dict[str, tuple[Dimension, ...]] = {}
    for name, at_second in runs[1].outputs.items():
        sizes = [tuple(run.outputs[name].shape) for run in runs]
        if len({len(size) for size in (*sizes, *(run.outputs[name].shape for run in smallest))}) != 1:
            raise LiftError(f"{name} has another number of axes at another size, as squeeze() makes it; keep axes of size 1")
        shape = tuple(_dimension(name, seen) for seen in zip(*sizes, strict=True))
        if f"{BATCH}*{TIME}" in shape:
            shape = _flattening_order(shape, at_second, row.outputs[name])
        if not any(isinstance(size, str) and BATCH in size for size in shape):
            raise LiftError(f"{name} has no batch axis (shape {sizes[1]} at batch {_SIZES[1][0]}); return a value per row")
        symbols = "*".join(size for size in shape if isinstance(size, str)).split("*")
        if len(symbols) != len(set(symbols)):
            raise LiftError(f"{name} has the shape {shape}; batch and seq_len may stand once each")
        many = batch_first(at_second, shape, *_SIZES[1])
        if far_apart(many[:1], batch_first(row.outputs[name], shape, 1, _SIZES[1][1])):
            raise LiftError(
                f"{name}: a row alone gives another answer than in a batch; the rows must not depend on each other"
            )
        shapes[name] = shape
    return shapes


def far_apart(a: Tensor, b: Tensor) -> bool:
    """Whether two answers differ by more than rounding, on the scale of the answers themselves."""
    if a.shape != b.shape:
        return True
    a, b = a.double(), b.double()
    finite = a.isfinite() & b.isfinite()
    if not torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()):
        return True
    a, b = a[finite], b[finite]
    scale = float(torch.maximum(a.abs(), b.abs()).max()) if a.numel() else 0.0
    return not torch.allclose(a, b, rtol=1e-3, atol=1e-4 * scale)


def repeat(tensor: Tensor, axis: int, size: int) -> Tensor:
    """`tensor` at another size along one axis, by repeating what it holds."""
    return tensor.index_select(axis, torch.arange(size) % tensor.shape[axis])


def _assignments(
    inputs: Mapping[str, Tensor], states: Sequence[Tensor], steps: int | None, wanted: Mapping[str, Axes]
) -> Iterator[Assignment]:
    """Every assignment of the example's axes that gives one batch size; those where more inputs have a time axis first."""
    choices = []
    for name, tensor in inputs.items():
        if name in wanted:
            choices.append([wanted[name]])
            continue
        axes = range(tensor.ndim)
        times = [axis for axis in axes if steps is None or tensor.shape[axis] == steps]
        choices.append([Axes(b, t) for b in axes for t in times if b != t] + [Axes(b, None) for b in axes])
    for chosen in itertools.product(*choices):
        named = dict(zip(inputs, chosen, strict=True))
        batches = {inputs[name].shape[axes.batch] for name, axes in named.items()}
        lengths = {inputs[name].shape[axes.time] for name, axes in named.items() if axes.time is not None}
        if len(batches) != 1 or len(lengths) != 1:
            continue
        batch, length = batches.pop(), lengths.pop()
        for state_axes in itertools.product(*(_batch_axes(state, batch) for state in states)):
            yield Assignment(named, state_axes, length)


def _batch_axes(state: Tensor, batch: int) -> list[int]:
    """Axes of the batch's size, the last but one first: states are mostly `(B, H)` or `(1, B, H)`."""
    axes = [axis for axis in range(state.ndim) if state.shape[axis] == batch]
    return sorted(axes, key=lambda axis: axis != state.ndim - 2)


def _dimension(name: str, seen: tuple[int, ...]) -> Dimension:
    if len(set(seen)) == 1:
        return seen[0]
    if seen == tuple(batch for batch, _ in _SIZES):
        return BATCH
    if seen == tuple(steps for _, steps in _SIZES):
        return TIME
    if seen == tuple(batch * steps for batch, steps in _SIZES):
        return f"{BATCH}*{TIME}"  # or the other way round: `_flattening_order` tells
    raise LiftError(f"{name}: an axis has the sizes {seen} at (batch, seq_len) {_SIZES}; it must follow batch or seq_len")


def _flattening_order(shape: tuple[Dimension, ...], output: Tensor, row: Tensor) -> tuple[Dimension, ...]:
    """Which of batch and time is outermost: the first row, run alone, must be found where the order says."""
    (batch, steps), axis = _SIZES[1], shape.index(f"{BATCH}*{TIME}")
    errors = []
    for first, second, place in ((batch, steps, axis), (steps, batch, axis + 1)):
        split = output.reshape(*output.shape[:axis], first, second, *output.shape[axis + 1 :]).select(place, 0)
        finite = split.isfinite() & row.isfinite()
        errors.append(float((split.double() - row.double())[finite].abs().sum()))
    batch_outermost = errors[0] <= errors[1]
    return tuple(size if i != axis or batch_outermost else f"{TIME}*{BATCH}" for i, size in enumerate(shape))
