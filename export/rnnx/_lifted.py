"""The lifted modules: the caller's code, with its states as arguments and results."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from rnnx._eager import attachments, frozen_copy, named_tensors
from rnnx._lift import Lift
from rnnx._sites import kinds, split, stack


class LiftedModule(nn.Module, ABC):
    """A module with its states as arguments and results: `(*inputs, *states) -> (*outputs, *next states)`.

    The caller's code, with its sites attached to a copy as the eager module has them. The subclass says how a recurrent layer
    computes. Where there is a loop over time, one step is all it can take.
    """

    def __init__(self, lift: Lift) -> None:
        super().__init__()
        self.module = frozen_copy(lift.sited.eager.module)
        self._lift = lift
        for layer in [layer for layer in self.module.modules() if isinstance(layer, nn.RNNBase)]:
            object.__setattr__(layer, "forward", self._forward_of(layer))

    @abstractmethod
    def compute(self, layer: nn.RNNBase, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """One recurrent layer: `x` in its own layout, states `(D, B, H)` ordered by layer, then kind."""

    @abstractmethod
    def compute_packed(self, layer: nn.RNNBase, x: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        """One recurrent layer on a packed batch; `hx` and what is returned are as torch's own `forward` has them."""

    @abstractmethod
    def packing(self) -> AbstractContextManager[Any]:
        """How batches are packed while the module is called."""

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        lift = self._lift
        inputs = {spec.name: tensor for spec, tensor in zip(lift.inputs, tensors, strict=False)}
        states = tensors[len(lift.inputs) :]
        args, kwargs = lift.arguments(inputs, states)
        with _untouched(self.module, lift), self.packing(), ExitStack() as attached:
            passages = [attached.enter_context(c) for c in attachments(self.module, lift.sited.sites, states)]
            found = named_tensors(self.module(*args, **kwargs), lift.sited.eager.answer)
        following = [state for passage in passages for state in passage.following]
        return (*(found[name] for name in lift.outputs), *following)

    def _forward_of(self, layer: nn.RNNBase) -> Any:
        def forward(input: Any, hx: Any = None) -> tuple[Any, Any]:
            if isinstance(input, PackedSequence):
                return self.compute_packed(layer, input, hx)
            states = zeros(layer, input, 0 if layer.batch_first else 1) if hx is None else split(layer, hx)
            y, following = self.compute(layer, input, states)
            return y, stack(layer, following)

        return forward


class InitialModule(nn.Module):
    """The conditions of a module → its computed initial states, as its own `forward` computes them."""

    def __init__(self, lift: Lift) -> None:
        super().__init__()
        self.module = frozen_copy(lift.sited.eager.module)
        self._lift = lift

    def forward(self, *conditions: Tensor) -> tuple[Tensor, ...]:
        lift = self._lift
        named = {spec.name: tensor for spec, tensor in zip(lift.conditions, conditions, strict=True)}
        args, kwargs = lift.arguments(named)
        with _untouched(self.module, lift), ExitStack() as attached:
            passages = [attached.enter_context(c) for c in attachments(self.module, lift.sited.sites, None)]
            self.module(*args, **kwargs)
        given = [state for passage in passages for state in passage.given]
        return tuple(state for slot, state in zip(lift.states, given, strict=True) if slot.computed and state is not None)


@contextmanager
def _untouched(module: nn.Module, lift: Lift) -> Iterator[None]:
    """Let `forward` keep what it likes for one call: nothing of it stays, and nothing that was there is changed."""
    before = []
    for attribute, _ in lift.sited.eager.kept:
        part = module.get_submodule(attribute.path)
        there = hasattr(part, attribute.name)
        value = getattr(part, attribute.name, None)
        before.append((part, attribute.name, there, value))
        if there:
            setattr(
                part, attribute.name, pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, value)
            )
    try:
        yield
    finally:
        for part, name, there, value in before:
            if there:
                setattr(part, name, value)
            elif hasattr(part, name):
                delattr(part, name)


def zeros(layer: nn.RNNBase, x: Tensor, batch_axis: int) -> list[Tensor]:
    """What a recurrent layer begins with by itself."""
    directions, batch = 2 if layer.bidirectional else 1, x.shape[batch_axis]
    sizes = {"h": layer.proj_size or layer.hidden_size, "c": layer.hidden_size}
    return [x.new_zeros(directions, batch, sizes[kind]) for _ in range(layer.num_layers) for kind in kinds(layer)]
