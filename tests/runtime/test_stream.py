import copy
import pickle
import threading

import numpy as np
import pytest
from tests.faults.networks import FEATURES, Network
from tests.runtime import handmade
from tests.runtime.answers import assert_close, assert_same_bits, assert_states_close, joined, named, sample, stacked

from rnnx_runtime import ExecutionError, InputError, State, StateError, load


@pytest.mark.parametrize("batch", [1, 3])
def test_steps_are_the_whole(model, batch):
    whole = sample(model, batch, 12)
    wanted, state = model.run(whole)
    stream = model.stream(batch)
    assert_close(stacked(model, [stream.step(whole[:, step]) for step in range(12)]), named(model, wanted))
    assert_states_close(stream.state, state)


@pytest.mark.parametrize("batch", [1, 3])
def test_steps_are_bit_for_bit_the_pure_steps(model, batch):
    whole, state, stream = sample(model, batch, 8), model.initial_state(batch), model.stream(batch)
    for step in range(8):
        answer, state = model.step(whole[:, step], state)
        assert_same_bits(named(model, stream.step(whole[:, step])), named(model, answer))
        assert stream.state == state


@pytest.mark.parametrize("batch", [1, 3])
def test_chunks_are_bit_for_bit_the_pure_runs(model, batch):
    stream, state = model.stream(batch), model.initial_state(batch)
    for seed, steps in enumerate((1, 4, 2)):
        chunk = sample(model, batch, steps, seed)
        answer, state = model.run(chunk, state)
        assert_same_bits(named(model, stream.feed(chunk)), named(model, answer))
        assert stream.state == state


@pytest.mark.parametrize("batch", [1, 3])
def test_chunks_that_come_again_are_bit_for_bit_the_pure_runs(model, batch):
    """From the second of a length on, a call is prepared for them; steps, lists, other lengths and refusals come between."""
    stream, state = model.stream(batch), model.initial_state(batch)
    kept = []
    for seed, steps in enumerate((4, 4, 4, 4, 1, 1, 1, 2, 4, 4, 4)):
        chunk = sample(model, batch, steps, seed)
        answer, state = model.run(chunk, state)
        found = stream.feed(chunk if seed % 3 else chunk.tolist())
        assert_same_bits(named(model, found), named(model, answer))
        kept.append((found, copy.deepcopy(found)))
        wrong = chunk.copy()
        wrong.flat[-1] = 99 if wrong.dtype == np.int64 else np.nan
        for refused in (wrong, np.concatenate([chunk, chunk])):
            with pytest.raises(InputError):
                stream.feed(refused)
        assert (stream.state, stream.position) == (state, state.position)
        if seed % 2:
            answer, state = model.step(chunk[:, 0], state)
            assert_same_bits(named(model, stream.step(chunk[:, 0])), named(model, answer))
    for found, then in kept:
        assert_same_bits(named(model, found), named(model, then))
    stream.reset()
    assert_same_bits(named(model, stream.feed(chunk)), named(model, model.run(chunk)[0]))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("plan", [[1, 0, 0, 4, 0, 2], [0, 3, 3, 0], [5, 1, 0, 0, 0, 1], [0, 0, 1, 1, 6]])
def test_steps_and_chunks_may_be_mixed(model, batch, plan):
    steps = sum(size or 1 for size in plan)
    whole = sample(model, batch, steps)
    wanted, state = model.run(whole)
    stream, position, answers = model.stream(batch), 0, []
    for size in plan:  # 0 for a step, else a chunk
        if size == 0:
            answers.append(stacked(model, [stream.step(whole[:, position])]))
        else:
            answers.append(stream.feed(whole[:, position : position + size]))
        position += size or 1
    assert_close(joined(model, answers), named(model, wanted))
    assert_states_close(stream.state, state)


def test_a_stream_starts_at_the_initial_state(model):
    assert model.stream().batch == 1
    assert model.stream(3).batch == 3
    assert model.stream(3).state == model.initial_state(3)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("moved_by", ["step", "feed"])
def test_reset_starts_a_new_sequence(model, batch, moved_by):
    whole, stream = sample(model, batch, 6), model.stream(batch)
    first = [stream.step(whole[:, step]) for step in range(6)]
    if moved_by == "feed":
        stream.feed(whole)
    stream.reset()
    assert stream.state == model.initial_state(batch)
    again = [stream.step(whole[:, step]) for step in range(6)]
    assert_same_bits(stacked(model, again), stacked(model, first))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_restored_stream_goes_on_as_it_did(model, batch, steps):
    whole, stream = sample(model, batch, 10), model.stream(batch)
    for step in range(steps):
        stream.step(whole[:, step])
    saved = stream.state
    wanted = stacked(model, [stream.step(whole[:, step]) for step in range(steps, 10)])
    end = stream.state
    for other in (stream, model.stream(batch)):
        other.restore(saved)
        assert other.state == saved
        assert_same_bits(stacked(model, [other.step(whole[:, step]) for step in range(steps, 10)]), wanted)
        assert other.state == end


