"""The pool's queue: requests of many threads and tasks, answered together."""

import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest
from tests.runtime.answers import sample
from tests.runtime.test_pool import RNN_CLOSE

from rnnx_runtime import BusyError, ExecutionError, InputError, StateError


def test_requests_of_many_threads_are_answered_together(lstm, monkeypatch):
    pool = lstm.pool(max_wait_ms=20)
    sizes, step = [], type(pool).step
    monkeypatch.setattr(type(pool), "step", lambda self, xs: sizes.append(len(xs)) or step(self, xs))
    xs, found = sample(lstm, 16, 10), {}

    def run(key):
        found[key] = [pool.submit(key, xs[key, t]).result(30) for t in range(10)]

    threads = [threading.Thread(target=run, args=(key,)) for key in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for key in range(16):
        stream = lstm.stream()
        for t in range(10):
            np.testing.assert_array_equal(found[key][t], stream.step(xs[key : key + 1, t])[0])
    assert sum(sizes) == 160
    assert len(sizes) < 80


def test_a_streams_requests_keep_their_order_and_the_streams_take_turns(char_rnn, monkeypatch):
    pool = char_rnn.pool(max_batch=1)
    order, step, go = [], type(pool).step, threading.Event()

    def slow(self, xs):
        go.wait(10)
        order.extend(xs.items())
        return step(self, xs)

    monkeypatch.setattr(type(pool), "step", slow)
    futures = [pool.submit("greedy", token % 4) for token in range(8)] + [pool.submit("modest", 3)]
    go.set()
    for future in futures:
        future.result(10)
    assert [x for key, x in order if key == "greedy"] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert [key for key, _ in order].index("modest") <= 2


def test_a_full_queue_makes_its_callers_wait(char_rnn, monkeypatch):
    pool = char_rnn.pool(max_batch=1, max_queue=2)
    step, go, inside = type(pool).step, threading.Event(), threading.Event()

    def slow(self, xs):
        inside.set()
        go.wait(10)
        return step(self, xs)

    monkeypatch.setattr(type(pool), "step", slow)
    futures = [pool.submit("a", 0)]
    inside.wait(10)  # being answered: no longer in the queue
    futures += [pool.submit("a", 1), pool.submit("b", 1)]
    with pytest.raises(BusyError, match="^2 requests are waiting, and max_queue is 2; ask again later, or give more time$"):
        pool.submit("c", 1, timeout=0.01)
    with pytest.raises(StateError, match="^a request of stream 'a' is waiting; let it be answered first$"):
        pool.leave("a")
    late = threading.Thread(target=lambda: futures.append(pool.submit("c", 1)))
    late.start()
    time.sleep(0.05)
    assert late.is_alive()
    go.set()
    late.join(10)
    for future in futures:
        assert future.result(10).shape == (4,)
    assert sorted(pool) == ["a", "b", "c"]


def test_a_request_that_fails_does_not_touch_the_others(char_rnn, monkeypatch):
    pool = char_rnn.pool(max_wait_ms=50)
    step = type(pool).step

    def poisoned(self, xs):
        if "bad" in xs:
            raise ExecutionError("no memory")
        return step(self, xs)

    monkeypatch.setattr(type(pool), "step", poisoned)
    futures = {key: pool.submit(key, 1) for key in ("a", "bad", "b")}
    with pytest.raises(ExecutionError, match="^no memory$"):
        futures["bad"].result(10)
    wanted = char_rnn.stream().step([1])[0]
    for key in "ab":
        np.testing.assert_allclose(futures[key].result(10), wanted, **RNN_CLOSE)


def test_a_request_can_be_cancelled_while_it_waits(char_rnn, monkeypatch):
    pool = char_rnn.pool(max_batch=1)
    step, go, inside = type(pool).step, threading.Event(), threading.Event()
    monkeypatch.setattr(type(pool), "step", lambda self, xs: inside.set() or (go.wait(10) and step(self, xs)))
    first = pool.submit("a", 1)
    inside.wait(10)
    second, third = pool.submit("a", 2), pool.submit("a", 3)
    assert second.cancel()
    go.set()
    third.result(10)
    assert first.done()
    stream = char_rnn.stream()
    stream.step([1])
    stream.step([3])
    assert pool.state("a") == stream.state


def test_closing_cancels_what_waits(char_rnn, monkeypatch):
    step, go, inside = type(char_rnn.pool()).step, threading.Event(), threading.Event()
    with char_rnn.pool(max_batch=1) as pool:
        monkeypatch.setattr(type(pool), "step", lambda self, xs: inside.set() or (go.wait(10) and step(self, xs)))
        first = pool.submit("a", 1)
        inside.wait(10)
        second = pool.submit("a", 2)
    go.set()
    assert first.result(10).shape == (4,)
    with pytest.raises(CancelledError):
        second.result(10)
    with pytest.raises(InputError, match="^this pool is closed; make another one with Model.pool$"):
        pool.submit("a", 1)
    assert pool.state("a").position == 1


def test_the_thread_ends_when_there_is_nothing_to_do(char_rnn, monkeypatch):
    monkeypatch.setattr("rnnx_runtime._batcher._IDLE_SECONDS", 0.01)
    pool = char_rnn.pool()
    for token in range(3):
        pool.submit("a", token).result(10)
        worker = pool._batcher._worker
        if worker is not None:
            worker.join(10)
        assert pool._batcher._worker is None
    assert pool.state("a").position == 3


def test_tasks_of_an_event_loop_are_answered_together(char_rnn):
    pool = char_rnn.pool(max_queue=3)

    async def write(key):
        return [await pool.astep(key, token) for token in (1, 2, 3, 0)]

    async def all_of_them():
        return await asyncio.gather(*(write(key) for key in range(12)))

    stream = char_rnn.stream()
    wanted = [stream.step([token])[0] for token in (1, 2, 3, 0)]
    for answers in asyncio.run(all_of_them()):
        for answer, want in zip(answers, wanted, strict=True):
            np.testing.assert_allclose(answer, want, **RNN_CLOSE)


def test_a_task_that_is_cancelled_while_it_waits_for_room_has_asked_for_nothing(char_rnn, monkeypatch):
    pool = char_rnn.pool(max_batch=1, max_queue=1)
    step, go, inside = type(pool).step, threading.Event(), threading.Event()
    monkeypatch.setattr(type(pool), "step", lambda self, xs: inside.set() or (go.wait(10) and step(self, xs)))

    async def program():
        first = asyncio.ensure_future(pool.astep("a", 1))
        await asyncio.to_thread(inside.wait, 10)
        second = asyncio.ensure_future(pool.astep("a", 2))
        await asyncio.sleep(0.01)
        third = asyncio.ensure_future(pool.astep("a", 3))  # no room
        await asyncio.sleep(0.1)
        third.cancel()
        with pytest.raises(asyncio.CancelledError):
            await third
        go.set()
        await first
        await second
        await asyncio.sleep(0.1)

    asyncio.run(program())
    stream = char_rnn.stream()
    stream.step([1])
    stream.step([2])
    assert (pool.state("a"), pool.state("a").position) == (stream.state, 2)


def test_what_the_caller_does_with_a_submitted_array_does_not_matter(lstm):
    pool, x = lstm.pool(max_wait_ms=30), np.zeros(3, np.float32)
    future = pool.submit("a", x)
    x[:] = np.nan
    np.testing.assert_array_equal(future.result(10), lstm.stream().step(np.zeros((1, 3)))[0])


def test_a_callback_may_submit_and_may_fail_without_stopping_the_others(char_rnn, monkeypatch):
    pool = char_rnn.pool(max_queue=1, max_batch=1)
    refused, go = [], threading.Event()
    step = type(pool).step
    monkeypatch.setattr(type(pool), "step", lambda self, xs: go.wait(10) and step(self, xs))

    def again(_):
        try:
            pool.submit("a", 1)
        except BusyError as error:
            refused.append(str(error))
        sys.exit(1)

    first = pool.submit("a", 1)
    first.add_done_callback(again)
    time.sleep(0.05)
    second = pool.submit("b", 1)  # fills the queue
    go.set()
    assert first.result(10).shape == second.result(10).shape == (4,)
    assert refused
    assert pool.submit("c", 1).result(10).shape == (4,)


def test_nobody_waits_for_a_thread_that_died(char_rnn, monkeypatch):
    batcher = type(char_rnn.pool()._batcher)
    following, go = batcher._next, threading.Event()

    def dying(self):
        go.wait(10)
        raise MemoryError

    monkeypatch.setattr(batcher, "_next", dying)
    pool = char_rnn.pool()
    futures = [pool.submit("a", 1), pool.submit("a", 2), pool.submit("b", 1)]
    go.set()
    for future in futures:
        with pytest.raises(ExecutionError, match="^the pool's thread ended: MemoryError$"):
            future.result(10)
    monkeypatch.setattr(batcher, "_next", following)
    assert pool.submit("a", 1).result(10).shape == (4,)
    assert pool.state("a").position == 1


def test_a_thread_without_memory_for_its_stack_is_not_started(char_rnn, monkeypatch):
    def refuse(size):
        raise ExecutionError(f"no {size} bytes")

    pool = char_rnn.pool()
    with monkeypatch.context() as patch:
        patch.setattr("rnnx_runtime._batcher.check_room", refuse)
        with pytest.raises(ExecutionError, match="^no [0-9]+ bytes$"):
            pool.submit("a", 1)
    assert pool.submit("a", 1).result(10).shape == (4,)


def test_an_interrupted_request_was_made_or_was_not(char_rnn):
    """Interrupted wherever Python may be: where a call returns, or a function begins."""
    pool = char_rnn.pool()
    asked = 0
    for place in range(1000):
        left = place

        def interrupt(frame, event, argument):
            nonlocal left
            if event in ("call", "c_return") and "rnnx_runtime" in frame.f_code.co_filename:
                left -= 1
                if left < 0:
                    sys.setprofile(None)
                    raise KeyboardInterrupt

        sys.setprofile(interrupt)
        try:
            pool.submit("a", 1)
        except KeyboardInterrupt:
            through = False
        else:
            through = True
        finally:
            sys.setprofile(None)
        pool.submit("a", 1).result(10)
        while pool._batcher.is_waiting("a"):
            time.sleep(0.0005)
        position = pool.state("a").position
        assert position - asked in (1, 2)
        assert pool._batcher._waiting == 0
        asked = position
        if through:
            return
    pytest.fail("it never got through")


ENDING = """
import sys, numpy as np
from rnnx_runtime import load
pool = load(sys.argv[1]).pool()
pool.submit("a", np.zeros(3)).result()
for number in range(900):
    pool.submit(number % 3, np.zeros(3))
"""


def test_a_program_may_end_with_requests_in_the_queue(golden):
    arguments = [sys.executable, "-c", ENDING, golden / "lstm.onnx"]
    for _ in range(3):
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("timeout", ["1", float("nan"), -1])
def test_a_timeout_out_of_range_is_refused(char_rnn, timeout):
    with pytest.raises(InputError, match="^timeout must be "):
        char_rnn.pool().submit("a", 1, timeout=timeout)


def test_a_key_must_be_hashable(char_rnn):
    with pytest.raises(InputError, match="^a stream's key must be hashable, got list$"):
        char_rnn.pool().submit([], 1)
