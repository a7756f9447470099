"""States that a file begins anew in each call, lifted to inputs and outputs."""

from typing import Any

import numpy as np
import pytest
from tests.export import foreign
from tests.export.foreign import Builder

import rnnx
from rnnx import AdoptError
from rnnx_runtime import load


@pytest.fixture
def lifted(tmp_path):
    return lambda model, **said: rnnx.adopt(model.SerializeToString(), tmp_path / "adopted.onnx", lift=True, **said)


def whole(model: Any, x: Any) -> Any:
    """What the file answers to a whole sequence, in plain ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize("start", ["absent", "sizes", "constant"])
@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
def test_steps_give_what_the_file_gives_for_the_whole(lifted, operator, start):
    model = foreign.forgetful(operator, start)
    done = lifted(model)
    kinds = "hc" if operator == "LSTM" else "h"
    assert [spec.name for spec in done.manifest.states] == [f"rnn.{operator}.{kind}" for kind in kinds]
    assert [spec.output for spec in done.manifest.states] == [f"rnn.{operator}.{kind}.next" for kind in kinds]
    assert all(spec.shape == (1, "batch", 4) for spec in done.manifest.states)
    assert {spec.init.__class__.__name__ for spec in done.manifest.states} == {"Constant" if start == "constant" else "Zeros"}
    x = np.random.default_rng(0).standard_normal((2, 7, 3)).astype(np.float32)
    expected = whole(model, x)
    stream = load(done.path).stream(2)
    steps = np.stack([stream.step(x[:, t]) for t in range(7)], 1)
    assert np.allclose(steps, expected, atol=1e-6)
    assert np.allclose(stream.feed(x), whole(model, np.concatenate([x, x], 1))[:, 7:], atol=1e-6)


def test_last_states_that_are_outputs_already_hand_back(lifted):
    b = Builder(1)
    b.given("x", ["time", "batch", 3])
    b.recurrent("GRU", "x", 3, 4, to=["g", "last"], name="gru")
    b.node("Squeeze", "g", b.ints(1), to="y")
    b.gives("y", ["time", "batch", 4])
    b.gives("last", [1, "batch", 4])
    spec = lifted(b.model()).manifest.states[0]
    assert (spec.input, spec.output, spec.found) == ("gru.h", "last", "lifted from GRU gru")


def test_last_states_that_the_graph_uses_are_handed_back_beside_it(lifted):
    b = Builder(1)
    b.given("x", ["time", "batch", 3])
    b.recurrent("GRU", "x", 3, 4, to=["g", "last"], name="gru")
    b.node("Tanh", b.node("Squeeze", "last", b.ints(0)), to="y")
    b.gives("y", ["batch", 4])
    spec = lifted(b.model()).manifest.states[0]
    assert (spec.input, spec.output) == ("gru.h", "gru.h.next")


def test_states_that_are_inputs_stay_and_others_are_lifted(lifted):
    """Two layers: the first one's state is handed over, the second one's is forgotten."""
    b = Builder(1)
    b.given("x", ["time", "batch", 3])
    b.given("h0", [1, "batch", 3])
    b.recurrent("GRU", "x", 3, 3, "h0", to=["g0", "hn"], name="first")
    b.recurrent("GRU", b.node("Squeeze", "g0", b.ints(1)), 3, 4, to=["g1"], name="second")
    b.node("Squeeze", "g1", b.ints(1), to="y")
    b.gives("y", ["time", "batch", 4])
    b.gives("hn", [1, "batch", 3])
    done = lifted(b.model())
    assert [(spec.input, spec.output) for spec in done.manifest.states] == [("h0", "hn"), ("second.h", "second.h.next")]
    assert done.manifest.streamable


def test_what_reads_along_another_axis_than_time_is_left(lifted):
    """A GRU over the bands of each frame begins anew in each frame; only the one over time is a state."""
    b = Builder(1)
    b.given("x", ["batch", "time", 6])
    bands = b.node("Reshape", "x", b.ints(-1, 6, 1))  # (B·T, 6, 1)
    b.recurrent("GRU", b.node("Transpose", bands, perm=[1, 0, 2]), 1, 2, to=["", "over_bands"], name="bands")
    rows = b.node("Reshape", b.node("Squeeze", "over_bands", b.ints(0)), b.node("Concat", *_sizes(b), b.ints(2), axis=0))
    b.recurrent("GRU", b.node("Transpose", rows, perm=[1, 0, 2]), 2, 4, to=["g"], name="time")
    b.node("Transpose", b.node("Squeeze", "g", b.ints(1)), to="y", perm=[1, 0, 2])
    b.gives("y", ["batch", "time", 4])
    done = lifted(b.model())
    assert [spec.name for spec in done.manifest.states] == ["time.h"]
    assert "GRU bands reads along another axis than time; it begins anew in each step, as it was" in done.notes


def _sizes(b: Builder) -> list[str]:
    return [b.node("Slice", b.node("Shape", "x"), b.ints(axis), b.ints(axis + 1)) for axis in (0, 1)]


def test_rows_that_are_batch_and_bands_need_one_batch_size(lifted):
    def model(batch: Any) -> Any:
        """A GRU over time for each of six bands."""
        b = Builder(1)
        b.given("x", [batch, "time", 6])
        bands = b.node("Reshape", b.node("Transpose", "x", perm=[1, 0, 2]), b.ints(0, -1, 1))  # (T, B·6, 1)
        b.recurrent("GRU", bands, 1, 2, to=["g"], name="time")
        flat = b.node("Reshape", b.node("Squeeze", "g", b.ints(1)), b.ints(0, -1, 12))  # (T, B, 12)
        b.node("Transpose", flat, to="y", perm=[1, 0, 2])
        b.gives("y", [batch, "time", 12])
        return b.model()

    with pytest.raises(
        AdoptError, match="GRU 'time' has 12 rows where the batch has 2, .* give the batch a fixed size of 1 with --axes"
    ):
        lifted(model("batch"))
    done = lifted(model("batch"), axes={"x": "1T6"})
    assert (done.manifest.fixed_batch, done.manifest.states[0].shape) == (1, (1, 6, 2))
    assert done.manifest.streamable


@pytest.mark.parametrize(("direction", "how"), [("bidirectional", "in both directions"), ("reverse", "backwards")])
def test_what_needs_the_future_is_not_lifted(lifted, direction, how):
    with pytest.raises(
        AdoptError, match=f"LSTM rnn.LSTM reads {how}: it needs what comes later, .* adopt the file without --lift"
    ):
        lifted(foreign.forgetful(direction=direction))


def test_what_quantises_whole_calls_is_compared_on_whole_calls(lifted):
    model = foreign.quantised()
    kept = [value for value in model.graph.input if value.name != "h"]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    node = next(one for one in model.graph.node if one.op_type == "GRU")
    del node.input[5:]
    del model.graph.output[1:]
    done = lifted(model, trust=True)
    assert done.manifest.chunks_matter_because is not None
    assert [spec.name for spec in done.manifest.states] == ["gru.GRU.h"]


def test_nothing_to_lift(lifted):
    with pytest.raises(
        AdoptError, match="nothing to lift: no RNN, LSTM or GRU of the graph begins with a constant in each call"
    ):
        lifted(foreign.pointwise())
    with pytest.raises(AdoptError, match="nothing to lift"):
        lifted(foreign.language_model())


def rows_differ(batch: Any) -> Any:
    b = Builder(1)
    b.given("x", ["time", batch, 3])
    rows = b.node("Slice", b.node("Shape", "x"), b.ints(1), b.ints(2))
    numbers = b.node("Range", b.constant(np.int64(0)), b.node("Squeeze", rows), b.constant(np.int64(1)))
    b.nodes.append(foreign.helper.make_node("Cast", [numbers], ["numbers"], to=foreign.FLOAT))
    first = b.node("Add", b.node("Unsqueeze", "numbers", b.ints(0, 2)), b.weight(1, 1, 4))
    b.recurrent("GRU", "x", 3, 4, first, to=["g"], name="gru")
    b.node("Squeeze", "g", b.ints(1), to="y")
    b.gives("y", ["time", batch, 4])
    return b.model()


def test_rows_that_begin_differently_are_no_batch(lifted):
    assert lifted(rows_differ("batch")).manifest.fixed_batch == 1  # the first row's state
    with pytest.raises(
        AdoptError, match="rows in another order are answered otherwise, off by .*: the axis taken for batch is not one"
    ):
        lifted(rows_differ(2), axes={"x": "TB3"})


def test_a_batch_that_is_frozen_stays_frozen(lifted):
    b = Builder(1)
    b.given("x", ["time", 2, 3])
    b.recurrent("GRU", "x", 3, 4, to=["g"], name="gru")
    b.node("Squeeze", "g", b.ints(1), to="y")
    b.gives("y", ["time", 2, 4])
    done = lifted(b.model(), axes={"x": "TB3"})
    assert (done.manifest.fixed_batch, done.manifest.states[0].shape) == (2, (1, "batch", 4))


def test_a_frozen_step_is_lifted_too_and_only_its_first_call_is_compared(lifted):
    b = Builder(1)
    b.given("x", [1, 1, 3])
    b.recurrent("LSTM", "x", 3, 4, to=["g"], name="lstm")
    b.node("Squeeze", "g", b.ints(1), to="y")
    b.gives("y", [1, 1, 4])
    done = lifted(b.model())
    assert (done.manifest.one_step, len(done.manifest.states)) == (True, 2)
    assert "the file begins anew in each call, so that only first steps could be compared with it" in done.notes
    model = load(done.path)
    stream = model.stream()
    first, second = (stream.step(np.ones((1, 3), np.float32)) for _ in range(2))
    assert not np.array_equal(first, second)
