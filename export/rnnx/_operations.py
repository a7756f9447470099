"""Every operation of one call of a module, heard in order."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from rnnx._sites import Arguments, is_aside

Place = tuple[int, int]  # of an operation in a list or a round, and of a tensor among its flattened arguments or results

_TORCH: Final = str(Path(torch.__file__).parent)  # whose frames hold what they were called with


@dataclass
class Operation:
    """One operation of a call.

    Attributes:
        arguments: where each of its tensor arguments was made, by place; None outside of any operation.
        results: its tensors.
        holders: names of the variables that each of its arguments was found in, by place.
    """

    name: str
    arguments: dict[int, Place | None]
    results: list[Tensor]
    holders: dict[int, str] = field(default_factory=dict)


class Listener(TorchFunctionMode):
    """Hears every operation of a module's forward, in order; a recurrent layer is one operation, whatever it consists of."""

    def __init__(
        self, module: nn.Module, heard: Callable[[str, Arguments], Arguments], done: Callable[[str, Arguments, Any], None]
    ) -> None:
        super().__init__()
        self._heard, self._done, self._module = heard, done, module
        self._inside = 1  # of what is not to be heard; `forward` itself makes it 0
        self._layers = [layer for layer in module.modules() if isinstance(layer, nn.RNNBase)]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if self._inside or is_aside() or name in ("__get__", "size", "dim"):
            return func(*args, **kwargs)
        args, kwargs = self._heard(name, (args, kwargs))
        returned = func(*args, **kwargs)
        self._done(name, (args, kwargs), args[0] if name == "__setitem__" else returned)
        return returned

    @contextmanager
    def listening(self) -> Iterator[None]:
        def before(layer: nn.Module, args: Any, kwargs: Any) -> Arguments:
            self._inside += 1
            return self._heard(type(layer).__name__, (args, kwargs))

        def begin(_: nn.Module, args: Any) -> None:
            self._inside = 0

        def end(_: nn.Module, args: Any, returned: Any) -> None:
            self._inside = 1

        def after(layer: nn.Module, args: Any, kwargs: Any, returned: Any) -> None:
            self._inside -= 1
            self._done(type(layer).__name__, (args, kwargs), returned)

        with ExitStack() as stack:
            stack.callback(self._module.register_forward_pre_hook(begin).remove)
            stack.callback(self._module.register_forward_hook(end).remove)
            for layer in self._layers:
                stack.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(layer.register_forward_hook(after, with_kwargs=True).remove)
            stack.enter_context(self)
            yield


def counts(returned: Any) -> bool:
    """Whether an operation is one to be counted: sizes are numbers in one way of running a module, tensors in another."""
    tensors = [leaf for leaf in pytree.tree_leaves(returned) if isinstance(leaf, Tensor)]
    return any(t.ndim or t.is_floating_point() for t in tensors)


@contextmanager
def listing(module: nn.Module) -> Iterator[list[Operation]]:
    """Write down the operations of one call."""
    operations: list[Operation] = []
    made: dict[int, Place] = {}
    alive: list[Any] = []  # an id stands for a tensor only as long as that lives
    paths = {id(part): path for path, part in module.named_modules()}
    holders: dict[int, str] = {}

    def heard(name: str, arguments: Arguments) -> Arguments:
        holders.clear()
        for place, leaf in enumerate(pytree.tree_leaves(arguments)):
            if isinstance(leaf, Tensor) and id(leaf) in made:
                holders[place] = _holder(leaf, paths)
        return arguments

    def done(name: str, arguments: Arguments, returned: Any) -> None:
        alive.extend((arguments, returned))
        leaves = pytree.tree_leaves(arguments)
        found = {place: made.get(id(leaf)) for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
        if not counts(returned):
            return
        results = [leaf for leaf in pytree.tree_leaves(returned) if isinstance(leaf, Tensor)]
        for place, tensor in enumerate(results):
            made[id(tensor)] = (len(operations), place)
        operations.append(Operation(name, found, results, dict(holders)))

    with Listener(module, heard, done).listening():
        yield operations


@contextmanager
def counting(module: nn.Module) -> Iterator[list[int]]:
    """Count the operations of one call: the first of the list."""
    count = [0]

    def done(name: str, arguments: Arguments, returned: Any) -> None:
        count[0] += counts(returned)

    with Listener(module, lambda _, arguments: arguments, done).listening():
        yield count


def _holder(tensor: Tensor, paths: Mapping[int, str]) -> str:
    """The variable of a `forward` that holds a tensor now, such as `h` or `rnn.state.0`; empty where none does."""
    frame: FrameType | None = sys._getframe(2)
    found = ""
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in paths and not frame.f_code.co_filename.startswith(_TORCH):
            direct = {name: value for name, value in frame.f_locals.items() if isinstance(value, Tensor)}
            nested = [_elements(name, value) for name, value in frame.f_locals.items()]
            held = next((name for part in (direct, *nested) for name, value in part.items() if value is tensor), None)
            if held is not None:
                found = f"{paths[id(owner)]}.{held}".removeprefix(".")
        frame = frame.f_back
    return found  # of the outermost, whose loop it is


def _elements(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, list | tuple) and len(value) < 20:
        return {f"{name}.{place}": element for place, element in enumerate(value)}
    return {}
