"""Sites: the places where state enters and leaves a module, in one call of it.

A site is attached to a module for the time of one call. It can put a state in the place of the module's own, and it sees what
the module itself handed over there, and what the next state is:

    LayerSite       nn.RNN, nn.LSTM, nn.GRU: one call for the whole sequence, state `(L, B, H)` per kind
    CellSite        any submodule called once per step that is given what it returned the step before; and the module itself,
                    where its caller does that
    AttributeSite   attributes and buffers that `forward` changes
    LoopSite        a value of a Python loop, whatever computes it (`_loops.py`)
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

_PARTS: Final = "rnnx_parts"


@dataclass
class Passage:
    """What went through a site in one call of the module.

    Attributes:
        given: the states that the module itself handed over; None for one that it did not.
        following: the states that it ended with.
        steps: how many it took; None where the site cannot tell.
        handed: the state tensors as the module wrote them, and which of the states each one holds.
        ended: the state tensors as the module got them back.
    """

    given: list[Tensor | None] = field(default_factory=list)
    following: list[Tensor] = field(default_factory=list)
    steps: int | None = None
    handed: list[tuple[Tensor, list[int]]] = field(default_factory=list)
    ended: list[Tensor] = field(default_factory=list)

    @property
    def used(self) -> bool:
        """Whether the module came by here at all."""
        return bool(self.given)


class Site(ABC):
    """A place that state passes through.

    Attributes:
        names: of its states, in the order of everything that a passage holds.
        looped: whether it is passed once per step, by a loop in Python.
        what: what it is, in a word.
        places: where each of its states is: a path, an argument, an attribute, a variable.
    """

    names: tuple[str, ...]
    looped: bool
    what: str
    places: Sequence[str]

    @abstractmethod
    @contextmanager
    def attach(self, module: nn.Module, states: Sequence[Tensor] | None) -> Iterator[Passage]:
        """Watch one call of `module`; with states, it begins with them, else with its own."""


def kinds(layer: nn.RNNBase) -> tuple[str, ...]:
    """The kinds of state that a recurrent layer carries."""
    return ("h", "c") if isinstance(layer, nn.LSTM) else ("h",)


def stack(layer: nn.RNNBase, states: Sequence[Tensor]) -> Any:
    """States `(1, B, H)`, by layer, then kind, as torch's layer takes them: `(L, B, H)`, a pair of them for an LSTM.

    What was stacked is remembered by the tensor itself: a module that passes it on as it is costs the graph nothing.
    """
    count = len(kinds(layer))
    return join([states[kind::count] for kind in range(count)], as_tuple=count == 2)


def join(groups: Sequence[Sequence[Tensor]], *, as_tuple: bool) -> Any:
    """Each group joined along axis 0, and remembered; the only one, or a tuple of them."""
    joined = []
    for group in groups:
        whole = torch.cat(list(group))
        setattr(whole, _PARTS, list(group))
        joined.append(whole)
    return tuple(joined) if as_tuple else joined[0]


def split(layer: nn.RNNBase, hx: Any) -> list[Tensor]:
    """The other way round; of a layer in two directions, each state is `(2, B, H)`."""
    size = 2 if layer.bidirectional else 1
    wholes = [getattr(t, _PARTS, None) or torch.split(t, size) for t in _tuple(hx)]
    return [part for parts in zip(*wholes, strict=True) for part in parts]


def layer_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The sequence that a recurrent layer is called with."""
    return args[0] if args else kwargs["input"]


def layer_steps(layer: nn.RNNBase, x: Tensor) -> int:
    """How many steps of a sequence a layer takes."""
    steps: int = x.shape[1 if layer.batch_first else 0]  # not made an int: while torch traces, that would fix the length
    return steps


