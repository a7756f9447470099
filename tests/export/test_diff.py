"""`rnnx diff`: artifacts of tests/golden against themselves with one thing changed each, and plain ONNX files."""

import json
import math
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper
from tests.runtime import frames
from tests.runtime.handmade import IMAGE, computed_sum, doubling, running_sum
from tests.runtime.protobuf_writer import node as written_node

from rnnx._cli import main
from rnnx._diff.change import Change
from rnnx._diff.contract import contract_changes
from rnnx._diff.difference import diff
from rnnx_runtime import ArtifactError, load
from rnnx_runtime.artifact import (
    MANIFEST_KEY,
    Array,
    CharCodec,
    Constant,
    Input,
    Manifest,
    OneHotCodec,
    Output,
    Sampling,
    ScalerCodec,
    golden_start,
    open_artifact,
    seal,
)

GOLDEN = Path(__file__).parent.parent / "golden"
LSTM = (GOLDEN / "lstm.onnx").read_bytes()
GRU = (GOLDEN / "gru.onnx").read_bytes()
CHAR = (GOLDEN / "char_rnn.onnx").read_bytes()


def edited(data, graph=None, manifest=None):
    """The artifact with its graph or its manifest changed in place, and sealed again."""
    model = onnx.load_model_from_string(data)
    metadata = {entry.key: entry.value for entry in model.metadata_props if entry.key != "rnnx.sha256"}
    said = json.loads(metadata[MANIFEST_KEY])
    if graph is not None:
        graph(model.graph)
    if manifest is not None:
        manifest(said)
    metadata[MANIFEST_KEY] = json.dumps(said)
    del model.metadata_props[:]
    helper.set_model_props(model, metadata)
    return seal(model.SerializeToString(deterministic=True))


def plain(data, graph=None):
    """The same graph as plain ONNX."""
    model = onnx.load_model_from_string(data)
    del model.metadata_props[:]
    if graph is not None:
        graph(model.graph)
    return model.SerializeToString(deterministic=True)


def with_weight(name, change):
    """Changes the values of one weight."""

    def apply(graph):
        tensor = next(one for one in graph.initializer if one.name == name)
        values = numpy_helper.to_array(tensor).copy()
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(values)), name))

    return apply


def add(where, amount):
    def change(values):
        values[where] += amount
        return values

    return change


def renamed(old, new):
    """Gives a value another name, wherever it stands."""

    def apply(graph):
        for tensor in graph.initializer:
            tensor.name = new if tensor.name == old else tensor.name
        for value in (*graph.input, *graph.output):
            value.name = new if value.name == old else value.name
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]

    return apply


def run(*arguments):
    return CliRunner().invoke(main, ["diff", *map(str, arguments)])


@pytest.fixture
def files(tmp_path):
    """Writes files, and gives their paths."""

    def write(**contents):
        for name, data in contents.items():
            (tmp_path / f"{name}.onnx").write_bytes(data)
        return [tmp_path / f"{name}.onnx" for name in contents]

    return write


# What holds, in one line


def test_the_same_file_is_identical(files):
    found = diff(LSTM, LSTM)
    assert (found.verdict, found.same) == ("identical", True)
    assert str(found).startswith("identical: the same bytes\n  a          bytes: Lstm, ")
    done = run(*files(a=LSTM, b=LSTM))
    assert (done.exit_code, done.stderr) == (0, "")


def test_who_made_a_file_makes_no_difference(files):
    other = edited(LSTM, manifest=lambda said: said["provenance"]["versions"].update(torch="9.9.9"))
    found = diff(LSTM, other)
    assert (found.verdict, found.same) == ("same", True)
    assert found.summary == "same contract, same weights, same graph; same behaviour on the golden traces"
    assert [(one.what, one.after, one.breaks) for one in found.provenance] == [("torch", "9.9.9", {})]
    assert "  behaviour  on a's golden trace: the same bits\n             on b's golden trace: the same bits\n" in str(found)
    assert run(*files(a=LSTM, b=other)).exit_code == 0


def test_one_changed_value_is_found_and_named(files):
    other = edited(LSTM, with_weight("val_2", add((3, 1), 1e-6)))
    found = diff(LSTM, other)
    assert found.verdict == "other weights"
    assert found.summary == "same contract, other weights, same graph; same behaviour on the golden traces"
    (change,) = found.weights.changes
    assert (change.name, change.reader, change.kind, change.where) == ("val_2", "MatMul_4", "changed", (3, 1))
    assert (change.values, change.differing) == (10, 1)
    before, after = (load_weight(data, "val_2")[3, 1].astype(np.float64) for data in (LSTM, other))
    assert change.absolute == abs(after - before) > 0
    assert change.relative == change.absolute / max(abs(before), abs(after))
    assert "1 of 6 tensors, 1 of 213 values differ\n             val_2, of MatMul_4: 1 of 10, by up to " in str(found)
    assert not found.behaviour.same_bits
    assert found.behaviour.close
    assert run(*files(a=LSTM, b=other)).exit_code == 1


def load_weight(data, name):
    model = onnx.load_model_from_string(data)
    return numpy_helper.to_array(next(one for one in model.graph.initializer if one.name == name))


