"""A model between processes and threads: pickled, forked, closed."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from tests.runtime.answers import sample

from rnnx_runtime import ArtifactError, ArtifactNotFoundError, InputError, load

CLOSED = "^this model is closed; load it again$"


def test_a_pickled_model_answers_as_before_and_opens_nothing_until_then(golden, monkeypatch):
    model = load(golden / "lstm.onnx", threads=2)
    sent = pickle.dumps(model)
    assert len(sent) < 2000  # a path, not a file
    monkeypatch.setattr("rnnx_runtime._engine.Session", lambda *arguments: pytest.fail("a session was opened"))
    copy = pickle.loads(sent)
    assert (copy.digest, copy.manifest) == (model.digest, model.manifest)
    monkeypatch.undo()
    xs = sample(model, 2, 5)
    np.testing.assert_array_equal(copy.run(xs)[0], model.run(xs)[0])
    assert copy._options == model._options


def test_a_model_of_bytes_takes_them_along(golden):
    model = load((golden / "lstm.onnx").read_bytes())
    xs = sample(model, 2, 5)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).run(xs)[0], model.run(xs)[0])


def test_a_relative_path_is_found_from_elsewhere(golden, monkeypatch, tmp_path):
    monkeypatch.chdir(golden)
    sent = pickle.dumps(load("lstm.onnx"))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(sent).manifest.name == "Lstm"


def test_another_file_at_the_path_is_not_taken_for_the_model(golden, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes((golden / "lstm.onnx").read_bytes())
    sent = pickle.dumps(load(path))
    path.write_bytes((golden / "gru.onnx").read_bytes())
    with pytest.raises(
        ArtifactError, match="^the artifact's sha256 is [0-9a-f]{64}, expected [0-9a-f]{64}; this is another file"
    ):
        pickle.loads(sent)
    path.unlink()
    with pytest.raises(ArtifactNotFoundError):
        pickle.loads(sent)


def test_the_digest_can_be_pinned(golden):
    digest = load(golden / "lstm.onnx").digest
    assert load(golden / "lstm.onnx", sha256=digest.upper()).digest == digest
    for wrong in ("0" * 64, digest[:12], ""):
        with pytest.raises(ArtifactError, match=f"^the artifact's sha256 is {digest}, expected {wrong}; this is another file"):
            load(golden / "lstm.onnx", sha256=wrong)
    with pytest.raises(InputError, match="^sha256 must be a text of 64 hex digits, got 3$"):
        load(golden / "lstm.onnx", sha256=3)


def test_a_closed_model_is_refused_and_its_states_stay(golden):
    with load(golden / "lstm.onnx") as model:
        stream, pool = model.stream(), model.pool()
        xs = sample(model, 1, 3)
        stream.step(xs[:, 0])
        pool.step({"a": xs[0, 0]})
        before = stream.state
    for use in (
        lambda: stream.step(xs[:, 1]),
        lambda: stream.feed(xs),
        lambda: model.run(xs),
        lambda: model.step(xs[:, 0], before),
        lambda: model.infer(xs),
        lambda: model.placement,
        lambda: model.stream().step(xs[:, 0]),
        lambda: pool.step({"a": xs[0, 1]}),
        lambda: pool.submit("a", xs[0, 1]).result(10),
    ):
        with pytest.raises(InputError, match=CLOSED):
            use()
    assert stream.state == before == pool.state("a")
    model.close()  # again: nothing happens
    again = load(golden / "lstm.onnx").stream()
    again.restore(stream.state)
    np.testing.assert_array_equal(again.state["lstm.l0.h"], before["lstm.l0.h"])


def test_threads_share_a_model(golden):
    model = load(golden / "gru.onnx")
    xs = sample(model, 1, 40)
    alone = model.stream()
    wanted = [named_first(alone.step(xs[:, t])) for t in range(40)]
    found = {}

    def run(number):
        stream = model.stream()
        found[number] = [named_first(stream.step(xs[:, t])) for t in range(40)]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for steps in found.values():
        for step, want in zip(steps, wanted, strict=True):
            np.testing.assert_array_equal(step, want)


def named_first(answer):
    return next(iter(answer.values()))


FORKED = """
import os, sys, threading, time
from rnnx_runtime import load
model = load(sys.argv[1], threads=int(sys.argv[2]))
stream, pool = model.stream(), model.pool()
stream.step([1]); pool.step({"a": 1}); pool.submit("b", 2).result()
other = model.stream()
other._lock.acquire()  # as a thread of the parent that is in the middle of a step
wanted = model.stream(); wanted.step([1]); wanted.step([2])
child = os.fork()
if child == 0:
    stream.step([2])
    assert stream.state == wanted.state, "the child goes on from where the stream was"
    assert pool.step({"a": 2}).keys() == {"a"}
    assert pool.state("a") == wanted.state
    assert pool.submit("b", 1).result(5).shape == (4,)
    other.step([1])
    assert model.infer("hello") == sys.argv[3]
    sys.exit(7)  # a normal end, with all destructors
