"""The same graph in OpenVINO: static shapes, float32, no provider of ONNX Runtime between."""

import importlib
import importlib.util
import os
from collections.abc import Sequence
from typing import Any, final

import numpy as np

from rnnx._bench.contenders import GraphContender, NotApplicableError
from rnnx._bench.samples import Arrays, Task


@final
class OpenVino(GraphContender):
    """One inference request over tensors that share memory with numpy's arrays."""

    remark = "OpenVINO itself, static shapes, float32"

    def __init__(self, task: Task, data: bytes, threads: int) -> None:
        if importlib.util.find_spec("openvino") is None:
            raise NotApplicableError("the package openvino is not installed: pip install openvino")
        super().__init__(task)
        openvino = _imported()
        core = openvino.Core()
        model = core.read_model(data)
        feeds, states = task.feeds()[0], task.states()
        model.reshape({name: list(array.shape) for name, array in {**feeds, **states}.items()})
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        self._request = core.compile_model(model, "CPU", settings).create_infer_request()
        self._given = {name: np.empty_like(array) for name, array in {**feeds, **states}.items()}
        for name, array in self._given.items():
            self._request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        self._found = [self._request.get_tensor(name).data for name in self.outputs]
        self._carried = [
            (self._given[spec.input], self._request.get_tensor(spec.output).data) for spec in task.manifest.states
        ]

    def reset(self) -> None:
        for name, array in self.task.states().items():
            self._given[name][...] = array

    def step(self, given: Arrays) -> Sequence[Any]:
        for name, array in given.items():
            self._given[name][...] = array
        self._request.infer()
        if self.task.stepped:
            for state, following in self._carried:
                state[...] = following
        return self._found


def _imported() -> Any:
    """The package, without that it reports its import to its makers."""
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        return importlib.import_module("openvino")
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before
