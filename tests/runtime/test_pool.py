import asyncio
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest
from tests.runtime import handmade
from tests.runtime.answers import named, sample

from rnnx_runtime import BusyError, ExecutionError, InputError, StateError, load

RNN_CLOSE = {"rtol": 0, "atol": 1e-6}  # ONNX Runtime's RNN operator multiplies larger batches in another order


def same(model, found, wanted):
    """Bit for bit where the recurrence is an LSTM or a GRU."""
    for name, array in named(model, wanted).items():
        if model.manifest.name == "CharRnn":
            np.testing.assert_allclose(named(model, found)[name], array, **RNN_CLOSE)
        else:
            np.testing.assert_array_equal(named(model, found)[name], array)


def row(model, answer):
    """A stream's answer, without its batch axis."""
    return {name: array[0] for name, array in named(model, answer).items()}


@pytest.mark.parametrize("streams", [1, 2, 5, 17, 64])
def test_each_row_is_answered_as_if_alone(model, streams):
    pool = model.pool()
    xs = sample(model, streams, 6)
    alone = [model.stream() for _ in range(streams)]
    for t in range(6):
        found = pool.step({key: xs[key, t] for key in range(streams)})
        assert list(found) == list(range(streams))
        for key, stream in enumerate(alone):
            same(model, found[key], row(model, stream.step(xs[key : key + 1, t])))
    for key, stream in enumerate(alone):
        same_state(model, pool.state(key), stream.state)


def same_state(model, found, wanted):
    for name, array in wanted.items():
        if model.manifest.name == "CharRnn":
            np.testing.assert_allclose(found[name], array, **RNN_CLOSE)
        else:
            np.testing.assert_array_equal(found[name], array)
    assert (found.position, found.batch) == (wanted.position, 1)


@pytest.mark.parametrize("max_batch", [1, 3, 64])
def test_streams_join_and_leave_at_any_step(model, max_batch):
    generator = np.random.default_rng(0)
    pool, alone, xs = model.pool(max_batch=max_batch), {}, sample(model, 40, 1)
    for turn in range(60):
        asked = generator.permutation(12)[: generator.integers(0, 8)].tolist()
        for key in asked:
            alone.setdefault(key, model.stream())
        found = pool.step({key: xs[(key * 7 + turn) % 40, 0] for key in asked})
        for key in asked:
            place = (key * 7 + turn) % 40
            same(model, found[key], row(model, alone[key].step(xs[place : place + 1, 0])))
        if alone and turn % 3 == 0:
            gone = generator.choice(list(alone))
            same_state(model, pool.leave(int(gone)), alone.pop(gone).state)
            assert gone not in pool
        assert (sorted(pool), len(pool)) == (sorted(alone), len(alone))
    for key, stream in alone.items():
        same_state(model, pool.state(key), stream.state)


def test_ragged_chunks_are_answered_as_if_alone(model):
    pool, lengths = model.pool(max_batch=4), [3, 1, 7, 7, 2, 5, 1, 4]
    xs = sample(model, len(lengths), 7)
    for key in range(len(lengths)):
        pool.step({key: xs[key, 0]})
        assert pool.state(key).position == 1
    found = pool.feed({key: xs[key, :steps] for key, steps in enumerate(lengths)})
    assert list(found) == list(range(len(lengths)))
    for key, steps in enumerate(lengths):
        stream = model.stream()
        stream.step(xs[key : key + 1, 0])
        answer = row(model, stream.feed(xs[key : key + 1, :steps]))
        for name, array in answer.items():  # cut where others end: the last bits of a matrix product may differ
            np.testing.assert_allclose(named(model, found[key])[name], array, rtol=1e-5, atol=1e-6)
        for name, array in stream.state.items():
            np.testing.assert_allclose(pool.state(key)[name], array, rtol=1e-5, atol=1e-6)
        assert pool.state(key).position == 1 + steps


def test_an_empty_chunk_changes_nothing(char_rnn):
    pool = char_rnn.pool()
    pool.step({"a": 1})
    before = pool.state("a")
    found = pool.feed({"a": np.zeros(0, np.int64), "b": [1, 2]})
    assert found["a"].shape == (0, 4)
    assert found["b"].shape == (2, 4)
    assert pool.state("a") == before
    assert pool.feed({}) == pool.step({}) == {}


