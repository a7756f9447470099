"""Which axis is batch and which is time: found by running the eager module at other sizes, never guessed.

A recurrent layer says by itself where batch and time stand in what it is given (`batch_first`). So an input's axes are found
by making them longer and looking at what the layers see; an output's by looking at what becomes longer.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rnnx._eager import EagerModule, RecurrentCall, Run
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
        tensor = _repeat(tensor, self.batch, batch)
        return tensor if self.time is None else _repeat(tensor, self.time, steps)

    def between(self, tensor: Tensor, start: int, stop: int) -> Tensor:
        """Some of the steps; all of a tensor that has none."""
        return tensor if self.time is None else tensor.narrow(self.time, start, stop - start)

    def shape(self, tensor: Tensor) -> tuple[Dimension, ...]:
        sizes: list[Dimension] = list(tensor.shape)
        sizes[self.batch] = BATCH
        if self.time is not None:
            sizes[self.time] = TIME
        return tuple(sizes)


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


def size_seen(eager: EagerModule, call: RecurrentCall) -> tuple[int, int]:
    """The batch size and the number of steps that a recurrent layer was given."""
    batch_axis = 0 if eager.layers[call.path].batch_first else 1
    return call.x.shape[batch_axis], call.x.shape[1 - batch_axis]


def find_input_axes(
    inputs: Mapping[str, Tensor],
    size: tuple[int, int],
    run: Callable[[Mapping[str, Tensor], int], Run],
    seen: Callable[[RecurrentCall], tuple[int, int]],
) -> dict[str, Axes]:
    """The axes of every input.

    Args:
        inputs: the example's, without states.
        size: batch and steps that the layers see with them.
        run: calls the module on other inputs, at a batch size.
        seen: the batch and steps of one call of a layer.

    Raises:
        LiftError: no assignment of axes lets the module run at another batch size and length.
    """
    batch, steps = size
    wanted = (batch + 1, steps + 2)
    reason = ""
    choices = [_candidates(tensor, batch, steps) for tensor in inputs.values()]
    for chosen in itertools.islice(itertools.product(*choices), _MOST_ASSIGNMENTS):
        axes = dict(zip(inputs, chosen, strict=True))
        if all(axis.time is None for axis in chosen):
            continue
        try:
            found = run({name: axes[name].resize(tensor, *wanted) for name, tensor in inputs.items()}, wanted[0])
        except LiftError:
            raise
        except Exception as error:
            reason = reason or _first_line(error)
            continue
        if all(seen(call) == wanted for call in found.calls):
            return axes
    shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in inputs.items())
    raise LiftError(
        f"no axes of {shapes} can be batch and time: the recurrent layers see a batch of {batch} and {steps} steps, but the "
        f"module does not run with {wanted[0]} and {wanted[1]}" + (f" ({reason})" if reason else "")
    )


def find_output_shapes(run_at: Callable[[int, int], Run]) -> dict[str, tuple[Dimension, ...]]:
    """The shape of every output, in terms of batch and seq_len.

    Args:
        run_at: calls the module at a batch size and a number of steps; more rows and steps begin with the same values.

    Raises:
        LiftError: an axis follows neither, or an output has no batch axis.
    """
    runs = [run_at(*size) for size in _SIZES]
    row = run_at(1, _SIZES[1][1])
    shapes: dict[str, tuple[Dimension, ...]] = {}
    for name, at_second in runs[1].outputs.items():
        sizes = [tuple(run.outputs[name].shape) for run in runs]
        if len({len(size) for size in sizes}) != 1:
            raise LiftError(f"{name} has another number of axes at another batch size or length: {sizes}")
        shape = tuple(_dimension(name, seen) for seen in zip(*sizes, strict=True))
        if f"{BATCH}*{TIME}" in shape:
            shape = _flattening_order(shape, at_second, row.outputs[name])
        if not any(isinstance(size, str) and BATCH in size for size in shape):
            raise LiftError(f"{name} has no batch axis (shape {sizes[1]} at batch {_SIZES[1][0]}); return a value per row")
        shapes[name] = shape
    return shapes


def _candidates(tensor: Tensor, batch: int, steps: int) -> list[Axes]:
    """Every pair of axes of the right sizes, those with a time axis first."""
    batches = [axis for axis, size in enumerate(tensor.shape) if size == batch]
    times = [axis for axis, size in enumerate(tensor.shape) if size == steps]
    both = [Axes(b, t) for b in batches for t in times if b != t]
    return both + [Axes(b, None) for b in batches]


def _repeat(tensor: Tensor, axis: int, size: int) -> Tensor:
    return tensor.index_select(axis, torch.arange(size) % tensor.shape[axis])


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
    split = output.reshape(*output.shape[:axis], batch, steps, *output.shape[axis + 1 :]).select(axis, 0)
    if torch.allclose(split, row, rtol=1e-3, atol=1e-4):
        return shape
    return tuple(f"{TIME}*{BATCH}" if i == axis else size for i, size in enumerate(shape))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
