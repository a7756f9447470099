"""Batch and time: what is said, what is found by running, and what is refused."""

from typing import Any

import numpy as np
import pytest
from tests.export import foreign
from tests.export.foreign import INT64, Builder

import rnnx
from rnnx import AdoptError
from rnnx._adopt.borders import parse_letters
from rnnx_runtime import load


@pytest.fixture
def adopt(tmp_path):
    return lambda model, **said: rnnx.adopt(model.SerializeToString(), tmp_path / "adopted.onnx", **said)


def refused(adopt: Any, model: Any, message: str, **said: Any) -> None:
    with pytest.raises(AdoptError, match=message):
        adopt(model, **said)


@pytest.mark.parametrize(
    ("letters", "axes"), [("BTF", ("B", "T", "F")), ("B576", ("B", 576)), ("1,1,T", (1, 1, "T")), ("B, 80", ("B", 80))]
)
def test_axes_in_words(letters, axes):
    assert parse_letters(letters) == axes


@pytest.mark.parametrize(
    ("letters", "message"),
    [
        ("", "axes are a letter or a size each, such as BTF, B576 or B,1,80; got ''"),
        ("bt", "axes are a letter or a size each"),
        ("B,,T", "axes are a letter or a size each"),
        ("BBT", "B and T stand for one axis each; got 'BBT'"),
    ],
)
def test_axes_that_say_nothing(letters, message):
    with pytest.raises(AdoptError, match=message):
        parse_letters(letters)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"y": "BT"}, "axes of 'y': the graph has no such input; it has x, h_in"),
        ({"x": "BTF"}, r"axes of x: x \[batch_size, 3\] has 2 axes, got 3 letters and sizes"),
        ({"x": "B4"}, r"axes of x: 4 does not fit x \[batch_size, 3\]"),
        ({"x": "F3"}, r"x \[\?, 3\] has 1 axes without a fixed size, of which one may be batch, and one time"),
    ],
)
def test_axes_that_do_not_fit(adopt, axes, message):
    refused(adopt, foreign.cell(), message, axes=axes)


def test_a_frame_of_no_known_size_is_asked_for(adopt):
    refused(
        adopt,
        foreign.detector(),
        r"the graph takes no sizes that were tried: it does not run on .*; say what the axes are, a letter or a size each, such as --axes "
        "input=BT, or a size where a step takes several values",
        set={"sr": 16000},
    )


def test_a_single_number_is_no_input_of_a_step(adopt):
    refused(
        adopt,
        foreign.detector(),
        r"sr \[\] is one number, which has no rows and cannot be given with each step; if it is the same for all of them, --set sr=VALUE",
    )


def frozen(batch: int = 3, frame: int = 4) -> Any:
    """Everything fixed: several rows, and steps of several values."""
    b = Builder(2)
    b.given("x", [batch, frame, 2])
    b.given("h", [1, batch, 5])
    b.recurrent("GRU", b.node("Transpose", "x", perm=[1, 0, 2]), 2, 5, "h", to=["", "hn"])
    b.node("Squeeze", "hn", b.ints(0), to="y")
    b.gives("y", [batch, 5])
    b.gives("hn", [1, batch, 5])
    return b.model()


def test_rows_that_are_frozen_are_one_batch_size(adopt):
    done = adopt(frozen(), axes={"x": "BTF"})
    assert (done.manifest.fixed_batch, done.manifest.one_step) == (3, True)
    assert done.manifest.states[0].shape == (1, "batch", 5)
    assert "a step is x [B, 4, 2]" in done.notes  # a frozen time of four is a frame
    stream = load(done.path).stream(3)
    assert stream.step(np.ones((3, 4, 2), np.float32)).shape == (3, 5)


def test_rows_that_only_a_state_fixes_are_found(adopt):
    b = Builder(2)
    b.given("x", ["batch", "time", 2])
    b.given("h", [1, 3, 5])
    b.recurrent("GRU", b.node("Transpose", "x", perm=[1, 0, 2]), 2, 5, "h", to=["g", "hn"])
    b.node("Transpose", b.node("Squeeze", "g", b.ints(1)), to="y", perm=[1, 0, 2])
    b.gives("y", ["batch", "time", 5])
    b.gives("hn", [1, 3, 5])
    done = adopt(b.model())
    assert (done.manifest.fixed_batch, done.manifest.one_step) == (3, False)
    assert "a call takes a batch of 3: h has no axis that takes any number of rows" in done.notes


def test_several_answers_per_step_make_a_call_take_one(adopt):
    b = Builder(2)
    b.given("frames", ["batch", "frames", 3])
    b.given("h", [1, "batch", 4])
    b.recurrent("GRU", b.node("Transpose", "frames", perm=[1, 0, 2]), 3, 4, "h", to=["g", "hn"])
    wide = b.node("MatMul", b.node("Transpose", b.node("Squeeze", "g", b.ints(1)), perm=[1, 0, 2]), b.weight(4, 6))
    b.node("Reshape", wide, b.ints(0, -1), to="samples")  # (B, 6·T)
    b.gives("samples", ["batch", "length"])
    b.gives("hn", [1, "batch", 4])
    done = adopt(b.model())
    assert done.manifest.one_step
    assert done.manifest.outputs[0].shape == ("batch", 6)
    assert any("axis 1 of samples has the sizes [18, 42, 18]" in note for note in done.notes)