def test_states_go_in_and_out(lstm):
    stream, xs = lstm.stream(), sample(lstm, 1, 8)
    stream.feed(xs[:, :4])
    pool = lstm.pool()
    pool.join("a", stream.state)
    pool.join("b")
    pool.step({"a": xs[0, 4], "b": xs[0, 0]})
    stream.step(xs[:, 4])
    assert pool.state("a") == stream.state
    pool.restore("b", stream.state)
    assert pool.leave("b") == stream.state
    pool.join("b", pool.leave("a"))
    assert pool.state("b") == stream.state
    assert pool.state("b").position == 5


@pytest.mark.parametrize(
    ("use", "error", "rule"),
    [
        (lambda pool: pool.join("a"), StateError, "there is a stream 'a' in this pool already; restore sets its state"),
        (lambda pool: pool.leave("x"), StateError, "there is no stream 'x' in this pool"),
        (lambda pool: pool.state("x"), StateError, "there is no stream 'x' in this pool"),
        (lambda pool: pool.restore("x", pool.state("a")), StateError, "there is no stream 'x' in this pool"),
        (lambda pool: pool.restore("a", None), StateError, "a state is made by "),
        (
            lambda pool: pool.step({"a": 1, "b": 4}),
            InputError,
            "stream 'b': tokens: token 4 is outside the vocabulary, 0 to 3",
        ),
        (lambda pool: pool.step({"b": -1, "a": 1}), InputError, "stream 'b': tokens: token -1 is outside the vocabulary"),
        (lambda pool: pool.step({"a": 1, "b": 1.5}), InputError, "stream 'b': tokens: expected int64, got "),
        (lambda pool: pool.step({"a": 1, "b": True}), InputError, "stream 'b': tokens: expected int64, got "),
        (
            lambda pool: pool.step({"a": 1, "b": [1, 2]}),
            InputError,
            r"stream 'b': tokens: expected the shape \(\), without a batch axis, got \(2,\)",
        ),
        (lambda pool: pool.step({"a": 1, "b": None}), InputError, "stream 'b': tokens: expected int64, got "),
        (lambda pool: pool.step({"b": {"other": 1}}), InputError, "stream 'b': the inputs are "),
        (lambda pool: pool.feed({"a": [1], "b": [1, 9]}), InputError, "stream 'b': tokens: token 9 is outside the vocabulary"),
        (
            lambda pool: pool.feed({"a": 1}),
            InputError,
            r"stream 'a': tokens: expected the shape \(T\), without a batch axis, got \(\)",
        ),
        (lambda pool: pool.step([1, 2]), InputError, "a pool is given a mapping of streams to their inputs, got list"),
        (lambda pool: pool.submit("b", 9), InputError, "stream 'b': tokens: token 9 is outside the vocabulary"),
        (lambda pool: pool.generate("b", ""), InputError, "the prompt is empty; "),
        (lambda pool: pool.join("b", image=[1]), InputError, "the initial state of this model is not computed; got image"),
    ],
)
def test_what_breaks_the_contract_changes_nothing(char_rnn, use, error, rule):
    pool = char_rnn.pool()
    pool.step({"a": 2})
    before = pool.state("a")
    with pytest.raises(error, match=f"^{rule}"):
        use(pool)
    assert list(pool) == ["a"]
    assert pool.state("a") == before


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"max_batch": 0}, "max_batch must be from 1 to 1048576, got 0"),
        ({"max_wait_ms": -1}, "max_wait_ms must be from 0 to 60000, got -1"),
        ({"max_wait_ms": None}, "max_wait_ms must be a finite number, got None"),
        ({"max_queue": 0}, "max_queue must be at least 1, got 0"),
    ],
)
def test_an_option_out_of_range_is_refused(char_rnn, options, rule):
    with pytest.raises(InputError, match=f"^{rule}$"):
        char_rnn.pool(**options)


def test_streams_of_a_computed_state_join_with_their_condition():
    model = load(handmade.computed_sum(handmade.doubling()))
    pool = model.pool()
    with pytest.raises(InputError, match="^the initial state of this model is computed from image; got nothing$"):
        pool.step({"a": [1, 1]})
    pool.join("a", image=[[1, 2]])
    assert pool.step({"a": [1, 1]})["a"].tolist() == [3, 5]
    with pytest.raises(InputError, match="^a stream of a pool is one row, the conditions have a batch of 2$"):
        pool.join("b", image=[[1, 2], [3, 4]])
    assert list(pool) == ["a"]


