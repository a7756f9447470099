import copy
import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.runtime import handmade
from tests.runtime.answers import (
    CLOSE,
    assert_close,
    assert_same_bits,
    assert_states_close,
    joined,
    named,
    per_step,
    sample,
    stacked,
)

from rnnx_runtime import ExecutionError, InputError, StateError, load

# The golden traces have the graph's layout; this makes them batch-first by hand.
BATCH_FIRST = {
    "char_rnn": {"tokens": lambda graph: graph, "output": lambda graph: graph.reshape(1, -1, 4)},
    "lstm": {"x": lambda graph: graph, "output.0": lambda graph: graph},
    "gru": {
        "x": lambda graph: graph.swapaxes(0, 1),
        "output.0": lambda graph: graph.swapaxes(0, 1),
        "output.1": lambda graph: graph,
    },
}


@pytest.mark.parametrize("name", BATCH_FIRST)
def test_the_golden_trace_is_reproduced(models, name):
    model, trace = models[name], models[name].manifest.golden
    given, wanted = (
        {key: BATCH_FIRST[name][key](array.numpy()) for key, array in arrays.items()}
        for arrays in (trace.inputs, trace.outputs)
    )
    state = model.make_state({key: array.numpy() for key, array in trace.states.items()})
    answer, after = model.run(given, state)
    assert_close(named(model, answer), wanted)
    assert_close(dict(after), {key: array.numpy() for key, array in trace.next_states.items()})


@pytest.mark.parametrize("name", BATCH_FIRST)
def test_the_golden_trace_starts_at_the_initial_state(models, name):
    model = models[name]
    assert_same_bits(dict(model.initial_state()), {key: array.numpy() for key, array in model.manifest.golden.states.items()})


def test_shapes_are_batch_first_whatever_the_module_had(char_rnn, lstm, gru):
    tokens, values = np.zeros((3, 5), np.int64), np.zeros((3, 5, 3), np.float32)
    assert char_rnn.run(tokens)[0].shape == (3, 5, 4)
    assert lstm.run(values)[0].shape == (3, 5, 2)
    assert {name: array.shape for name, array in gru.run(values)[0].items()} == {"output.0": (3, 5, 2), "output.1": (3, 6)}
    assert char_rnn.step(tokens[:, 0], char_rnn.initial_state(3))[0].shape == (3, 4)
    assert lstm.step(values[:, 0], lstm.initial_state(3))[0].shape == (3, 2)
    step = gru.step(values[:, 0], gru.initial_state(3))[0]
    assert {name: array.shape for name, array in step.items()} == {"output.0": (3, 2), "output.1": (3, 6)}


def test_answers_are_the_callers_own(model):
    chunk = sample(model, 2, 4)
    first = named(model, model.run(chunk)[0])
    kept = {name: array.copy() for name, array in first.items()}
    for array in first.values():
        assert array.flags.c_contiguous
        array[...] = 7
    assert_same_bits(named(model, model.run(chunk)[0]), kept)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("cuts", [[1], [3, 4], [5, 5, 6], range(1, 11)])
def test_chunks_with_the_state_carried_are_the_whole(model, batch, cuts):
    whole = sample(model, batch, 11)
    wanted, wanted_state = model.run(whole)
    answers, state = [], None
    for chunk in np.split(whole, list(cuts), axis=1):
        if chunk.shape[1] or len(per_step(model)) == len(model.manifest.outputs):
            answer, state = model.run(chunk, state)
            answers.append(answer)
    assert_close(joined(model, answers), named(model, wanted))
    assert_states_close(state, wanted_state)


@pytest.mark.parametrize("batch", [1, 3])
def test_steps_with_the_state_carried_are_the_whole(model, batch):
    whole = sample(model, batch, 9)
    wanted, wanted_state = model.run(whole)
    answers, state = [], model.initial_state(batch)
    for step in range(9):
        answer, state = model.step(whole[:, step], state)
        answers.append(answer)
    assert_close(stacked(model, answers), named(model, wanted))
    assert_states_close(state, wanted_state)


def test_each_row_of_a_batch_is_answered_as_if_alone(model):
    chunk = sample(model, 4, 6)
    together, state = model.run(chunk)
    for row in range(4):
        alone, own = model.run(chunk[row : row + 1])
        assert_close(named(model, alone), {name: array[row : row + 1] for name, array in named(model, together).items()})
        for spec in model.manifest.states:
            np.testing.assert_allclose(own[spec.name], state[spec.name].take([row], axis=spec.batch_axis), **CLOSE)


