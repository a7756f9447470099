"""Which outputs hand states back: found where something speaks for it, asked for where nothing does, and never taken on trust."""

from typing import Any

import numpy as np
import pytest
from tests.export import foreign
from tests.export.foreign import Builder

import rnnx
from rnnx import AdoptError
from rnnx._adopt.pairs import named_alike
from rnnx_runtime import load


@pytest.fixture
def adopt(tmp_path):
    return lambda model, **said: rnnx.adopt(model.SerializeToString(), tmp_path / "adopted.onnx", **said)


def refused(adopt: Any, model: Any, message: str, **said: Any) -> None:
    with pytest.raises(AdoptError, match=message):
        adopt(model, **said)


@pytest.mark.parametrize(
    "names",
    [
        *("state stateN", "h0 hn", "h hn", "c_0 c_n", "in_cache out_cache", "h_in h_out", "x x.next", "hx hy", "cx cy"),
        *("conv_cache conv_cache_out", "rnn_prev_states rnn_states", "cached_len_0 new_cached_len_0", "states new_states"),
        *("init_state final_state", "lstm_hidden_input_state lstm_hidden_output_state", "state_in_1 state_out_1", "h1 hn1"),
        *("past_key_values.0.key present.0.key", "encoder.buffer encoder.buffer_updated", "hiddenState nextHiddenState"),
    ],
)
def test_these_names_say_state_and_next_state(names):
    assert named_alike(*names.split())


@pytest.mark.parametrize(
    "names",
    ["input output", "audio_in audio_out", "x y", "noisy enhanced", "h0 cn", "state_0 new_state_1", "input.1 180", "mix enh"],
)
def test_these_do_not(names):
    assert not named_alike(*names.split())


def test_frames_that_go_in_and_come_out_are_no_state(adopt):
    b = Builder()
    b.given("audio_in", [1, 4])
    b.given("state_in", [1, 6])
    both = b.node("Concat", "audio_in", "state_in", axis=1)
    b.node("Tanh", b.node("MatMul", both, b.weight(10, 6)), to="state_out")
    b.node("MatMul", "state_out", b.weight(6, 4), to="audio_out")
    b.gives("audio_out", [1, 4])
    b.gives("state_out", [1, 6])
    done = adopt(b.model())
    assert [(spec.input, spec.output) for spec in done.manifest.states] == [("state_in", "state_out")]


def test_where_only_shapes_speak_it_asks(adopt):
    refused(
        adopt,
        foreign.unnamed(decomposed=True),
        r"cannot be told: input_2 \[1, 1, 3\] → activation_2, input_3 \[1, 4, 2\] → tf_op_layer_stack_2 have equal shapes; say which do: "
        "--state INPUT=OUTPUT, or --state none",
    )


def test_what_was_found_is_said_where_the_rest_is_asked_for(adopt):
    b = Builder()
    b.given("mix", [1, 4])
    b.given("reference", [1, 4])
    b.given("h_in", [1, 4])
    total = b.node("Add", b.node("Add", "mix", "reference"), "h_in")
    b.node("Tanh", total, to="h_out")
    b.node("Relu", total, to="clean")
    b.gives("clean", [1, 4])
    b.gives("h_out", [1, 4])
    refused(
        adopt,
        b.model(),
        r"cannot be told, beside h_in=h_out: mix \[1, 4\] → clean, reference \[1, 4\] → clean have equal shapes; say which do: "
        "--state h_in=h_out,INPUT=OUTPUT, or --state h_in=h_out where no other does",
    )
    assert len(adopt(b.model(), states={"h_in": "h_out"}).manifest.states) == 1


def test_what_a_cache_is_joined_with_is_no_state(adopt):
    """Both stand in the next cache, and both have its shape."""
    b = Builder()
    b.given("frame", [1, 1, 4])
    b.given("cache", [1, 1, 4])
    both = b.node("Concat", "cache", "frame", axis=1)
    b.node("Slice", both, b.ints(1), b.ints(2), b.ints(1), to="new_cache")
    b.node("ReduceMean", both, axes=[1], keepdims=0, to="y")
    b.gives("y", [1, 4])
    b.gives("new_cache", [1, 1, 4])
    found = adopt(b.model()).manifest.states
    assert [(spec.input, spec.output, spec.found) for spec in found] == [("cache", "new_cache", "a cache that is shifted")]


