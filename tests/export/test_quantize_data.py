"""What `rnnx quantize` is given to measure on, and what it says where nothing can be measured or gained."""

import os

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from tests.runtime.conftest import GOLDEN
from torch import nn

import rnnx
from rnnx import QuantizeError
from rnnx._cli import main
from rnnx._quantize import quantisation
from rnnx_runtime import load
from rnnx_runtime.artifact import CharCodec

LSTM, CHAR = GOLDEN / "lstm.onnx", GOLDEN / "char_rnn.onnx"
X = np.zeros((1, 5, 3), np.float32)


@pytest.fixture(scope="module", autouse=True)
def hurried():
    """No test is about how fast it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rnnx._quantize.quantisation._SECONDS", 0.02)
        yield


def refused(artifact, data, target):
    """The one line that the command ends with; nothing was written."""
    done = CliRunner().invoke(
        main, ["quantize", str(artifact), "--fp16", "--allow-loss", "--data", str(data), "-o", str(target)]
    )
    assert done.exit_code == 1, done.output
    assert done.output.startswith("Error: ")
    assert done.output.count("\n") == 1
    assert not target.exists()
    return done.output


def no_zip(path):
    path.write_bytes(b"PK\x03\x04hello")


def one_array(path):
    with path.open("wb") as file:
        np.save(file, X)


def broken_inside(path):
    np.savez(path, x=X)
    content = bytearray(path.read_bytes())
    content[content.index(b"NUMPY") + 150] ^= 1  # in the values
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "because"),
    [(no_zip, "File is not a zip file"), (one_array, "it holds one array, as a .npy does"), (broken_inside, "Bad CRC-32")],
)
def test_a_file_that_only_has_the_name_of_an_npz_is_refused(tmp_path, make, because):
    make(tmp_path / "data.npz")
    said = refused(LSTM, tmp_path / "data.npz", tmp_path / "few.onnx")
    assert "is not a .npz file of numbers: " in said
    assert because in said


@pytest.mark.parametrize(
    ("target", "because"),
    [
        (np.full((1, 5, 2), "a"), "the targets of output.0 must be numbers, got <U1"),
        (np.full((1, 5, 2), 1j), "the targets of output.0 must be numbers, got complex128"),
        (np.full((1, 5, 2), np.nan), "the targets of output.0 must be finite, got nan"),
        (np.full((1, 5, 2), np.inf, np.float32), "the targets of output.0 must be finite, got inf"),
    ],
)
def test_targets_that_nothing_can_be_compared_with_are_refused(tmp_path, target, because):
    np.savez(tmp_path / "data.npz", **{"x": X, "output.0": target})
    assert because in refused(LSTM, tmp_path / "data.npz", tmp_path / "few.onnx")


def test_data_without_a_step_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", X[:, :0])
    assert "data need at least one step, x has the shape (1, 0, 3)" in refused(LSTM, tmp_path / "x.npy", tmp_path / "few.onnx")


@pytest.mark.parametrize("artifact", [LSTM, CHAR])
def test_what_is_no_file_of_data_is_not_called_an_artifact(tmp_path, artifact):
    for data in (tmp_path, tmp_path / "nowhere.txt"):
        said = refused(artifact, data, tmp_path / "few.onnx")
        assert f"no file of data at {str(data)!r}; give a text for a model that reads text, else .npy, .npz or .csv" in said


class Beside(nn.Module):
    """Values `(B, T, 3)` and `(B, T, 4)` → `(B, T, 8)`."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(7, 8, batch_first=True)

    def forward(self, x, z):
        return self.rnn(torch.cat([x, z], -1))[0]


def test_several_inputs_are_given_by_name(tmp_path):
    rnnx.export(Beside(), (torch.randn(2, 5, 3), torch.randn(2, 5, 4)), tmp_path / "m.onnx", proof="quick")
    np.save(tmp_path / "x.npy", X)
    said = refused(tmp_path / "m.onnx", tmp_path / "x.npy", tmp_path / "few.onnx")
    assert "x.npy is of one input, this artifact has x, z; give them by name in a .npz" in said


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_name_that_cannot_be_printed_is_escaped_in_the_artifact(tmp_path):
    (tmp_path / "a\nb.txt").write_text("hello")
    done = rnnx.quantize(CHAR, tmp_path / "few.onnx", fp16=True, data=tmp_path / "a\nb.txt")
    assert load(done.path).manifest.quantisation.data == r"the 5 symbols of 'a\nb.txt'"