def test_a_sum_made_by_hand_is_exact_on_every_way(running_sum):
    whole = np.random.default_rng(0).integers(-1000, 1000, (3, 20, 2)).astype(np.float32)
    wanted = whole.cumsum(axis=1)
    answer, state = running_sum.run(whole)
    np.testing.assert_array_equal(answer, wanted)
    np.testing.assert_array_equal(state["sum"], wanted[:, -1])
    first, state = running_sum.run(whole[:, :7])
    second, state = running_sum.run(whole[:, 7:], state)
    np.testing.assert_array_equal(np.concatenate([first, second], axis=1), wanted)
    stream = running_sum.stream(3)
    np.testing.assert_array_equal(np.stack([stream.step(x) for x in whole.swapaxes(0, 1)], axis=1), wanted)
    np.testing.assert_array_equal(stream.state["sum"], wanted[:, -1])


def test_run_is_a_pure_function(model):
    chunk, state = sample(model, 2, 5), model.run(sample(model, 2, 3, seed=1))[1]
    before = {name: array.copy() for name, array in state.items()}, chunk.copy()
    first, first_state = model.run(chunk, state)
    second, second_state = model.run(chunk, state)
    assert_same_bits(named(model, first), named(model, second))
    assert first_state == second_state
    assert_same_bits(dict(state), before[0])
    np.testing.assert_array_equal(chunk, before[1])


def test_the_state_matters(model):
    chunk = sample(model, 1, 5)
    _, moved = model.run(sample(model, 1, 3, seed=1))
    fresh, continued = (named(model, model.run(chunk, state)[0]) for state in (None, moved))
    assert all((fresh[name] != continued[name]).any() for name in fresh)


def test_no_state_is_the_initial_state(model):
    chunk = sample(model, 3, 4)
    (bare, bare_state), (given, given_state) = model.run(chunk), model.run(chunk, model.initial_state(3))
    assert_same_bits(named(model, bare), named(model, given))
    assert bare_state == given_state


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.usefixtures("no_onnxruntime")
def test_no_steps_have_no_answer_and_leave_the_state_as_it_is(char_rnn, lstm, running_sum, batch):
    for model, inner, answered in ((char_rnn, (), 4), (lstm, (3,), 2), (running_sum, (2,), 2)):
        state = model.initial_state(batch)
        answer, after = model.run(np.zeros((batch, 0, *inner), model.manifest.inputs[0].dtype), state)
        assert (answer.shape, answer.dtype) == ((batch, 0, answered), np.float32)
        assert after == state
        assert model.infer(np.zeros((batch, 0, *inner), model.manifest.inputs[0].dtype)).shape == (batch, 0, answered)


@pytest.mark.usefixtures("no_onnxruntime")
def test_no_steps_are_refused_where_the_answer_is_about_the_whole_chunk(gru):
    with pytest.raises(InputError, match=r"^output\.1 answers the whole chunk; give at least one step$"):
        gru.run(np.zeros((1, 0, 3), np.float32))


@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.usefixtures("no_onnxruntime")
def test_an_empty_batch_is_refused_before_onnxruntime_would_abort(model, steps):
    with pytest.raises(InputError, match="^the batch is empty; give at least one row$"):
        model.run(sample(model, 1, steps)[:0])
    with pytest.raises(InputError, match="^the batch is empty; give at least one row$"):
        model.infer(sample(model, 1, steps)[:0])
    with pytest.raises(InputError, match="^the batch is empty; give at least one row$"):
        model.step(sample(model, 1, 1)[:0, 0], model.initial_state())


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_has_at_least_one_row(model, batch):
    with pytest.raises(InputError, match=f"^batch must be from 1 to 17179869184, got {batch}$"):
        model.initial_state(batch)
    with pytest.raises(InputError, match=f"^batch must be from 1 to 17179869184, got {batch}$"):
        model.stream(batch)


def test_text_is_answered_in_text(char_rnn):
    logits = char_rnn.run(char_rnn.encode("hello")[None])[0]
    best = ["ehlo"[token] for token in logits[0].argmax(axis=-1)]
    assert char_rnn.infer("hello") == "".join(best)
    assert len(char_rnn.infer("hellohello")) == 10
    assert char_rnn.infer("") == ""


def test_an_array_is_answered_with_an_array(model):
    chunk = sample(model, 2, 5)
    assert_same_bits(named(model, model.infer(chunk)), named(model, model.run(chunk)[0]))
    assert_same_bits(named(model, model.infer(chunk.tolist())), named(model, model.run(chunk)[0]))


def test_text_for_a_model_without_a_codec_is_refused(lstm):
    for ask in (lstm.infer, lstm.encode):
        with pytest.raises(InputError, match="^this artifact has no text codec; give arrays instead of text$"):
            ask("hello")