def test_other_behaviour_comes_with_the_number_and_the_step():
    # From zeros, recurrent weights do nothing in the first step.
    other = edited(LSTM, with_weight("module.lstm.onnx_r0", add(..., 0.25)))
    found = diff(LSTM, other)
    assert found.verdict == "other behaviour"
    (own, others) = found.behaviour.runs
    assert (own.run, others.run, own.batch, own.steps, own.own_start) == ("a", "b", 1, 4, False)
    steps = [("output", "output.0", 2), ("state", "lstm.l0.h", 2), ("state", "lstm.l0.c", 2)]
    assert [(one.kind, one.name, one.first_step) for one in own.tensors] == steps
    models = [load(data) for data in (LSTM, other)]
    chunk, _ = golden_start(models[0])
    answers = [model.run(chunk)[0] for model in models]
    assert own.tensors[0].absolute == pytest.approx(np.abs(answers[0] - answers[1]).max(), rel=1e-3)
    assert found.summary.startswith("same contract; other behaviour: output.0 off by up to ")
    assert found.summary.endswith(", from step 2 of 4 on")
    assert found.behaviour.recorded["a"] < 1e-5
    assert found.behaviour.recorded["b"] > 1e-3
    assert "b answers its own trace otherwise than it says: off by " in str(found)


def test_logits_say_at_how_many_steps_another_symbol_wins():
    model = load(CHAR)
    logits = model.run(golden_start(model)[0])[0]
    others = int((logits.argmax(-1) != 0).sum())
    assert others > 0
    found = diff(CHAR, edited(CHAR, with_weight("module.fc.bias", add(0, 100.0))))
    assert found.behaviour.runs[0].tensors[0].other_symbols == others
    words = f"output: off by 100, from step 1 of 4 on; another symbol at {others} of 4 steps"
    assert words in " ".join(str(found).split())


def test_a_state_of_another_size_breaks_stored_states_and_the_rest_is_compared_from_the_start():
    def wider(graph):
        for name in ("module.lstm.onnx_w0", "module.lstm.onnx_r0", "module.lstm.onnx_b0"):
            old = load_weight(LSTM, name)
            size = 56 if old.ndim == 2 else 28
            shape = (1, size) if old.ndim == 2 else (1, size, 3 if name.endswith("w0") else 7)
            with_weight(name, lambda _, shape=shape: np.full(shape, 0.1, np.float32))(graph)
        with_weight("val_2", lambda _: np.ones((7, 2), np.float32))(graph)
        next(one for one in graph.node if one.op_type == "LSTM").attribute.remove(
            next(one for node in graph.node for one in node.attribute if one.name == "hidden_size")
        )
        next(one for one in graph.node if one.op_type == "LSTM").attribute.append(helper.make_attribute("hidden_size", 7))
        for value in (*graph.input, *graph.output):
            if value.name.startswith("lstm"):
                value.type.tensor_type.shape.dim[2].dim_value = 7

    def said(manifest):
        for state in manifest["states"]:
            state["shape"][2] = 7
        for trace in ("states", "next_states"):
            zeros = json.loads(msgspec.json.encode(Array.of(np.zeros((1, 1, 7), np.float32))))
            manifest["golden"][trace] = dict.fromkeys(manifest["golden"][trace], zeros)

    found = diff(LSTM, edited(LSTM, wider, said))
    assert found.verdict == "breaking"
    assert found.summary == "contract changed: breaks stored states (lstm.l0.h, lstm.l0.c)"
    assert "state lstm.l0.h: [1, batch, 5] → [1, batch, 7]\n               breaks stored states: b does not take" in str(found)
    assert {change.name: change.kind for change in found.weights.changes} == {
        **dict.fromkeys(["module.lstm.onnx_w0", "module.lstm.onnx_r0", "module.lstm.onnx_b0", "val_2"], "reshaped"),
    }
    assert "val_2, of MatMul_4: float32 [5, 2] → float32 [7, 2]" in str(found)
    assert found.graph.settings == ("LSTM_1 hidden_size 5 → 7",)
    assert [(one.own_start, [tensor.name for tensor in one.tensors]) for one in found.behaviour.runs] == [
        (True, ["output.0"])
    ] * 2
    assert "on a's golden trace, each from its own initial state:" in str(found)
    assert "make_state" not in str(found)
    assert "b takes their values over with make_state; snapshots stay a's own" in str(diff(LSTM, edited(LSTM)))


# Weights


def test_weights_are_found_by_their_values_where_names_differ():
    other = edited(LSTM, renamed("module.fc.bias", "bias"))
    found = diff(LSTM, other)
    assert found.same
    assert [(one.name, one.other, one.kind) for one in found.weights.changes] == [("module.fc.bias", "bias", "renamed")]
    assert "the same, bit by bit: 213 values in 6 tensors; 1 under another name" in str(found)


def test_weights_are_found_by_their_shape_where_names_and_values_differ():
    other = edited(
        LSTM, lambda graph: [with_weight("module.fc.bias", add(0, 1.0))(graph), renamed("module.fc.bias", "bias")(graph)]
    )
    (change,) = diff(LSTM, other).weights.changes
    assert (change.name, change.other, change.kind, change.differing) == ("module.fc.bias", "bias", "changed", 1)


def test_numbers_of_an_exporter_mean_nothing():
    def shift(graph):
        for old, new in (("val_1", "val_9"), ("val_2", "val_1"), ("val_9", "val_2")):
            renamed(old, new)(graph)

    found = diff(LSTM, edited(LSTM, shift))
    assert found.same
    assert found.weights.changes == ()


def test_two_layers_that_changed_places_are_two_changed_weights():
    first, second = (load_weight(CHAR, f"module.rnn.onnx_r{layer}") for layer in (0, 1))

    def swap(graph):
        with_weight("module.rnn.onnx_r0", lambda _: second)(graph)
        with_weight("module.rnn.onnx_r1", lambda _: first)(graph)

    found = diff(CHAR, edited(CHAR, swap))
    assert {change.name for change in found.weights.changed} == {"module.rnn.onnx_r0", "module.rnn.onnx_r1"}
    assert found.graph.same
    assert found.verdict == "other behaviour"


