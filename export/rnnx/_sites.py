"""Sites: the places where state enters and leaves a module, in one call of it.

A site is attached to a module for the time of one call. It can put a state in the place of the module's own, and it sees what
the module itself handed over there, and what the next state is:

    LayerSite       nn.RNN, nn.LSTM, nn.GRU: one call for the whole sequence, state `(L, B, H)` per kind
    CellSite        any submodule called once per step that is given what it returned the step before
    ArgumentSite    arguments of the module itself, and the results that its caller gives back to it
    AttributeSite   attributes and buffers that `forward` changes (`_attributes.py`)
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
        setattr(whole, _PARTS, (whole._version, list(group)))
        joined.append(whole)
    return tuple(joined) if as_tuple else joined[0]


def split(layer: nn.RNNBase, hx: Any) -> list[Tensor]:
    """The other way round; of a layer in two directions, each state is `(2, B, H)`."""
    size = 2 if layer.bidirectional else 1
    wholes = [_parts(t) or torch.split(t, size) for t in _tuple(hx)]
    return [part for parts in zip(*wholes, strict=True) for part in parts]


def is_joined(tensor: Tensor) -> bool:
    """Whether a tensor remembers what it was joined from."""
    return hasattr(tensor, _PARTS)


def _parts(tensor: Tensor) -> list[Tensor] | None:
    """What a tensor was joined from; None where it was not, or was changed since."""
    version, parts = getattr(tensor, _PARTS, (None, None))
    return parts if version == tensor._version else None


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
        self.names = tuple(joined_path(front, f"l{place}.{kind}") for place in range(layer.num_layers) for kind in self._kinds)
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

        with hooks(layer, before, after):
            yield passage

    def _wholes(self, hx: Any) -> list[tuple[Tensor, list[int]]]:
        count = len(self._kinds)
        return [(t.clone(), list(range(k, len(self.names), count))) for k, t in enumerate(_tuple(hx))]


class _CalledSite(Site):
    """A submodule that takes states among its arguments, and hands the next ones back among its results.

    Args:
        path: of the submodule; "" for the module itself.
        edges: pairs of a place among the flattened arguments and one among the flattened results.
        spec: the structure of the arguments where the states are given.
    """

    def __init__(self, path: str, edges: Sequence[tuple[int, int]], spec: pytree.TreeSpec) -> None:
        self.path, self._edges, self._spec = path, tuple(edges), spec

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

        with hooks(module.get_submodule(self.path), before, after):
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


@final
class CellSite(_CalledSite):
    """A submodule called once per step, whose states are those of its arguments that it returned the call before."""

    looped = True
    what = "cell"

    def __init__(self, path: str, edges: Sequence[tuple[int, int]], spec: pytree.TreeSpec) -> None:
        super().__init__(path, edges, spec)
        kinds = ("h", "c") if len(edges) <= 2 else tuple(f"s{place}" for place in range(len(edges)))
        self.names = tuple(joined_path(path, kind) for kind, _ in zip(kinds, edges, strict=False))
        self.places = [path for _ in self.names]


@final
class ArgumentSite(_CalledSite):
    """Arguments of a module, and the results that hand the next states back: of the whole, or of one that takes a step.

    Args:
        names: of the arguments.
        path: of the module that takes one step; "" for the whole.
    """

    what = "argument"

    def __init__(self, edges: Sequence[tuple[int, int]], spec: pytree.TreeSpec, names: Sequence[str], path: str = "") -> None:
        super().__init__(path, edges, spec)
        self.names = tuple(names)
        self.places = self.names
        self.looped = path != ""


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
def hooks(module: nn.Module, before: Any, after: Any) -> Iterator[None]:
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


def joined_path(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
