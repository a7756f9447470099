"""A lifted module computed in float64: what its rounding is judged by."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rnnx._attributes import own_values
from rnnx._eager import frozen_copy
from rnnx._lift import Lift

_NUDGE: Final = 4.0  # roundings

T = TypeVar("T")


def in_float64(lift: Lift) -> Lift:
    """A twin whose weights, tensors in attributes, and examples of inputs are float64. Run it inside `float64_by_default`."""
    twin = copy.copy(lift)
    twin.sited = copy.copy(lift.sited)
    twin.sited.eager = copy.copy(lift.sited.eager)
    module = twin.sited.eager.module = frozen_copy(lift.sited.eager.module).double()
    for part in module.modules():
        for name, value in own_values(part).items():  # `double()` changes weights and buffers only
            if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value)):
                setattr(part, name, doubled(value))
    twin.inputs = tuple(replace(spec, example=doubled(spec.example)) for spec in lift.inputs)
    twin.conditions = tuple(replace(spec, example=doubled(spec.example)) for spec in lift.conditions)
    return twin


def doubled(tree: T) -> T:
    """The same, each tensor of floats in float64."""

    def double(leaf: object) -> object:
        return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    converted: T = pytree.tree_map(double, tree)
    return converted


def nudged(tree: T, generator: torch.Generator, dtype: torch.dtype | None = None) -> T:
    """The same, each value moved by a few roundings of its type, or of `dtype`, up or down."""

    def nudge(leaf: object) -> object:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            return leaf
        signs = torch.randint(2, leaf.shape, generator=generator).to(leaf.dtype) * 2 - 1
        return leaf + signs * leaf.abs().clamp(min=1) * torch.finfo(dtype or leaf.dtype).eps * _NUDGE

    moved: T = pytree.tree_map(nudge, tree)
    return moved


@contextmanager
def float64_by_default() -> Iterator[None]:
    """Tensors that `forward` makes itself, such as zeros to begin with, are float64 too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