def test_a_restored_stream_may_be_fed(model):
    whole, stream = sample(model, 1, 10), model.stream()
    stream.feed(whole[:, :4])
    saved = stream.state
    wanted = stream.feed(whole[:, 4:])
    stream.restore(saved)
    assert_same_bits(named(model, stream.feed(whole[:, 4:])), named(model, wanted))


@pytest.mark.parametrize("move", ["step", "feed", "reset"])
def test_a_state_is_a_value_and_does_not_follow_the_stream(model, move):
    whole, stream = sample(model, 1, 6), model.stream()
    stream.step(whole[:, 0])
    saved = stream.state
    bits = {name: array.tobytes() for name, array in saved.items()}
    for step in range(1, 6):
        if move == "step":
            stream.step(whole[:, step])
        elif move == "feed":
            stream.feed(whole[:, step : step + 1])
        else:
            stream.reset()
            stream.step(whole[:, step])
    assert {name: array.tobytes() for name, array in saved.items()} == bits
    assert stream.state != saved


def test_answers_do_not_follow_the_stream(model):
    whole, stream = sample(model, 1, 4), model.stream()
    answers = [named(model, stream.step(whole[:, step])) for step in range(4)]
    kept = [{name: array.copy() for name, array in answer.items()} for answer in answers]
    for answer in answers:
        for array in answer.values():
            array[...] = 9  # the caller's own
    stream.reset()
    for step, wanted in enumerate(kept):
        assert_same_bits(named(model, stream.step(whole[:, step])), wanted)


def test_inputs_are_not_kept(model):
    whole, stream, other = sample(model, 1, 3), model.stream(), model.stream()
    for step in range(3):
        buffer = whole[:, step].copy()
        wanted = named(model, other.step(buffer))
        assert_same_bits(named(model, stream.step(buffer)), wanted)
        buffer[...] = 0


def test_two_streams_share_nothing(model):
    a, b = sample(model, 1, 8, seed=1), sample(model, 1, 8, seed=2)
    wanted_a, wanted_b = (
        stacked(model, [stream.step(x[:, step]) for step in range(8)])
        for stream, x in ((model.stream(), a), (model.stream(), b))
    )
    one, two, found_a, found_b = model.stream(), model.stream(), [], []
    for step in range(8):
        found_a.append(one.step(a[:, step]))
        if step % 3 == 0:
            model.run(sample(model, 2, 3))
        found_b.append(two.step(b[:, step]))
    assert_same_bits(stacked(model, found_a), wanted_a)
    assert_same_bits(stacked(model, found_b), wanted_b)


def test_a_state_can_be_forked(model):
    stream = model.stream()
    stream.feed(sample(model, 1, 3))
    forks = [model.stream(), model.stream()]
    for fork in forks:
        fork.restore(stream.state)
    x = sample(model, 1, 5, seed=3)
    answers = [stacked(model, [fork.step(x[:, step]) for step in range(5)]) for fork in forks]
    assert_same_bits(*answers)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["char_rnn", "lstm", "running_sum"])
def test_feeding_no_steps_changes_nothing(models, name, batch, monkeypatch):
    model = models[name]
    stream = model.stream(batch)
    stream.step(sample(model, batch, 1)[:, 0])
    before = stream.state
    monkeypatch.setattr("rnnx_runtime._session.Session.run", lambda *arguments: pytest.fail("ONNX Runtime was called"))
    answer = stream.feed(sample(model, batch, 1)[:, :0])
    assert answer.shape == (batch, 0, model.manifest.outputs[0].shape[-1])
    assert stream.state == before


def test_feeding_no_steps_is_refused_where_the_answer_is_about_the_whole_chunk(gru):
    stream = gru.stream()
    stream.step(sample(gru, 1, 1)[:, 0])
    before = stream.state
    with pytest.raises(InputError, match=r"^output\.1 answers the whole chunk; give at least one step$"):
        stream.feed(np.zeros((1, 0, 3), np.float32))
    assert stream.state == before


BAD_STEPS = {
    "char_rnn": [[-1], [4], [2**40], [0.5], [True], "h", None, [[0]], [0, 1], [], 0, [[0], [1, 2]]],
    "lstm": [
        [[np.nan, 0, 0]],
        [[np.inf, 0, 0]],
        [[1e300, 0, 0]],
        [[0, 0]],
        [[0, 0, 0, 0]],
        [0, 0, 0],
        [[[0, 0, 0]]],
        [["a", "b", "c"]],
        [[True, True, True]],
        np.zeros((0, 3)),
    ],
}


