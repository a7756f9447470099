"""Recurrent nodes of every form as a Scan: against the same node with the weights that the few bits stand for.

The activations are not rounded here (accuracy level 1), so that what is left is wiring: any wrong gate, bias or direction is off by
a hundred thousand times as much.
"""

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from rnnx._quantize.editor import Grain, graphs_of
from rnnx._quantize.packing import pack, packed_bytes, unpack
from rnnx._quantize.rewriting import quantise_weights

GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
T, B, INPUT, H = 7, 3, 21, 19


def recurrent(operator, *, hidden=H, starts=True, biases=True, outputs=3, lengths=False, peepholes=False, **attributes):
    """A graph of one recurrent node."""
    random = np.random.default_rng(0)
    d, gates = 2 if attributes.get("direction") == "bidirectional" else 1, GATES[operator] * hidden
    weights = {"w": (d, gates, INPUT), "r": (d, gates, hidden)} | ({"b": (d, 2 * gates)} if biases else {})
    inputs = {"x": (T, B, INPUT)} | ({"h0": (d, B, hidden)} if starts else {})
    if starts and operator == "LSTM":
        inputs["c0"] = (d, B, hidden)
    names = ["x", "w", "r", "b" if biases else "", "", "h0" if starts else "", "c0" if "c0" in inputs else ""]
    if lengths:
        names[4] = "lengths"
    if peepholes:
        weights["p"] = (d, 3 * hidden)
        names.append("p")
    while not names[-1]:
        names.pop()
    states = ["y", "hn", "cn"][: min(outputs, 3 if operator == "LSTM" else 2)]
    node = helper.make_node(operator, names, states, name="it", hidden_size=hidden, **attributes)
    stored = [numpy_helper.from_array((random.standard_normal(s) * 0.4).astype(np.float32), n) for n, s in weights.items()]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * len(shape)) for name, shape in inputs.items()]
    if lengths:
        given.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, [None]))
    gives = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * (4 if name == "y" else 3)) for name in states]
    graph = helper.make_graph([node], "graph", given, gives, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model, {name: random.standard_normal(shape).astype(np.float32) for name, shape in inputs.items()}


def quantised(model, grain):
    made = onnx.ModelProto()
    made.CopyFrom(model)
    done = quantise_weights(made, grain)
    onnx.checker.check_model(made)
    return made, *done


def as_rounded(model, grain, names=("w", "r")):
    """The model with the values that the few bits stand for."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.name in names:
            array = numpy_helper.to_array(tensor)
            rounded = [unpack(pack(one, grain.bits, grain.of(one.shape[1]))) for one in array]
            tensor.CopyFrom(numpy_helper.from_array(np.stack(rounded), tensor.name))
    return made


def exact(model):
    """Its products without rounding what is multiplied."""
    for graph in graphs_of(model.graph):
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name == "accuracy_level":
                    attribute.i = 1
    return model


def run(model, feeds):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


FORMS = [
    *({"operator": o, "direction": d} for o in GATES for d in ("forward", "reverse", "bidirectional")),
    {"operator": "GRU", "linear_before_reset": 1},
    {"operator": "GRU", "linear_before_reset": 1, "direction": "bidirectional"},
    {"operator": "RNN", "activations": ["Relu"]},
    {"operator": "RNN", "activations": ["Sigmoid", "Tanh"], "direction": "bidirectional"},
    {"operator": "LSTM", "activations": ["Sigmoid", "Tanh", "Tanh"]},
    *({"operator": o, "starts": False} for o in GATES),
    {"operator": "LSTM", "starts": False, "direction": "bidirectional"},
    *({"operator": o, "biases": False} for o in GATES),
    {"operator": "LSTM", "outputs": 1},
    {"operator": "LSTM", "outputs": 1, "direction": "bidirectional"},
    {"operator": "GRU", "hidden": 64},
    {"operator": "LSTM", "hidden": 40},
]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))
def test_each_form_computes_what_its_node_does_with_the_rounded_weights(form, bits):
    grain = Grain(bits, 16)
    model, feeds = recurrent(**form)
    made, weights, left = quantised(model, grain)
    assert [one.name for one in weights] == ["w", "r"]
    assert not left
    assert not {node.op_type for node in made.graph.node} & set(GATES)
    for found, wanted in zip(run(exact(made), feeds), run(as_rounded(model, grain), feeds), strict=True):
        np.testing.assert_allclose(found, wanted, atol=5e-6)


LEFT = {
    "given lengths": {"operator": "LSTM", "lengths": True},
    "has peepholes": {"operator": "LSTM", "peepholes": True},
    "has clip": {"operator": "GRU", "clip": 3.0},
    "other activations": {"operator": "LSTM", "activations": ["Sigmoid", "Tanh", "Relu"]},
    "has activation_alpha": {"operator": "RNN", "activations": ["LeakyRelu"], "activation_alpha": [0.1]},
    "joins input and forget gates": {"operator": "LSTM", "input_forget": 1},
    "batch in front": {"operator": "GRU", "layout": 1},
}


@pytest.mark.parametrize("reason", LEFT)
def test_what_cannot_be_said_in_a_scan_stays_and_is_named(reason):
    model, _ = recurrent(**LEFT[reason])
    made, weights, left = quantised(model, Grain(8, 32))
    assert not weights
    assert [node.op_type for node in made.graph.node] == [LEFT[reason]["operator"]]
    assert {one.name for one in left} >= {"w", "r"}
    assert all(reason in one.because for one in left if one.name in "wr")


@pytest.mark.parametrize("operator", GATES)
def test_nodes_of_the_same_weights_share_their_codes_and_no_byte_is_unsaid(operator):
    model, feeds = recurrent(operator)
    again = model.graph.node.add()
    again.CopyFrom(model.graph.node[0])
    again.name = "again"
    again.output[:] = [f"{name}.again" for name in again.output]
    model.graph.output.add().CopyFrom(helper.make_tensor_value_info("y.again", TensorProto.FLOAT, [None] * 4))
    made, weights, _ = quantised(model, Grain(8, 16))
    few = {
        name
        for inner in graphs_of(made.graph)
        for node in inner.node
        if node.op_type == "MatMulNBits"
        for name in node.input[1:3]
    }
    stored = [numpy_helper.to_array(tensor).nbytes for tensor in made.graph.initializer if tensor.name in few]
    assert sum(stored) == sum(one.bytes_after for one in weights)
    y, *_, y_again = run(made, feeds)
    np.testing.assert_array_equal(y, y_again)


def test_weights_that_would_get_larger_stay():
    model, _ = recurrent("RNN", hidden=2)
    tensor = next(one for one in model.graph.initializer if one.name == "w")
    tensor.CopyFrom(numpy_helper.from_array(np.ones((1, 2, 1), np.float32), "w"))
    _, weights, left = quantised(model, Grain(8, 32))
    assert not weights
    assert all("so small" in one.because for one in left)


@pytest.mark.parametrize(("bits", "block", "columns"), [*itertools.product([8, 4], [16, 32, 128], [1, 16, 33, 100])])
def test_packed_weights_are_as_near_as_their_step(bits, block, columns):
    weight = np.random.default_rng(1).standard_normal((5, columns)).astype(np.float32)
    weight[2] = 0
    packed = pack(weight, bits, block)
    assert packed.bytes == packed_bytes(5, columns, bits, block)
    steps = np.repeat(np.abs(packed.scales), block, axis=1)[:, :columns]
    apart = np.abs(unpack(packed) - weight)
    # What is cut off, of 4 bits, may be up to a quarter of the furthest value, 8 steps, further away.
    assert (apart <= steps * (0.5 if bits == 8 else 2.7) + 1e-7).all()
    assert np.square(apart).mean() < np.square(weight).mean() * (1e-4 if bits == 8 else 2e-2)
    assert not unpack(packed)[2].any()


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_whose_squares_are_beyond_a_float_are_packed_too(bits):
    weight = (np.random.default_rng(1).uniform(-3e38, 3e38, (5, 33))).astype(np.float32)
    packed = pack(weight, bits, 16)
    apart = np.abs(unpack(packed).astype(np.float64) - weight) / 3e38
    assert apart.max() < (0.01 if bits == 8 else 0.14)
