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


def test_a_single_number_of_an_output_s_shape_is_still_asked_for(adopt):
    refused(adopt, foreign.flat(), r"atten_lim_db \[\] is one number, which has no rows")


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
    refused(
        adopt,
        b.model(),
        "y is not finite for random inputs, with numbers around 0 and with positive ones; a graph that divides",
    )


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
        r"handing the states on does not give what the whole gives, off by .*: a pair is wrong, or an axis is not time. If a call takes a "
        "frame of several values, say how many, such as --axes samples=B,16",
    )
    refused(
        adopt,
        b.model(),
        "one step in each call is not what the file gives for a sequence: with 6 at once along samples, out is off by",
        axes={"samples": "B,1"},
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


def test_a_logarithm_of_nought_that_the_graph_itself_bounds_is_no_fault(adopt):
    b = Builder(2)
    b.given("x", ["batch", 4])
    b.given("energy", ["batch", 1])
    power = b.node("ReduceMean", b.node("Mul", "x", "x"), axes=[1], keepdims=1)
    b.node("Add", b.node("Mul", "energy", b.constant(np.float32(0.9))), power, to="energy_next")
    b.node("Mul", "x", b.node("Max", b.node("Log", "energy"), b.constant(np.float32(-10))), to="y")
    b.gives("y", ["batch", 4])
    b.gives("energy_next", ["batch", 1])
    assert adopt(b.model(), states={"energy": "energy_next"}).manifest.states[0].name == "energy"


def test_names_that_the_graph_contradicts_are_asked_for(adopt):
    b = Builder(2)
    b.given("x", ["batch", "time", 3])
    b.recurrent("GRU", "x", 3, 4, to=["g"])
    b.node("Squeeze", "g", b.ints(1), to="y")
    b.gives("y", ["batch", "time", 4])
    refused(
        adopt,
        b.model(),
        r"x \[batch, time, 3\] says what is batch and what is time, but its rows change each other where it says so, and not the other way "
        "round; say which it is: --axes x=TBF, or, where rows do change each other, --axes x=BTF",
    )
    assert adopt(b.model(), axes={"x": "TBF"}, lift=True).manifest.fixed_batch is None


def test_rows_of_a_fixed_batch_may_change_their_order(adopt):
    b = Builder(2)
    b.given("x", [3, 4])
    b.node("MatMul", b.weight(3, 3), "x", to="y")
    b.gives("y", [3, 4])
    message = "rows in another order are answered otherwise, off by .*: the axis taken for batch is not one"
    refused(adopt, b.model(), message, axes={"x": "B4"})
    done = adopt(frozen(3, 4), axes={"x": "BTF"})
    assert "every size is fixed in the file, a batch of 3 too; dynamic axes at its export leave it open" in done.notes
    assert any(
        note.startswith("x is fixed at 4 along its time, so that a step takes 4 of its values at once") for note in done.notes
    )


def test_sizes_that_no_machine_holds_are_refused_before_they_are_drawn(adopt):
    def model(*sizes: Any) -> Any:
        b = Builder(2)
        b.given("x", ["batch", *sizes])
        b.node("Tanh", "x", to="y")
        b.gives("y", ["batch", *sizes])
        return b.model()

    many = "values for each row and step; at most 8388608 are adopted"
    refused(adopt, model(100_000, 100_000, 1_000), rf"x \[batch, 100000, 100000, 1000\] has 10000000000000 {many}")
    refused(adopt, model("width"), rf"x \[batch, 999999999\] has 999999999 {many}", axes={"x": "B,999999999"})
    refused(adopt, model("width"), "axes are a letter or a size each, .*; got 'B,1111", axes={"x": "B," + "1" * 5000})


def test_lengths_of_rows_are_no_input_of_a_stream(adopt):
    b = Builder(5)
    b.given("x", ["time", "batch", 3])
    b.given("lengths", ["batch"], foreign.TensorProto.INT32)
    b.node("GRU", "x", b.weight(1, 12, 3), b.weight(1, 12, 4), "", "lengths", to=["g"], hidden_size=4)
    b.node("Squeeze", "g", b.ints(1), to="y")
    b.gives("y", ["time", "batch", 4])
    refused(adopt, b.model(), "lengths says how many steps of each row count, which a stream, .* export the file without it")


def test_a_file_of_one_example_is_said_to_be_one_step(adopt):
    """Exported without dynamic axes: nothing tells rows and steps from what a step holds."""
    b = Builder(2)
    b.given("input", [2, 5, 3])
    b.given("h", [1, 2, 4])
    b.recurrent("GRU", b.node("Transpose", "input", perm=[1, 0, 2]), 3, 4, "h", to=["g", "hn"])
    b.node("Squeeze", "g", b.ints(1), to="y")
    b.gives("y", [5, 2, 4])
    b.gives("hn", [1, 2, 4])
    note = "every size is fixed in the file, so that all of input [2, 5, 3] is taken for one step; where rows or steps are among it, say which, "
    assert f"{note}such as --axes input=BTF" in adopt(b.model()).notes
