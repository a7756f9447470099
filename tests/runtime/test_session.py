import gc
import sys
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


def test_onnxruntime_that_is_not_whole_is_an_error_of_ours(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # importing it fails
    with pytest.raises(ExecutionError, match="^ONNX Runtime cannot be imported: import of onnxruntime halted"):
        Session(open_artifact(running_sum()).data, Options({"cpu": {}}, strict=True, threads=1))


@pytest.mark.parametrize(
    "error", [MemoryError("std::bad_alloc"), RuntimeError("Failed to allocate memory for requested buffer")]
)
def test_where_memory_ends_the_error_says_what_to_do(session, monkeypatch, error):
    def fail(self, *arguments):
        raise error

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", fail)
    arrays = {"x": np.ones((1, 1, 2), np.float32), "h": np.ones((1, 2), np.float32)}
    with pytest.raises(
        ExecutionError, match=f"^ONNX Runtime failed: {error}; give shorter chunks or fewer rows, or more memory$"
    ):
        session.run(["y"], arrays)


def test_onnxruntime_is_not_called_where_it_would_end_the_process(session, monkeypatch):
    """With less than some megabytes left, it aborts in the middle of its own bookkeeping."""

    def fail(file, size):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("rnnx_runtime._memory.mmap.mmap", fail)
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *arguments, **options: pytest.fail("it was called"))
    with pytest.raises(ExecutionError, match="^there is not enough memory: [0-9]+ bytes are needed and cannot be had; give "):
        Session(open_artifact(running_sum()).data, Options({"cpu": {}}, strict=True, threads=1))
    h = np.zeros((1, 2), np.float32)
    with pytest.raises(ExecutionError, match="^there is not enough memory: "):
        session.bind({"x": np.zeros((1, 1, 2), np.float32)}, {"y": h}, {"h": HostBuffer(h)}, {"h.next": HostBuffer(h)})
