import pickle
import threading

import numpy as np
import pytest
from tests.runtime import handmade
from tests.runtime.answers import named, sample

from rnnx_runtime import ExecutionError, InputError, StateError, load
from rnnx_runtime._engine import Engine
from rnnx_runtime._graph import Graph
from rnnx_runtime._stepper import Stepper

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
    calls = []

    def failing_at_the_second(call):
        def made(*arguments):
            calls.append(arguments)
            if len(calls) == 2:
                raise ExecutionError("no memory")
            return call(*arguments)

        return made

    monkeypatch.setattr(Stepper, "look_ahead", failing_at_the_second(Stepper.look_ahead))
    for keys in (range(5), range(4, -1, -1), range(3)):
        calls.clear()
        with pytest.raises(ExecutionError):
            pool.step(dict.fromkeys(keys, 1))
    monkeypatch.setattr(Graph, "call", failing_at_the_second(Graph.call))
    calls.clear()
    with pytest.raises(ExecutionError):
        pool.feed({key: [1] * (key + 1) for key in range(5)})
    monkeypatch.undo()
    assert [pool.state(key) for key in range(5)] == before
    assert [pool.state(key).position for key in range(5)] == [1] * 5


def test_streams_are_answered_in_any_order(model):
    xs = sample(model, 7, 4)
    pool, alone = model.pool(max_batch=4), [model.stream() for _ in range(7)]
    for t, keys in enumerate(([0, 1, 2, 3, 4, 5], [3, 1, 5, 0, 2, 4], [4, 2], [5, 4, 3, 2, 1, 0, 6])):
        found = pool.step({key: xs[key, t] for key in keys})
        assert list(found) == keys
        for key in keys:
            same(model, found[key], row(model, alone[key].step(xs[key : key + 1, t])))
    for key, stream in enumerate(alone):
        same_state(model, pool.state(key), stream.state)


@pytest.mark.parametrize("rows", [64, 65, 300])
def test_how_many_go_into_a_call_is_measured_where_there_are_many(char_rnn, rows):
    pool, other = char_rnn.pool(), char_rnn.pool(max_batch=1)
    xs = {key: key % 4 for key in range(rows)}
    assert char_rnn._engine.best_batch(rows) in (64, 128, 256, 512)[: 1 + (rows > 64) + 2 * (rows > 128)]
    for _ in range(2):
        found, wanted = pool.step(xs), other.step(xs)
        for key in xs:
            np.testing.assert_allclose(found[key], wanted[key], rtol=0, atol=1e-6)


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


def test_streams_that_change_at_each_step_find_their_calls_prepared(char_rnn, monkeypatch):
    pool, made, stepper = char_rnn.pool(max_batch=1), [], Engine.stepper
    monkeypatch.setattr(Engine, "stepper", lambda self, batch: made.append(batch) or stepper(self, batch))
    for turn in range(6):
        pool.step({key: key % 4 for key in range(turn % 2, 150, 2)})  # the odd ones, then the even ones
    pool.step(dict.fromkeys(range(3), 0))
    assert made == [1] * 75
    assert [pool.state(key).position for key in range(4)] == [4, 4, 4, 3]


def test_a_failed_call_adds_no_stream(char_rnn, monkeypatch):
    pool = char_rnn.pool()
    pool.step({"a": 1})
    before = pool.state("a")

    def failing(*_):
        raise ExecutionError("no memory")

    monkeypatch.setattr("rnnx_runtime._stepper.Stepper.look_ahead", failing)
    with pytest.raises(ExecutionError):
        pool.step({"a": 1, "new": 2})
    monkeypatch.undo()
    assert list(pool) == ["a"]
    assert pool.state("a") == before
    pool.step({"new": 2, "a": 1})
    assert pool.state("new").position == 1


def test_a_pool_that_could_not_prepare_a_call_goes_on(char_rnn, monkeypatch):
    pool = char_rnn.pool(max_batch=2)
    pool.step({"a": 1})
    before, made, stepper = pool.state("a"), [], type(char_rnn._engine).stepper

    def failing_at_the_second(self, batch):
        made.append(batch)
        if len(made) == 2:
            raise ExecutionError("no memory")
        return stepper(self, batch)

    monkeypatch.setattr(type(char_rnn._engine), "stepper", failing_at_the_second)
    with pytest.raises(ExecutionError, match="no memory"):
        pool.step(dict.fromkeys((0, 1, 2), 1))
    monkeypatch.undo()
    assert list(pool) == ["a"]
    assert pool.state("a") == before
    assert list(pool.step({0: 1, "a": 2})) == [0, "a"]