class Masked(nn.Module):
    """Tokens `(B, T)` → logits `(B, T, 4)`, of which the first is never chosen."""

    def __init__(self):
        super().__init__()
        self.emb, self.rnn, self.fc = nn.Embedding(4, 24), nn.LSTM(24, 24, batch_first=True), nn.Linear(24, 4)

    def forward(self, tokens):
        return self.fc(self.rnn(self.emb(tokens))[0]).masked_fill(torch.arange(4) == 0, float("-inf"))


@pytest.mark.parametrize("given", [{"bits": 8}, {"fp16": True}])
def test_a_symbol_that_is_never_chosen_is_no_infinite_loss(tmp_path, given):
    torch.manual_seed(0)
    tokens = torch.arange(10).view(2, 5) % 4
    rnnx.export(Masked(), (tokens,), tmp_path / "m.onnx", proof="quick", codec=CharCodec(vocabulary="_abc"))
    (tmp_path / "text.txt").write_text("abcab" * 20)
    done = rnnx.quantize(tmp_path / "m.onnx", tmp_path / "few.onnx", data=tmp_path / "text.txt", **given)
    assert 0 < done.quantisation.drift < 0.05
    assert np.isneginf(load(done.path).run(np.array([[1, 2]]))[0][..., 0]).all()
    (tmp_path / "text.txt").write_text("ab_")
    with pytest.raises(
        QuantizeError, match="on the 3 symbols of text.txt, answers are beyond what can be compared: inf → inf"
    ):
        rnnx.quantize(tmp_path / "m.onnx", tmp_path / "few.onnx", data=tmp_path / "text.txt", allow_loss=True, **given)


def test_with_the_smallest_blocks_no_smaller_ones_are_advised(tmp_path, monkeypatch):
    monkeypatch.setitem(quantisation.LIMITS, 8, -1.0)
    with pytest.raises(QuantizeError, match="nothing was written: take a smaller --block, judge it"):
        rnnx.quantize(CHAR, tmp_path / "few.onnx", block=32)
    with pytest.raises(QuantizeError, match="nothing was written: judge it"):
        rnnx.quantize(CHAR, tmp_path / "few.onnx", block=16)


def test_what_became_larger_is_not_said_to_be_smaller(tmp_path):
    done = rnnx.quantize(LSTM, tmp_path / "few.onnx", fp16=True, allow_loss=True)
    assert done.size > done.quantisation.source_bytes
    assert "bytes, LARGER, 1." in str(done)
    assert "smaller" not in str(done)


def test_an_adopted_file_whose_weights_are_integers_is_quantised_already(tmp_path):
    random = np.random.default_rng(0)
    stored = [
        numpy_helper.from_array(random.uniform(-0.3, 0.3, (1, 32, size)).astype(np.float32), name)
        for name, size in (("w", 8), ("r", 32))
    ]
    stored += [numpy_helper.from_array(random.integers(-127, 127, (32, 6)).astype(np.int8), "codes")]
    stored += [numpy_helper.from_array(np.float32(0.01), "scale"), numpy_helper.from_array(np.array([1]), "axis")]
    nodes = [
        helper.make_node("RNN", ["x", "w", "r", "", "", "h0"], ["all", "hn"], hidden_size=32),
        helper.make_node("Squeeze", ["all", "axis"], ["h"]),
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["weight"]),
        helper.make_node("MatMul", ["h", "weight"], ["y"]),
    ]
    given, gives = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values]
        for values in ([("x", ["T", "B", 8]), ("h0", [1, "B", 32])], [("y", ["T", "B", 6]), ("hn", [1, "B", 32])])
    )
    graph = helper.make_graph(nodes, "theirs", given, gives, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (tmp_path / "theirs.onnx").write_bytes(model.SerializeToString())
    rnnx.adopt(tmp_path / "theirs.onnx", tmp_path / "adopted.onnx")
    with pytest.raises(QuantizeError, match=r"quantised already \(DequantizeLinear\)"):
        rnnx.quantize(tmp_path / "adopted.onnx", tmp_path / "few.onnx", allow_loss=True)