@pytest.mark.parametrize(("name", "x"), [(name, x) for name, bad in BAD_STEPS.items() for x in bad])
def test_a_step_that_is_refused_leaves_the_stream_as_it_was(models, name, x):
    model = models[name]
    whole, stream, undisturbed = sample(model, 1, 6), model.stream(), model.stream()
    for step in range(6):
        before = stream.state
        with pytest.raises(InputError):
            stream.step(x)
        assert stream.state == before
        assert_same_bits(named(model, stream.step(whole[:, step])), named(model, undisturbed.step(whole[:, step])))
    assert stream.state == undisturbed.state


@pytest.mark.parametrize(
    ("name", "chunk"),
    [
        ("char_rnn", [[0, -1]]),
        ("char_rnn", [[0, 4]]),
        ("char_rnn", [0, 1]),
        ("char_rnn", [[0.0, 1.0]]),
        ("lstm", [[[0, 0, np.nan]]]),
        ("lstm", [[[0, 0]]]),
        ("lstm", [[0, 0, 0]]),
        ("gru", [[[0, 0, np.inf]]]),
    ],
)
def test_a_chunk_that_is_refused_leaves_the_stream_as_it_was(models, name, chunk):
    model = models[name]
    stream = model.stream()
    stream.step(sample(model, 1, 1)[:, 0])
    before = stream.state
    with pytest.raises(InputError):
        stream.feed(chunk)
    assert stream.state == before


@pytest.mark.parametrize("way", ["step", "feed"])
def test_a_failure_inside_onnxruntime_leaves_the_stream_as_it_was(golden, char_rnn, way, capfd):
    data = (golden / "char_rnn.onnx").read_bytes()
    model = load(handmade.with_manifest(data, lambda said: said["inputs"][0].update(vocabulary_size=100)))
    stream, undisturbed = model.stream(), model.stream()
    for token in (0, 1, 2, 3, 2):
        before = stream.state
        with pytest.raises(ExecutionError, match="^ONNX Runtime failed: "):
            stream.step([99]) if way == "step" else stream.feed([[0, 99]])
        assert stream.state == before
        assert_same_bits({"y": stream.step([token])}, {"y": undisturbed.step([token])})


@pytest.mark.parametrize(
    ("batch", "shape"), [(1, (2,)), (3, (1,)), (3, (2,)), (3, ()), (3, (3, 1)), (3, (1, 3)), (1, ()), (1, (1, 1)), (1, (0,))]
)
def test_a_step_has_the_shape_of_the_stream(char_rnn, batch, shape):
    stream = char_rnn.stream(batch)
    found = str(shape).replace("(", r"\(").replace(")", r"\)")
    rule = rf"^tokens: expected the shape \({batch},\) for one step of this stream, got {found}; a chunk goes to feed, another"
    with pytest.raises(InputError, match=rule):
        stream.step(np.zeros(shape, np.int64))


def test_a_chunk_has_the_batch_of_the_stream(char_rnn):
    stream = char_rnn.stream(3)
    rule = "^the input has a batch of 2, this stream one of 3; another batch size needs a stream of its own$"
    for steps in (4, 0):
        with pytest.raises(InputError, match=rule):
            stream.feed(np.zeros((2, steps), np.int64))
    with pytest.raises(InputError, match="^the batch is empty; give at least one row$"):
        stream.feed(np.zeros((0, 4), np.int64))
    assert stream.state == char_rnn.initial_state(3)


def test_a_state_that_does_not_fit_is_not_restored(char_rnn, lstm):
    stream = char_rnn.stream()
    stream.step([1])
    before = stream.state
    with pytest.raises(StateError, match=f"^the state belongs to artifact {lstm.digest[:12]}, this model is "):
        stream.restore(lstm.initial_state())
    with pytest.raises(StateError, match="^the state has a batch of 3, this stream one of 1$"):
        stream.restore(char_rnn.initial_state(3))
    with pytest.raises(StateError, match=r"^a state is made by Model\.initial_state or Model\.make_state, got dict$"):
        stream.restore(dict(char_rnn.initial_state()))
    assert stream.state == before


def test_a_step_may_be_given_in_any_form(char_rnn, lstm):
    for x in ([2], (2,), np.array([2], np.uint8), np.array([2], ">i8"), np.array([0, 2, 9])[1::2], {"tokens": [2]}):
        np.testing.assert_array_equal(char_rnn.stream().step(x), char_rnn.stream().step(np.array([2])))
    wanted = lstm.stream(2).step(np.array([[1, 2, 3], [4, 5, 6]], np.float32))
    forms = [
        [[1, 2, 3], [4, 5, 6]],
        np.array([[1, 2, 3], [4, 5, 6]], ">f8"),
        np.asfortranarray([[1.0, 2, 3], [4, 5, 6]]),
        np.arange(1.0, 13).repeat(2)[::2].reshape(4, 3)[:2],
        np.array([[3, 2, 1], [6, 5, 4]], np.float16)[:, ::-1],
        {"x": np.array([[1, 2, 3], [4, 5, 6]])},
    ]
    for x in forms:
        np.testing.assert_array_equal(lstm.stream(2).step(x), wanted)


