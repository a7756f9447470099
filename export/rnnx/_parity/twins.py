"""A lifted module's twins, by which its rounding is judged: in float64, and with weights that are a few roundings off.

Rounding is what another order of additions may change. The module in float64 is without it. What it may do later, in a network that
does not forget, shows where weights are nudged by as much as float32 rounds them.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, Final, Literal, TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from rnnx._attributes import own_values
from rnnx._eager import frozen_copy
from rnnx._lift import Lift
from rnnx._parity.eager import Eager, same
from rnnx._parity.subjects import as_arrays

_NUDGE: Final = 4.0  # roundings

T = TypeVar("T")
Answer = tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]  # outputs and next states


@final
class Twins:
    """The reference of a module and its nudged twins, made when they are first needed.

    Attributes:
        kind: "float64" where the module runs in it and is not in it itself; else "nudged": the module itself is the reference.
    """

    def __init__(self, lift: Lift) -> None:
        self.lift = lift
        self._nudged: list[Lift] = []

    @cached_property
    def reference(self) -> Lift:
        exact = _in_float64(self.lift)
        return self.lift if exact is None else exact

    @property
    def kind(self) -> Literal["float64", "nudged"]:
        return "nudged" if self.reference is self.lift else "float64"

    def nudged(self, count: int) -> list[Lift]:
        """The first of the nudged twins, in the precision of the reference."""
        while len(self._nudged) < count:
            self._nudged.append(_nudged(self.reference, torch.Generator().manual_seed(len(self._nudged)), self._eps))
        return self._nudged[:count]

    def ask(self, lift: Lift, eager: Eager) -> Answer | None:
        """What the module or a twin answers; None where it has no answer."""
        try:
            if lift is self.lift or self.kind == "nudged":
                found = eager(lift, same)
            else:
                with _float64_by_default():
                    found = eager(lift, doubled)
        except Exception:  # whatever a module raises that is run in a precision that it was not made for
            return None
        return None if found is None else (dict(found[0]), as_arrays(found[1]))

    @property
    def _eps(self) -> float:
        dtypes = {weight.dtype for weight in self.lift.sited.eager.module.parameters() if weight.is_floating_point()}
        return float(torch.finfo(torch.float64 if dtypes == {torch.float64} else torch.float32).eps)


def doubled(tree: T) -> T:
    """The same, each tensor of floats in float64."""

    def double(leaf: object) -> object:
        return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    converted: T = pytree.tree_map(double, tree)
    return converted


def largest(array: NDArray[Any], axes: tuple[int, ...]) -> NDArray[np.float64]:
    """The largest absolute value along some axes; without them, one of each feature is left."""
    found: NDArray[np.float64] = np.abs(np.asarray(array, np.float64)).max(axis=axes, initial=0.0)
    return found


def _in_float64(lift: Lift) -> Lift | None:
    """A twin whose weights, tensors in attributes, examples and initial states are float64; None where it does not run in it."""
    module = lift.sited.eager.module
    if any(weight.dtype == torch.float64 for weight in module.parameters()):
        return None
    twin = _copied(lift)
    inner = twin.sited.eager.module = twin.sited.eager.module.double()
    for part in inner.modules():
        for name, value in own_values(part).items():  # `double()` changes weights and buffers only
            if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value)):
                setattr(part, name, doubled(value))
    twin.inputs = tuple(replace(spec, example=doubled(spec.example)) for spec in lift.inputs)
    twin.conditions = tuple(replace(spec, example=doubled(spec.example)) for spec in lift.conditions)
    twin.states = tuple(
        replace(slot, initial=doubled(slot.initial), dtype=torch.float64 if slot.dtype.is_floating_point else slot.dtype)
        for slot in lift.states
    )
    generator = torch.Generator().manual_seed(0)
    inputs = lift.sample(2, 2, generator)
    try:
        with _float64_by_default():
            outputs, following = twin.run(doubled(inputs), doubled(lift.initial_states(inputs)))
    except Exception:
        return None
    return twin if all(tensor.dtype != torch.float32 for tensor in (*outputs.values(), *following.values())) else None


def _nudged(lift: Lift, generator: torch.Generator, eps: float) -> Lift:
    """A twin whose weights are a few roundings off, each up or down."""
    twin = _copied(lift)
    module = twin.sited.eager.module

    def nudge(leaf: object) -> object:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            return leaf
        signs = torch.randint(2, leaf.shape, generator=generator).to(leaf.dtype) * 2 - 1
        return leaf * (1 + _NUDGE * eps * signs)

    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(nudge(weight))  # type: ignore[arg-type]
    for part in module.modules():
        for name, value in own_values(part).items():
            if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value)):
                setattr(part, name, pytree.tree_map(nudge, value))
    return twin


@contextmanager
def _float64_by_default() -> Iterator[None]:
    """Tensors that `forward` makes itself, such as zeros to begin with, are float64 too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _copied(lift: Lift) -> Lift:
    """The same lift on a module of its own."""
    twin = copy.copy(lift)
    twin.sited = copy.copy(lift.sited)
    twin.sited.eager = copy.copy(lift.sited.eager)
    twin.sited.eager.module = frozen_copy(lift.sited.eager.module)
    return twin