def test_a_learned_start_is_a_weight():
    def move(said):
        init = said["states"][1]["init"]
        values = msgspec.json.decode(msgspec.json.encode(init["value"]), type=Array).numpy() + np.float32(0.5)
        init["value"] = json.loads(msgspec.json.encode(Array.of(values)))

    found = diff(GRU, edited(GRU, manifest=move))
    (change,) = found.weights.changes
    assert (change.name, change.differing, found.verdict) == ("gru.l1.h at the start", 6, "other weights")
    assert change.absolute == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize(
    ("values", "differing", "absolute", "relative"),
    [
        ([0.0, 1.0], 1, 0.0, 0.0),  # -0.0 is another bit, and no difference
        ([-0.0, math.nan], 1, math.inf, math.inf),
        ([-0.0, math.inf], 1, math.inf, math.inf),
        ([0.5, 1.5], 2, 0.5, 1.0),
    ],
)
def test_every_bit_counts(values, differing, absolute, relative):
    a, b = (constant_file("w", np.array(numbers, np.float32)) for numbers in ([-0.0, 1.0], values))
    (change,) = diff(a, b).weights.changes
    assert (change.differing, change.absolute, change.relative) == (differing, absolute, relative)


def constant_file(name, *arrays):
    """A plain ONNX file whose outputs are its weights."""
    names = [name] if len(arrays) == 1 else [f"{name}{i}" for i in range(len(arrays))]
    tensors = [numpy_helper.from_array(array, one) for one, array in zip(names, arrays, strict=True)]
    kinds = [helper.make_tensor_value_info(f"{t.name}.out", t.data_type, t.dims) for t in tensors]
    nodes = [helper.make_node("Identity", [t.name], [f"{t.name}.out"]) for t in tensors]
    return helper.make_model(helper.make_graph(nodes, "g", [], kinds, tensors)).SerializeToString()


def test_weights_of_another_type_are_compared_as_numbers():
    values = np.array([1.0, 2.0, 0.1], np.float32)
    (change,) = diff(constant_file("w", values), constant_file("w", values.astype(np.float16))).weights.changes
    assert (change.kind, change.before, change.after, change.differing) == ("converted", "float32 [3]", "float16 [3]", 1)
    assert change.absolute == pytest.approx(2.4e-5, rel=0.1)


def test_weights_that_only_one_has_are_named():
    found = diff(constant_file("w", np.ones(2)), constant_file("w", np.ones(2), np.ones((3, 1))))
    assert [(one.name, one.kind) for one in found.weights.changed] == [("w1", "added")]
    found = diff(constant_file("w", np.ones(2), np.ones((3, 1))), constant_file("w", np.ones(2)))
    assert [(one.name, one.kind) for one in found.weights.changed] == [("w1", "removed")]


def test_texts_and_nothing_are_compared_too():
    texts = [constant_file("w", np.array(words, object)) for words in (["a", "b"], ["a", "c"])]
    (change,) = diff(*texts).weights.changes
    assert (change.differing, change.absolute) == (1, None)
    empty = [constant_file("w", np.zeros((0, 2), kind)) for kind in (np.float32, np.float64)]
    (change,) = diff(*empty).weights.changes
    assert (change.kind, change.values, change.differing) == ("converted", 0, 0)


def test_the_largest_differences_come_first_and_the_rest_is_counted():
    zeros = [np.zeros(2, np.float32)] * 7
    found = diff(constant_file("w", *zeros), constant_file("w", *(array + i for i, array in enumerate(zeros))))
    assert [change.name for change in found.weights.changes] == ["w6", "w5", "w4", "w3", "w2", "w1"]
    assert "w2: 2 of 2, by up to 2 at [0], relative 1\n             1 more; --json lists all" in str(found)


def scan_with_gain(gain):
    """A running sum whose body multiplies each step, by a constant inside or a weight around it."""
    model = onnx.load_model_from_string(running_sum())
    metadata = {entry.key: entry.value for entry in model.metadata_props if entry.key != "rnnx.sha256"}
    body = model.graph.node[0].attribute[0].g
    body.node[0].input[1] = "scaled"
    body.node.insert(0, helper.make_node("Constant", [], ["gain"], value_float=gain))
    body.node.insert(1, helper.make_node("Mul", ["now", "gain"], ["scaled"], name="scale"))
    del model.metadata_props[:]
    helper.set_model_props(model, metadata)
    return seal(model.SerializeToString())


def test_weights_inside_the_body_of_a_scan_are_compared():
    found = diff(scan_with_gain(2.0), scan_with_gain(2.5))
    (change,) = found.weights.changes
    assert (change.name, change.reader, change.absolute) == ("h.next.body/gain", "scale", 0.5)
    assert found.graph.same
    assert "left out   a's golden trace: it holds no step\n" in str(found)
    assert found.summary == "same contract, other weights, same graph; behaviour not compared"


def test_where_the_first_bit_differs_is_said_where_no_number_does():
    big = np.array([0, 2**60, 2**60], np.int64)
    (change,) = diff(constant_file("w", big), constant_file("w", np.add(big, [0, 0, 1]))).weights.changes
    assert (change.differing, change.absolute, change.where) == (1, 0.0, (2,))