def test_text_outside_the_vocabulary_is_refused(char_rnn):
    with pytest.raises(InputError, match="^character 'x' at position 2 is not in the model's vocabulary of 4: 'ehlo'$"):
        char_rnn.infer("hex")


def test_a_model_whose_answer_is_no_text_says_so(golden, char_rnn):
    data = (golden / "char_rnn.onnx").read_bytes()
    model = load(handmade.with_manifest(data, lambda said: said["outputs"][0].update(role="values")))
    with pytest.raises(InputError, match="^this artifact does not answer in text; it takes and gives numbers$"):
        model.infer("hello")


def test_several_inputs_are_given_by_name_to_run_and_step():
    model = load(handmade.with_second_input("Mul", "gain", ("seq_len", "batch", 2)))
    x, gain = np.random.default_rng(0).integers(-9, 9, (2, 3, 5, 2)).astype(np.float32)
    wanted = x.cumsum(axis=1) * gain
    np.testing.assert_array_equal(model.run({"x": x, "gain": gain})[0], wanted)
    stream = model.stream(3)
    steps = [stream.step({"gain": gain[:, t], "x": x[:, t]}) for t in range(5)]
    np.testing.assert_array_equal(np.stack(steps, axis=1), wanted)
    answer, _ = model.step({"x": x[:, 0], "gain": gain[:, 0]}, model.initial_state(3))
    np.testing.assert_array_equal(answer, wanted[:, 0])


def test_an_input_without_time_is_given_once_for_all_steps():
    model = load(handmade.with_second_input("Add", "offset", ("batch", 2)))
    x, offset = np.ones((3, 5, 2), np.float32), np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    wanted = x.cumsum(axis=1) + offset[:, None]
    np.testing.assert_array_equal(model.run({"x": x, "offset": offset})[0], wanted)
    stream = model.stream(3)
    np.testing.assert_array_equal(stream.feed({"x": x[:, :3], "offset": offset}), wanted[:, :3])
    np.testing.assert_array_equal(stream.step({"x": x[:, 3], "offset": offset}), wanted[:, 3])
    answer, _ = model.step({"x": x[:, 4], "offset": offset}, stream.state)
    np.testing.assert_array_equal(answer, wanted[:, 4])


@pytest.mark.parametrize(
    ("shape", "second", "rule"),
    [
        (("seq_len", "batch", 2), (2, 5, 2), "gain: B is 2, but 3 in another input"),
        (("seq_len", "batch", 2), (3, 4, 2), "gain: T is 4, but 5 in another input"),
        (("seq_len", "batch", 2), (3, 5, 1), r"gain: expected the shape \(B, T, 2\), got \(3, 5, 1\)"),
        (("batch", 2), (2, 2), "gain: B is 2, but 3 in another input"),
        (("batch", 2), (3, 5, 2), r"gain: expected the shape \(B, 2\), got \(3, 5, 2\)"),
        (("batch", 2), (1, 2), "gain: B is 1, but 3 in another input"),
    ],
)
def test_the_inputs_must_agree_in_batch_and_steps(shape, second, rule):
    model = load(handmade.with_second_input("Mul", "gain", shape))
    with pytest.raises(InputError, match=f"^{rule}$"):
        model.run({"x": np.ones((3, 5, 2)), "gain": np.ones(second)})


def test_the_same_file_by_path_and_as_bytes_is_the_same_model(golden):
    path = golden / "lstm.onnx"
    models = [load(path), load(str(path)), load(path.read_bytes())]
    assert {model.digest for model in models} == {hashlib.sha256(path.read_bytes()[:-81]).hexdigest()}
    _, state = models[0].run(sample(models[0], 1, 3))
    assert_same_bits(*(named(model, model.run(sample(model, 1, 3, seed=1), state)[0]) for model in models[1:]))


def test_a_model_shows_its_name_and_digest(char_rnn):
    assert repr(char_rnn) == f"Model('CharRnn', {char_rnn.digest[:12]})"
    assert len(char_rnn.digest) == 64


def test_a_model_cannot_be_given_another_manifest_or_digest(char_rnn):
    for name in ("manifest", "digest"):
        with pytest.raises(AttributeError, match=f"property '{name}' of 'Model' object has no setter"):
            setattr(char_rnn, name, None)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_inside_one_call_do_not_change_the_answer(golden, lstm, threads):
    model = load(golden / "lstm.onnx", threads=threads)
    chunk = sample(model, 3, 8)
    assert_close(named(model, model.run(chunk)[0]), named(lstm, lstm.run(chunk)[0]))


