"""States that the caller hands over in arguments, where a site takes them as they are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from rnnx._eager import Run
from rnnx._sites import Passage, Site, join


@dataclass(frozen=True)
class StateArgument:
    """A state that the caller hands over: the states of these slots, joined along axis 0, in the argument's shape.

    `returned` is the output that hands the next one back; None where the module does not return it.
    """

    slots: tuple[int, ...]
    shape: tuple[int, ...] | None  # -1 for the batch; None where joining is all there is to do
    returned: str | None

    def of(self, states: Sequence[Tensor]) -> Tensor:
        joined: Tensor = join([[states[slot] for slot in self.slots]], as_tuple=False)
        return joined if self.shape is None else joined.reshape(self.shape)


@final
class HandedOver:
    """Which arguments are states as the sites take them, and which outputs hand the next ones back: those of equal values.

    Attributes:
        arguments: the states by the name of the argument.
        outputs: those that are nothing but final states.
        stray: the sites that are given an argument in another way, which one, and why that will not do.
    """

    def __init__(self, sites: Sequence[Site], run: Run, tensors: Mapping[str, Tensor]) -> None:
        """`run` is on random `tensors`, by the name of the argument."""
        self.arguments: dict[str, StateArgument] = {}
        self.outputs: set[str] = set()
        self.stray: dict[Site, tuple[str, str]] = {}
        offset = 0
        for site, passage in zip(sites, run.passages, strict=True):
            found, reason = self._arguments_of(site, passage, offset, tensors, run.outputs)
            if reason is None:
                self.arguments |= found
                self.outputs |= {a.returned for a in found.values() if a.returned is not None}
            else:
                self.stray[site] = reason
            self.outputs |= {
                n for n, t in run.outputs.items() if any(_equal_as(t, final, final.shape) for final in passage.ended)
            }
            offset += len(site.names)

    def _arguments_of(
        self, site: Site, passage: Passage, offset: int, tensors: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
    ) -> tuple[dict[str, StateArgument], tuple[str, str] | None]:
        """The arguments that a site is given as they are, or why it is not."""
        found: dict[str, StateArgument] = {}
        explicit: set[int] = set()
        for place, (whole, slots) in enumerate(passage.handed):
            for name, tensor in tensors.items():
                if not tensor.is_floating_point() or tensor.numel() != whole.numel():
                    continue
                if not torch.equal(tensor.reshape(whole.shape), whole):
                    continue
                if name in self.arguments:
                    return {}, (name, f"{name}: two recurrent layers begin with this one state; give each a state of its own")
                final = passage.ended[place]
                returned = next((n for n, t in outputs.items() if _equal_as(t, final, tensor.shape)), None)
                if returned is None and any(t.shape == tensor.shape for t in outputs.values()):
                    reason = (
                        f"{name}: the state that forward returns is not what {site.names[0]} ended with; return it as it is"
                    )
                    return {}, (name, reason)
                shape = _argument_shape(tensor, whole)
                if shape == ():
                    reason = (
                        f"{name}: a state has the shape (layers, batch, hidden) or (batch, hidden), got {tuple(tensor.shape)}"
                    )
                    return {}, (name, reason)
                found[name] = StateArgument(tuple(offset + slot for slot in slots), shape, returned)
                explicit |= set(slots)
        if explicit and explicit != set(range(len(site.names))):
            kept = [name for slot, name in enumerate(site.names) if slot not in explicit]
            name = next(iter(found))
            return {}, (name, f"{site.names[0]}: some of its states are arguments, but {kept} are not; pass all or none")
        return found, None


def _equal_as(tensor: Tensor, final: Tensor, shape: Sequence[int]) -> bool:
    """Whether a returned tensor is a final state, in its own shape or in that of the argument it belongs to."""
    return (
        tuple(tensor.shape) == tuple(shape)
        and tensor.numel() == final.numel()
        and torch.equal(tensor.reshape(final.shape), final)
    )


def _argument_shape(argument: Tensor, whole: Tensor) -> tuple[int, ...] | None:
    """The shape of an argument that is a view of what a site is given, `(..., B, H)`, with -1 for the batch; () if it is not."""
    if argument.shape == whole.shape:
        return None
    front = math.prod(whole.shape[:-2])
    for axis, size in enumerate(argument.shape):
        if size == whole.shape[-2] and math.prod(argument.shape[:axis]) == front:
            return (*argument.shape[:axis], -1, *argument.shape[axis + 1 :])
    return ()
