"""The eager module: copied from the caller's, called, and watched.

Everything is compared with this. It is the caller's own code on torch's own layers; hooks read what its recurrent layers
are given and return, and can hand them another initial state, which lets a module be run from any state even where its
`forward` builds zeros.
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rnnx._errors import ExportError, LiftError


def kinds(layer: nn.RNNBase) -> tuple[str, ...]:
    """The kinds of state that a recurrent layer carries."""
    return ("h", "c") if isinstance(layer, nn.LSTM) else ("h",)


@dataclass(frozen=True)
class RecurrentCall:
    """One call of a recurrent layer. `hx` and `hn` hold one `(L, B, H)` tensor per kind; `hx` is None where none was given."""

    path: str
    x: Tensor
    hx: tuple[Tensor, ...] | None
    hn: tuple[Tensor, ...]


@dataclass(frozen=True)
class Run:
    """One call of the module: the tensors it returned, by name, and what its layers saw."""

    outputs: dict[str, Tensor]
    calls: tuple[RecurrentCall, ...]
    embedded: tuple[tuple[Tensor, int], ...]  # what embeddings were given, and their number of rows

    def call(self, path: str) -> RecurrentCall:
        return next(call for call in self.calls if call.path == path)


class Example:
    """The arguments that the module is called with: its tensors by name, and how to put others in their places."""

    def __init__(self, module: nn.Module, example: object) -> None:
        args: tuple[Any, ...]
        kwargs: dict[str, Any]
        if isinstance(example, Tensor):
            args, kwargs = (example,), {}
        elif isinstance(example, tuple):
            args, kwargs = example, {}
        elif isinstance(example, Mapping):
            args, kwargs = (), dict(example)
        else:
            raise ExportError(
                "the example is a tensor, a tuple of forward's arguments, or a mapping of its keyword arguments; "
                f"got {type(example).__name__}"
            )
        try:
            bound = inspect.signature(module.forward).bind(*args, **kwargs)
        except TypeError as error:
            raise ExportError(f"the example does not fit forward of {type(module).__name__}: {error}") from None
        # Both flattenings follow the order of the signature, so they name the same leaves.
        named = [(_path_name(path), leaf) for path, leaf in pytree.tree_flatten_with_path(dict(bound.arguments))[0]]
        self._leaves, self._spec = pytree.tree_flatten((bound.args, bound.kwargs))
        self._slots = [i for i, leaf in enumerate(self._leaves) if isinstance(leaf, Tensor)]
        self.tensors = {named[i][0]: _checked(named[i][0], named[i][1]) for i in self._slots}

    def arguments(self, tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments with these tensors in the places of the example's."""
        leaves = list(self._leaves)
        for slot, tensor in zip(self._slots, tensors, strict=True):
            leaves[slot] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return args, kwargs


def _checked(name: str, tensor: Tensor) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise ExportError(f"{name}: the example must be a plain dense tensor with values; got {tensor.layout}")
    return tensor.detach().cpu()


def _path_name(path: tuple[Any, ...]) -> str:
    """`hidden.0` for the first element of the argument `hidden`."""
    names = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
    return ".".join(names)


class EagerModule:
    """A private copy of the caller's module: on the CPU, in eval mode, without gradients."""

    def __init__(self, module: nn.Module) -> None:
        if not isinstance(module, nn.Module):
            raise ExportError(f"expected a torch.nn.Module, got {type(module).__name__}")
        self.name = type(module).__name__
        self.module = frozen_copy(module)
        self.layers = {path: layer for path, layer in self.module.named_modules() if isinstance(layer, nn.RNNBase)}

    def run(
        self,
        arguments: tuple[tuple[Any, ...], dict[str, Any]],
        hx: Mapping[str, tuple[Tensor, ...]] | None = None,
    ) -> Run:
        """Call the module, as it is or with its recurrent layers starting from `hx` (by path, `(L, B, H)` per kind)."""
        calls: list[RecurrentCall] = []
        embedded: list[tuple[Tensor, int]] = []
        handles = []
        for path, layer in self.layers.items():
            if hx is not None:
                handles.append(layer.register_forward_pre_hook(_replace_hx(hx[path]), with_kwargs=True))
            handles.append(layer.register_forward_hook(_record_call(path, calls), with_kwargs=True))
        embeddings = [module for module in self.module.modules() if isinstance(module, nn.Embedding)]
        handles += [embedding.register_forward_pre_hook(_record_embedding(embedded)) for embedding in embeddings]
        args, kwargs = arguments
        try:
            with torch.no_grad():
                returned = self.module(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        return Run(named_tensors(returned), tuple(calls), tuple(embedded))


def frozen_copy(module: nn.Module) -> nn.Module:
    """A copy on the CPU, in eval mode, that no gradient flows through. The caller's module is not touched."""
    try:
        copied = copy.deepcopy(module)
    except Exception as error:
        raise ExportError(f"the module cannot be copied: {error}") from error
    return copied.cpu().eval().requires_grad_(False)


def named_tensors(returned: object) -> dict[str, Tensor]:
    """The tensors that a module returned: "output" for a single one, else by position, key or field."""
    leaves = [(path, leaf) for path, leaf in pytree.tree_flatten_with_path(returned)[0] if isinstance(leaf, Tensor)]
    return {(f"output.{_path_name(path)}" if path else "output"): leaf for path, leaf in leaves}


def _replace_hx(hx: tuple[Tensor, ...]) -> Any:
    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x = args[0] if args else kwargs["input"]
        return (x, hx if isinstance(layer, nn.LSTM) else hx[0]), {}

    return hook


def _record_call(path: str, calls: list[RecurrentCall]) -> Any:
    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], returned: tuple[Any, Any]) -> None:
        x = args[0] if args else kwargs["input"]
        hx = args[1] if len(args) > 1 else kwargs.get("hx")
        if not isinstance(x, Tensor) or x.ndim != 3:
            what = f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise LiftError(f"{path or 'the module'}: a recurrent layer must be given a batch of sequences, got {what}")
        calls.append(RecurrentCall(path, x, _as_tuple(hx), _as_tuple(returned[1]) or ()))

    return hook


def _record_embedding(embedded: list[tuple[Tensor, int]]) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(module, nn.Embedding):
            embedded.append((args[0], module.num_embeddings))

    return hook


def _as_tuple(hx: Tensor | tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
    return None if hx is None else (hx,) if isinstance(hx, Tensor) else tuple(hx)