def test_frames_with_an_axis_for_time_are_no_rival_of_a_cache(adopt):
    """Both are joined, and an output that declares no size has the shape of either."""
    b = Builder(3)
    b.given("x", ["b", 3, "t"])
    b.given("a", ["b", 3, 4])
    both = b.node("Concat", "a", "x", axis=2)
    b.node("Slice", both, b.ints(-4), b.ints(1 << 30), b.ints(2), to="kept")
    b.node("Conv", both, b.weight(2, 3, 5), to="y")
    b.gives("y", ["b", 2, "t"])
    b.gives("kept", ["b", "", ""])
    assert [(spec.input, spec.output) for spec in adopt(b.model()).manifest.states] == [("a", "kept")]


def test_none_is_an_answer(adopt):
    assert adopt(foreign.unnamed(decomposed=True), states={}).manifest.states == ()


def test_what_flows_where_is_said(adopt):
    assert adopt(foreign.unnamed()).manifest.states[0].found == "where lstm_4 begins and ends"
    found = {spec.name: spec.found for spec in adopt(foreign.enhancer()).manifest.states}
    assert found == {"conv_cache": "a cache that is shifted", "inter_cache": "where GRU_1 begins and ends"}
    assert adopt(foreign.cell()).manifest.states[0].found == "named alike"
    assert adopt(foreign.cell(), states={"h_in": "h_out"}).manifest.states[0].found == "as said"


def test_states_stand_in_the_order_of_the_inputs(adopt):
    assert [spec.name for spec in adopt(foreign.enhancer()).manifest.states] == ["conv_cache", "inter_cache"]


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ({"h9": "hn"}, "state 'h9' is no input of the graph, which has tokens, h0, c0"),
        ({"hn": "h0"}, "state 'hn' is no input of the graph, which has tokens, h0, c0; the other way round: --state h0=hn"),
        ({"h0": "h9"}, "'h9', said to hand h0 back, is no output of the graph, which has log_probs, hn, cn"),
        ({"h0": "hn", "c0": "hn"}, "hn hands back one state, and is paired with h0, c0; pair it with one of them"),
        (
            {"h0": "log_probs"},
            r"h0 and log_probs are no pair: h0 \[2, batch, 6\] is float32, log_probs \[batch, seq, 5\] is float32",
        ),
        ({"tokens": "hn"}, r"tokens and hn are no pair: tokens \[batch, seq\] is int64, hn \[2, batch, 6\] is float32"),
        (
            {"h0": "cn", "c0": "hn"},
            "h0 and cn are no pair: h0 is where the hidden state of rnn.LSTM_0 and the hidden state of rnn.LSTM_1 begins, cn is where "
            "the cell state of rnn.LSTM_0",
        ),
    ],
)
def test_pairs_that_are_none(adopt, states, message):
    refused(adopt, foreign.language_model(), message, states=states)


def test_something_must_be_left_to_give(adopt):
    b = Builder()
    b.given("h", [1, 2])
    b.node("Tanh", "h", to="hn")
    b.gives("hn", [1, 2])
    refused(adopt, b.model(), r"every input is paired as a state \(h\); one must be what a step is given", states={"h": "hn"})
    refused(adopt, b.model(), r"every input looks like a state \(h\); one must be what a step is given: say which are states")
    assert adopt(b.model(), states={}).manifest.states == ()


def test_a_cell_that_gives_nothing_but_its_state_answers_with_it(adopt):
    b = Builder()
    b.given("x", ["batch", 2])
    b.given("h", ["batch", 2])
    b.node("Tanh", b.node("Add", "h", "x"), to="hn")
    b.gives("hn", ["batch", 2])
    done = adopt(b.model())
    assert "every output hands a state back, so hn is the answer too, as hn.answer" in done.notes
    stream = load(done.path).stream()
    answers = [stream.step([[1.0, 0.0]])[0, 0] for _ in range(2)]
    assert np.allclose(answers, [np.tanh(1), np.tanh(np.tanh(1) + 1)])


