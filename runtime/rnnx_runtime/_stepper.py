"""One step at a time, with everything prepared: fixed buffers, cached bindings, two sets of states that alternate.

A step of a small model is all overhead. `session.run(dict)` builds its inputs and outputs anew each time; here a step is
a copy into a buffer, one bound call, and a copy out. The states are written to the other set, so a call that fails
leaves the state as it was.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from rnnx_runtime._errors import InputError
from rnnx_runtime._inputs import Port, by_name
from rnnx_runtime._layout import Layout
from rnnx_runtime._session import Session
from rnnx_runtime._state import State

if TYPE_CHECKING:
    from rnnx_runtime._manifest import Manifest


@final
class Stepper:
    """The buffers and bindings of one stream. It belongs to one thread at a time."""

    def __init__(
        self, manifest: "Manifest", session: Session, ports: Mapping[str, Port], outputs: Mapping[str, Layout], batch: int
    ) -> None:
        self._ports = ports
        # Graph-layout buffers, and the caller's (B, ...) views of them.
        given = {spec.name: np.zeros(ports[spec.name].layout.graph_shape(batch, 1), spec.dtype) for spec in manifest.inputs}
        found = {spec.name: np.zeros(outputs[spec.name].graph_shape(batch, 1), spec.dtype) for spec in manifest.outputs}
        self._given = {name: ports[name].layout.step(array, batch) for name, array in given.items()}
        self._found = {name: outputs[name].step(array, batch) for name, array in found.items()}
        self._single = next(iter(self._found.values())) if len(self._found) == 1 else None
        self._sets = [{spec.name: np.zeros(spec.sized(batch), spec.dtype) for spec in manifest.states} for _ in range(2)]
        self._calls = [
            session.bind(
                given | {spec.input: self._sets[now][spec.name] for spec in manifest.states},
                found | {spec.output: self._sets[1 - now][spec.name] for spec in manifest.states},
            )
            for now in range(2)
        ]
        self._now = 0

    def load(self, state: State) -> None:
        """Continue from `state`, already checked."""
        for name, array in self._sets[self._now].items():
            np.copyto(array, state[name])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Copies of the states after the last step."""
        return {name: array.copy() for name, array in self._sets[self._now].items()}

    def step(self, x: Any) -> Any:
        """Answer one step; see `Stream.step`."""
        for name, array in by_name(self._ports, x).items():
            view = self._given[name]
            if array.shape != view.shape:
                raise InputError(
                    f"{name}: expected the shape {view.shape} for one step of this stream, got {array.shape}; "
                    "a chunk goes to feed, another batch size to a stream of its own"
                )
            view[...] = self._ports[name].checked(array, 1)
        self._calls[self._now]()
        self._now = 1 - self._now
        if self._single is not None:
            return self._single.copy()
        return {name: view.copy() for name, view in self._found.items()}
