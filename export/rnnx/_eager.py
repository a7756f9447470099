"""The eager module: copied from the caller's, called, and watched.

Everything is compared with this. It is the caller's own code on torch's own layers; hooks read what its sites are given and
return, and can hand them another state to begin with, which lets a module be run from any state even where its `forward`
builds zeros.
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rnnx._errors import ExportError
from rnnx._sites import Arguments, Call, Site


@dataclass(frozen=True)
class Run:
    """One call of the module: the tensors it returned, by name, and what was watched on the way."""

    outputs: dict[str, Tensor]
    calls: tuple[Call, ...]
    embedded: tuple[tuple[Tensor, int], ...]  # what embeddings were given, and their number of rows

    def of(self, path: str) -> list[Call]:
        """The calls of one submodule."""
        return [call for call in self.calls if call.path == path]


class Example:
    """The arguments that the module is called with: its tensors by name, and how to put others in their places."""

    def __init__(self, module: nn.Module, example: object) -> None:
        args: tuple[Any, ...] = (example,) if isinstance(example, Tensor) else example if isinstance(example, tuple) else ()
        kwargs = dict(example) if isinstance(example, Mapping) else {}
        if not isinstance(example, Tensor | tuple | Mapping):
            raise ExportError(
                "the example is a tensor, a tuple of forward's arguments, or a mapping of its keyword arguments; "
                f"got {type(example).__name__}"
            )
        try:
            bound = inspect.signature(module.forward).bind(*args, **kwargs)
        except TypeError as error:
            raise ExportError(f"the example does not fit forward of {type(module).__name__}: {error}") from None
        # Both flattenings follow the order of the signature, so they name the same leaves.
        named = [(path_name(path), leaf) for path, leaf in pytree.tree_flatten_with_path(dict(bound.arguments))[0]]
        self._leaves, self._spec = pytree.tree_flatten((bound.args, bound.kwargs))
        self._slots = [i for i, leaf in enumerate(self._leaves) if isinstance(leaf, Tensor)]
        self.tensors = {named[i][0]: _checked(named[i][0], named[i][1]) for i in self._slots}
        if not self.tensors:
            raise ExportError("the example holds no tensor; give what forward is called with")

    def arguments(self, tensors: Sequence[Tensor]) -> Arguments:
        """Positional and keyword arguments with these tensors in the places of the example's."""
        leaves = list(self._leaves)
        for slot, tensor in zip(self._slots, tensors, strict=True):
            leaves[slot] = tensor.clone()  # forward may change what it is given
        arguments: Arguments = pytree.tree_unflatten(leaves, self._spec)
        return arguments


class EagerModule:
    """A private copy of the caller's module: on the CPU, in eval mode, without gradients."""

    def __init__(self, module: nn.Module) -> None:
        if not isinstance(module, nn.Module):
            raise ExportError(f"expected a torch.nn.Module, got {type(module).__name__}")
        if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
            raise ExportError(f"{type(module).__name__} is, or holds, TorchScript; export the module it was made from")
        self.name = type(module).__name__
        self.module = frozen_copy(module)

    def layers(self) -> dict[str, nn.RNNBase]:
        """The recurrent layers, by path."""
        return {path: layer for path, layer in self.module.named_modules() if isinstance(layer, nn.RNNBase)}

    def run(
        self,
        arguments: Arguments,
        sites: Sequence[Site] = (),
        states: Sequence[Tensor] | None = None,
        watch: Sequence[str] = (),
    ) -> Run:
        """Call the module, as it is or from given states.

        Args:
            arguments: positional and keyword.
            sites: whose calls are recorded, with copies of what they were given and returned.
            states: what the sites begin with, in their order; None leaves them what `forward` gives them.
            watch: paths of submodules whose calls are recorded with the very tensors, to see which are one.
        """
        calls: list[Call] = []
        embedded: list[tuple[Tensor, int]] = []
        modules = dict(self.module.named_modules())
        handles = []
        pending = list(states or ())
        for site in sites:
            if states is not None:
                given, pending = pending[: len(site.names)], pending[len(site.names) :]
                handles.append(modules[site.path].register_forward_pre_hook(_give_once(site, given), with_kwargs=True))
        kept: dict[str, list[Arguments]] = {}
        for site in sites:
            handles.append(modules[site.path].register_forward_pre_hook(_keep_arguments(site.path, kept), with_kwargs=True))
            handles.append(modules[site.path].register_forward_hook(_record_kept(site.path, calls, kept)))
        handles += [modules[path].register_forward_hook(_record(path, calls), with_kwargs=True) for path in watch]
        embeddings = [module for module in modules.values() if isinstance(module, nn.Embedding)]
        handles += [e.register_forward_pre_hook(_record_embedding(embedded), with_kwargs=True) for e in embeddings]
        try:
            with torch.no_grad():
                returned = self.module(*arguments[0], **arguments[1])
        finally:
            for handle in handles:
                handle.remove()
        return Run(named_tensors(returned), tuple(calls), tuple(embedded))


