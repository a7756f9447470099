"""OpenVINO: static shapes, one asynchronous request, the tensors shared with numpy."""

import importlib
import os
from typing import Any, final

import numpy as np

from benchmarks.models import Array
from benchmarks.peers.peer import Peer, Run, Subject


class _OpenVino(Peer):
    package = "openvino"
    precision = "f32"  # its default on a CPU that has it is bf16: 1e-3 off

    def step(self, subject: Subject, batch: int) -> Run:
        return self._request(subject, batch, 1, lambda array: array[0])

    def chunk(self, subject: Subject, steps: int) -> Run:
        return self._request(subject, 1, steps, lambda array: array.swapaxes(0, 1))

    def _request(self, subject: Subject, batch: int, steps: int, as_called: Any) -> Run:
        os.environ.setdefault("CI", "true")  # else its telemetry starts a process
        openvino = importlib.import_module("openvino")
        core = openvino.Core()
        model = core.read_model(subject.minimal)
        tokens, states = np.zeros((steps, batch), np.int64), subject.zeros(batch)
        arrays = [tokens, *states]
        model.reshape({port.any_name: list(array.shape) for port, array in zip(model.inputs, arrays, strict=True)})
        settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        if self.precision:
            settings["INFERENCE_PRECISION_HINT"] = self.precision
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        for at, array in enumerate(arrays):
            request.set_input_tensor(at, openvino.Tensor(array, shared_memory=True))
        logits, *following = (request.get_output_tensor(at).data for at in range(len(arrays)))
        given, answer = as_called(tokens), as_called(logits)
        carried = list(zip(states, following, strict=True))

        def run(x: Array) -> Array:
            given[...] = x
            request.start_async()
            request.wait()
            for state, then in carried:
                state[...] = then
            found: Array = answer
            return found

        return run


@final
class OpenVino(_OpenVino):
    """In float32, as all others."""

    name = "OpenVINO"


@final
class OpenVinoDefault(_OpenVino):
    """At its own default precision, where fewer bits are the question."""

    name = "OpenVINO, its default precision"
    precision = ""