@final
class LayerSite(Site):
    """`nn.RNN`, `nn.LSTM` or `nn.GRU`. Its states are one per layer and kind, `(1, B, H)`, ordered by layer, then kind.

    Args:
        path: of the layer, as `named_modules` has it.
        number: which of its calls is meant, from 0.
        name: what the states are called after; the path where the layer is called once.
    """

    looped = False
    what = "layer"

    def __init__(self, path: str, layer: nn.RNNBase, number: int = 0, name: str | None = None) -> None:
        self.path, self._number, self._kinds = path, number, kinds(layer)
        front = path if name is None else name
        self.names = tuple(_join(front, f"l{place}.{kind}") for place in range(layer.num_layers) for kind in self._kinds)
        self.places = [path or "of the module" for _ in self.names]

    @contextmanager
    def attach(self, module: nn.Module, states: Sequence[Tensor] | None) -> Iterator[Passage]:
        layer = module.get_submodule(self.path)
        assert isinstance(layer, nn.RNNBase)
        passage, calls = Passage(), itertools.count()
        open_call = [-1]

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
            open_call[0] = next(calls)
            if open_call[0] != self._number:
                return None
            x, hx = layer_input(args, kwargs), args[1] if len(args) > 1 else kwargs.get("hx")
            passage.given = [None for _ in self.names] if hx is None else [t.clone() for t in split(layer, hx)]
            passage.handed = [] if hx is None else self._wholes(hx)
            passage.steps = layer_steps(layer, x)
            return None if states is None else ((x, stack(layer, states)), {})

        def after(_: nn.Module, args: tuple[Any, ...], returned: Any) -> None:
            if open_call[0] == self._number:
                passage.following = [t.clone() for t in split(layer, returned[1])]
                passage.ended = [t.clone() for t in _tuple(returned[1])]

        with _hooks(layer, before, after):
            yield passage

    def _wholes(self, hx: Any) -> list[tuple[Tensor, list[int]]]:
        count = len(self._kinds)
        return [(t.clone(), list(range(k, len(self.names), count))) for k, t in enumerate(_tuple(hx))]


@final
class CellSite(Site):
    """A submodule whose states are those of its arguments that it returned the call before.

    Args:
        path: of the submodule; "" for the module itself.
        edges: pairs of a place among the flattened arguments and one among the flattened results.
        spec: the structure of the arguments where the states are given.
        names: of the states; after the path by default.
        looped: whether it is called once per step.
    """

    def __init__(
        self,
        path: str,
        edges: Sequence[tuple[int, int]],
        spec: pytree.TreeSpec,
        *,
        names: Sequence[str] = (),
        looped: bool = True,
    ) -> None:
        self.path, self.looped = path, looped
        self._edges, self._spec = tuple(edges), spec
        kinds = ("h", "c") if len(edges) <= 2 else tuple(f"s{place}" for place in range(len(edges)))
        self.names = tuple(names) or tuple(_join(path, kind) for kind, _ in zip(kinds, edges, strict=False))
        self.what = "argument" if names else "cell"
        self.places = self.names if names else [path for _ in self.names]

    @contextmanager
    def attach(self, module: nn.Module, states: Sequence[Tensor] | None) -> Iterator[Passage]:
        passage, waiting = Passage(), [states]

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
            if not waiting:
                return None  # the module's own flow goes on
            passage.given = self._given(args, kwargs)
            passage.handed = [(state, [place]) for place, state in enumerate(passage.given) if state is not None]
            first = waiting.pop()
            return None if first is None else self._give(args, kwargs, first)

        def after(_: nn.Module, args: tuple[Any, ...], returned: Any) -> None:
            leaves = pytree.tree_leaves(as_tree(returned))
            passage.following = passage.ended = [leaves[place].clone() for _, place in self._edges]
            if self.looped:
                passage.steps = (passage.steps or 0) + 1

        with _hooks(module.get_submodule(self.path), before, after):
            yield passage

    def _given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor | None]:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        given = [leaves[place] for place, _ in self._edges] if spec == self._spec else [None for _ in self._edges]
        return [state.clone() if isinstance(state, Tensor) else None for state in given]

    def _give(self, args: tuple[Any, ...], kwargs: dict[str, Any], states: Sequence[Tensor]) -> Arguments:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        places = dict(zip((place for place, _ in self._edges), states, strict=True))
        if spec == self._spec:
            others = iter([leaf for place, leaf in enumerate(leaves) if place not in places])
        else:  # the first call, which was given no state, or None in its place
            others = iter([leaf for leaf in leaves if leaf is not None])
        filled = [places[i] if i in places else next(others) for i in range(self._spec.num_leaves)]
        arguments: Arguments = pytree.tree_unflatten(filled, self._spec)
        return arguments


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
        leaves, spec = pytree.tree_flatten(getattr(module.get_submodule(self.path), self.name))
        if spec != self.spec:
            return None
        found = [leaf for place in self.tensors if isinstance(leaf := leaves[place], Tensor)]
        return found if len(found) == len(self.tensors) else None

    def put(self, module: nn.Module, tensors: Sequence[Tensor], others: Sequence[Any]) -> None:
        leaves = list(others)
        for place, tensor in zip(self.tensors, tensors, strict=True):
            leaves[place] = tensor
        setattr(module.get_submodule(self.path), self.name, pytree.tree_unflatten(leaves, self.spec))


