"""What a module keeps from call to call: attributes and buffers that `forward` changes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rnnx._sites import Passage, Site, hooks, joined_path

_TORCHS_OWN: Final = frozenset(
    {*vars(nn.Module()), "_flat_weights", "_flat_weights_names", "_flat_weight_refs", "_all_weights"}
)


@dataclass(frozen=True)
class Attribute:
    """An attribute or buffer that `forward` changes: tensors, perhaps in tuples, lists and dicts.

    Attributes:
        path: of the submodule that has it.
        spec: its structure after a call.
        tensors: which of its leaves are tensors.
    """

    path: str
    name: str
    spec: pytree.TreeSpec
    tensors: tuple[int, ...]

    def get(self, module: nn.Module) -> list[Tensor] | None:
        """The tensors; None where it holds something else, such as None before the first call."""
        leaves, spec = pytree.tree_flatten(getattr(module.get_submodule(self.path), self.name, None))
        if spec != self.spec:
            return None
        found = [leaf for place in self.tensors if isinstance(leaf := leaves[place], Tensor)]
        return found if len(found) == len(self.tensors) else None

    def put(self, module: nn.Module, tensors: Sequence[Tensor], others: Sequence[Any]) -> None:
        leaves = list(others)
        for place, tensor in zip(self.tensors, tensors, strict=True):
            leaves[place] = tensor
        setattr(module.get_submodule(self.path), self.name, pytree.tree_unflatten(leaves, self.spec))


_ABSENT: Final = object()
Kept = tuple[Attribute, Sequence[Any]]  # with its leaves after a call, those that are no tensors


@final
class AttributeSite(Site):
    """State that the module keeps: attributes and buffers, each with its leaves after a call.

    What a call leaves there stays; who attaches the site puts it back where that is wanted.
    """

    looped = False
    what = "attribute"

    def __init__(self, kept: Sequence[Kept]) -> None:
        self._kept = tuple(kept)
        self.names = tuple(
            joined_path(joined_path(attribute.path, attribute.name), str(place))
            if len(attribute.tensors) > 1
            else joined_path(attribute.path, attribute.name)
            for attribute, _ in kept
            for place in range(len(attribute.tensors))
        )
        self.places = self.names

    @contextmanager
    def attach(self, module: nn.Module, states: Sequence[Tensor] | None) -> Iterator[Passage]:
        passage = Passage()
        for attribute, _ in self._kept:
            found = attribute.get(module)
            passage.given += [None for _ in attribute.tensors] if found is None else [t.clone() for t in found]
        if states is not None:
            waiting = iter(states)
            for attribute, leaves in self._kept:
                attribute.put(module, [next(waiting) for _ in attribute.tensors], leaves)
        with hooks(module, None, lambda *_: passage.following.extend(self._tensors(module))):
            yield passage
        passage.ended = passage.following

    def _tensors(self, module: nn.Module) -> list[Tensor]:
        return [tensor.clone() for attribute, _ in self._kept for tensor in attribute.get(module) or ()]


@contextmanager
def putting_back(module: nn.Module) -> Iterator[list[Kept]]:
    """Put back what calls in here change; the list is filled with what they changed, where it holds tensors."""
    before = _attributes(module)
    changed: list[Kept] = []
    try:
        yield changed
    finally:
        for path, part in module.named_modules():
            names = [*own_values(part), *(name for (where, name) in before if where == path)]
            for name in dict.fromkeys(names):
                kept = _changed(path, name, part, before)
                changed += [] if kept is None else [kept]
                _put_back(path, name, part, before)


def own_values(part: nn.Module) -> dict[str, Any]:
    """The attributes and buffers of one module that are its own, without what torch keeps there."""
    own = {name: value for name, value in vars(part).items() if not (name.startswith("_") and name in _TORCHS_OWN)}
    return own | dict(part._buffers)


def _attributes(module: nn.Module) -> dict[tuple[str, str], tuple[Any, list[Any], pytree.TreeSpec]]:
    """Every value of every module: itself, its leaves with the tensors copied, its structure."""
    found = {}
    for path, part in module.named_modules():
        for name, value in own_values(part).items():
            leaves, spec = pytree.tree_flatten(value)
            found[path, name] = (value, [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)
    return found


def _changed(path: str, name: str, part: nn.Module, before: Mapping[Any, Any]) -> Kept | None:
    """The attribute, where its tensors are others than before."""
    leaves, spec = pytree.tree_flatten(getattr(part, name, None))
    tensors = tuple(place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
    _, old, old_spec = before.get((path, name), (None, [], None))
    if not tensors or (spec == old_spec and all(_equal_leaves(leaves[place], old[place]) for place in tensors)):
        return None
    return Attribute(path, name, spec, tensors), [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]


def _put_back(path: str, name: str, part: nn.Module, before: Mapping[Any, Any]) -> None:
    if (path, name) not in before:
        if hasattr(part, name):
            delattr(part, name)
        return
    value, leaves, spec = before[path, name]
    now, now_spec = pytree.tree_flatten(getattr(part, name, _ABSENT))
    if now_spec == spec and all(map(_equal_leaves, now, leaves)):
        return
    if not isinstance(value, Tensor | tuple | list | dict | None):
        setattr(part, name, value)
        return
    setattr(part, name, pytree.tree_unflatten([leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec))


def _equal_leaves(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b))
    return a is b or (type(a) is type(b) and isinstance(a, int | float | str | bool) and a == b)
