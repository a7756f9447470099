"""Padded batches with lengths: `pack_padded_sequence` around a recurrent layer.

A packed sequence cannot be traced: how its rows are laid out depends on the lengths. ONNX's recurrent operators take the padded
batch and the lengths as they are. So while a lifted module is traced, packing hands on both, and the layer's operator is given
the lengths.
"""

from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

_LENGTHS: Final = "rnnx_lengths"


class PackingListener(TorchFunctionMode):
    """Writes down what is packed: the lengths `(B,)`, and the steps of the padded batch."""

    def __init__(self) -> None:
        super().__init__()
        self.packed: list[tuple[Tensor, int]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "_pack_padded_sequence":
            x, lengths, batch_first = args
            self.packed.append((lengths.clone(), x.shape[1 if batch_first else 0]))
        return func(*args, **(kwargs or {}))


class Padded(TorchFunctionMode):
    """Packing that leaves the batch padded: a `PackedSequence` whose data are `(T, B, F)`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "_pack_padded_sequence":
            x, lengths, batch_first = args
            padded = x.transpose(0, 1) if batch_first else x
            batch_sizes = torch.zeros(padded.shape[0], dtype=torch.int64)  # as many as there are steps, as torch has it
            setattr(batch_sizes, _LENGTHS, lengths)
            return padded, batch_sizes
        if name == "_pad_packed_sequence":
            x, batch_sizes, batch_first, value, _ = args
            lengths = getattr(batch_sizes, _LENGTHS)
            if value != 0:
                x = torch.where(_inside(x, lengths), x, value)
            return x.transpose(0, 1) if batch_first else x, lengths
        return func(*args, **(kwargs or {}))


def lengths_of(x: PackedSequence) -> Tensor:
    """The lengths `(B,)` of what was packed under `Padded`."""
    lengths: Tensor = getattr(x.batch_sizes, _LENGTHS)
    return lengths


def repacked(x: PackedSequence, y: Tensor) -> PackedSequence:
    """Another tensor `(T, B, H)` in the place of the data."""
    return PackedSequence(y, x.batch_sizes, x.sorted_indices, x.unsorted_indices)


def sample_lengths(batch: int, steps: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Random lengths from 1 to `steps`, the longest first and `steps` long: the order that packing asks for by default."""
    drawn = torch.randint(1, steps + 1, (batch,), generator=generator, dtype=dtype)
    drawn[0] = steps
    return drawn.sort(descending=True).values


def _inside(x: Tensor, lengths: Tensor) -> Tensor:
    """`(T, B, 1)`: whether a step is one of its row."""
    return (torch.arange(x.shape[0])[:, None] < lengths)[..., None]