@pytest.mark.parametrize("place", ["initializer", "constant"])
def test_sparse_weights_are_compared_in_values_and_places(place):
    def sparse(value, index):
        values, indices = (numpy_helper.from_array(np.array([one], kind), "w") for one, kind in ((value, "f4"), (index, "i8")))
        tensor = helper.make_sparse_tensor(values, indices, [4])
        out = helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, [4])
        nodes = [helper.make_node("Identity", ["w"], ["out"])]
        if place == "constant":
            nodes.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=tensor))
        stored = {"sparse_initializer": [tensor]} if place == "initializer" else {}
        return helper.make_model(helper.make_graph(nodes, "g", [], [out], **stored)).SerializeToString()

    assert [one.name for one in diff(sparse(1.0, 1), sparse(2.0, 1)).weights.changes] == ["w"]
    assert [one.name for one in diff(sparse(1.0, 1), sparse(1.0, 2)).weights.changes] == ["w.indices"]


# Graph


def test_operators_that_are_new_or_gone_are_counted():
    def longer(graph):
        graph.node[-1].output[0] = "inner"
        graph.node.append(helper.make_node("Identity", ["inner"], ["output.0"]))

    found = diff(LSTM, edited(LSTM, longer))
    assert (found.verdict, found.graph.added, found.graph.removed) == ("other graph", {"Identity": 1}, {})
    assert "  graph      6 nodes → 7\n             new: Identity\n" in str(found)
    assert "             gone: Identity\n" in str(diff(edited(LSTM, longer), LSTM))


def test_settings_of_an_operator_are_compared():
    def other(graph):
        attribute = next(one for node in graph.node for one in node.attribute if one.name == "linear_before_reset")
        attribute.i = 0

    found = diff(GRU, edited(GRU, other))
    assert found.graph.settings == ("GRU_0 linear_before_reset 1 → 0",)
    assert found.verdict == "other behaviour"
    assert "set otherwise: GRU_0 linear_before_reset 1 → 0" in str(found)


def test_other_wiring_is_found_where_all_else_is_the_same():
    def cross(graph):
        lstm = next(node for node in graph.node if node.op_type == "LSTM")
        lstm.input[5], lstm.input[6] = lstm.input[6], lstm.input[5]

    found = diff(LSTM, edited(LSTM, cross))
    assert (found.weights.changes, found.graph.settings, found.graph.rewired) == ((), (), "LSTM_1")
    assert "wired otherwise, first at LSTM_1" in str(found)
    assert not found.same


def test_other_wiring_inside_the_body_of_a_scan_is_found():
    def twice(data):
        model = onnx.load_model_from_string(data)
        model.graph.node[0].attribute[0].g.node[2].input[1] = "now"
        return plain(model.SerializeToString())

    found = diff(plain(scan_with_gain(2.0)), twice(scan_with_gain(2.0)))
    assert found.weights.changes == ()
    assert found.graph.rewired is not None


def test_other_wiring_between_bodies_in_each_other_is_found():
    def of(text):
        """y = x + x + x, or what is between, by a Loop in a Loop."""
        added = f"d2 = Identity(c2) w2 = Add(v2, {text})"
        inner = f"inner (int64 i2, bool c2, float[3] v2) => (bool d2, float[3] w2) {{ {added} }}"
        nested = f"d1 = Identity(c1) w1 = Loop<body = {inner}>(n, , v1)"
        outer = f"outer (int64 i1, bool c1, float[3] v1) => (bool d1, float[3] w1) {{ {nested} }}"
        graph = f"g (float[3] x, int64 n) => (float[3] y) {{ y = Loop<body = {outer}>(n, , x) }}"
        return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {graph}').SerializeToString()

    assert diff(of("v1"), of("v1")).same
    assert diff(of("v1"), of("v2")).graph.rewired is not None
    assert not diff(of("v1"), of("v2")).same


def test_functions_of_the_files_own_are_compared():
    def with_function(value):
        body = [helper.make_node("Constant", [], ["c"], value_float=value), helper.make_node("Add", ["x", "c"], ["y"])]
        function = helper.make_function("own", "more", ["x"], ["y"], body, [helper.make_opsetid("", 18)])
        x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
        graph = helper.make_graph([helper.make_node("more", ["x"], ["y"], domain="own")], "g", [x], [y])
        imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        return helper.make_model(graph, functions=[function], opset_imports=imports).SerializeToString()

    assert diff(with_function(1.0), with_function(1.0)).same
    assert diff(with_function(1.0), with_function(2.0)).graph.rewired == "a function of the file's own"


def test_names_and_order_inside_the_graph_make_no_difference():
    def rename(graph):
        renamed("MatMul_4.0", "product")(graph)
        graph.node[4].name = "other"

    assert diff(LSTM, edited(LSTM, rename)).same


def test_opsets_are_compared():
    model = onnx.load_model_from_string(plain(LSTM))
    model.opset_import[0].version = 19
    found = diff(plain(LSTM), model.SerializeToString())
    assert found.verdict == "other graph"
    assert "opset of ai.onnx: 18 → 19" in str(found)


# Contract


def changes(data, **fields):
    """What differs where the manifest has other fields."""
    manifest = open_artifact(data).manifest
    return contract_changes(manifest, msgspec.structs.replace(manifest, **fields))


def first(specs, **fields):
    return (msgspec.structs.replace(specs[0], **fields), *specs[1:])


L, C = open_artifact(LSTM).manifest, open_artifact(CHAR).manifest
CODEC = C.codec
MORE = Input(name="more", dtype="float32", shape=("batch", "seq_len", 1), role="values")
OUT = Output(name="more", dtype="float32", shape=("batch", "seq_len", 1), role="values")
VALUES = Constant(value=Array.of(np.ones((1, 1, 5), np.float32)))