def test_many_pairs_take_no_time(adopt):
    """Forty layers of caches, as large models have them, two free axes each."""
    b = Builder()
    b.given("x", ["batch", "seq_len", 2])
    total = "x"
    for layer in range(40):
        name = f"past_key_values.{layer}.key"
        b.given(name, ["batch", "past", 2])
        b.node("Concat", name, total, to=f"present.{layer}.key", axis=1)
        total = b.node("Add", total, b.node("ReduceMean", f"present.{layer}.key", axes=[1], keepdims=1))
        b.gives(f"present.{layer}.key", ["batch", "total", 2])
    b.node("Identity", total, to="y")
    b.gives("y", ["batch", "seq_len", 2])
    refused(adopt, b.model(), "grows with every call")


def test_running_tells_which_state_is_which(adopt):
    """Two sums so far, of one shape; both outputs look at both."""
    b = Builder(3)
    b.given("x", ["batch", "time", 2])
    b.given("a", ["batch", 2])
    b.given("b", ["batch", 2])
    nothing = b.node("Mul", b.node("Add", "a", "b"), b.constant(np.float32(0)))
    parts = []
    for name, output, factor in (("a", "p", 1), ("b", "q", 3)):
        scaled = b.node("Mul", "x", b.constant(np.float32(factor)))
        sums = b.node("Add", b.node("CumSum", scaled, b.constant(np.array(1, np.int64))), b.node("Unsqueeze", name, b.ints(1)))
        last = b.node("Squeeze", b.node("Slice", sums, b.ints(-1), b.ints(1 << 30), b.ints(1)), b.ints(1))
        b.node("Add", last, nothing, to=output)
        parts.append(sums)
    b.node("Add", parts[0], b.node("Tanh", parts[1]), to="y")
    b.gives("y", ["batch", "time", 2])
    b.gives("p", ["batch", 2])
    b.gives("q", ["batch", 2])
    refused(
        adopt,
        b.model(),
        r"cannot be told: a \[batch, 2\] → p or q, b \[batch, 2\] → p or q have equal shapes",
    )
    refused(
        adopt,
        b.model(),
        "chunks differ from the whole, off by .*, but not where states are paired so: --state a=p --state b=q",
        states={"a": "q", "b": "p"},
    )
    assert len(adopt(b.model(), states={"a": "p", "b": "q"}).manifest.states) == 2


def test_a_state_that_changes_nothing_is_none(adopt):
    b = Builder()
    b.given("x", ["batch", 3])
    b.given("h_in", ["batch", 3])
    b.node("Add", "x", b.node("Mul", "h_in", b.constant(np.float32(0))), to="h_out")
    b.node("Tanh", "x", to="y")
    b.gives("y", ["batch", 3])
    b.gives("h_out", ["batch", 3])
    refused(
        adopt,
        b.model(),
        "h_in and h_out are no pair: what h_out gives, fed back into h_in, changes nothing that follows",
        states={"h_in": "h_out"},
    )


def shifted(taken: str, given: str) -> Any:
    """Each step is mixed with the one before, as it was: what is handed on does not depend on what it was."""
    b = Builder(5)
    for name in ("x", taken, "h"):
        b.given(name, ["batch", 4])
    mixed = b.node("Add", b.node("Mul", "x", b.weight(4)), b.node("Mul", taken, b.weight(4)))
    b.node("Tanh", b.node("Add", mixed, b.node("MatMul", "h", b.weight(4, 4))), to="h_out")
    b.node("Tanh", b.node("MatMul", "h_out", b.weight(4, 4)), to="y")
    b.node("Relu", "x", to=given)
    for name in ("y", "h_out", given):
        b.gives(name, ["batch", 4])
    return b.model()


