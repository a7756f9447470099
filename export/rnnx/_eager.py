"""The eager module: copied from the caller's, called, and watched.

Everything is compared with this. It is the caller's own code on torch's own layers; its sites say what state passes through
it, and can hand it another one to begin with, which lets a module be run from any state even where its `forward` builds zeros.
"""

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from rnnx._attributes import Kept, own_values, putting_back
from rnnx._cells import Call
from rnnx._errors import ExportError
from rnnx._packing import PackingListener
from rnnx._sites import Arguments, Passage, Site, as_tree, aside, is_joined, layer_input, layer_steps

DTYPES = (torch.float32, torch.float64, torch.int32, torch.int64, torch.bool)


@dataclass(frozen=True)
class Run:
    """One call of the module.

    Attributes:
        outputs: the tensors that it returned, by name.
        places: of the outputs among the leaves of what it returned.
        passages: what went through the sites, in their order.
        calls: of the submodules that were watched.
        embedded: what embeddings were given, and their number of rows.
        layer_steps: how many steps each call of a recurrent layer took, of a packed batch those of the padded one.
        lengths: what padded batches were packed by.
    """

    outputs: dict[str, Tensor]
    places: dict[str, int]
    passages: tuple[Passage, ...]
    calls: tuple[Call, ...]
    embedded: tuple[tuple[Tensor, int], ...]
    layer_steps: tuple[int, ...]
    lengths: tuple[Tensor, ...]

    @property
    def given(self) -> list[Tensor | None]:
        """The states that it began with, as `forward` passed them; None where it passed none."""
        return [state for passage in self.passages for state in passage.given]

    @property
    def following(self) -> list[Tensor]:
        """The states that it ended with."""
        return [state for passage in self.passages for state in passage.following]


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Example:
    """The arguments that the module is called with: its tensors by name, and how to put others in their places.

    Attributes:
        places: of the tensors among the flattened arguments.
        not_given: parameters of `forward` that the example leaves out.
    """

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
        arguments: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            keywords = bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            arguments |= value if keywords else {name: value}
        named = [(path_name(path), leaf) for path, leaf in pytree.tree_flatten_with_path(arguments)[0]]
        self.leaves, self.spec = pytree.tree_flatten((bound.args, bound.kwargs))
        slots = [i for i, leaf in enumerate(self.leaves) if isinstance(leaf, Tensor)]
        self.places = {named[i][0]: i for i in slots}
        self.not_given = [
            name for name, p in bound.signature.parameters.items() if name not in bound.arguments and p.kind in _NAMED
        ]
        self.tensors = {name: _checked(name, self.leaves[i]) for name, i in self.places.items()}
        if not self.tensors:
            raise ExportError("the example holds no tensor; give what forward is called with")

    def own_arguments(self) -> Arguments:
        """The example's own, copied."""
        return self.arguments(list(self.tensors.values()))

    def arguments(self, tensors: Sequence[Tensor]) -> Arguments:
        """Positional and keyword arguments with these tensors in the places of the example's."""
        leaves = list(self.leaves)
        for slot, tensor in zip(self.places.values(), tensors, strict=True):
            # `forward` may change what it is given; a joined state remembers its parts, and is made anew every time.
            leaves[slot] = tensor if is_joined(tensor) else tensor.clone()
        arguments: Arguments = pytree.tree_unflatten(leaves, self.spec)
        return arguments