@pytest.mark.parametrize("threads", [0, -1])
def test_less_than_one_thread_is_refused(golden, threads):
    with pytest.raises(ValueError, match=f"^threads must be from 1 to 256, got {threads}$"):
        load(golden / "lstm.onnx", threads=threads)


def test_a_valid_file_that_onnxruntime_cannot_load_is_an_execution_error(capfd):
    nonsense = handmade.running_sum_graph(handmade.scan(), handmade.pb.node("Not", ["x"], ["z"]))
    with pytest.raises(ExecutionError, match="^ONNX Runtime cannot load the model: [^\n]*$"):
        load(handmade.running_sum(nonsense))


def test_a_call_that_fails_in_onnxruntime_is_an_execution_error(capfd, golden, char_rnn):
    data = (golden / "char_rnn.onnx").read_bytes()
    model = load(handmade.with_manifest(data, lambda said: said["inputs"][0].update(vocabulary_size=100)))
    with pytest.raises(ExecutionError, match="^ONNX Runtime failed: [^\n]*$"):
        model.run([[0, 99]])
    assert model.infer("hello") == char_rnn.infer("hello")


def test_many_threads_share_a_model(model):
    chunks = [sample(model, 1, 25, seed) for seed in range(16)]

    def answers(chunk):
        stream = model.stream()
        steps = [stream.step(chunk[:, step]) for step in range(20)]
        return stacked(model, steps), stream.feed(chunk[:, 20:]), stream.state

    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(answers, chunks * 4))
    for (steps, fed, state), (own_steps, own_fed, own_state) in zip(together, [answers(c) for c in chunks] * 4, strict=True):
        assert_same_bits(steps, own_steps)
        assert_same_bits(named(model, fed), named(model, own_fed))
        assert state == own_state


def test_a_state_of_another_model_is_refused(char_rnn, lstm):
    state = lstm.initial_state()
    rule = f"^the state belongs to artifact {lstm.digest[:12]}, this model is {char_rnn.digest[:12]}$"
    for ask in (char_rnn.run, char_rnn.step):
        with pytest.raises(StateError, match=rule):
            ask([[0]] if ask == char_rnn.run else [0], state)


@pytest.mark.parametrize(("batch", "rows"), [(1, 3), (3, 1), (2, 3)])
def test_a_state_of_another_batch_is_refused(model, batch, rows):
    rule = f"^the state has a batch of {batch}, the input one of {rows}$"
    with pytest.raises(StateError, match=rule):
        model.run(sample(model, rows, 2), model.initial_state(batch))
    with pytest.raises(StateError, match=rule):
        model.step(sample(model, rows, 1)[:, 0], model.initial_state(batch))


@pytest.mark.parametrize("state", [{}, 3, "state", np.zeros((1, 1, 8)), {"rnn.l0.h": np.zeros((1, 1, 8))}])
def test_what_is_no_state_is_refused(char_rnn, state):
    with pytest.raises(StateError, match=r"^a state is made by Model\.initial_state or Model\.make_state, got \w+$"):
        char_rnn.run([[0]], state)


@pytest.mark.parametrize("batch", ["2", True, 2.0, [2], 2**62, 2**64, 1j])
def test_a_batch_is_a_whole_number_in_range(model, batch):
    for ask in (model.stream, model.initial_state):
        with pytest.raises(InputError, match="^batch must be "):
            ask(batch)


def test_a_batch_whose_states_fit_no_memory_is_refused(char_rnn):
    with pytest.raises(InputError, match="^a batch of 8589934592 needs states of more than 17179869184 elements$"):
        char_rnn.initial_state(2**33)


@pytest.mark.parametrize("threads", ["2", True, 1.0, None, 257, 2**40])
def test_threads_are_a_whole_number_in_range(golden, threads):
    with pytest.raises(InputError, match="^threads must be "):
        load(golden / "lstm.onnx", threads=threads)


def test_a_model_is_its_own_copy(char_rnn):
    assert copy.copy(char_rnn) is char_rnn
    assert copy.deepcopy({"model": char_rnn})["model"] is char_rnn


def test_one_hot_text_is_answered_in_text():
    def change(said):
        said["codec"] = {"kind": "one_hot", "vocabulary": "ab"}
        said["outputs"][0]["role"] = "logits"

    model = load(handmade.with_manifest(handmade.running_sum(), change))  # answers with the symbol that came most often
    assert model.infer("abbba") == "aabbb"
    assert model.encode("ab").tolist() == [[1, 0], [0, 1]]
    np.testing.assert_array_equal(model.logits(model.run(model.encode("abb")[None])[0]), [[[1, 0], [1, 1], [1, 2]]])
    assert "".join(model.stream().generate("bba", 3, temperature=0)) == "bbb"
