"""The same graph in plain ONNX Runtime, on its CPU provider: as people write it, and at the least that a call can cost."""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from rnnx._bench.contenders import GraphContender
from rnnx._bench.samples import Arrays, Task


def session_of(data: bytes, threads: int) -> Any:
    """A session like the runtime's own."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


@final
class SessionRun(GraphContender):
    """`session.run(None, {...})`, the next states taken from what it returns."""

    def __init__(self, task: Task, data: bytes, threads: int) -> None:
        super().__init__(task)
        self._session = session_of(data, threads)
        self._carried = [spec.input for spec in task.manifest.states]
        self._names = [*self.outputs, *(spec.output for spec in task.manifest.states)]
        self.reset()

    def reset(self) -> None:
        self._states = self.task.states()

    def step(self, given: Arrays) -> Sequence[Any]:
        found: list[Any] = self._session.run(self._names, {**given, **self._states})
        if self.task.stepped:
            self._states = dict(zip(self._carried, found[len(self.outputs) :], strict=True))
        return found


@final
class Binding(GraphContender):
    """`run_with_iobinding` alone: everything bound once, two alternating sets of states; nothing is checked or copied out."""

    def __init__(self, task: Task, data: bytes, threads: int) -> None:
        super().__init__(task)
        self._session = session_of(data, threads)
        manifest = task.manifest
        self._given = {name: np.empty_like(array) for name, array in task.feeds()[0].items()}
        shapes = task.output_shapes()
        self._found: list[NDArray[Any]] = [np.zeros(shapes[spec.name], spec.dtype) for spec in manifest.outputs]
        first = task.states()
        self._sets = [{name: array.copy() for name, array in first.items()} for _ in range(2)]
        self._bindings = []
        for now in range(2):
            binding = self._session.io_binding()
            for name, array in {**self._given, **self._sets[now]}.items():
                binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
            following = {spec.output: self._sets[1 - now][spec.input] for spec in manifest.states}
            for name, array in {**dict(zip(self.outputs, self._found, strict=True)), **following}.items():
                binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
            self._bindings.append(binding)
        self._now = 0

    def reset(self) -> None:
        self._now = 0
        for name, array in self.task.states().items():
            self._sets[0][name][...] = array

    def step(self, given: Arrays) -> Sequence[Any]:
        for name, array in given.items():
            self._given[name][...] = array
        self._session.run_with_iobinding(self._bindings[self._now])
        if self.task.stepped:
            self._now = 1 - self._now
        return self._found