def test_a_graph_that_takes_spectra_is_given_no_negative_numbers(adopt):
    b = Builder(2)
    b.given("magnitude", [1, 1, 3])
    b.given("h", [1, 1, 4])
    b.recurrent("GRU", b.node("Log", "magnitude"), 3, 4, "h", to=["g", "hn"])
    b.node("Squeeze", "g", b.ints(1), to="y")
    b.gives("y", [1, 1, 4])
    b.gives("hn", [1, 1, 4])
    done = adopt(b.model())
    assert (done.manifest.golden.inputs["magnitude"].numpy() >= 0).all()


def test_values_that_are_never_finite_are_refused(adopt):
    b = Builder(2)
    b.given("x", ["batch", 3])
    b.node("Div", "x", b.node("Sub", "x", "x"), to="y")
    b.gives("y", ["batch", 3])
    refused(adopt, b.model(), "the graph answers random inputs with values that are not finite")


def test_an_axis_that_is_not_time_is_not_taken_for_it(adopt):
    """It takes any length, but two halves are not the whole."""
    b = Builder(2)
    b.given("samples", ["batch", "length"])
    b.given("state", ["batch", 1])
    mean = b.node("ReduceMean", "samples", axes=[1], keepdims=1)
    b.node("Add", b.node("Mul", "state", b.constant(np.float32(0.5))), mean, to="stateN")
    b.node("Mul", "samples", "stateN", to="out")
    b.gives("out", ["batch", "length"])
    b.gives("stateN", ["batch", 1])
    refused(
        adopt,
        b.model(),
        r"handing the states on does not give what the whole gives, off by .*; a pair is wrong, or an axis is not time. If a call takes one "
        "step, say how much that is, such as --axes samples=B,1",
    )
    done = adopt(b.model(), axes={"samples": "B16"})
    assert (done.manifest.one_step, done.manifest.inputs[0].shape) == (True, ("batch", 16))


def test_conditions_without_time_are_given_with_each_step(adopt):
    b = Builder(2)
    b.given("x", ["batch", "time", 3])
    b.given("speaker", ["batch", 2])
    b.given("h", [1, "batch", 4])
    both = b.node("Add", "x", b.node("Unsqueeze", b.node("MatMul", "speaker", b.weight(2, 3)), b.ints(1)))
    b.recurrent("GRU", b.node("Transpose", both, perm=[1, 0, 2]), 3, 4, "h", to=["g", "hn"])
    b.node("Transpose", b.node("Squeeze", "g", b.ints(1)), to="y", perm=[1, 0, 2])
    b.gives("y", ["batch", "time", 4])
    b.gives("hn", [1, "batch", 4])
    model = load(adopt(b.model()).path)
    assert [spec.shape for spec in model.manifest.inputs] == [("batch", "seq_len", 3), ("batch", 2)]
    random = np.random.default_rng(0)
    x, speaker = random.standard_normal((2, 6, 3)), random.standard_normal((2, 2))
    stream = model.stream(2)
    steps = [stream.step({"x": x[:, t], "speaker": speaker}) for t in range(6)]
    assert np.allclose(np.stack(steps, 1), model.run({"x": x, "speaker": speaker})[0], atol=1e-6)


def test_whole_numbers_in_a_state_are_kept_as_they_are(adopt):
    """A counter beside the state, as streaming encoders have it."""
    b = Builder(2)
    b.given("x", ["batch", 3])
    b.given("cached_len", ["batch", 1], INT64)
    b.node("Add", "cached_len", b.ints(1), to="new_cached_len")
    b.nodes.append(foreign.helper.make_node("Cast", ["cached_len"], ["real"], to=foreign.FLOAT))
    b.node("Add", "x", "real", to="y")
    b.gives("y", ["batch", 3])
    b.gives("new_cached_len", ["batch", 1], INT64)
    stream = load(adopt(b.model()).path).stream()
    answers = [float(stream.step(np.zeros((1, 3)))[0, 0]) for _ in range(3)]
    assert answers == [0.0, 1.0, 2.0]


def test_operators_that_would_end_the_process_do_not(adopt):
    """ONNX Runtime aborts where a GRU is given no steps; here a single step is none after every second one is taken."""
    b = Builder(2)
    b.given("x", ["batch", "time", 3])
    second = b.node("Slice", b.node("Transpose", "x", perm=[1, 0, 2]), b.ints(1), b.ints(1 << 30), b.ints(0), b.ints(2))
    b.recurrent("GRU", second, 3, 4, to=["", "last"])
    b.node("Squeeze", "last", b.ints(0), to="y")
    b.gives("y", ["batch", 4])
    refused(
        adopt,
        b.model(),
        r"it does not take chunks and single steps \(GRU is left without rows or steps\); if a step takes several values, say how many, such "
        "as --axes x=B,8,3",
    )
    assert adopt(b.model(), axes={"x": "B,8,3"}).manifest.one_step


def test_sizes_of_nought_are_sizes_that_are_not_known(adopt):
    model = foreign.cell()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 0
    assert adopt(model).manifest.fixed_batch is None
