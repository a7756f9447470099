"""One call with everything prepared: fixed buffers, and a cached binding for either set of states.

A call of a small model is all overhead, and most of it is Python's. What a caller hands over at nearly every call, an array of just
the type and shape that the graph takes, therefore touches as little as it can here: what is not touched need not be read
from memory again, after a larger model's weights have been through the caches.
"""

from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from rnnx_runtime._buffers import Buffer
from rnnx_runtime._graph import Answers, Graph
from rnnx_runtime._layout import Layout
from rnnx_runtime._session import Session

StateSet = Mapping[str, Buffer]


@final
class Prepared:
    """Calls of one batch size and one number of steps.

    Attributes:
        shape, dtype: of what `copy` takes; None where the model has several inputs.
        copy: puts an array of this shape and type in its place; raises InputError where a value is not allowed.
        calls: what runs, from the first set of states to the second, and back.
        answer: where the answer is after a call; None where the model has several outputs.
    """

    def __init__(self, graph: Graph, session: Session, sets: tuple[StateSet, StateSet], batch: int, steps: int | None) -> None:
        """Prepare calls of so many steps, `(B, T, ...)`; None for one, seen without time: `(B, ...)`."""
        length = steps or 1
        ports, outputs = graph.inputs, graph.outputs
        given = {
            spec.name: np.zeros(ports[spec.name].layout.graph_shape(batch, length), spec.dtype)
            for spec in graph.manifest.inputs
        }
        found = {
            spec.name: np.zeros(outputs[spec.name].graph_shape(batch, length), spec.dtype) for spec in graph.manifest.outputs
        }
        self.given = {name: _seen(ports[name].layout, array, batch, steps) for name, array in given.items()}
        self.found = {name: _seen(outputs[name], array, batch, steps) for name, array in found.items()}
        name, view = next(iter(self.given.items()))
        self.copy = ports[name].copier(view, length)
        self.shape: tuple[int, ...] | None = view.shape if len(self.given) == 1 else None
        self.dtype: np.dtype[Any] | None = view.dtype if len(self.given) == 1 else None
        self.answer: NDArray[Any] | None = next(iter(self.found.values())) if len(self.found) == 1 else None
        self.calls = tuple(
            session.bind(
                given,
                found,
                {spec.input: now[name] for name, spec in graph.states.items()},
                {spec.output: following[name] for name, spec in graph.states.items()},
            )
            for now, following in (sets, sets[::-1])
        )

    def put(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Put arrays, checked before, in their places."""
        for name, view in self.given.items():
            view[...] = arrays[name]

    def answers(self) -> Answers:
        """The answers of the last call, the caller's own."""
        return {name: view.copy() for name, view in self.found.items()}


def _seen(layout: Layout, array: NDArray[Any], batch: int, steps: int | None) -> NDArray[Any]:
    return layout.step(array, batch) if steps is None else layout.batch_first(array, batch, steps)
