"""infer and generate: text, values, images, files."""

import io
import os
import subprocess
import sys

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
from rnnx._cli.values import read_image
from rnnx_runtime import Model, load
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
    for name, vocabulary, sampling in (
        ("accents", "éaöü", None),
        ("advised", "eh o", Sampling(prompt="h", temperature=0.0, max_new_tokens=11)),
        ("stopping", "eh o", Sampling(prompt="h", stop=("o",))),
    ):
        codec = CharCodec(vocabulary=vocabulary)
        rnnx.export(CharRnn(), torch.tensor([[1, 0, 2, 2, 3]]), folder / f"{name}.onnx", codec=codec, sampling=sampling)
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


def test_an_image_of_16_bits_is_scaled_not_clipped(artifacts, tmp_path):
    (condition,) = load(artifacts / "caption.onnx").manifest.conditions
    Image.fromarray(np.full((16, 16), 0x8000, np.uint16)).save(tmp_path / "grey.png")
    np.testing.assert_allclose(read_image(condition, tmp_path / "grey.png"), 0.5, atol=0.003)


@pytest.mark.parametrize("limit", [15 * 16, 10])  # of pixels: Pillow warns, and refuses from twice that on
def test_an_image_that_is_too_large_is_one_line(limit, run, tmp_path, monkeypatch):
    Image.new("L", (16, 16)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    result = run("infer", "caption.onnx", "--image", str(tmp_path / "large.png"))
    assert result.exit_code == 1
    assert result.stderr == f"Error: {tmp_path}/large.png has more than {limit} pixels; make the image smaller\n"


def test_an_output_is_refused_before_the_model_runs(run, monkeypatch):
    monkeypatch.setattr(Model, "infer", None)
    for arguments in (["char.onnx", "--text", "h"], ["values.onnx", "--input", "-"]):
        assert "y.json: " in run("infer", *arguments, "-o", "y.json", input=VALUES).stderr


def test_a_text_makes_its_folders(run, tmp_path):
    assert run("infer", "char.onnx", "--text", "h", "-o", str(tmp_path / "a" / "b" / "y.txt")).exit_code == 0
    assert (tmp_path / "a" / "b" / "y.txt").exists()


def test_csv_may_begin_with_a_byte_order_mark(run, tmp_path):
    (tmp_path / "x.csv").write_text(VALUES, encoding="utf-8-sig")
    expected = run("infer", "values.onnx", "--input", "-", input=VALUES).stdout
    assert run("infer", "values.onnx", "--input", str(tmp_path / "x.csv")).stdout == expected != ""
    assert run("infer", "values.onnx", "--input", "-", input="\ufeff" + VALUES).stdout == expected


def test_an_array_of_one_axis_is_a_value_per_step(run, tmp_path):
    np.save(tmp_path / "x.npy", np.array([1.0, 2.0]))
    expected = run("infer", "two.onnx", "--input", "-", input="1\n2\n").stdout
    assert run("infer", "two.onnx", "--input", str(tmp_path / "x.npy")).stdout == expected != ""


def test_text_is_utf_8_on_any_terminal(artifacts):
    code = "import sys; from rnnx._cli import main; main(sys.argv[1:])"
    for command in (["generate", "accents.onnx", "--prompt", "é", "--length", "0"], ["infer", "accents.onnx", "--text", "éa"]):
        result = subprocess.run(
            [sys.executable, "-c", code, *command],
            cwd=artifacts,
            capture_output=True,
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
            check=True,
        )
        assert set(result.stdout.decode()) <= set("éaöü\n")


def test_an_artifact_says_how_it_is_sampled_unless_the_person_does(run):
    said = run("generate", "advised.onnx").stdout
    assert len(said) == len("h") + 11 + len("\n")  # the artifact's prompt and length
    assert {run("generate", "advised.onnx").stdout for _ in range(5)} == {said}  # and temperature, 0
    answer = said[1:-1]
    shorter = run("generate", "advised.onnx", "--stop", answer[3:5]).stdout
    assert shorter == "h" + answer[: answer.index(answer[3:5])] + "\n"
    assert len(run("generate", "advised.onnx", "--length", "30", "--temperature", "1").stdout) == 32
    stopped = run("generate", "stopping.onnx", "--length", "2000", "--seed", "1").stdout
    assert "o" not in stopped
    assert len(stopped) < 1000


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
        (["infer", "char.onnx", "--input", "-"], "0.5\n", "tokens takes whole numbers below 2**53, got 0.5"),
        (["infer", "char.onnx", "--input", "-"], "1\n1e30\n", "tokens takes whole numbers below 2**53, got 1e+30"),
        (["infer", "char.onnx", "--input", "-"], "nan\n", "tokens takes whole numbers below 2**53, got nan"),
        (["infer", "char.onnx", "--input", "-"], "-inf\n", "tokens takes whole numbers below 2**53, got -inf"),
        (["infer", "values.onnx", "--input", "-"], "\n", "- is empty; give a row of numbers for each step"),
        (["infer", "caption.onnx", "--input", "seven.PNG"], "", "seven.PNG is an image, --input takes .csv and .npy; give"),
        (["infer", "char.onnx", "--input", "-"], "-1\n", "token -1 is outside the vocabulary, 0 to 3"),
        (
            ["infer", "values.onnx", "--input", "-", "-o", "y.json"],
            VALUES,
            "an answer of 1 array is written to .csv or .npz or .npy",
        ),
        (
            ["infer", "two.onnx", "--input", "-", "-o", "y.npy"],
            "1\n",
            "an answer of 2 arrays is written to .csv or .npz; give",
        ),
        (["infer", "char.onnx", "--text", "h", "-o", "y.csv"], "", "y.csv: a text is written to .txt; give such a name"),
        (["infer", "char.onnx", "--text", "h", "-o", "char.onnx/y.txt"], "", "is a file, not a folder"),
        (["infer", "char.onnx", "--image", "x.png"], "", "this artifact does not answer to an image"),
        (["infer", "caption.onnx", "--image", "none.png"], "", "no file at none.png; give an image"),
        (["infer", "caption.onnx", "--image", "char.onnx"], "", "char.onnx is not an image"),
        (["infer", "caption.onnx", "--text", "abc"], "", "is computed from image; use rnnx infer --image FILE"),
        (["generate", "caption.onnx"], "", "is computed from image; use rnnx infer --image FILE"),
        (["generate", "values.onnx"], "", "this artifact does not answer in text"),
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
