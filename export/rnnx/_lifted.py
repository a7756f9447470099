"""The lifted modules: the caller's code, with its states as arguments and results."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from rnnx._eager import frozen_copy, named_tensors
from rnnx._lift import Lift
from rnnx._sites import Call, LayerSite, Site


class LiftedModule(nn.Module, ABC):
    """A module with its states as arguments and results: `(*inputs, *states) -> (*outputs, *next states)`.

    The sites of a copy get a `forward` that takes the state from here and hands the next one back; everything else is the
    caller's code. The subclass says how a recurrent layer computes. Where there are cells, one step is all it can take.
    """

    def __init__(self, lift: Lift) -> None:
        super().__init__()
        self.module = frozen_copy(lift.sited.eager.module)
        self._lift = lift
        self._given: dict[str, list[Tensor]] = {}
        self._next: dict[str, list[Tensor]] = {}
        layers = {site.path for site in lift.sited.sites if isinstance(site, LayerSite)}
        for path, layer in self.module.named_modules():
            if isinstance(layer, nn.RNNBase) and path not in layers:
                object.__setattr__(layer, "forward", self._inner_forward(layer))
        for site in lift.sited.sites:
            submodule = self.module.get_submodule(site.path)
            compute = self._layer_forward(site) if isinstance(site, LayerSite) else self._cell_forward(site, submodule.forward)
            object.__setattr__(submodule, "forward", compute)

    @abstractmethod
    def compute(self, layer: nn.RNNBase, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """One recurrent layer: `x` in its own layout, states `(1, B, H)` ordered by layer, then kind."""

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        lift = self._lift
        inputs = {spec.name: tensor for spec, tensor in zip(lift.inputs, tensors, strict=False)}
        states = iter(tensors[len(lift.inputs) :])
        self._given = {site.path: [next(states) for _ in site.names] for site in lift.sited.sites}
        self._next = {}
        args, kwargs = lift.arguments(inputs, tensors[len(lift.inputs) :])
        try:
            found = named_tensors(self.module(*args, **kwargs))
            following = [state for site in lift.sited.sites for state in self._next[site.path]]
            return (*(found[name] for name in lift.outputs), *following)
        finally:
            self._given, self._next = {}, {}

    def _layer_forward(self, site: LayerSite) -> Any:
        layer = self.module.get_submodule(site.path)
        assert isinstance(layer, nn.RNNBase)

        def forward(input: Tensor, hx: object = None) -> tuple[Tensor, Any]:
            y, following = self.compute(layer, input, self._given[site.path])
            self._next[site.path] = following
            return y, site.stack(following)

        return forward

    def _inner_forward(self, layer: nn.RNNBase) -> Any:
        """A layer that is, or is inside, a cell: its state comes and goes through the cell."""
        site = LayerSite("", layer)

        def forward(input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
            given = site.given(Call("", (input, hx), {}, None))
            batch = input.shape[0 if layer.batch_first else 1]
            states = [input.new_zeros(1, batch, layer.hidden_size) if state is None else state for state in given]
            y, following = self.compute(layer, input, states)
            return y, site.stack(following)

        return forward

    def _cell_forward(self, site: Site, original: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            given, keywords = site.give(args, kwargs, self._given[site.path])
            returned = original(*given, **keywords)
            self._next[site.path] = site.take(returned)
            return returned

        return forward


class InitialModule(nn.Module):
    """The conditions of a module → its computed initial states, as its own `forward` computes them."""

    def __init__(self, lift: Lift) -> None:
        super().__init__()
        self.module = frozen_copy(lift.sited.eager.module)
        self._lift = lift
        self._given: dict[str, list[Tensor | None]] = {}
        for site in lift.sited.sites:
            submodule = self.module.get_submodule(site.path)
            object.__setattr__(submodule, "forward", self._watched(site, submodule.forward))

    def forward(self, *conditions: Tensor) -> tuple[Tensor, ...]:
        lift = self._lift
        self._given = {}
        named = {spec.name: tensor for spec, tensor in zip(lift.conditions, conditions, strict=True)}
        args, kwargs = lift.arguments(named)
        self.module(*args, **kwargs)
        given = [state for site in lift.sited.sites for state in self._given[site.path]]
        self._given = {}
        return tuple(state for slot, state in zip(lift.states, given, strict=True) if slot.computed and state is not None)

    def _watched(self, site: Site, original: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            self._given.setdefault(site.path, site.given(Call(site.path, args, kwargs, None)))
            return original(*args, **kwargs)

        return forward
