"""What the proof of an adoption must not let through: files whose steps are no stream, though a short look would not tell."""

from typing import Any

import numpy as np
import pytest
from tests.export import foreign
from tests.export.foreign import INT64, Builder

import rnnx
from rnnx import AdoptError
from rnnx_runtime import load


@pytest.fixture
def adopt(tmp_path):
    return lambda model, **said: rnnx.adopt(model.SerializeToString(), tmp_path / "adopted.onnx", **said)


def refused(adopt: Any, model: Any, message: str, **said: Any) -> None:
    with pytest.raises(AdoptError, match=message):
        adopt(model, **said)


def convolved(dilation: int = 1, pads: tuple[int, int] = (2, 0), *, state: bool = True, time: Any = "time") -> Any:
    """A convolution over time that pads instead of keeping a cache, and a GRU with a state."""
    b = Builder(7)
    b.given("x", ["batch", time, 3])
    x = b.node("Transpose", "x", perm=[0, 2, 1])
    x = b.node("Conv", x, b.weight(3, 3, 1 + sum(pads) // dilation), dilations=[dilation], pads=pads, name="conv")
    x = b.node("Transpose", x, perm=[2, 0, 1])
    if state:
        b.given("h0", [1, "batch", 4])
        b.recurrent("GRU", x, 3, 4, "h0", to=["g", "hn"])
        x = b.node("Squeeze", "g", b.ints(1))
        b.gives("hn", [1, "batch", 4])
    b.node("Transpose", x, to="y", perm=[1, 0, 2])
    b.gives("y", ["batch", time, 4 if state else 3])
    return b.model()


PADS = "Conv conv pads each call with zeros, where the steps before it would be, and no state keeps those; export the file with a cache"


@pytest.mark.parametrize("dilation", [16, 700])
def test_what_looks_back_further_than_a_few_steps_is_found(adopt, dilation):
    model = convolved(dilation, (dilation, 0))
    refused(adopt, model, f"handing the states on does not give what the whole gives, off by .*: {PADS}")
    done = adopt(convolved(dilation, (dilation, 0), state=False))
    assert done.manifest.not_streamable_because.startswith("steps answer otherwise than the whole")


def test_rounding_that_grows_over_a_long_sequence_is_no_wrong_pair(adopt):
    """A map that doubles every difference: after a thousand steps nothing of the first ones is left but their rounding."""
    b = Builder(7)
    b.given("x", ["batch", "time", 3])
    b.given("h0", [1, "batch", 16])
    weights = [b.weight(1, 16, 3), b.constant((b.random.standard_normal((1, 16, 16)) * 0.6).astype(np.float32))]
    b.node("RNN", b.node("Transpose", "x", perm=[1, 0, 2]), *weights, "", "", "h0", to=["g", "hn"], hidden_size=16)
    b.node("Transpose", b.node("Squeeze", "g", b.ints(1)), to="y", perm=[1, 0, 2])
    b.gives("y", ["batch", "time", 16])
    b.gives("hn", [1, "batch", 16])
    assert adopt(b.model()).manifest.streamable


def test_steps_that_a_person_asks_for_are_compared_with_the_whole(adopt):
    refused(
        adopt,
        convolved(1, (1, 1)),
        f"one step in each call is not what the file gives for a sequence: with 6 at once along x, y is off by .* after 6 steps; {PADS}",
        axes={"x": "B,1,3"},
    )
    assert adopt(convolved(1, (0, 0)), axes={"x": "B,1,3"}).manifest.one_step


def two_layers(time: Any) -> Any:
    """One layer forgets, the other one's state is handed over."""
    b = Builder(7)
    b.given("x", [1, time, 3])
    b.given("h0", [1, 1, 4])
    b.recurrent("GRU", b.node("Transpose", "x", perm=[1, 0, 2]), 3, 4, to=["a"], name="/enc/GRU")
    b.recurrent("GRU", b.node("Squeeze", "a", b.ints(1)), 4, 4, "h0", to=["g", "hn"], name="/dec/GRU")
    b.node("Transpose", b.node("Squeeze", "g", b.ints(1)), to="y", perm=[1, 0, 2])
    b.gives("y", [1, time, 4])
    b.gives("hn", [1, 1, 4])
    return b.model()


def test_a_layer_that_forgets_beside_one_that_does_not_is_named(adopt):
    forgets = "GRU enc.GRU begins anew in each call; --lift makes its state an input$"
    refused(adopt, two_layers("T"), f"handing the states on does not give what the whole gives, off by .*: {forgets}")
    refused(adopt, two_layers("T"), "off by .* GRU enc.GRU begins anew in each step; --lift", axes={"x": "1,1,3"})
    assert len(adopt(two_layers("T"), axes={"x": "1,1,3"}, lift=True).manifest.states) == 2


def test_steps_that_begin_anew_are_refused_unless_a_person_says_so(adopt):
    refused(
        adopt,
        two_layers(1),
        "steps are no stream, for GRU enc.GRU begins anew in each step; --lift makes its state an input; or, where it is meant, say which "
        "outputs hand states back: --state INPUT=OUTPUT, or --state none",
    )
    done = adopt(two_layers(1), states={"h0": "hn"})
    assert "GRU enc.GRU begins anew in each step; --lift makes its state an input" in done.notes
    assert len(adopt(two_layers(1), lift=True).manifest.states) == 2


def test_a_layer_that_begins_with_what_is_given_does_not_forget(adopt):
    done = adopt(foreign.language_model(), states={})
    assert done.manifest.not_streamable_because is not None
    assert not any("begins anew" in note for note in done.notes)


def test_noise_of_quantising_is_measured_on_the_scale_of_the_values(adopt):
    b = Builder(7)
    b.given("x", ["batch", "time", 3])
    b.given("h0", [1, "batch", 4])
    x = b.node("Conv", b.node("Transpose", "x", perm=[0, 2, 1]), b.weight(3, 3, 3), pads=[2, 0], name="conv")
    x = b.node("Transpose", b.node("Mul", x, b.constant(np.float32(0.003))), perm=[2, 0, 1])
    b.node("RNN", x, b.weight(1, 4, 3), b.weight(1, 4, 4), "", "", "h0", to=["g", "hn"], hidden_size=4)
    b.node("DynamicQuantizeLinear", b.node("Transpose", b.node("Squeeze", "g", b.ints(1)), perm=[1, 0, 2]), to=["q", "s", "z"])
    weights = b.constant(b.random.integers(-127, 127, (4, 4)).astype(np.int8))
    b.nodes.append(foreign.helper.make_node("Cast", [b.node("MatMulInteger", "q", weights, "z")], ["real"], to=foreign.FLOAT))
    b.node("Mul", b.node("Mul", "real", "s"), b.constant(np.float32(1 / 127)), to="y")
    b.gives("y", ["batch", "time", 4])
    b.gives("hn", [1, "batch", 4])
    refused(adopt, b.model(), f"off by 0.0.*: {PADS}", trust=True)


def test_a_state_that_matters_now_and_then_matters(adopt):
    """A flag that few steps raise, read only where few steps look."""
    b = Builder(2)
    b.given("x", ["batch", 3])
    b.given("flag", ["batch"], foreign.BOOL)
    most = b.node("ReduceMax", "x", axes=[1], keepdims=0)
    b.node("Xor", "flag", b.node("Greater", most, b.constant(np.float32(1.6))), to="flag_next")
    rare = b.node("And", "flag", b.node("Less", most, b.constant(np.float32(0.3))))
    b.node("Where", b.node("Unsqueeze", rare, b.ints(1)), b.constant(np.float32(0)), "x", to="y")
    b.gives("y", ["batch", 3])
    b.gives("flag_next", ["batch"], foreign.BOOL)
    assert adopt(b.model()).manifest.states[0].name == "flag"


def test_a_flag_that_is_often_down_matters(adopt):
    b = Builder(3)
    b.given("x", ["batch", 3])
    b.given("flag", ["batch"], foreign.BOOL)
    most = b.node("ReduceMax", "x", axes=[1], keepdims=0)
    b.node("Xor", "flag", b.node("Greater", most, b.constant(np.float32(1))), to="flag_next")
    b.node("Where", b.node("Unsqueeze", "flag_next", b.ints(1)), "x", b.constant(np.float32(0)), to="y")
    b.gives("y", ["batch", 3])
    b.gives("flag_next", ["batch"], foreign.BOOL)
    assert adopt(b.model()).manifest.states[0].dtype == "bool"


def defaults(batch: Any = 1, time: Any = "time", rows: int = 1) -> Any:
    """States that need not be given: the file holds what they are then."""
    b = Builder(7)
    b.given("x", [batch, time, 3])
    for name, value in (("h0", 0.5), ("c0", 0.0)):
        b.given(name, [1, batch, 4])
        b.constant(np.full((1, rows, 4), value, np.float32), name)
    b.recurrent("LSTM", b.node("Transpose", "x", perm=[1, 0, 2]), 3, 4, "h0", "c0", to=["g", "hn", "cn"])
    b.node("Transpose", b.node("Squeeze", "g", b.ints(1)), to="y", perm=[1, 0, 2])
    b.gives("y", [batch, time, 4])
    b.gives("hn", [1, batch, 4])
    b.gives("cn", [1, batch, 4])
    return b.model()


@pytest.mark.parametrize("said", [{}, {"states": {"h0": "hn", "c0": "cn"}}])
@pytest.mark.parametrize(("batch", "time", "rows"), [(1, "time", 1), ("batch", "time", 1), (1, 1, 1), (2, "time", 2)])
def test_a_state_with_a_default_begins_with_it(adopt, said, batch, time, rows):
    axes = {"axes": {"x": "BT3"}} if batch == 2 else {}
    done = adopt(defaults(batch, time, rows), **said, **axes)
    assert {spec.name: spec.init.__class__.__name__ for spec in done.manifest.states} == {"h0": "Constant", "c0": "Zeros"}
    model = load(done.path)
    state = model.initial_state(model.manifest.fixed_batch or 3)
    assert (state["h0"] == 0.5).all()
    assert done.manifest.streamable


def test_counters_keep_their_place(adopt):
    """Whole numbers as a state, over a thousand steps."""
    b = Builder(3)
    b.given("x", ["batch", "time", 3])
    b.given("pos", ["batch", 1], INT64)
    ones = b.node("ConstantOfShape", b.node("Shape", "x"), value=foreign.helper.make_tensor("one", INT64, [1], [1]))
    ones = b.node("Squeeze", b.node("Slice", ones, b.ints(0), b.ints(1), b.ints(2)), b.ints(2))
    places = b.node("Add", b.node("CumSum", ones, b.constant(np.int64(1))), "pos")
    b.node("Slice", places, b.ints(-1), b.ints(1 << 30), b.ints(1), to="pos_out")
    b.nodes.append(foreign.helper.make_node("Cast", [places], ["real"], to=foreign.FLOAT))
    b.node("Add", "x", b.node("Unsqueeze", b.node("Sin", "real"), b.ints(2)), to="y")
    b.gives("y", ["batch", "time", 3])
    b.gives("pos_out", ["batch", 1], INT64)
    assert adopt(b.model(), states={"pos": "pos_out"}).manifest.streamable
