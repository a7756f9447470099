"""What `rnnx quantize` refuses, and what the runtime refuses of files that say they were quantised."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from tests.export import foreign
from tests.runtime.conftest import GOLDEN
from tests.runtime.handmade import running_sum
from torch import nn

import rnnx
from rnnx import QuantizeError
from rnnx._cli import main
from rnnx._quantize.editor import Grain
from rnnx._quantize.rewriting import quantise_weights
from rnnx_runtime import ArtifactError, ProviderError, load
from rnnx_runtime._providers import Node, Placement, check_placement
from rnnx_runtime.artifact import MANIFEST_KEY, inspect_graph, open_artifact, seal

LSTM, GRU, CHAR = (GOLDEN / f"{name}.onnx" for name in ("lstm", "gru", "char_rnn"))


@pytest.fixture(scope="module", autouse=True)
def hurried():
    """No test is about how fast it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rnnx._quantize.quantisation._SECONDS", 0.02)
        yield


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """The golden artifact of a character model, in 8 bits."""
    path = tmp_path_factory.mktemp("few") / "few.onnx"
    rnnx.quantize(CHAR, path, block=16, allow_loss=True)
    return path


def quantize(*arguments):
    return CliRunner().invoke(main, ["quantize", *map(str, arguments)])


def refused(*arguments):
    """The one line that the command ends with."""
    done = quantize(*arguments)
    assert done.exit_code == 1, done.output
    assert done.output.startswith("Error: ")
    assert done.output.count("\n") == 1
    return done.output