def test_a_delay_is_a_state_though_it_does_not_depend_on_itself(adopt):
    found = adopt(shifted("shift_state", "shift_state_out")).manifest.states
    assert [(spec.input, spec.output) for spec in found] == [("shift_state", "shift_state_out"), ("h", "h_out")]
    stream = load(adopt(shifted("last", "kept"), states={"last": "kept", "h": "h_out"}).path).stream()
    x = np.random.default_rng(0).standard_normal((2, 1, 4)).astype(np.float32)
    stream.step(x[0])
    assert np.array_equal(stream.state["last"], np.maximum(x[0], 0))


def test_the_advice_proposes_no_pair_that_may_be_wrong(adopt):
    refused(
        adopt,
        shifted("shift", "shift_out"),
        r"cannot be told, beside h=h_out: x \[batch, 4\] → y or shift_out, shift \[batch, 4\] → y or shift_out have equal shapes; say "
        "which do: --state h=h_out,INPUT=OUTPUT, or --state h=h_out where no other does",
    )


def test_names_of_one_stem_are_no_evidence_where_two_have_it(adopt):
    b = Builder(3)
    b.given("frame", [1, 8])
    b.given("prev_frame", [1, 8])
    b.node("Tanh", b.node("MatMul", b.node("Sub", "frame", "prev_frame"), b.weight(8, 8)), to="frame_out")
    b.gives("frame_out", [1, 8])
    refused(adopt, b.model(), r"cannot be told: frame \[1, 8\] → frame_out, prev_frame \[1, 8\] → frame_out have equal shapes")


def test_an_output_that_is_called_next_may_be_the_next_state(adopt):
    b = Builder(3)
    b.given("x", ["batch", 3])
    b.given("hidden", ["batch", 4])
    b.node("Tanh", b.node("Add", b.node("MatMul", "x", b.weight(3, 4)), "hidden"), to="next")
    b.node("Mul", "next", b.constant(np.float32(0.5)), to="hidden_out")
    for name in ("hidden_out", "next"):
        b.gives(name, ["batch", 4])
    refused(adopt, b.model(), r"cannot be told: hidden \[batch, 4\] → hidden_out or next have equal shapes")
    assert adopt(b.model(), states={"hidden": "next"}).manifest.states[0].output == "next"


def test_a_state_that_the_file_lost_is_refused(adopt):
    """An exporter that was given one tensor twice takes both states for one."""
    b = Builder()
    b.given("x", ["time", "batch", 3])
    for name in ("h0", "c0"):
        b.given(name, [1, "batch", 4])
    b.recurrent("LSTM", "x", 3, 4, "c0", "c0", to=["g", "hn", "cn"])
    b.node("Squeeze", "g", b.ints(1), to="y")
    b.gives("y", ["time", "batch", 4])
    for name in ("hn", "cn"):
        b.gives(name, [1, "batch", 4])
    lost = "nothing in the graph reads h0, so that hn cannot go back into it: the state was lost when the file was made; export it again"
    refused(adopt, b.model(), lost)
    refused(adopt, b.model(), lost, states={"h0": "hn", "c0": "cn"})


def test_keys_that_grow_are_refused(adopt):
    grows = "it grows with every call, as the keys and values of attention do, and is no state of one size; rnnx streams recurrent models"
    refused(adopt, foreign.attention(), rf"present.0.key is \[2, 5, 4\] where past_key_values.0.key was \[2, 2, 4\]: {grows}")
    refused(adopt, foreign.attention(), grows, axes={"past_key_values.0.key": "B,8,4"})


def test_names_that_say_pair_and_shapes_that_forbid_it(adopt):
    b = Builder()
    b.given("x", ["batch", 3])
    b.given("state", ["batch", 3])
    b.node("Concat", "x", "state", to="stateN", axis=1)
    b.node("Add", "x", "state", to="y")
    b.gives("y", ["batch", 3])
    b.gives("stateN", ["batch", 6])
    refused(
        adopt,
        b.model(),
        r"state and stateN are named like a state and the next one, but they differ: state \[batch, 3\] is float32, stateN \[batch, 6\] is "
        "float32; say what is meant: --state INPUT=OUTPUT, or --state none",
    )