@final
class AttributeSite(Site):
    """State that the module keeps: attributes and buffers, each with its leaves after a call."""

    looped = False
    what = "attribute"

    def __init__(self, kept: Sequence[tuple[Attribute, Sequence[Any]]]) -> None:
        self._kept = tuple(kept)
        self.names = tuple(
            _join(_join(attribute.path, attribute.name), str(place))
            if len(attribute.tensors) > 1
            else _join(attribute.path, attribute.name)
            for attribute, _ in kept
            for place in range(len(attribute.tensors))
        )
        self.places = self.names

    @contextmanager
    def attach(self, module: nn.Module, states: Sequence[Tensor] | None) -> Iterator[Passage]:
        passage = Passage()
        before = [getattr(module.get_submodule(a.path), a.name) for a, _ in self._kept]
        for attribute, _ in self._kept:
            found = attribute.get(module)
            passage.given += [None for _ in attribute.tensors] if found is None else [t.clone() for t in found]
        if states is not None:
            waiting = iter(states)
            for attribute, leaves in self._kept:
                attribute.put(module, [next(waiting).clone() for _ in attribute.tensors], leaves)
        try:
            with _hooks(module, None, lambda *_: passage.following.extend(self._tensors(module))):
                yield passage
        finally:
            for (attribute, _), value in zip(self._kept, before, strict=True):
                setattr(module.get_submodule(attribute.path), attribute.name, value)
        passage.ended = passage.following

    def _tensors(self, module: nn.Module) -> list[Tensor]:
        return [tensor.clone() for attribute, _ in self._kept for tensor in attribute.get(module) or ()]


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


def as_tree(value: Any) -> Any:
    """What a module returned, with dataclasses and mappings of other types as dicts, which is what torch's trees know."""
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: as_tree(inner) for key, inner in value.items()}
    if type(value) in (tuple, list):
        return type(value)(as_tree(inner) for inner in value)
    return value


@contextmanager
def _hooks(module: nn.Module, before: Any, after: Any) -> Iterator[None]:
    handles = [] if before is None else [module.register_forward_pre_hook(aside(before), with_kwargs=True)]
    handles.append(module.register_forward_hook(aside(after)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


_aside: ContextVar[bool] = ContextVar("aside", default=False)


def aside(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook of our own: what it computes is none of the module's operations."""

    def watched(*args: Any) -> Any:
        token = _aside.set(True)
        try:
            return hook(*args)
        finally:
            _aside.reset(token)

    return watched


def is_aside() -> bool:
    """Whether a hook of our own computes now."""
    return _aside.get()


def _tuple(hx: Any) -> tuple[Tensor, ...]:
    return tuple(hx) if isinstance(hx, tuple | list) else (hx,)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