@pytest.mark.parametrize(
    ("said", "because"),
    [
        (("--bits", 5), "bits must be 8 or 4, got 5"),
        (("--bits", 16), "bits must be 8 or 4, got 16"),
        (("--block", 24), "block must be a power of two from 16 to 256, got 24"),
        (("--block", 8), "block must be a power of two from 16 to 256, got 8"),
        (("--block", 512), "block must be a power of two from 16 to 256, got 512"),
        (("--fp16", "--bits", 8), "float16 has 16 bits and no blocks"),
        (("--fp16", "--block", 32), "float16 has 16 bits and no blocks"),
        (("-o", "small.bin"), "the artifact's name must end in .onnx, got 'small.bin'"),
        (("-o", CHAR), "is the artifact that is quantised; give the new one another name"),
        (("--data", "nowhere.txt"), "nowhere.txt"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_one_line(tmp_path, monkeypatch, said, because):
    monkeypatch.chdir(tmp_path)
    before = CHAR.read_bytes()
    assert because in refused(CHAR, *said)
    assert not list(tmp_path.iterdir())
    assert CHAR.read_bytes() == before


def test_an_artifact_of_few_bits_is_not_quantised_again(few, tmp_path):
    assert "is quantised already (int8); quantise the one that it was made of" in refused(few, "-o", tmp_path / "again.onnx")
    rnnx.quantize(LSTM, tmp_path / "half.onnx", fp16=True)
    with pytest.raises(QuantizeError, match=r"quantised already \(float16\)"):
        rnnx.quantize(tmp_path / "half.onnx", tmp_path / "again.onnx")


def test_a_broken_seal_and_what_is_no_artifact_are_refused(tmp_path):
    content = bytearray(CHAR.read_bytes())
    content[300] ^= 1
    (tmp_path / "broken.onnx").write_bytes(content)
    assert "the seal is broken" in refused(tmp_path / "broken.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    assert "not a sealed rnnx artifact" in refused(tmp_path / "text.onnx")
    assert "no file at" in refused(tmp_path / "nowhere.onnx")
    assert len(list(tmp_path.iterdir())) == 2


def test_an_artifact_without_a_large_weight_has_nothing_to_quantise(tmp_path):
    (tmp_path / "sum.onnx").write_bytes(running_sum())
    said = refused(tmp_path / "sum.onnx", "-o", tmp_path / "few.onnx")
    assert "there is nothing to quantise in 8 bits" in said
    assert len(list(tmp_path.iterdir())) == 1


def test_what_stands_at_the_target_and_is_no_artifact_stays(tmp_path):
    (tmp_path / "mine.onnx").write_text("hello")
    assert "is there already, and is no artifact" in refused(CHAR, "-o", tmp_path / "mine.onnx")
    assert (tmp_path / "mine.onnx").read_text() == "hello"


def test_another_models_artifact_is_replaced_and_named(tmp_path):
    (tmp_path / "other.onnx").write_bytes(LSTM.read_bytes())
    done = quantize(CHAR, "--block", 16, "--allow-loss", "-o", tmp_path / "other.onnx")
    assert done.exit_code == 0
    assert "held Lstm before; it is replaced" in done.stderr


def test_data_of_the_wrong_kind_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 5, 3), np.float32))
    (tmp_path / "text.txt").write_text("hello")
    assert "is not a text: byte" in refused(CHAR, "--data", tmp_path / "x.npy")
    (tmp_path / "foreign.txt").write_text("xyz")
    assert "character 'x' at position 0 is not in the model's vocabulary" in refused(CHAR, "--data", tmp_path / "foreign.txt")
    (tmp_path / "short.txt").write_text("h")
    assert "has nothing to predict" in refused(CHAR, "--data", tmp_path / "short.txt")
    half = (LSTM, "--fp16", "-o", tmp_path / "few.onnx", "--data")
    assert "the data do not fit the artifact" in refused(*half, tmp_path / "text.txt")
    np.savez(tmp_path / "other.npz", y=np.zeros((1, 5, 3), np.float32))
    assert "data need the inputs x" in refused(*half, tmp_path / "other.npz")
    (tmp_path / "broken.npz").write_text("hello")
    assert "is not a .npz file of numbers" in refused(*half, tmp_path / "broken.npz")
    np.save(tmp_path / "wide.npy", np.zeros((1, 5, 4), np.float32))
    assert "the data do not fit the artifact" in refused(*half, tmp_path / "wide.npy")
    np.savez(tmp_path / "targets.npz", **{"x": np.zeros((1, 5, 3), np.float32), "output.0": np.zeros((1, 4, 2))})
    assert "the targets of output.0 have the shape (1, 4, 2), the artifact answers (1, 5, 2)" in refused(
        *half, tmp_path / "targets.npz"
    )
    with pytest.raises(QuantizeError, match="reads text; data are the path of a text, got ndarray"):
        rnnx.quantize(CHAR, tmp_path / "few.onnx", data=np.zeros(3))
    assert not (tmp_path / "few.onnx").exists()


def test_float64_is_refused(tmp_path):
    rnnx.export(nn.GRU(3, 24, batch_first=True).double(), (torch.zeros(2, 5, 3).double(),), tmp_path / "m.onnx", proof="quick")
    with pytest.raises(QuantizeError, match="computes in float64, and fewer bits are for float32"):
        rnnx.quantize(tmp_path / "m.onnx")


class Captioner(nn.Module):
    """A picture `(B, 12)` and tokens `(B, T)` → logits `(B, T, 9)`."""

    def __init__(self):
        super().__init__()
        self.see, self.emb = nn.Linear(12, 32), nn.Embedding(9, 20)
        self.rnn, self.fc = nn.GRU(20, 32, batch_first=True), nn.Linear(32, 9)

    def forward(self, picture, tokens):
        return self.fc(self.rnn(self.emb(tokens), torch.tanh(self.see(picture))[None])[0])


def test_a_state_that_is_computed_still_is(tmp_path):
    example = (torch.randn(2, 12), torch.arange(10).view(2, 5) % 9)
    rnnx.export(Captioner(), example, tmp_path / "m.onnx", proof="quick", codec=None)
    done = rnnx.quantize(tmp_path / "m.onnx", tmp_path / "few.onnx", allow_loss=True)
    assert done.comparison.rows == done.comparison.ways == 0
    assert [(one.name, one.because) for one in done.quantisation.left] == [
        ("rnnx.initial", "this graph is run once per sequence")
    ]
    picture, tokens = np.ones((2, 12), np.float32), np.array([[1, 2, 3], [4, 5, 6]])
    answers = [
        model.stream(picture=picture).feed(tokens) for model in (load(tmp_path / "m.onnx"), load(tmp_path / "few.onnx"))
    ]
    assert 0 < np.abs(answers[0] - answers[1]).max() < 0.05


def test_an_adopted_file_with_recurrent_nodes_is_quantised_too(tmp_path):
    (tmp_path / "theirs.onnx").write_bytes(foreign.language_model().SerializeToString())
    rnnx.adopt(tmp_path / "theirs.onnx", tmp_path / "adopted.onnx")
    done = rnnx.quantize(tmp_path / "adopted.onnx", tmp_path / "few.onnx", block=16, allow_loss=True)
    assert {one.role.split(",")[0] for one in done.quantisation.weights} & {"LSTM", "GRU", "RNN"}
    assert not done.quantisation.source_proven
    assert done.manifest.lowering == "adopted"
    assert done.manifest.lowering_because.startswith("before it was quantised: ")
    before, after = load(tmp_path / "adopted.onnx"), load(tmp_path / "few.onnx")
    one, two = (model.run(np.array([[0, 1, 2, 3, 4]]))[0] for model in (before, after))
    assert 0 < np.abs(one - two).max() < 0.05


# What ONNX Runtime would read beyond the end of; some of its versions look before, and the runtime does not rely on that.


def hostile(few, change):
    """The quantised artifact with its graph changed, sealed again."""
    model = onnx.load_model_from_string(few.read_bytes())
    change(model.graph)
    del model.metadata_props[-1]
    return seal(model.SerializeToString())


def node_of(graph, operator):
    return next(node for node in graph.node if node.op_type == operator)


def setting(operator, name, value):
    def change(graph):
        next(attribute for attribute in node_of(graph, operator).attribute if attribute.name == name).i = value

    return change


def replacing(operator, place, make):
    def change(graph):
        name = node_of(graph, operator).input[place]
        tensor = next(one for one in graph.initializer if one.name == name)
        tensor.CopyFrom(numpy_helper.from_array(make(numpy_helper.to_array(tensor)), name))

    return change


def in_a_body(graph):
    body = next(a.g for a in node_of(graph, "Scan").attribute if a.name == "body")
    next(a for a in node_of(body, "MatMulNBits").attribute if a.name == "N").i = 4096


def given_order(graph):
    graph.initializer.append(numpy_helper.from_array(np.zeros(16, np.int32), "order"))
    node = node_of(graph, "MatMulNBits")
    del node.input[3:]
    node.input.extend(["", "order"])


def computed_weights(graph):
    node = node_of(graph, "MatMulNBits")
    graph.node.insert(0, helper.make_node("Identity", [node.input[1]], ["computed"]))
    node_of(graph, "MatMulNBits").input[1] = "computed"


def twice(graph):
    first = graph.initializer[0]
    graph.initializer.add().CopyFrom(first)


MATMUL, TABLE = "MatMulNBits", "GatherBlockQuantized"
HOSTILE = {
    "more columns than there are": (setting(MATMUL, "K", 4096), "its attributes ask for uint8"),
    "more rows than there are": (setting(MATMUL, "N", 4096), "its attributes ask for uint8"),
    "rows without an end": (setting(MATMUL, "N", 1 << 40), "1 to 1048576 each"),
    "no columns": (setting(MATMUL, "K", 0), "1 to 1048576 each"),
    "fewer than none": (setting(MATMUL, "N", -1), "1 to 1048576 each"),
    "two bits": (setting(MATMUL, "bits", 2), "weights of 2 bits in blocks of 16; 4 and 8 bits"),
    "four bits, said of eight": (setting(MATMUL, "bits", 4), "its attributes ask for uint8"),
    "another block": (setting(MATMUL, "block_size", 128), "its attributes ask for uint8"),
    "a block of no size": (setting(MATMUL, "block_size", 0), "in blocks of 0"),
    "another accuracy": (setting(MATMUL, "accuracy_level", 3), "at accuracy level 3"),
    "few scales": (replacing(MATMUL, 2, lambda array: array.reshape(-1)[:3]), "its attributes ask for float32"),
    "scales of another type": (replacing(MATMUL, 2, lambda array: array.astype(np.float64)), "of the type 11"),
    "codes of another type": (replacing(MATMUL, 1, lambda array: array.astype(np.int8)), "of the type 3"),
    "few codes": (replacing(MATMUL, 1, lambda array: array[:2]), "its attributes ask for uint8"),
    "a short bias": (replacing(MATMUL, 5, lambda array: array[:2]), "its attributes ask for float32"),
    "inside a body": (in_a_body, "its attributes ask for uint8"),
    "an order of rows": (given_order, "zero points or an order of rows"),
    "weights that are computed": (computed_weights, "computes its weights, or has none"),
    "a weight twice": (twice, "stands twice in the file"),
    "a table with few scales": (replacing(TABLE, 2, lambda array: array[:, :0]), "its attributes ask for float32"),
    "a table of another block": (replacing(TABLE, 0, lambda array: array[:, :3]), None),
    "a table of four bits": (setting(TABLE, "bits", 4), "its attributes ask for float32"),
    "a table in another direction": (setting(TABLE, "gather_axis", 1), "looks up along other axes"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_sealed_file_whose_weights_do_not_fit_is_refused_before_it_is_run(few, what):
    change, because = HOSTILE[what]
    data = hostile(few, change)
    if because is not None:
        with pytest.raises(ArtifactError, match=because):
            open_artifact(data)
        return
    # What fits itself and not the graph around it: an error, and no end of the process.
    code = (
        "import sys, rnnx_runtime as r\ntry: r.load(sys.stdin.buffer.read()).selftest()\nexcept r.RnnxError: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert done.stdout == b"refused\n"


def test_an_input_of_another_width_than_the_weights_is_an_error_and_no_end(few):
    def narrower(graph):
        node = node_of(graph, TABLE)
        for place in (0, 2):
            tensor = next(one for one in graph.initializer if one.name == node.input[place])
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.repeat(array, 2, axis=1), tensor.name))

    code = (
        "import sys, rnnx_runtime as r\ntry: r.load(sys.stdin.buffer.read()).selftest()\nexcept r.RnnxError: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], input=hostile(few, narrower), capture_output=True, check=True)
    assert done.stdout == b"refused\n"


def lying(few, change):
    model = onnx.load_model_from_string(few.read_bytes())
    entry = next(one for one in model.metadata_props if one.key == MANIFEST_KEY)
    said = json.loads(entry.value)
    change(said)
    entry.value = json.dumps(said)
    del model.metadata_props[-1]
    return seal(model.SerializeToString())


def test_a_manifest_that_claims_proof_or_another_precision_is_refused(few):
    parity = json.loads(open_artifact(CHAR).graph.metadata[MANIFEST_KEY])["parity"]
    for change, because in (
        (lambda said: said.update(parity=parity), "parity must not stand there"),
        (
            lambda said: said.update(precision="float32"),
            "the precision is float32, but what is said of the weights is for int8",
        ),
        (lambda said: said.update(precision="int4"), "the precision is int4, but what is said of the weights is for int8"),
        (lambda said: said.update(quantisation=None), "the precision is int8, but"),
        (lambda said: said["quantisation"].update(data="\x1b[2J"), "characters that cannot be printed"),
    ):
        with pytest.raises(ArtifactError, match=because):
            open_artifact(lying(few, change))


def test_float16_behind_a_transpose_does_not_end_the_process():
    """ONNX Runtime 1.32 does so when it loads it; an artifact may hold it, for a graph may convert what it likes."""
    stored = [numpy_helper.from_array(np.zeros((3, 2), np.float16), "w")]
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Transpose", ["half"], ["turned"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["turned", "w"], ["product"]),
        helper.make_node("Cast", ["product"], ["y"], to=TensorProto.FLOAT),
    ]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None, 3])]
    gives = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None, 2])]
    graph = helper.make_graph(nodes, "graph", given, gives, stored)
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    assert inspect_graph(data).half
    code = (
        "import sys\nfrom rnnx_runtime._session import Options, Session\n"
        "Session(sys.stdin.buffer.read(), Options({'cpu': {}}, True, 1, half=True))\nprint('loaded')"
    )
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert done.stdout == b"loaded\n"


