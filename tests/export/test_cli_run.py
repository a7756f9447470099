"""infer and generate: text, values, images, files."""

import io

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from tests.export.modules import CharRnn, Hidden
from tests.export.test_cells import Captioner
from torch import nn

import rnnx
from rnnx._cli import main
from rnnx_runtime import load
from rnnx_runtime.artifact import CharCodec, Sampling


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """char.onnx answers text, values.onnx numbers, two.onnx has two outputs, caption.onnx reads an image."""
    folder = tmp_path_factory.mktemp("artifacts")
    torch.manual_seed(0)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.RNN(1, 2, batch_first=True)

        def forward(self, x):
            y, _ = self.rnn(x)
            return y, y.sum(-1, keepdim=True)

    rnnx.export(CharRnn(), torch.tensor([[1, 0, 2, 2, 3]]), folder / "char.onnx", codec=CharCodec(vocabulary="eh o"))
    rnnx.export(Hidden("gru", batch_first=True), torch.randn(2, 4, 3), folder / "values.onnx")
    rnnx.export(Two(), torch.randn(2, 4, 1), folder / "two.onnx")
    rnnx.export(
        Captioner(),
        (torch.randn(2, 1, 16, 16), torch.randint(0, 6, (2, 4))),
        folder / "caption.onnx",
        codec=CharCodec(vocabulary="<>abcd"),
        sampling=Sampling(prompt="<", stop=(">",), max_new_tokens=7),
    )
    return folder


@pytest.fixture
def run(artifacts, monkeypatch):
    monkeypatch.chdir(artifacts)
    return lambda *arguments, **options: CliRunner().invoke(main, arguments, **options)


VALUES = "0.1,0.2,0.3\n0.4,0.5,0.6\n"


def test_values_come_from_csv_standard_input_and_npy(run, artifacts, tmp_path):
    expected = load(artifacts / "values.onnx").infer([[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]])
    (tmp_path / "x.csv").write_text(VALUES)
    np.save(tmp_path / "x.npy", np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]))
    for arguments, options in (
        (["--input", str(tmp_path / "x.csv")], {}),
        (["--input", str(tmp_path / "x.npy")], {}),
        (["--input", "-"], {"input": VALUES}),
    ):
        result = run("infer", "values.onnx", *arguments, **options)
        assert result.exit_code == 0, result.output
        found = np.loadtxt(io.StringIO(result.stdout), delimiter=",")
        np.testing.assert_allclose(found, expected[0], rtol=1e-6)


def test_answers_go_to_csv_npy_and_npz(run, artifacts, tmp_path):
    expected = load(artifacts / "values.onnx").infer([[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]])
    for name in ("y.csv", "y.npy", "y.npz"):
        assert run("infer", "values.onnx", "--input", "-", "-o", str(tmp_path / name), input=VALUES).exit_code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npz")["output"], expected)
    np.testing.assert_allclose(np.loadtxt(tmp_path / "y.csv", delimiter=","), expected[0], rtol=1e-6)
    assert run("infer", "char.onnx", "--text", "heo", "-o", str(tmp_path / "y.txt")).stdout == ""
    assert (tmp_path / "y.txt").read_text() == load(artifacts / "char.onnx").infer("heo") + "\n"


def test_several_outputs_stand_side_by_side_under_their_names(run):
    lines = run("infer", "two.onnx", "--input", "-", input="1\n2\n").stdout.splitlines()
    assert lines[0] == "output.0.0,output.0.1,output.1.0"
    assert len(lines) == 3


def test_tokens_come_as_numbers_too(run, artifacts):
    result = run("infer", "char.onnx", "--input", "-", input="1\n0\n3\n")
    found = np.loadtxt(io.StringIO(result.stdout), delimiter=",")
    np.testing.assert_allclose(found, load(artifacts / "char.onnx").infer([[1, 0, 3]])[0], rtol=1e-6)


def test_an_image_is_described(run, artifacts, tmp_path):
    Image.new("RGB", (40, 40), "white").save(tmp_path / "white.png")
    result = run("infer", "caption.onnx", "--image", str(tmp_path / "white.png"))
    assert result.exit_code == 0, result.output
    stream = load(artifacts / "caption.onnx").stream(image=np.ones((1, 1, 16, 16)))
    assert result.stdout == "".join(stream.generate("<", 7, temperature=0, stop=[">"])) + "\n"


def test_characters_that_the_model_never_saw(run, artifacts):
    model = load(artifacts / "char.onnx")
    assert run("infer", "char.onnx", "--text", "hxe").exit_code == 1
    assert run("infer", "char.onnx", "--text", "hxe", "--unknown", "skip").stdout == model.infer("he") + "\n"
    assert run("infer", "char.onnx", "--text", "hxe", "--unknown", "replace").stdout == model.infer("h e") + "\n"


def test_text_is_generated_and_a_seed_repeats_it(run):
    arguments = ["generate", "char.onnx", "--prompt", "he", "--length", "20", "--temperature", "0.8"]
    first = run(*arguments, "--seed", "1").stdout
    assert first.startswith("he")
    assert len(first) == 23
    assert run(*arguments, "--seed", "1").stdout == first
    assert run(*arguments, "--seed", "2").stdout != first
    assert run("generate", "char.onnx", "--length", "0").stdout == "e\n"


@pytest.mark.parametrize(
    ("arguments", "stdin", "error"),
    [
        (["infer", "char.onnx"], "", "give exactly one of --text, --input and --image"),
        (["infer", "char.onnx", "--text", "h", "--input", "x"], "", "give exactly one of"),
        (["infer", "values.onnx", "--text", "h"], "", "this artifact has no text codec"),
        (["infer", "values.onnx", "--input", "none.csv"], "", "no file at none.csv"),
        (["infer", "values.onnx", "--input", "none.npy"], "", "no file at none.npy"),
        (["infer", "values.onnx", "--input", "-"], "1,2\n3\n", "-, line 2: 1 columns where the first row has 2"),
        (["infer", "values.onnx", "--input", "-"], "1,two,3\n", "-, line 1: could not convert string to float: 'two'"),
        (["infer", "values.onnx", "--input", "-"], "1,2\n", "x: expected the shape (B, T, 3), got (1, 1, 2)"),
        (["infer", "values.onnx", "--input", "-"], "1,nan,2\n", "every value must be finite"),
        (["infer", "char.onnx", "--input", "-"], "0.5\n", "tokens takes whole numbers"),
        (["infer", "char.onnx", "--input", "-"], "-1\n", "token -1 is outside the vocabulary, 0 to 3"),
        (["infer", "values.onnx", "--input", "-", "-o", "y.json"], VALUES, "is written to .csv, .npz or .npy"),
        (["infer", "char.onnx", "--image", "x.png"], "", "this artifact does not answer to an image"),
        (["infer", "caption.onnx", "--image", "none.png"], "", "no file at none.png; give an image"),
        (["infer", "caption.onnx", "--image", "char.onnx"], "", "char.onnx is not an image"),
        (["infer", "caption.onnx", "--text", "abc"], "", "the initial state of this model is computed from image"),
        (["generate", "values.onnx"], "", "this artifact has no text codec"),
        (["generate", "char.onnx", "--temperature", "-1"], "", "temperature must be 0 or more, got -1.0"),
        (["generate", "char.onnx", "--prompt", "Q"], "", "character 'Q' at position 0 is not in the model's vocabulary"),
    ],
)
def test_bad_input(arguments, stdin, error, run):
    result = run(*arguments, input=stdin)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert error in result.stderr