@pytest.mark.parametrize(
    ("data", "fields", "what", "words", "breaks"),
    [
        (LSTM, {"inputs": first(L.inputs, name="y")}, "input x", "x → y", {"callers": "it is called y"}),
        (
            *(LSTM, {"inputs": first(L.inputs, shape=("batch", "seq_len", 4))}, "input x"),
            *("[batch, seq_len, 3] → [batch, seq_len, 4]", {"callers": "a step of it is [4]"}),
        ),
        (
            *(LSTM, {"inputs": first(L.inputs, shape=("seq_len", "batch", 3))}, "input x"),
            *("[batch, seq_len, 3] → [seq_len, batch, 3]", {"plain ONNX callers": "it has another layout"}),
        ),
        (
            *(LSTM, {"inputs": first(L.inputs, dtype="float64")}, "input x"),
            *("float32 → float64", {"plain ONNX callers": "b takes float64"}),
        ),
        (
            *(LSTM, {"inputs": first(L.inputs, dtype="int64")}, "input x"),
            *("float32 → int64", {"callers": "b takes int64"}),
        ),
        (
            *(LSTM, {"inputs": (*L.inputs, MORE)}, "input more"),
            *("none → float32 [batch, seq_len, 1]", {"callers": "b must be given it"}),
        ),
        (
            *(CHAR, {"inputs": first(C.inputs, vocabulary_size=9)}, "input tokens"),
            *("tokens below 4 → tokens below 9", {}),
        ),
        (
            *(LSTM, {"outputs": first(L.outputs, name="y")}, "output output.0"),
            *("output.0 → y", {"plain ONNX callers": "it is called y"}),
        ),
        (
            *(LSTM, {"outputs": (*L.outputs, OUT)}, "output more"),
            *("none → float32 [batch, seq_len, 1]", {"callers": "an answer is a mapping"}),
        ),
        (
            *(LSTM, {"outputs": first(L.outputs, shape=("batch", 2))}, "output output.0"),
            *("[batch, seq_len, 2] → [batch, 2]", {"callers": "it has no value per step"}),
        ),
        (
            *(LSTM, {"outputs": first(L.outputs, dtype="float64")}, "output output.0"),
            *("float32 → float64", {"callers": "it is float64"}),
        ),
        (
            *(LSTM, {"states": L.states[:1]}, "state lstm.l0.c"),
            *("float32 [1, batch, 5] → none", {"stored states": "b has no such state"}),
        ),
        (
            *(LSTM, {"states": first(L.states, name="h")}, "state lstm.l0.h"),
            *("lstm.l0.h → h", {"stored states": "it is called h"}),
        ),
        (
            *(LSTM, {"states": first(L.states, input="h")}, "state lstm.l0.h"),
            *(
                "lstm.l0.h to lstm.l0.h.next → h to lstm.l0.h.next",
                {"plain ONNX callers": "its tensors are h and lstm.l0.h.next"},
            ),
        ),
        (
            *(LSTM, {"states": first(L.states, init=VALUES)}, "state lstm.l0.h"),
            *("starts with zeros → starts with given values", {}),
        ),
        (
            *(LSTM, {"streamable": False, "not_streamable_because": "it looks both ways"}, "streamable"),
            *("yes → no", {"callers": "whole sequences only: it looks both ways"}),
        ),
        (
            *(LSTM, {"chunks_matter_because": "it pads"}, "chunks matter"),
            *("no → yes", {"callers": "where calls begin matters: it pads"}),
        ),
        (
            LSTM,
            {"fixed_batch": 2},
            "batch",
            "any → 2",
            {"callers": "b takes a batch of 2 only", "stored states": "those of another batch do not fit"},
        ),
        (
            LSTM,
            {"one_step": True},
            "steps of a call",
            "any number → one step",
            {"plain ONNX callers": "a call takes one step"},
        ),
        (
            *(LSTM, {"trusted": ("If",)}, "trusted operators"),
            *("none → If", {"callers": "loading needs trust=True for If"}),
        ),
        (LSTM, {"precision": "float64"}, "precision", "float32 → float64", {}),
        (LSTM, {"lowering": "scan"}, "lowering", "recurrent → scan", {}),
        (LSTM, {"name": "Other"}, "name", "Lstm → Other", {}),
        (
            *(CHAR, {"sampling": Sampling(prompt="h", stop=("o",))}, "sampling"),
            *("none → 'h', 256 tokens at 1, stop ['o']", {}),
        ),
        (
            *(LSTM, {"codec": ScalerCodec(mean=(1.0,), std=(2.0,))}, "codec"),
            *("none → scaler, mean 1.0, std 2.0", {"callers": "infer takes and gives values in other units"}),
        ),
        (
            *(CHAR, {"codec": CharCodec(vocabulary="ohle")}, "codec"),
            *(
                "char, 4 symbols 'ehlo', unknown characters: error → char, 4 symbols 'ohle', unknown characters: error",
                {"callers": "a token stands for another character"},
            ),
        ),
        (
            *(CHAR, {"codec": CharCodec(vocabulary="ehlo", unknown="replace", replacement="l")}, "codec"),
            *(
                "char, 4 symbols, unknown characters: error → char, 4 symbols, unknown characters: replace by 'l'",
                {},
            ),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and "→" in value else "",
)
def test_every_promise_says_whom_its_change_breaks(data, fields, what, words, breaks):
    (change,) = changes(data, **fields)
    assert (change.what, f"{change.before} → {change.after}", change.breaks) == (what, words, breaks)


def test_what_is_gained_breaks_nobody():
    """The same changes the other way round, where they take nothing away."""
    for data, fields in (
        (LSTM, {"streamable": False, "not_streamable_because": "it looks both ways"}),
        (LSTM, {"chunks_matter_because": "it pads"}),
        (LSTM, {"fixed_batch": 2}),
        (LSTM, {"trusted": ("If",)}),
    ):
        manifest = open_artifact(data).manifest
        (change,) = contract_changes(msgspec.structs.replace(manifest, **fields), manifest)
        assert change.breaks == {}


@pytest.mark.parametrize(
    ("old", "new", "because"),
    [
        (CODEC, None, "b takes and gives numbers only"),
        (CODEC, OneHotCodec(vocabulary="ehlo"), "text becomes other arrays"),
        (CharCodec(vocabulary="ehlo", unknown="skip"), CODEC, "unknown characters are refused"),
        (
            ScalerCodec(mean=(1.0,), std=(1.0,)),
            ScalerCodec(mean=(1.0,), std=(2.0,)),
            "values scaled without the codec are wrong",
        ),
        (ScalerCodec(mean=(1.0,), std=(1.0,)), None, "infer takes and gives values in other units"),
        (None, CODEC, None),
        (CODEC, CharCodec(vocabulary="ehlox"), None),
    ],
)
def test_a_codec_breaks_callers_where_theirs_means_something_else(old, new, because):
    a, b = (unchecked(codec=codec) for codec in (old, new))
    (change,) = contract_changes(a, b)
    assert change.what == "codec"
    assert change.breaks == ({} if because is None else {"callers": because})


class unchecked:  # noqa: N801
    """The manifest of LSTM with other fields, also such as a manifest may not have."""

    def __init__(self, **fields):
        for name in L.__struct_fields__:
            setattr(self, name, fields.get(name, getattr(L, name)))

    has_time = Manifest.has_time


def test_symbols_are_shown_from_where_they_differ():
    a, b = "abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrstuvwxyZ0"
    (change,) = contract_changes(unchecked(codec=CharCodec(vocabulary=a)), unchecked(codec=CharCodec(vocabulary=b)))
    assert change.before == "char, 26 symbols … 'z', unknown characters: error"
    assert change.after == "char, 27 symbols … 'Z0', unknown characters: error"


def test_compatible_changes_are_said_to_be_that():
    other = edited(CHAR, manifest=lambda said: said.update(sampling={"prompt": "h"}))
    found = diff(CHAR, other)
    assert found.verdict == "compatible"
    assert found.summary == (
        "compatible changes of the contract (sampling), same weights, same graph; same behaviour on the golden traces"
    )
    assert not found.same


def test_a_renamed_input_breaks_callers_and_the_behaviour_is_compared_all_the_same():
    def said(manifest):
        manifest["inputs"][0]["name"] = "signal"
        manifest["golden"]["inputs"]["signal"] = manifest["golden"]["inputs"].pop("x")

    found = diff(LSTM, edited(LSTM, renamed("x", "signal"), said))
    assert found.summary == "contract changed: breaks callers (input x)"
    assert found.graph.same
    assert found.behaviour.same_bits
    assert len(found.behaviour.runs) == 2


def test_a_renamed_output_is_compared_under_the_first_name():
    def said(manifest):
        manifest["outputs"][0]["name"] = "logits"
        manifest["golden"]["outputs"]["logits"] = manifest["golden"]["outputs"].pop("output.0")

    found = diff(LSTM, edited(LSTM, renamed("output.0", "logits"), said))
    assert found.summary == "contract changed: breaks plain ONNX callers (output output.0)"
    assert found.graph.same
    assert [one.name for one in found.behaviour.runs[0].tensors] == ["output.0", "lstm.l0.h", "lstm.l0.c"]


# Behaviour, where it takes more


def test_models_of_other_inputs_are_not_run_on_each_other():
    found = diff(LSTM, CHAR)
    assert found.verdict == "breaking"
    assert found.behaviour.runs == ()
    assert found.left_out[0] == "a's golden trace: only a has the input x"


def test_whole_sequences_are_compared_where_one_cannot_be_stepped():
    def said(manifest):
        manifest |= {"streamable": False, "not_streamable_because": "it looks both ways"}

    other = edited(LSTM, with_weight("module.lstm.onnx_r0", add(..., 0.25)), said)
    found = diff(LSTM, other)
    steps = [("output", "output.0", 2), ("state", "lstm.l0.h", 4), ("state", "lstm.l0.c", 4)]
    assert [(one.kind, one.name, one.first_step) for one in found.behaviour.runs[0].tensors] == steps
    assert found.behaviour.runs[0].own_start


@pytest.mark.parametrize("style", ["frame", "flattened", "frozen", "without_rows", "stateless", "of_three_frames", "of_three"])
def test_graphs_of_one_step_or_one_batch_are_run(style):
    found = diff(frames.artifact(style), frames.artifact(style, sampling=None, lowering="scan"))
    assert [change.what for change in found.contract] == ["lowering"]
    assert [(run.run, run.steps) for run in found.behaviour.runs] == [("a", frames.STEPS), ("b", frames.STEPS)]
    assert found.behaviour.same_bits
    assert found.left_out == ()


def test_another_layout_breaks_those_who_run_the_graph_themselves():
    found = diff(frames.artifact("frame"), frames.artifact("frozen"))
    assert found.summary == (
        "contract changed: breaks callers (batch), plain ONNX callers (input x, output y) and stored states (h, batch)"
    )
    assert found.left_out == ("a's golden trace: this graph takes a batch of 1, got 2; give each row a stream of its own",)
    assert found.behaviour.runs[0].run == "b"
    assert found.behaviour.same_bits


def test_an_output_for_the_whole_chunk_is_compared_at_every_step_of_a_stream():
    found = diff(GRU, edited(GRU, with_weight("module.gru.onnx_w0", add(..., 0.5))))
    assert [one.name for one in found.behaviour.runs[0].tensors] == ["output.0", "output.1", "gru.l0.h", "gru.l1.h"]
    assert found.behaviour.runs[0].tensors[1].first_step == 1


def test_computed_initial_states_are_compared_on_random_conditions():
    triple = doubling(
        "image", "sum", written_node("Add", ["image", "image"], ["two"]), written_node("Add", ["two", "image"], ["sum"])
    )
    found = diff(computed_sum(doubling()), computed_sum(triple))
    assert found.verdict == "other behaviour"
    (conditions,) = found.behaviour.runs
    assert (conditions.run, conditions.batch) == ("conditions", 4)
    assert conditions.tensors[0].absolute > 0.1
    assert "on random conditions:\n               sum: off by " in str(found)
    assert found.graph.added == {"Add": 1}
    assert diff(computed_sum(doubling()), computed_sum(doubling(), IMAGE)).same


def trusted(data=LSTM, gain=1.0):
    """An artifact with an operator outside the runtime's list: its answer goes through an If."""

    def through_if(graph):
        graph.node[-1].output[0] = "inner"
        float_info = helper.make_tensor_value_info("then", onnx.TensorProto.FLOAT, None)
        weight = numpy_helper.from_array(np.float32(gain), "gain")
        branch = helper.make_graph(
            [helper.make_node("Mul", ["inner", "gain"], ["then"])], "branch", [], [float_info], [weight]
        )
        graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
        graph.node.append(helper.make_node("If", ["yes"], ["output.0"], then_branch=branch, else_branch=branch, name="choice"))

    return edited(data, through_if, lambda said: said.update(trusted=["If"]))


def test_operators_that_were_trusted_are_run_only_where_they_are_trusted_again(files):
    a, b = trusted(), trusted(gain=1.5)
    found = diff(a, b)
    assert found.behaviour.runs == ()
    assert found.left_out[0].startswith("a was not run: ")
    assert "trust=True (--trust)" in found.left_out[0]
    assert found.summary == "same contract, other weights, same graph; behaviour not compared"
    assert {one.name for one in found.weights.changes} == {"output.0.then_branch/gain", "output.0.else_branch/gain"}
    found = diff(a, b, trust=True)
    assert found.verdict == "other behaviour"
    assert "other behaviour: output.0 off by up to " in run(*files(a=a, b=b), "--trust").stdout
    assert diff(LSTM, a).contract[-1].breaks == {"callers": "loading needs trust=True for If"}


# Plain ONNX


def test_plain_files_are_compared_in_what_they_have(files):
    a, b = plain(LSTM), plain(LSTM, with_weight("module.fc.bias", add(0, 1.0)))
    found = diff(a, b)
    assert found.summary == "same inputs and outputs, other weights, same graph; behaviour not compared"
    assert found.left_out == (
        "states, codec and the like: manifests tell them, and a has none",
        "states, codec and the like: manifests tell them, and b has none",
        "a was not run: it is plain ONNX, no artifact",
        "b was not run: it is plain ONNX, no artifact",
    )
    assert run(*files(a=a, b=b)).exit_code == 1
    same = diff(a, plain(LSTM, renamed("MatMul_4.0", "product")))
    assert (same.verdict, same.same) == ("same", True)


def test_what_plain_files_declare_is_compared():
    def other(graph):
        renamed("x", "signal")(graph)
        for value in graph.input:
            if value.name == "lstm.l0.h":
                value.type.tensor_type.shape.dim[1].dim_value = 1
            if value.name == "lstm.l0.c":
                value.type.tensor_type.shape.dim[1].dim_param = "rows"
        graph.output.append(helper.make_tensor_value_info("MatMul_4.0", onnx.TensorProto.FLOAT, [None, None, 2]))

    found = diff(plain(LSTM), plain(LSTM, other))
    assert found.contract == (
        Change("input x", "x", "signal", {"plain ONNX callers": "it is called signal"}),
        Change("input lstm.l0.h", "[1, batch, 5]", "[1, 1, 5]", {"plain ONNX callers": "it has other sizes"}),
        Change("input lstm.l0.c", "[1, batch, 5]", "[1, rows, 5]", {}),
        Change("output MatMul_4.0", "none", "float32 [?, ?, 2]", {}),
    )
    assert found.summary == "contract changed: breaks plain ONNX callers (input x, input lstm.l0.h)"


def test_an_artifact_and_its_plain_graph():
    found = diff(LSTM, plain(LSTM))
    assert found.contract[0].breaks == {"callers": "the runtime does not load b: it is plain ONNX, no artifact"}
    assert found.weights.changes == ()
    assert found.graph.same
    found = diff(plain(LSTM), LSTM)
    assert (found.verdict, found.contract) == ("compatible", (Change("artifact", "no", "yes", {}),))


def test_a_broken_seal_is_said_and_what_was_changed_is_found():
    model = onnx.load_model_from_string(LSTM)
    with_weight("module.fc.bias", add(0, 1.0))(model.graph)
    found = diff(LSTM, model.SerializeToString())
    assert (
        found.contract[0].breaks["callers"].startswith("the runtime does not load b: it has a manifest, but is no artifact: ")
    )
    assert [one.name for one in found.weights.changes] == ["module.fc.bias"]


def test_files_of_the_same_bytes_are_not_identical_where_weights_in_another_file_differ(tmp_path):
    paths = []
    for name, amount in (("a", 0.0), ("b", 1.0), ("c", 0.0)):
        (tmp_path / name).mkdir()
        paths.append(tmp_path / name / "m.onnx")
        model = onnx.load_model_from_string(plain(LSTM, with_weight("module.fc.bias", add(0, amount))))
        onnx.save(model, paths[-1], save_as_external_data=True, location="weights", size_threshold=0)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    found = diff(paths[0], paths[1])
    assert (found.verdict, found.same, found.identical) == ("other weights", False, False)
    assert diff(paths[0], paths[2]).verdict == "identical"


@pytest.mark.parametrize("sides", [(LSTM, None), (None, LSTM)])
def test_a_golden_trace_that_is_not_true_is_a_difference(sides, files):
    def lie(said):
        values = Array.of(msgspec.convert(said["golden"]["outputs"]["output.0"], Array).numpy() + np.float32(0.5))
        said["golden"]["outputs"]["output.0"] = msgspec.to_builtins(values)

    untrue = edited(LSTM, manifest=lie)
    found = diff(*(side or untrue for side in sides))
    assert (found.verdict, found.same) == ("other behaviour", False)
    side = "b" if sides[0] else "a"
    assert found.behaviour.untrue == (side,)
    said = f"{side} answers its own trace otherwise than it says: off by 0."
    assert found.summary.startswith(f"same contract; other behaviour: {said}")
    assert str(found).count(said) == 2
    assert run(*files(a=LSTM, b=untrue)).exit_code == 1


def test_a_golden_trace_that_was_taken_away_breaks_callers():
    nothing = {open_artifact(LSTM).manifest.inputs[0].name: Array.of(np.zeros((0, 1, 3), np.float32))}
    without = edited(LSTM, manifest=lambda said: said["golden"].update(inputs=msgspec.to_builtins(nothing)))
    found = diff(LSTM, without)
    assert found.contract == (Change("golden trace", "yes", "no", {"callers": "a self-test has nothing to run"}),)
    assert (found.verdict, found.same) == ("breaking", False)
    assert diff(without, LSTM).verdict == "compatible"


def test_settings_of_sampling_are_compared_to_the_bit():
    one, two = (Sampling(prompt="h", temperature=value) for value in (0.7, 0.700000001))
    a, b = (edited(CHAR, manifest=lambda said, s=s: said.update(sampling=msgspec.to_builtins(s))) for s in (one, two))
    (change,) = diff(a, b).contract
    assert change.what == "sampling"
    assert ("at 0.7," in change.before, "at 0.700000001," in change.after) == (True, True)


def test_weights_in_another_file_are_read(tmp_path):
    paths = []
    for name, amount in (("a", 0.0), ("b", 1.0)):
        folder = tmp_path / name
        folder.mkdir()
        model = onnx.load_model_from_string(plain(LSTM, with_weight("module.fc.bias", add(0, amount))))
        onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="weights", size_threshold=0)
        paths.append(folder / "m.onnx")
    assert [one.name for one in diff(*paths).weights.changes] == ["module.fc.bias"]
    (tmp_path / "b" / "weights").unlink()
    with pytest.raises(
        ArtifactError, match=r"m.onnx': the values of '.*' in another file beside it, 'weights' cannot be read: "
    ):
        diff(*paths)


def test_names_cannot_command_a_terminal():
    evil = plain(LSTM, renamed("x", "x\x1b[2J\n"))
    assert "\x1b" not in str(diff(plain(LSTM), evil))
    assert "input x: x → x\\x1b[2J\\n" in str(diff(plain(LSTM), evil))


# The command


def test_lines_fit_80_columns():
    for a, b in ((LSTM, CHAR), (LSTM, GRU), (CHAR, plain(GRU)), (LSTM, edited(LSTM, with_weight("val_2", add(..., 1.0))))):
        lines = str(diff(a, b)).splitlines()[1:]
        assert max(map(len, lines)) <= 80


def test_json_holds_everything(files):
    a, b = files(a=LSTM, b=edited(LSTM, with_weight("module.lstm.onnx_r0", add(..., 0.25))))
    done = run(a, b, "--json")
    assert done.exit_code == 1
    said = json.loads(done.stdout)
    assert (said["verdict"], said["same"], said["identical"]) == ("other behaviour", False, False)
    assert said["summary"] == diff(a, b).summary
    assert said["weights"]["changes"][0]["name"] == "module.lstm.onnx_r0"
    assert said["behaviour"]["runs"][0]["tensors"][0]["first_step"] == 2
    assert set(said) == {
        *("verdict", "same", "summary", "a", "b", "identical", "contract", "weights", "graph", "behaviour", "provenance"),
        "left_out",
    }


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("none.onnx", "no file at '{folder}/none.onnx'"),
        ("text.onnx", "'{folder}/text.onnx' is not an ONNX file: it cannot be parsed"),
        ("empty.onnx", "'{folder}/empty.onnx' is not an ONNX file: it holds no graph with an output"),
        ("", "is a folder; give the path of an artifact"),
    ],
)
def test_what_cannot_be_compared_is_trouble_in_one_line(name, error, files, tmp_path):
    (good,) = files(a=LSTM)
    (tmp_path / "text.onnx").write_text("hello, I am no model")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for pair in ((good, tmp_path / name), (tmp_path / name, good)):
        done = run(*pair)
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert error.format(folder=tmp_path) in done.stderr


def test_it_runs_without_torch_and_says_what_it_needs(files):
    a, b = files(a=LSTM, b=GRU)
    ran = (
        f"from rnnx._diff.difference import diff; import sys; diff({str(a)!r}, {str(b)!r}); assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", ran], check=False).returncode == 0
    missing = f"import sys; sys.modules['onnx'] = None; from rnnx._cli import main; main(['diff', {str(a)!r}, {str(b)!r}])"
    done = subprocess.run([sys.executable, "-c", missing], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "Error: rnnx diff needs onnx, which is not installed: pip install 'rnnx[export]'\n",
    )