began = time.monotonic()
while time.monotonic() - began < 20:
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        print(os.waitstatus_to_exitcode(status))
        break
    time.sleep(0.01)
else:
    os.kill(child, 9)
    print("hangs")
stream.step([2])
assert stream.state == wanted.state, "and so does the parent"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("threads", [1, 4])
def test_a_forked_child_goes_on_by_itself_and_ends(golden, threads, char_rnn):
    arguments = [sys.executable, "-c", FORKED, golden / "char_rnn.onnx", str(threads), char_rnn.infer("hello")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.returncode) == ("7\n", 0), done.stderr


def answer(model):
    return model.infer("hello")


@pytest.mark.parametrize("method", [m for m in ("fork", "spawn") if m in multiprocessing.get_all_start_methods()])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_model_goes_to_worker_processes(golden, method):
    model = load(golden / "char_rnn.onnx")
    with multiprocessing.get_context(method).Pool(2) as workers:
        assert workers.map(answer, [model] * 4) == [model.infer("hello")] * 4


def test_the_profile_is_written_when_the_model_is_closed(golden, tmp_path):
    path = tmp_path / "trace.json"
    with load(golden / "lstm.onnx", profile=path) as model:
        model.infer(np.zeros((1, 4, 3), np.float32))
    assert "LSTM" in path.read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["trace.json"]


def test_a_stream_that_is_in_use_is_refused_to_a_second_thread(golden, monkeypatch):
    model = load(golden / "lstm.onnx")
    stream, xs = model.stream(), sample(model, 1, 3)
    inside, go = threading.Event(), threading.Event()
    run = model._engine.run

    def slow(*arguments):
        inside.set()
        go.wait(10)
        return run(*arguments)

    monkeypatch.setattr(model._engine, "run", slow)
    feeding = threading.Thread(target=stream.feed, args=(xs,))
    feeding.start()
    inside.wait(10)
    began = time.monotonic()
    for use in (lambda: stream.step(xs[:, 0]), lambda: stream.state, stream.reset, stream.fork):
        with pytest.raises(InputError, match="^this stream is in use by another call; give each thread a stream of its own$"):
            use()
    assert time.monotonic() - began < 5
    go.set()
    feeding.join()
    assert stream.position == 3


TWO_THREADS = """
import os, sys, threading
import numpy as np
from rnnx_runtime import InputError, load
model = load(sys.argv[1], threads=4)
stream, closed, pool = model.stream(), load(sys.argv[1], threads=4), model.pool()
left = closed.stream(); left.step(np.zeros((1, 3))); closed.close()
pool.step({"a": np.zeros(3)}); pool.close()
if os.fork() == 0:
    errors = []
    def feed():
        try:
            stream.feed(np.zeros((1, 60000, 3), np.float32))
        except InputError as error:
            errors.append(error)
    threads = [threading.Thread(target=feed) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(errors) == 1, errors
    try:
        pool.submit("a", np.zeros(3))
    except InputError:
        sys.exit(5)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_in_a_child_too_a_stream_has_one_owner_and_what_was_closed_stays_closed(golden):
    arguments = [sys.executable, "-c", TWO_THREADS, golden / "lstm.onnx"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.returncode) == ("5\n", 0), done.stderr


@pytest.mark.parametrize("path", ["", "missing\0", 3])
def test_a_profile_that_cannot_be_written_is_refused_at_once(golden, tmp_path, path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="^the profile cannot be written to "):
        load(golden / "lstm.onnx", profile=path)
    assert not list(tmp_path.iterdir())