def test_that_a_graph_has_float16_in_it_reaches_the_session(tmp_path):
    rnnx.quantize(LSTM, tmp_path / "half.onnx", fp16=True)
    assert open_artifact(tmp_path / "half.onnx").half
    assert load(tmp_path / "half.onnx")._engine._options.half
    assert not open_artifact(LSTM).half
    assert not load(LSTM)._engine._options.half


def test_a_provider_without_the_operator_is_told_with_the_operator_and_what_to_do():
    nodes = (Node("a", "MatMulNBits", "cpu"), Node("b", "Add", "cuda"))
    with pytest.raises(ProviderError, match=r"cuda did not take 1 of 2 nodes \(MatMulNBits\).*or one of rnnx quantize --fp16"):
        check_placement(Placement(("cuda",), ("cuda", "cpu"), nodes))
    with pytest.raises(ProviderError) as plain:
        check_placement(Placement(("cuda",), ("cuda", "cpu"), (Node("b", "Add", "cpu"),)))
    assert "fp16" not in str(plain.value)


def test_products_of_one_weight_share_its_codes():
    weight = np.random.default_rng(0).standard_normal((32, 24)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="one"),
        helper.make_node("Sigmoid", ["a"], ["b"]),
        helper.make_node("Gemm", ["x", "w"], ["c"], name="two"),
        helper.make_node("Add", ["b", "c"], ["y"]),
    ]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 32])]
    gives = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 24])]
    model = helper.make_model(helper.make_graph(nodes, "graph", given, gives, [numpy_helper.from_array(weight, "w")]))
    weights, left = quantise_weights(model, Grain(8, 32))
    assert [one.name for one in weights] == ["w"]
    assert not left
    assert len(model.graph.initializer) == 2


def test_a_weight_that_is_stored_in_a_body_is_named_and_stays():
    body = helper.make_graph(
        [helper.make_node("MatMul", ["h", "inner"], ["a"]), helper.make_node("Add", ["a", "now"], ["after"])],
        "step",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("h", "now")],
        [helper.make_tensor_value_info("after", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((32, 32), np.float32), "inner")],
    )
    scan = helper.make_node("Scan", ["h0", "x"], ["hn"], body=body, num_scan_inputs=1)
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * n) for name, n in (("h0", 2), ("x", 3))]
    gives = [helper.make_tensor_value_info("hn", TensorProto.FLOAT, [None, 32])]
    model = helper.make_model(helper.make_graph([scan], "graph", given, gives))
    weights, left = quantise_weights(model, Grain(8, 32))
    assert not weights
    assert [(one.name, one.because) for one in left] == [("inner", "it is stored in the body of a Scan")]
