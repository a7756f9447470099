"""The file that is adopted: how it is read, brought into order, and what is refused."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tests.export import foreign
from tests.export.foreign import FLOAT, FLOAT16, INT64, Builder

import rnnx
from rnnx import AdoptError
from rnnx._adopt import source as adopt_source
from rnnx_runtime import ArtifactError, _preflight, load
from rnnx_runtime.artifact import CharCodec


@pytest.fixture
def adopt(tmp_path):
    def run(source: Any, **said: Any) -> Any:
        source = source.SerializeToString() if isinstance(source, onnx.ModelProto) else source
        return rnnx.adopt(source, tmp_path / "adopted.onnx", **said)

    return run


def refused(adopt: Any, source: Any, message: str, **said: Any) -> None:
    with pytest.raises(AdoptError, match=message):
        adopt(source, **said)


def test_the_newest_opset_is_what_the_runtime_reads():
    assert _preflight._OPSETS[-1] == adopt_source.NEWEST_OPSET


def test_no_onnx_file(adopt, tmp_path):
    (tmp_path / "notes.onnx").write_text("not a model, whatever it is called")
    refused(adopt, tmp_path / "notes.onnx", "'notes' is not an ONNX file")
    refused(adopt, b"", "'model' is not an ONNX file: it holds no graph with nodes and outputs")
    with pytest.raises(FileNotFoundError, match="no file here; give the path of an .onnx file"):
        adopt(tmp_path / "missing.onnx")
    refused(adopt, tmp_path, "is a folder")


def test_files_over_the_limit(adopt, monkeypatch, tmp_path):
    monkeypatch.setattr(adopt_source, "SIZE_LIMIT", 1000)
    (tmp_path / "large.onnx").write_bytes(foreign.language_model().SerializeToString())
    refused(adopt, tmp_path / "large.onnx", r"large.onnx' has \d+ bytes; at most 1000 are read")
    refused(adopt, foreign.language_model(), r"the file has \d+ bytes; at most 1000 are read")


@pytest.mark.parametrize("opset", [9, 25])
def test_opsets_beyond_what_is_read(adopt, opset):
    model = foreign.cell()
    model.opset_import[0].version = opset
    refused(
        adopt,
        model,
        f"'model' has ONNX opset {opset}; 11 to 24 are read: convert the file, or export it again with opset 18",
    )


def test_ir_versions_beyond_what_is_read(adopt):
    model = foreign.cell()
    model.ir_version = 14
    refused(adopt, model, "'model' has ONNX IR version 14; up to 13 are read: export it again")


def test_an_artifact_is_not_adopted_again(adopt):
    done = adopt(foreign.cell())
    refused(adopt, done.path, "'adopted' is an artifact of rnnx already; `rnnx inspect` shows what it says of itself")
    resaved = onnx.load(done.path)
    del resaved.metadata_props[-1:]  # the seal
    refused(adopt, resaved, "is an artifact of rnnx already")


def test_what_it_said_of_itself_is_kept_and_paths_are_not(adopt):
    model = foreign.cell()
    model.metadata_props.add(key="licence", value="MIT")
    model.graph.node[0].doc_string = "/home/somebody/net.py:3"
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/somebody/net.py:3")
    found = onnx.load(adopt(model).path)
    assert {entry.key: entry.value for entry in found.metadata_props}["licence"] == "MIT"
    assert b"/home" not in found.SerializeToString()


def test_weights_beside_it_are_taken_in(adopt, tmp_path):
    folder = tmp_path / "two files"
    folder.mkdir()
    onnx.save(foreign.cell(), folder / "cell.onnx", save_as_external_data=True, location="cell.onnx.data", size_threshold=0)
    done = adopt(folder / "cell.onnx")
    assert done.manifest.name == "cell"
    assert done.notes[0] == "the weights, which lay in files beside it, are in the artifact"
    (folder / "cell.onnx.data").unlink()
    load(done.path).stream().step(np.ones((1, 3), np.float32))
    refused(adopt, folder / "cell.onnx", "the weights of 'cell' in 'cell.onnx.data' cannot be read")
    refused(
        adopt,
        (folder / "cell.onnx").read_bytes(),
        "the weights lie in another file; give the path of the file instead of its bytes",
    )


def external(location: str, dims: list[int]) -> onnx.ModelProto:
    model = foreign.cell()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.dims[:] = dims
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return model


def test_weights_elsewhere_are_not_read(adopt, tmp_path):
    (tmp_path / "secret").write_bytes(b"0" * 48)
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "m.onnx").write_bytes(external("../secret", [3, 4]).SerializeToString())
    refused(adopt, folder / "m.onnx", "the weights of 'm' in '../secret' cannot be read")
    (folder / "m.onnx").write_bytes(external(str(tmp_path / "secret"), [3, 4]).SerializeToString())
    refused(adopt, folder / "m.onnx", "cannot be read")


def test_weights_beside_it_that_are_too_large(adopt, tmp_path):
    (tmp_path / "w.data").write_bytes(b"0" * 48)
    (tmp_path / "m.onnx").write_bytes(external("w.data", [1 << 20, 1 << 10]).SerializeToString())
    refused(adopt, tmp_path / "m.onnx", r"'m' has \d+ bytes with its weights; at most 536870912 are read")


def test_functions_of_its_own_are_written_out(adopt):
    body = [helper.make_node("Tanh", ["a"], ["b"]), helper.make_node("Add", ["b", "a"], ["c"])]
    function = helper.make_function("somebody", "Bend", ["a"], ["c"], body, [helper.make_opsetid("", 17)])
    b = Builder()
    b.given("x", ["batch", 3])
    b.node("Bend", "x", to="y", domain="somebody")
    b.gives("y", ["batch", 3])
    done = adopt(b.model(functions=[function], domains=[helper.make_opsetid("somebody", 1)]))
    assert sorted(done.operators) == ["Add", "Tanh"]
    assert done.notes[0] == "its own functions are written out: Bend"


def test_weights_that_are_inputs_too_stay_weights(adopt):
    """As files of the first versions of ONNX have them."""
    model = foreign.cell()
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    assert [spec.name for spec in adopt(model).manifest.inputs] == ["x"]


def test_inputs_that_nothing_reads_are_left_out(adopt):
    model = foreign.cell()
    model.graph.input.append(helper.make_tensor_value_info("sr", INT64, []))
    done = adopt(model)
    assert [spec.name for spec in done.manifest.inputs] == ["x"]
    assert "nothing reads sr, so the artifact does not take it" in done.notes


def test_dropout_is_left_out(adopt):
    b = Builder()
    b.given("x", ["batch", 3])
    kept = b.node("Dropout", "x", b.constant(np.float32(0.5)), b.constant(np.array(False)))
    b.node("Dropout", b.node("Relu", kept), to="y")
    b.gives("y", ["batch", 3])
    done = adopt(b.model())
    assert done.operators == ("Relu", "Identity")
    assert done.notes[0] == "2 Dropout nodes, which do nothing outside training, are left out"


def test_a_dropout_that_trains_is_not_trusted(adopt):
    b = Builder()
    b.given("x", ["batch", 3])
    b.node("Dropout", "x", b.constant(np.float32(0.5)), b.constant(np.array(True)), to="y")
    b.gives("y", ["batch", 3])
    refused(adopt, b.model(), "operators outside the runtime's list: Dropout; --trust allows them")
    refused(adopt, b.model(), "the graph takes no sizes|the artifact answers otherwise than the file", trust=True)


@pytest.mark.parametrize("axis", [1, 2, -1])
@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax", "Hardmax"])
def test_older_softmaxes_mean_the_same(adopt, operator, axis):
    b = Builder()
    b.given("x", ["batch", 3, 4])
    b.node(operator, "x", to="y", axis=axis)
    b.gives("y", ["batch", 3, 4])
    done = adopt(b.model(11, 6))
    assert (done.difference, done.notes[0]) == (0.0, "opset 11 is written as 13")
    assert ("Flatten" in done.operators) == (axis == 1)


def test_older_attributes_become_inputs(adopt):
    b = Builder()
    b.given("x", ["batch", 6])
    b.node("Split", "x", to=["a", "b"], axis=1, split=[2, 4])
    total = b.node("ReduceSum", b.node("Unsqueeze", "b", axes=[1]), axes=[2])
    b.node("Squeeze", b.node("Add", b.node("Unsqueeze", "a", axes=[-1]), total), to="y", axes=[2])
    b.gives("y", ["batch", 2])
    assert adopt(b.model(12, 7)).difference == 0.0


def test_types_that_an_artifact_does_not_take(adopt):
    b = Builder()
    b.given("x", ["batch", 3], FLOAT16)
    b.node("Relu", "x", to="y")
    b.gives("y", ["batch", 3], FLOAT16)
    refused(
        adopt,
        b.model(),
        "the graph takes 'x', which is float16; an artifact takes float32, float64, int32, int64, bool: keep the types of inputs and outputs",
    )


def test_weights_inside_may_be_of_half_the_size(adopt):
    b = Builder()
    b.given("x", ["batch", 3])
    weights = b.constant(b.random.standard_normal((3, 2)).astype(np.float16))
    b.nodes.append(helper.make_node("Cast", [weights], ["wide"], to=FLOAT))
    b.node("MatMul", "x", "wide", to="y")
    b.gives("y", ["batch", 2])
    assert adopt(b.model()).operators == ("Cast", "MatMul")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": 16000}, "--set rate: the graph has no such input; it has input, state, sr"),
        ({"sr": 16000.5}, "--set sr: 16000.5 does not fit int64"),
        ({"sr": "fast"}, "--set sr: 'fast' is no array of int64"),
        ({"sr": [1, 2]}, r"--set sr: a value of the shape \[2\] does not fit sr \[\]"),
        ({"sr": 1 << 70}, "--set sr: 1180591620717411303424 is no array of int64"),
    ],
)
def test_values_that_do_not_fit(adopt, values, message):
    refused(adopt, foreign.detector(), message, set=values)


def test_a_number_fills_a_shape_that_is_known(adopt):
    b = Builder()
    b.given("x", ["batch", 3])
    b.given("scale", [3])
    b.node("Mul", "x", "scale", to="y")
    b.gives("y", ["batch", 3])
    done = adopt(b.model(), set={"scale": 2})
    assert np.array_equal(load(done.path).stream().step([[1, 2, 3]]), [[2, 4, 6]])
    assert np.array_equal(load(adopt(b.model(), set={"scale": [1, 0, 2]}).path).stream().step([[1, 2, 3]]), [[1, 0, 6]])


def test_something_must_be_left_to_give(adopt):
    refused(
        adopt,
        foreign.pointwise(),
        "the graph takes nothing beside what --set says; a step must be given something",
        set={"x": [[[1.0, 2.0, 3.0]]]},
    )


def choosing() -> onnx.ModelProto:
    """A branch that depends on what is given."""
    b = Builder()
    b.given("x", ["batch", 3])
    positive = b.node("Greater", b.node("ReduceSum", "x", keepdims=0), b.constant(np.float32(0)))
    yes, no = Builder(), Builder()
    yes.node("Relu", "x", to="yes")
    no.node("Neg", "x", to="no")
    bodies = [
        helper.make_graph(one.nodes, name, [], [helper.make_tensor_value_info(name, FLOAT, None)])
        for one, name in ((yes, "yes"), (no, "no"))
    ]
    b.node("If", positive, to="y", then_branch=bodies[0], else_branch=bodies[1])
    b.gives("y", ["batch", 3])
    return b.model()


def test_operators_outside_the_list_must_be_trusted_here_and_where_it_is_loaded(adopt):
    refused(
        adopt,
        choosing(),
        "operators outside the runtime's list: If; --trust allows them, here and wherever the artifact is loaded; fixed sizes",
    )
    done = adopt(choosing(), axes={"x": "1,3"}, trust=True)
    assert done.manifest.trusted == ("If",)
    with pytest.raises(ArtifactError, match="load it with trust=True"):
        load(done.path)
    assert np.array_equal(load(done.path, trust=True).stream().step([[1.0, 2.0, -1.0]]), [[1.0, 2.0, 0.0]])


def test_trust_that_is_not_needed_is_not_recorded(adopt):
    assert adopt(foreign.cell(), trust=True).manifest.trusted == ()


def test_random_numbers_are_no_model(adopt):
    b = Builder()
    b.given("x", ["batch", 3])
    b.node("Add", "x", b.node("RandomNormalLike", "x"), to="y")
    b.gives("y", ["batch", 3])
    refused(adopt, b.model(), "operators outside the runtime's list: RandomNormalLike")
    refused(adopt, b.model(), "no sizes|otherwise than the file", trust=True)


def test_a_graph_that_onnx_runtime_does_not_load(adopt):
    b = Builder()
    b.given("x", ["batch", 3])
    b.node("MatMul", "x", b.weight(4, 2), to="y")
    b.gives("y", ["batch", 2])
    refused(adopt, b.model(), "ONNX Runtime cannot load the file: .*dimension")


def test_a_target_that_is_no_artifact(adopt, tmp_path):
    with pytest.raises(AdoptError, match="the artifact's name must end in .onnx, got 'a.txt'"):
        rnnx.adopt(foreign.cell().SerializeToString(), tmp_path / "a.txt")


def test_nothing_is_written_where_it_is_refused(tmp_path):
    with pytest.raises(AdoptError):
        rnnx.adopt(foreign.attention().SerializeToString(), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_stood_there_before_is_said(adopt):
    assert adopt(foreign.cell(), name="first").replaced is None
    assert adopt(foreign.cell(), name="first").replaced is None
    assert adopt(foreign.cell(), name="second").replaced == "first"


@pytest.mark.parametrize(
    ("model", "vocabulary", "message"),
    [
        (
            foreign.language_model,
            "abcd",
            "the vocabulary has 4 symbols, but tokens takes 5 tokens; give the one that the model was trained",
        ),
        (foreign.cell, "ab", "the vocabulary has 2 symbols, but x takes no tokens"),
        (
            lambda: foreign.language_model(softmax="Softmax"),
            "abcde",
            "log_probs gives probabilities, but a vocabulary needs scores",
        ),
    ],
)
def test_vocabularies_that_do_not_fit(adopt, model, vocabulary, message):
    refused(adopt, model(), message, codec=CharCodec(vocabulary=vocabulary))


def test_a_vocabulary_needs_an_answer_of_its_size(adopt):
    b = Builder()
    b.given("tokens", ["batch", "time"], INT64)
    b.node("Gather", b.weight(4, 3), "tokens", to="y")
    b.gives("y", ["batch", "time", 3])
    refused(
        adopt,
        b.model(),
        r"the vocabulary has 4 symbols, but no output scores as many at each step: y \['batch', 'seq_len', 3\]",
        codec=CharCodec(vocabulary="abcd"),
    )


def test_weights_of_one_byte_stay_so(adopt):
    """A vocabulary of bytes, dequantised when it is read: folding must not make floats of it."""
    b = Builder()
    b.given("tokens", ["batch", "time"], INT64)
    b.given("gain", [])
    table = b.constant(b.random.integers(-100, 100, (50, 8)).astype(np.int8), "table")
    wide = b.node("DequantizeLinear", table, b.constant(np.float32(0.1)), b.constant(np.int8(0)))
    b.node("Mul", b.node("Gather", wide, "tokens"), b.node("Sqrt", "gain"), to="y")
    b.gives("y", ["batch", "time", 8])
    done = adopt(b.model(), set={"gain": 4})
    kept = {tensor.name: numpy_helper.to_array(tensor).dtype for tensor in onnx.load(done.path).graph.initializer}
    assert kept["table"] == np.int8
    assert done.manifest.inputs[0].vocabulary_size == 50


def refusal(data: bytes, path: Any, **said: Any) -> str:
    """Why it is refused; empty where it is adopted."""
    try:
        rnnx.adopt(data, path, **said)
    except AdoptError as error:
        return str(error)
    return ""


def test_damaged_files_are_refused_in_one_line_or_adopted_as_they_are(tmp_path):
    random = np.random.default_rng(0)
    models = [foreign.cell(), foreign.enhancer(), foreign.forgetful(), foreign.detector()]
    files = [np.frombuffer(model.SerializeToString(), np.uint8) for model in models]
    refusals = []
    for number in range(120):
        data = files[number % len(files)].copy()
        data[random.integers(0, len(data), 3)] = random.integers(0, 256, 3)
        refusals.append(refusal(data.tobytes(), tmp_path / "a.onnx", lift=number % 4 == 2))
    assert all(message.isprintable() for message in refusals)
    assert sum(map(bool, refusals)) > 60