def test_a_call_that_fails_leaves_all_states(char_rnn, monkeypatch):
    pool = char_rnn.pool(max_batch=2)
    pool.step({key: key % 4 for key in range(5)})
    before = [pool.state(key) for key in range(5)]
    call, calls = char_rnn._engine.graph.call, []

    def failing(session, chunk, state):
        calls.append(chunk.batch)
        if len(calls) == 2:
            raise ExecutionError("no memory")
        return call(session, chunk, state)

    monkeypatch.setattr(type(char_rnn._engine.graph), "call", lambda self, *arguments: failing(*arguments))
    with pytest.raises(ExecutionError):
        pool.step(dict.fromkeys(range(5), 1))
    calls.clear()
    with pytest.raises(ExecutionError):
        pool.feed({key: [1] * (key + 1) for key in range(5)})
    monkeypatch.undo()
    assert [pool.state(key) for key in range(5)] == before
    assert [pool.state(key).position for key in range(5)] == [1] * 5


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


@pytest.mark.parametrize("options", [{"seed": 4}, {"seed": 4, "temperature": 0.7, "top_k": 3, "repetition_penalty": 1.3}])
def test_a_seed_gives_the_same_text_in_a_pool(char_rnn, options):
    wanted = "".join(char_rnn.stream().generate("hell", 40, **options))
    pool, texts = char_rnn.pool(max_wait_ms=1), {}

    def write(key):
        texts[key] = "".join(pool.generate(key, "hell", 40, **options))

    threads = [threading.Thread(target=write, args=(key,)) for key in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(texts.values()) == {wanted}


def test_a_checkpoint_goes_on_in_a_pool(char_rnn):
    generation = char_rnn.stream().generate("hell", 40, seed=2)
    begun = [next(generation) for _ in range(9)]
    resumed = char_rnn.pool().resume("a", generation.to_bytes())
    assert resumed.text == "".join(begun)
    assert "".join(resumed) == "".join(generation)


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


def test_a_closed_pool_writes_nothing(char_rnn):
    pool = char_rnn.pool()
    pool.close()
    with pytest.raises(InputError, match="^this pool is closed; make another one with Model.pool$"):
        pool.generate("a", "hell", 5)
    assert list(pool) == []


def test_a_stream_starts_from_a_state_or_from_conditions(char_rnn):
    state = char_rnn.initial_state()
    for use in (lambda: char_rnn.pool().join("a", state, image=[1]), lambda: char_rnn.stream(state=state, image=[1])):
        with pytest.raises(InputError, match="^a stream starts from a state or from conditions, got both: image$"):
            use()
    with pytest.raises(StateError, match="^the state has a batch of 1, the input one of 5$"):
        char_rnn.stream(5, state=state)


def test_a_pool_and_a_generation_are_not_pickled(char_rnn):
    with pytest.raises(TypeError, match="^a pool cannot be copied or pickled; keep its streams' states, and let them join"):
        pickle.dumps(char_rnn.pool())
    with pytest.raises(TypeError, match="^a generation cannot be copied or pickled; keep its to_bytes, and resume it"):
        pickle.dumps(char_rnn.stream().generate("h"))


def test_calls_are_measured_when_asked(char_rnn):
    pool = char_rnn.pool()
    pool.step({"a": 1})
    assert pool.stats is None
    stats = pool.measure(deadline_ms=1e-6)
    pool.step({"a": 1, "b": 2})
    pool.feed({"a": [1, 2, 3], "c": [1]})
    pool.submit("a", 1).result(10)
    assert pool.stats is stats
    assert (stats.calls, stats.steps, stats.deadline_misses) == (3, 7, 3)
    assert 0 < stats.p50_ms <= stats.p99_ms <= stats.max_ms


def test_a_failed_call_adds_no_stream(char_rnn, monkeypatch):
    pool = char_rnn.pool()
    pool.step({"a": 1})
    before = pool.state("a")

    def failing(self):
        raise ExecutionError("no memory")

    monkeypatch.setattr("rnnx_runtime._stepper.Stepper._call", failing)
    with pytest.raises(ExecutionError):
        pool.step({"a": 1, "new": 2})
    monkeypatch.undo()
    assert list(pool) == ["a"]
    assert pool.state("a") == before
    pool.step({"new": 2, "a": 1})
    assert pool.state("new").position == 1


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