def test_thousands_of_streams_are_cheap(char_rnn):
    streams = [char_rnn.stream() for _ in range(1000)]
    wanted = char_rnn.stream().step([1])
    assert all((stream.step([1]) == wanted).all() for stream in streams)


class Meanwhile:
    """Tokens that do something else before they are there."""

    def __init__(self, act):
        self.act = act

    def __array__(self, dtype=None, copy=None):
        self.act()
        return np.array([1])


USES = {
    "step": lambda stream: stream.step([2]),
    "feed": lambda stream: stream.feed([[2, 3]]),
    "reset": lambda stream: stream.reset(),
    "restore": lambda stream: stream.restore(stream._initial),
    "state": lambda stream: stream.state,
    "generate": lambda stream: list(stream.generate("h", 3)),
}
IN_USE = "^this stream is in use by another call; give each thread a stream of its own$"


@pytest.mark.parametrize("use", USES)
def test_a_stream_that_is_used_inside_its_own_step_refuses(char_rnn, use):
    stream, undisturbed = char_rnn.stream(), char_rnn.stream()
    for one in (stream, undisturbed):
        one.step([3])
    refused = []

    def act():
        with pytest.raises(InputError, match=IN_USE) as caught:
            USES[use](stream)
        refused.append(caught.value)

    np.testing.assert_array_equal(stream.step(Meanwhile(act)), undisturbed.step([1]))
    assert len(refused) == 1
    assert stream.state == undisturbed.state


@pytest.mark.parametrize("use", USES)
def test_a_stream_that_another_thread_uses_refuses(char_rnn, use):
    stream, undisturbed = char_rnn.stream(), char_rnn.stream()
    inside, go_on, answers = threading.Event(), threading.Event(), []
    slow = Meanwhile(lambda: (inside.set(), go_on.wait(10)))
    thread = threading.Thread(target=lambda: answers.append(stream.step(slow)))
    thread.start()
    try:
        assert inside.wait(10)
        with pytest.raises(InputError, match=IN_USE):
            USES[use](stream)
    finally:
        go_on.set()
        thread.join()
    np.testing.assert_array_equal(answers[0], undisturbed.step([1]))
    assert stream.state == undisturbed.state
    USES[use](stream)  # and now it may be used again


@pytest.mark.parametrize("use", ["step", "feed"])
def test_a_call_that_was_refused_gives_the_stream_free(char_rnn, use):
    stream = char_rnn.stream()
    for _ in range(2):
        with pytest.raises(InputError, match="token 9 is outside"):
            stream.step([9]) if use == "step" else stream.feed([[9]])


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_stream_is_not_copied(char_rnn, way):
    with pytest.raises(TypeError, match="^a stream cannot be copied or pickled; keep its state, and restore it in another"):
        way(char_rnn.stream())


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_state_that_dies_away_is_the_same_bits_whichever_way_it_is_fed(kind):
    """Nothing is rounded to zero on the way: a step, a chunk, a pool and a snapshot would each do it at another place."""
    model = load(Network(kind, 20, biases=0).artifact())
    silence = np.zeros((1, 300, FEATURES), np.float32)
    stepped, fed, pool = model.stream(), model.stream(), model.pool()
    loud = sample(model, 1, 5)
    for stream in (stepped, fed):
        stream.feed(loud)
    pool.feed({"alone": loud[0], "beside": sample(model, 1, 5, seed=1)[0]})
    denormal = 0
    for first in range(0, 300, 50):
        chunk = silence[:, first : first + 50]
        steps = [stepped.step(chunk[:, step]) for step in range(50)]
        pooled = [pool.step({"beside": chunk[0, step], "alone": chunk[0, step]})["alone"] for step in range(50)]
        wanted = fed.feed(chunk)
        assert np.stack(steps, axis=1).tobytes() == np.stack(pooled)[None].tobytes() == wanted.tobytes()
        stepped.restore(State.from_bytes(stepped.state.to_bytes()))
        assert stepped.state == fed.state == pool.state("alone") == stepped.fork().state
        denormal += int(((wanted != 0) & (np.abs(wanted) < np.finfo(np.float32).smallest_normal)).sum())
    assert denormal > 0
    assert not any(array.any() for array in fed.state.values())  # and in the end there is silence
