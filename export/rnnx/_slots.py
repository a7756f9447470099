"""The inputs and the states of a lifted module."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rnnx._axes import Axes
from rnnx._packing import sample_lengths
from rnnx_runtime.artifact import Dimension


def random_state(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Values that a state may have: between -1 and 1, small integers, or both truth values."""
    if dtype.is_floating_point:
        return torch.rand(shape, generator=generator, dtype=dtype) * 2 - 1
    return torch.randint(2 if dtype == torch.bool else 4, shape, generator=generator).to(dtype)


@dataclass(frozen=True)
class StateSlot:
    """One state tensor. `initial` has a batch of 1, None stands for zeros; where `computed`, an input decides."""

    name: str
    shape: tuple[Dimension, ...]
    batch_axis: int
    initial: Tensor | None
    computed: bool
    dtype: torch.dtype

    def at(self, batch: int) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else batch for size in self.shape)

    def start(self, batch: int) -> Tensor:
        """The initial value for a batch."""
        return torch.zeros(self.at(batch), dtype=self.dtype) if self.initial is None else self.initial.expand(self.at(batch))


@dataclass(frozen=True)
class LiftedInput:
    """An input of the module.

    Attributes:
        vocabulary_size: set where an embedding looks its values up.
        lengths: whether it says how many steps of each row are none of the padding.
    """

    name: str
    example: Tensor
    axes: Axes
    vocabulary_size: int | None
    lengths: bool = False

    @property
    def shape(self) -> tuple[Dimension, ...]:
        return self.axes.shape(self.example)

    def sample(self, batch: int, steps: int, generator: torch.Generator) -> Tensor:
        """Random values of the example's kind: floats of its mean and spread, integers of its range."""
        if self.lengths:
            return sample_lengths(batch, steps, generator, self.example.dtype)
        shape = self.axes.resize(self.example, batch, steps).shape
        if self.vocabulary_size is not None:
            return torch.randint(self.vocabulary_size, shape, generator=generator, dtype=self.example.dtype)
        if self.example.dtype == torch.bool:
            return torch.rand(shape, generator=generator) < 0.5
        if not self.example.is_floating_point():
            low, high = int(self.example.min()), int(self.example.max())
            return torch.randint(low, high + 1, shape, generator=generator, dtype=self.example.dtype)
        spread = self.example.std(correction=0)
        noise = torch.randn(shape, generator=generator, dtype=self.example.dtype)
        return noise * spread + self.example.mean() if spread > 0 else noise
