"""One step at a time, with everything prepared: fixed buffers, cached bindings, two sets of states that alternate.

A step of a small model is all overhead. `session.run(dict)` builds its inputs and outputs anew each time; here a step is
a copy into a buffer, one bound call, and a copy out. The states are written to the other set, so a call that fails
leaves the state as it was.
"""

from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from rnnx_runtime._errors import InputError
from rnnx_runtime._manifest import Manifest
from rnnx_runtime._session import Session
from rnnx_runtime._state import State
from rnnx_runtime._tensors import Layout, check_inputs, named_or_single


@final
class Stepper:
    """The buffers and bindings of one stream. It belongs to one thread at a time."""

    def __init__(
        self,
        manifest: Manifest,
        session: Session,
        digest: str,
        inputs: Mapping[str, Layout],
        outputs: Mapping[str, Layout],
        batch: int,
    ) -> None:
        self._manifest = manifest
        self._digest = digest
        self._batch = batch
        # Graph-layout buffers, and the caller's (B, ...) views of them.
        given = {spec.name: np.zeros(inputs[spec.name].graph_shape(batch, 1), spec.dtype) for spec in manifest.inputs}
        found = {spec.name: np.zeros(outputs[spec.name].graph_shape(batch, 1), spec.dtype) for spec in manifest.outputs}
        self._given = {name: _step_view(inputs[name], array, batch) for name, array in given.items()}
        self._found = {name: _step_view(outputs[name], array, batch) for name, array in found.items()}
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
            array[...] = state[name]

    def state(self) -> State:
        """A copy of the state after the last step."""
        return State(self._digest, self._batch, {name: array.copy() for name, array in self._sets[self._now].items()})

    def step(self, x: Any) -> Any:
        """Answer one step; see `Stream.step`."""
        for name, array in check_inputs(self._manifest.inputs, x).items():
            view = self._given[name]
            if array.shape != view.shape:
                raise InputError(
                    f"{name}: expected the shape {view.shape} for one step of this stream, got {array.shape}; "
                    "a chunk goes to feed, another batch size to a stream of its own"
                )
            view[...] = array
        self._calls[self._now]()
        self._now = 1 - self._now
        return named_or_single({name: view.copy() for name, view in self._found.items()})


def _step_view(layout: Layout, array: NDArray[Any], batch: int) -> NDArray[Any]:
    view = layout.batch_first(array, batch, 1)
    return view[:, 0] if layout.has_time else view