class EagerModule:
    """A private copy of the caller's module: on the CPU, in eval mode, without gradients.

    What `forward` keeps in attributes and buffers is put back after every call, so that each one begins like the first.

    Attributes:
        answer: what its outputs are called after; an argument may be called output.
        kept: attributes that a call was seen to change, and that hold tensors after it, with all of their leaves.
    """

    def __init__(self, module: nn.Module) -> None:
        if not isinstance(module, nn.Module):
            raise ExportError(f"expected a torch.nn.Module, got {type(module).__name__}")
        if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
            raise ExportError(f"{type(module).__name__} is, or holds, TorchScript; export the module it was made from")
        self.name = type(module).__name__
        self.module = frozen_copy(module)
        self.answer = "result" if "output" in inspect.signature(self.module.forward).parameters else "output"
        self.kept: tuple[Kept, ...] = ()

    def layers(self) -> dict[str, nn.RNNBase]:
        """The recurrent layers, by path."""
        return {path: layer for path, layer in self.module.named_modules() if isinstance(layer, nn.RNNBase)}

    def run(
        self,
        arguments: Arguments,
        sites: Sequence[Site] = (),
        states: Sequence[Tensor | None] | None = None,
        watch: Sequence[str] = (),
    ) -> Run:
        """Call the module, as it is or from given states.

        Args:
            arguments: positional and keyword.
            sites: whose passages are recorded.
            states: what the sites begin with, in their order; None, or one None for each state of a site, leaves it what
                `forward` gives it.
            watch: paths of submodules whose calls are recorded with the very tensors, to see which are one.
        """
        with self.remembering():
            return self.go_on(arguments, sites, states, watch)

    def go_on(
        self,
        arguments: Arguments,
        sites: Sequence[Site] = (),
        states: Sequence[Tensor | None] | None = None,
        watch: Sequence[str] = (),
    ) -> Run:
        """As `run`, but what the module keeps stays for the next call, as it does for its owner."""
        calls: list[Call] = []
        embedded: list[tuple[Tensor, int]] = []
        steps: list[int] = []
        modules = dict(self.module.named_modules())
        handles = [modules[path].register_forward_hook(_record(path, calls), with_kwargs=True) for path in watch]
        embeddings = [module for module in modules.values() if isinstance(module, nn.Embedding)]
        handles += [e.register_forward_pre_hook(aside(_record_embedding(embedded)), with_kwargs=True) for e in embeddings]
        packing = PackingListener()
        record = _record_steps(steps, packing)
        handles += [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in self.layers().values()]
        try:
            with torch.no_grad(), packing, ExitStack() as attached:
                passages = tuple(attached.enter_context(c) for c in attachments(self.module, sites, states))
                returned = self.module(*arguments[0], **arguments[1])
        finally:
            for handle in handles:
                handle.remove()
        outputs = {name: tensor.clone() for name, tensor in named_tensors(returned, self.answer).items()}
        leaves = pytree.tree_leaves(as_tree(returned))
        tensors = (place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
        places = dict(zip(outputs, tensors, strict=True))
        return Run(
            outputs,
            places,
            passages,
            tuple(calls),
            tuple(embedded),
            tuple(steps),
            tuple(lengths for lengths, _ in packing.packed),
        )

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Put back what calls in here change in attributes and buffers."""
        with putting_back(self.module) as changed:
            yield
        known = {(attribute.path, attribute.name) for attribute, _ in self.kept}
        self.kept = (*self.kept, *(kept for kept in changed if (kept[0].path, kept[0].name) not in known))


def attachments(module: nn.Module, sites: Sequence[Site], states: Sequence[Tensor | None] | None) -> Iterator[Any]:
    """The sites' contexts, each with its part of the states."""
    place = 0
    for site in sites:
        # Copies: a cell may change its state in place.
        part = [] if states is None else [s.clone() for s in states[place : place + len(site.names)] if s is not None]
        place += len(site.names)
        yield site.attach(module, part or None)


def frozen_copy(module: nn.Module) -> nn.Module:
    """A copy on the CPU, in eval mode, that no gradient flows through. The caller's module is not touched.

    Raises:
        ExportError: it cannot be copied.
    """
    # Tensors that training left on a module are no leaves of autograd's graph, and deepcopy refuses those.
    left = [leaf for part in module.modules() for leaf in pytree.tree_leaves(own_values(part)) if isinstance(leaf, Tensor)]
    try:
        copied = copy.deepcopy(module, {id(value): value.detach().clone() for value in left if not value.is_leaf})
        copied.cpu()
        copied.eval()
        copied.requires_grad_(False)
    except Exception as error:
        raise ExportError(
            f"{type(module).__name__} cannot be copied to the CPU: {first_line(error)}; give it weights, by a first call or a checkpoint"
        ) from error
    for part in copied.modules():
        for name, value in own_values(part).items():  # `cpu()` moves weights and buffers only
            if any(isinstance(leaf, Tensor) and leaf.device.type != "cpu" for leaf in pytree.tree_leaves(value)):
                setattr(part, name, pytree.tree_map(lambda leaf: leaf.cpu() if isinstance(leaf, Tensor) else leaf, value))
    return copied


def first_line(error: BaseException) -> str:
    """What an error of torch says, without the pages behind it."""
    return str(error).strip().split("\n", 1)[0]


def named_tensors(returned: object, answer: str = "output") -> dict[str, Tensor]:
    """The tensors that a module returned: "output" for a single one, else "output" and its position, key or field."""
    leaves = [(path, leaf) for path, leaf in pytree.tree_flatten_with_path(as_tree(returned))[0] if isinstance(leaf, Tensor)]
    named = {(f"{answer}.{path_name(path)}" if path else answer): leaf for path, leaf in leaves}
    if len(named) != len(leaves):
        raise ExportError(f"two outputs would have one name among {sorted(named)}; rename a key of what forward returns")
    return named


def path_name(path: tuple[Any, ...]) -> str:
    """`hidden.0` for the first element of the argument `hidden`."""
    return ".".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path)


def _checked(name: str, tensor: Tensor) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise ExportError(f"{name}: the example must be a plain dense tensor with values; got {tensor.layout}")
    if tensor.dtype not in DTYPES:
        raise ExportError(
            f"{name} is {tensor.dtype}; an artifact takes float32, float64, int32, int64 or bool: convert the example"
        )
    if 0 in tensor.shape:
        raise ExportError(f"{name}: the example has the shape {tuple(tensor.shape)}; give at least one row and one step")
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _record(path: str, calls: list[Call]) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], returned: Any) -> None:
        calls.append(Call(path, args, kwargs, returned))

    return hook


def _record_embedding(embedded: list[tuple[Tensor, int]]) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs.get("input")
        if isinstance(module, nn.Embedding) and isinstance(given, Tensor):
            embedded.append((given.clone(), module.num_embeddings))

    return hook


def _record_steps(steps: list[int], packing: PackingListener) -> Any:
    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = layer_input(args, kwargs)
        if isinstance(x, PackedSequence):
            steps.extend(size for _, size in packing.packed[-1:])
        elif isinstance(layer, nn.RNNBase) and isinstance(x, Tensor) and x.ndim >= 2:
            steps.append(layer_steps(layer, x))

    return hook