def frozen_copy(module: nn.Module) -> nn.Module:
    """A copy on the CPU, in eval mode, that no gradient flows through. The caller's module is not touched.

    Raises:
        ExportError: it cannot be copied.
    """
    # Tensors that training left on a module are no leaves of autograd's graph, and deepcopy refuses those.
    left = [value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    try:
        copied = copy.deepcopy(module, {id(value): value.detach().clone() for value in left if not value.is_leaf})
    except Exception as error:
        raise ExportError(f"{type(module).__name__} cannot be copied: {first_line(error)}") from error
    copied.cpu()
    copied.eval()
    copied.requires_grad_(False)
    return copied


def first_line(error: BaseException) -> str:
    """What an error of torch says, without the pages behind it."""
    return str(error).strip().split("\n", 1)[0]


def named_tensors(returned: object) -> dict[str, Tensor]:
    """The tensors that a module returned: "output" for a single one, else by position, key or field."""
    leaves = [(path, leaf) for path, leaf in pytree.tree_flatten_with_path(returned)[0] if isinstance(leaf, Tensor)]
    named = {(f"output.{path_name(path)}" if path else "output"): leaf for path, leaf in leaves}
    if len(named) != len(leaves):
        raise ExportError(f"two outputs would have one name among {sorted(named)}; rename a key of what forward returns")
    return named


def path_name(path: tuple[Any, ...]) -> str:
    """`hidden.0` for the first element of the argument `hidden`."""
    return ".".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path)


def _checked(name: str, tensor: Tensor) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise ExportError(f"{name}: the example must be a plain dense tensor with values; got {tensor.layout}")
    if tensor.dtype not in (torch.float32, torch.int32, torch.int64, torch.bool):
        raise ExportError(f"{name} is {tensor.dtype}; an artifact takes float32, int32, int64 or bool: convert the example")
    if 0 in tensor.shape:
        raise ExportError(f"{name}: the example has the shape {tuple(tensor.shape)}; give at least one row and one step")
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _give_once(site: Site, states: Sequence[Tensor]) -> Any:
    """A hook that hands the states to the first call; at the later calls of a cell the module's own flow goes on."""
    waiting = [states]

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        return site.give(args, kwargs, waiting.pop()) if waiting else None

    return hook


def _record(path: str, calls: list[Call]) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], returned: Any) -> None:
        calls.append(Call(path, args, kwargs, returned))

    return hook


def _keep_arguments(path: str, kept: dict[str, list[Arguments]]) -> Any:
    """A hook that keeps what a submodule is given as it is then: forward may change it later."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept.setdefault(path, []).append(_cloned((args, kwargs)))

    return hook


def _record_kept(path: str, calls: list[Call], kept: dict[str, list[Arguments]]) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], returned: Any) -> None:
        arguments = kept[path].pop()
        calls.append(Call(path, arguments[0], arguments[1], _cloned(returned)))

    return hook


def _cloned(tree: Any) -> Any:
    return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, tree)


def _record_embedding(embedded: list[tuple[Tensor, int]]) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs.get("input")
        if isinstance(module, nn.Embedding) and isinstance(given, Tensor):
            embedded.append((given.clone(), module.num_embeddings))

    return hook
