"""Sites: the submodules through which state passes from step to step.

A site knows where the state stands among the arguments and results of its submodule, so that the lift can put another one
in and read the next one out. Two kinds of submodule are sites:

    layer   nn.RNN, nn.LSTM, nn.GRU: one call for the whole sequence, state `(L, B, H)` per kind
    cell    anything called once per step that is given what it returned the step before: nn.RNNCell, nn.LSTMCell,
            nn.GRUCell, or a class of the user's own
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Call:
    """One call of a submodule, as hooks saw it."""

    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    returned: Any


class Site(ABC):
    """A submodule that state passes through.

    Attributes:
        path: of the submodule, as `named_modules` has it.
        names: of its states, in the order in which `give` and `take` have them.
    """

    path: str
    names: tuple[str, ...]

    @abstractmethod
    def given(self, call: Call) -> list[Tensor | None]:
        """The states that a call was given; None for one that it was not."""

    @abstractmethod
    def give(self, args: tuple[Any, ...], kwargs: dict[str, Any], states: Sequence[Tensor]) -> Arguments:
        """The arguments of a call, with these states in place of its own."""

    @abstractmethod
    def take(self, returned: Any) -> list[Tensor]:
        """The next states, from what a call returned."""

    @abstractmethod
    def wholes(self, call: Call) -> list[tuple[Tensor, list[int]]]:
        """The state tensors that a call was given, as the caller wrote them, and which of the states each one holds."""

    @abstractmethod
    def final(self, returned: Any) -> list[Tensor]:
        """The state tensors in what a call returned, as the caller gets them."""

    @abstractmethod
    def steps(self, calls: Sequence[Call]) -> int:
        """How many steps a run of the whole module took here, from all calls of this submodule in it."""


def kinds(layer: nn.RNNBase) -> tuple[str, ...]:
    """The kinds of state that a recurrent layer carries."""
    return ("h", "c") if isinstance(layer, nn.LSTM) else ("h",)


@final
class LayerSite(Site):
    """`nn.RNN`, `nn.LSTM` or `nn.GRU`. Its states are one per layer and kind, `(1, B, H)`, ordered by layer, then kind."""

    def __init__(self, path: str, layer: nn.RNNBase) -> None:
        self.path = path
        self.layer = layer
        self._kinds = kinds(layer)
        self.names = tuple(_join(path, f"l{number}.{kind}") for number in range(layer.num_layers) for kind in self._kinds)

    def given(self, call: Call) -> list[Tensor | None]:
        hx = self._hx(call)
        return [None for _ in self.names] if hx is None else list(self._split(hx))

    def give(self, args: tuple[Any, ...], kwargs: dict[str, Any], states: Sequence[Tensor]) -> Arguments:
        x = args[0] if args else kwargs["input"]
        return (x, self.stack(states)), {}

    def take(self, returned: Any) -> list[Tensor]:
        return self._split(returned[1])

    def wholes(self, call: Call) -> list[tuple[Tensor, list[int]]]:
        hx = self._hx(call)
        count = len(self._kinds)
        return [] if hx is None else [(t, list(range(k, len(self.names), count))) for k, t in enumerate(_tuple(hx))]

    def final(self, returned: Any) -> list[Tensor]:
        return list(_tuple(returned[1]))

    def steps(self, calls: Sequence[Call]) -> int:
        return self.x(calls[0]).shape[1 if self.layer.batch_first else 0]

    def x(self, call: Call) -> Tensor:
        """The sequence that a call was given."""
        x: Tensor = call.args[0] if call.args else call.kwargs["input"]
        return x

    def stack(self, states: Sequence[Tensor]) -> Any:
        """The states as torch's layer takes them: `(L, B, H)`, a pair of them for an LSTM."""
        count = len(self._kinds)
        stacked = tuple(torch.cat(list(states[kind::count])) for kind in range(count))
        return stacked if count == 2 else stacked[0]

    def _hx(self, call: Call) -> Any:
        return call.args[1] if len(call.args) > 1 else call.kwargs.get("hx")

    def _split(self, hx: Any) -> list[Tensor]:
        return [tensor[number : number + 1] for number in range(self.layer.num_layers) for tensor in _tuple(hx)]


@final
class CellSite(Site):
    """A submodule called once per step. Its states are those of its arguments that it returned the step before.

    `edges` pairs a place among the flattened arguments with one among the flattened results; `spec` is the structure of the
    arguments where the states are given.
    """

    def __init__(self, path: str, edges: Sequence[tuple[int, int]], spec: pytree.TreeSpec) -> None:
        self.path = path
        self._edges = tuple(edges)
        self._spec = spec
        kinds = ("h", "c") if len(edges) <= 2 else tuple(f"s{place}" for place in range(len(edges)))
        self.names = tuple(_join(path, kind) for kind, _ in zip(kinds, edges, strict=False))

    def given(self, call: Call) -> list[Tensor | None]:
        leaves, spec = pytree.tree_flatten((call.args, call.kwargs))
        return [leaves[place] for place, _ in self._edges] if spec == self._spec else [None for _ in self._edges]

    def give(self, args: tuple[Any, ...], kwargs: dict[str, Any], states: Sequence[Tensor]) -> Arguments:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        places = dict(zip((place for place, _ in self._edges), states, strict=True))
        if spec == self._spec:
            others = iter([leaf for place, leaf in enumerate(leaves) if place not in places])
        else:  # the first call, which was given no state, or None in its place
            others = iter([leaf for leaf in leaves if leaf is not None])
        filled = [places[i] if i in places else next(others) for i in range(self._spec.num_leaves)]
        arguments: Arguments = pytree.tree_unflatten(filled, self._spec)
        return arguments

    def take(self, returned: Any) -> list[Tensor]:
        leaves = pytree.tree_leaves(returned)
        return [leaves[place] for _, place in self._edges]

    def wholes(self, call: Call) -> list[tuple[Tensor, list[int]]]:
        return [(state, [place]) for place, state in enumerate(self.given(call)) if state is not None]

    def final(self, returned: Any) -> list[Tensor]:
        return self.take(returned)

    def steps(self, calls: Sequence[Call]) -> int:
        return len(calls)


def find_cells(calls: Sequence[Call]) -> list[CellSite]:
    """The cells of a run: submodules whose argument is, at every call but the first, what their call before returned.

    Of nested submodules that hand on the same state the outermost is taken.
    """
    sites: list[CellSite] = []
    for path in dict.fromkeys(call.path for call in calls):
        if any(_inside(path, site.path) for site in sites):
            continue
        own = [call for call in calls if call.path == path]
        site = _cell(path, own)
        if site is not None:
            sites = [other for other in sites if not _inside(other.path, path)]
            sites.append(site)
    return sites


def _cell(path: str, calls: Sequence[Call]) -> CellSite | None:
    if len(calls) < 2:
        return None
    edges: set[tuple[int, int]] | None = None
    spec = None
    for before, call in itertools.pairwise(calls):
        leaves, found = pytree.tree_flatten((call.args, call.kwargs))
        returned = pytree.tree_leaves(before.returned)
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


def _tuple(hx: Any) -> tuple[Tensor, ...]:
    return tuple(hx) if isinstance(hx, tuple | list) else (hx,)


def _inside(path: str, outer: str) -> bool:
    return outer == "" or path.startswith(f"{outer}.")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
