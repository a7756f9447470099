import gc
import weakref

import numpy as np
import onnxruntime
import pytest
from tests.runtime.handmade import running_sum

from rnnx_runtime import ExecutionError
from rnnx_runtime._buffers import HostBuffer
from rnnx_runtime._session import Options, Session
from rnnx_runtime.artifact import open_artifact


@pytest.fixture(scope="module")
def session():
    return Session(open_artifact(running_sum()).data, Options({"cpu": {}}, strict=True, threads=1))


@pytest.mark.parametrize("failing", [RuntimeError, ValueError])
def test_a_provider_that_fails_is_not_replaced_behind_ones_back(monkeypatch, capfd, failing):
    """ONNX Runtime would print that it falls back, and run on the CPU."""
    made = []

    def fail(self, *arguments):
        made.append(self)
        self._fallback_providers = ["CPUExecutionProvider"]
        raise failing("no such device")

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", fail)
    with pytest.raises(ExecutionError, match="^ONNX Runtime cannot load the model: no such device$"):
        Session(open_artifact(running_sum()).data, Options({"cpu": {}}, strict=True, threads=1))
    assert (len(made), *capfd.readouterr()) == (1, "", "")


def test_both_sides_of_a_call_go_by_name(session):
    x, h = np.ones((3, 1, 2), np.float32), np.full((1, 2), 10, np.float32)
    for outputs in (["y", "h.next"], ["h.next", "y"]):
        for inputs in ({"x": x, "h": h}, {"h": h, "x": x}):
            found = session.run(outputs, inputs)
            assert list(found) == outputs
            assert found["y"][:, 0, 0].tolist() == [11, 12, 13]
            assert found["h.next"].tolist() == [[13, 13]]


def test_a_bound_call_reads_and_writes_its_arrays_in_place(session):
    x, h, y, after = (np.zeros(shape, np.float32) for shape in ((1, 2, 2), (2, 2), (1, 2, 2), (2, 2)))
    call = session.bind({"x": x}, {"y": y}, {"h": HostBuffer(h)}, {"h.next": HostBuffer(after)})
    for step in range(1, 4):
        x[...], h[...] = 1, after
        call()
        assert (y == step).all()
        assert (after == step).all()


def test_a_bound_call_keeps_its_arrays_alive(session):
    arrays = [np.ones(shape, np.float32) for shape in ((1, 1, 2), (1, 2), (1, 1, 2), (1, 2))]
    alive = [weakref.ref(array) for array in arrays]
    x, h, y, after = arrays
    call = session.bind({"x": x}, {"y": y}, {"h": HostBuffer(h)}, {"h.next": HostBuffer(after)})
    del arrays, x, h, y, after
    gc.collect()
    call()
    assert alive[2]().tolist() == [[[2, 2]]]
    assert alive[3]().tolist() == [[2, 2]]
    del call
    gc.collect()
    assert [ref() for ref in alive] == [None] * 4
