"""The lifted module: the caller's code, with its states as arguments and results."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from rnnx._eager import EagerModule, kinds, named_tensors
from rnnx._lift import Lift


class LiftedModule(nn.Module, ABC):
    """A module with its states as arguments and results: `(*inputs, *states) -> (*outputs, *next states)`.

    The recurrent layers of a copy get a `forward` that takes the state from here and hands the next one back; everything
    else is the caller's code. The subclass says how a layer computes.
    """

    def __init__(self, lift: Lift) -> None:
        super().__init__()
        copied = EagerModule(lift.eager.module)
        self.module = copied.module
        self._lift = lift
        self._given: dict[str, list[Tensor]] = {}
        self._next: dict[str, list[Tensor]] = {}
        for path, layer in copied.layers.items():
            object.__setattr__(layer, "forward", self._lifted_forward(path, layer))

    @abstractmethod
    def compute(self, layer: nn.RNNBase, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """One recurrent layer: `x` in its own layout, states `(1, B, H)` ordered by layer, then kind."""

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        lift = self._lift
        count = len(lift.inputs)
        inputs = {spec.name: tensor for spec, tensor in zip(lift.inputs, tensors[:count], strict=True)}
        for slot, state in zip(lift.states, tensors[count:], strict=True):
            self._given.setdefault(slot.path, []).append(state)
        args, kwargs = lift.arguments_for(inputs)
        try:
            found = named_tensors(self.module(*args, **kwargs))
            return (
                *(found[name] for name in lift.outputs),
                *(state for path in lift.eager.layers for state in self._next[path]),
            )
        finally:
            self._given.clear()
            self._next.clear()

    def _lifted_forward(self, path: str, layer: nn.RNNBase) -> Any:
        def forward(input: Tensor, hx: object = None) -> tuple[Tensor, Any]:
            y, following = self.compute(layer, input, self._given[path])
            self._next[path] = following
            count = len(kinds(layer))
            stacked = tuple(torch.cat(following[kind::count]) for kind in range(count))
            return y, stacked if isinstance(layer, nn.LSTM) else stacked[0]

        return forward
