"""Cells: found by watching which submodule is given, at every call, what it returned at the call before."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from rnnx._sites import CellSite, as_tree


@dataclass(frozen=True)
class Call:
    """One call of a submodule, as hooks saw it."""

    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    returned: Any


def find_cells(calls: Sequence[Call]) -> list[CellSite]:
    """The cells of a run: submodules whose argument is, at every call but the first, what their call before returned.

    Of nested submodules that hand on the same state the outermost is taken.
    """
    sites: list[CellSite] = []
    for path in dict.fromkeys(call.path for call in calls):
        if any(is_inside(path, site.path) for site in sites):
            continue
        own = [call for call in calls if call.path == path]
        site = _cell(path, own)
        if site is not None:
            sites = [other for other in sites if not is_inside(other.path, path)]
            sites.append(site)
    return sites


def is_inside(path: str, outer: str) -> bool:
    """Whether a submodule is a part of another one."""
    return outer == "" or path.startswith(f"{outer}.")


def _cell(path: str, calls: Sequence[Call]) -> CellSite | None:
    if len(calls) < 2:
        return None
    edges: set[tuple[int, int]] | None = None
    spec = None
    for before, call in itertools.pairwise(calls):
        leaves, found = pytree.tree_flatten((call.args, call.kwargs))
        returned = pytree.tree_leaves(as_tree(before.returned))
        pairs = {(i, j) for i, leaf in enumerate(leaves) for j, result in enumerate(returned) if is_same(leaf, result)}
        if spec is not None and found != spec:
            return None
        spec, edges = found, pairs if edges is None else edges & pairs
    if not edges or spec is None:
        return None
    first = dict(sorted(edges, reverse=True))  # one result for each argument
    return CellSite(path, sorted(first.items()), spec)


def is_same(a: object, b: object) -> bool:
    """Whether two values are one tensor: the same memory, whole and in the same order."""
    return (
        isinstance(a, Tensor)
        and isinstance(b, Tensor)
        and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
        and a.storage_offset() == b.storage_offset()
        and a.numel() == b.numel() > 0
        and a.is_contiguous()
        and b.is_contiguous()
    )
