"""A module that takes one step, `forward(x_t, h) -> (y_t, h)`, called over time as its owner would in a loop of his own."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rnnx._eager import EagerModule, Example, first_line, named_tensors
from rnnx._errors import LiftError, NothingFoundError
from rnnx._sites import ArgumentSite, as_tree

STEPS = 3  # of the example that is made from that of one step


class OverTime(nn.Module):
    """The steps of a module, one after another: inputs `(B, T, ...)` by name → answers `(B, T, ...)` by name.

    Where the batch is not the first axis, time stands behind it all the same.

    Attributes:
        names: of the states, after the arguments that take them.
        example: of `STEPS` equal steps.
    """

    def __init__(self, module: nn.Module, example: object, pairs: Mapping[str, str], axes: Mapping[str, str]) -> None:
        super().__init__()
        eager = EagerModule(module)
        self.module = eager.module
        self.names = tuple(pairs)
        self._step = Example(module, example)
        with torch.no_grad(), eager.remembering():
            returned = self._call(self._step.tensors)
        outputs = named_tensors(returned)
        leaves = pytree.tree_leaves(as_tree(returned))
        self._edges = [
            (self._step.places[argument], next(i for i, leaf in enumerate(leaves) if leaf is outputs[output]))
            for argument, output in pairs.items()
        ]
        self._returned = dict(pairs)
        self._answers = [name for name in outputs if name not in pairs.values()] or list(outputs)
        if set(self._step.tensors) <= set(pairs):
            raise NothingFoundError(
                f"{type(module).__name__}: all of {', '.join(pairs)} would be states, and nothing the input of a step"
            )
        with torch.no_grad(), eager.remembering():
            self._axes = self._find_batch(outputs, {name: letters.index("B") for name, letters in axes.items()})
        self._starts = {name: self._first_row(name) for name in pairs}
        self.example = {
            name: torch.stack([tensor] * STEPS, self._axes[name] + 1)
            for name, tensor in self._step.tensors.items()
            if name not in pairs
        }

    def site(self) -> ArgumentSite:
        """Where the state passes through."""
        return ArgumentSite(self._edges, self._step.spec, self.names, "module")

    def forward(self, **inputs: Tensor) -> Tensor | dict[str, Tensor]:
        first = next(iter(inputs))
        axis = self._axes[first]
        states = {name: self._start(name, inputs[first].shape[axis]) for name in self.names}
        answers: dict[str, list[Tensor]] = {name: [] for name in self._answers}
        for t in range(inputs[first].shape[axis + 1]):
            step = {name: tensor.select(self._axes[name] + 1, t) for name, tensor in inputs.items()}
            outputs = named_tensors(self._call(step | states))
            states = {name: outputs[self._returned[name]] for name in self.names}
            for name, steps in answers.items():
                steps.append(outputs[name].clone())  # it may be changed in place by the next step
        stacked = {name.removeprefix("output."): torch.stack(s, self._axes[name] + 1) for name, s in answers.items()}
        return stacked["output"] if list(stacked) == ["output"] else stacked

    def _call(self, tensors: Mapping[str, Tensor]) -> object:
        args, kwargs = self._step.arguments([tensors[name] for name in self._step.tensors])
        returned: object = self.module(*args, **kwargs)
        return returned

    def _first_row(self, name: str) -> Tensor:
        """The example's row where all of its rows are alike, and there are several; else zeros."""
        example, axis = self._step.tensors[name], self._axes[name]
        row = example.narrow(axis, 0, 1)
        alike = example.shape[axis] > 1 and torch.equal(example, row.expand_as(example))
        return row if alike else torch.zeros_like(row)

    def _start(self, name: str, batch: int) -> Tensor:
        row, axis = self._starts[name], self._axes[name]
        return row.expand([batch if place == axis else size for place, size in enumerate(row.shape)])

    def _find_batch(self, outputs: Mapping[str, Tensor], known: Mapping[str, int]) -> dict[str, int]:
        """The batch axis of each argument and answer: of one size, and the module runs on a row more."""
        tensors = self._step.tensors
        reason = ""
        for size in dict.fromkeys(next(iter(tensors.values())).shape):
            axes = {
                name: known.get(name, next((a for a in range(t.ndim) if t.shape[a] == size), None))
                for name, t in tensors.items()
            }
            if any(axis is None for axis in axes.values()):
                continue
            found = {name: axis for name, axis in axes.items() if axis is not None}
            longer = {n: torch.cat([t, t.narrow(found[n], 0, 1)], found[n]) for n, t in tensors.items()}
            try:
                more = named_tensors(self._call(longer))
            except Exception as error:
                reason = reason or f" ({first_line(error)})"
                continue
            for name, tensor in outputs.items():
                grown = [a for a in range(tensor.ndim) if more[name].shape[a] == tensor.shape[a] + 1]
                if more[name].ndim == tensor.ndim and len(grown) == 1:
                    found[name] = grown[0]
            if all(name in found for name in outputs):
                return found
        raise LiftError(
            f"{type(self.module).__name__} takes one step, but does not run on one row more{reason}; let the batch vary"
        )
