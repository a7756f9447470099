"""The command, as a person types it. Bad input: one line on standard error, exit code 1, nothing written, no traceback."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from rnnx._cli import main
from rnnx_models import MODELS


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder where `rnnx export --model emb_rnn` ran."""
    folder = tmp_path_factory.mktemp("project")
    command = [sys.executable, "-m", "rnnx", "export", "--model", "emb_rnn"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return folder, result


@pytest.fixture
def rnnx(exported, monkeypatch):
    """Runs the command in that folder, in this process."""
    monkeypatch.chdir(exported[0])
    return lambda *arguments: CliRunner().invoke(main, arguments)


def test_export_trains_where_there_is_no_checkpoint_and_says_only_what_is_ours(exported):
    folder, result = exported
    assert sorted(path.name for path in (folder / "artifacts").iterdir()) == [
        *("emb_rnn.safetensors", "model.onnx", "model.parity.json", "model.pt"),
    ]
    lines = result.stderr.splitlines()
    assert lines[0] == "no checkpoint at artifacts/emb_rnn.safetensors: training emb_rnn"
    assert all(line.startswith(("emb_rnn: epoch", "artifacts/emb_rnn.safetensors: emb_rnn, 100 % of")) for line in lines[1:])
    assert result.stdout.startswith("artifacts/model.onnx: emb_rnn, proven equal to eager PyTorch")
    assert "rnn.l1.h → rnn.l1.h.next  float32 [1, batch, 8], starts with zeros" in result.stdout


def test_the_two_commands(rnnx):
    result = rnnx("export", "--model", "emb_rnn")
    assert (result.exit_code, result.stderr) == (0, "")
    result = rnnx("infer", "artifacts/model.onnx", "--text", "hello")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "ohlol\n", "")


def test_empty_text_has_an_empty_answer(rnnx):
    result = rnnx("infer", "artifacts/model.onnx", "--text", "")
    assert (result.exit_code, result.stdout) == (0, "\n")


def test_models_lists_the_registry(rnnx):
    result = rnnx("models")
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(MODELS)


def test_inspect_shows_the_manifest(rnnx):
    text = rnnx("inspect", "artifacts/model.onnx").stdout
    for word in ("tokens  int64 [batch, seq_len], tokens 0 to 3", "char, 4 symbols: 'ehlo'", "parity", "sha256", "torch 2."):
        assert word in text
    found = json.loads(rnnx("inspect", "artifacts/model.onnx", "--json").stdout)
    assert found["manifest"]["codec"] == {"kind": "char", "vocabulary": "ehlo", "unknown": "error", "replacement": None}
    assert found["manifest"]["parity"]["passed"] is True
    assert found["operators"]["RNN"] == 2


def test_train_takes_a_seed_epochs_and_a_place(rnnx, tmp_path):
    result = rnnx(
        "train", "--model", "emb_rnn", "--seed", "3", "--epochs", "2", "-o", str(tmp_path / "deep" / "c.safetensors")
    )
    assert result.exit_code == 0
    assert "emb_rnn did not reach its target; train longer with --epochs" in result.stderr
    assert (tmp_path / "deep" / "c.safetensors").exists()


@pytest.fixture
def bad(exported, tmp_path):
    """Files that are wrong in one way each."""
    data = (exported[0] / "artifacts/model.onnx").read_bytes()
    (tmp_path / "flipped.onnx").write_bytes(data[:900] + bytes([data[900] ^ 1]) + data[901:])
    (tmp_path / "cut.onnx").write_bytes(data[:-100])
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "file").write_text("")
    checkpoint = (exported[0] / "artifacts/emb_rnn.safetensors").read_bytes()
    (tmp_path / "other.safetensors").write_bytes(
        checkpoint.replace(b'\\"model\\":\\"emb_rnn\\"', b'\\"model\\":\\"gru_rnn\\"')
    )
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["train", "--model", "emb_rn"], "no model is called 'emb_rn'; did you mean 'emb_rnn'?"),
        (["export", "--model", "emb_rn"], "no model is called 'emb_rn'; did you mean 'emb_rnn'?"),
        (
            ["infer", "artifacts/model.onnx", "--text", "heLlo"],
            "character 'L' at position 2 is not in the model's vocabulary of 4: 'ehlo'",
        ),
        (["infer", "none.onnx", "--text", "hello"], "no file at 'none.onnx'; make an artifact with `rnnx export`"),
        (["infer", "{bad}/text.onnx", "--text", "hello"], "not a sealed rnnx artifact"),
        (["infer", "{bad}/cut.onnx", "--text", "hello"], "not a sealed rnnx artifact"),
        (["infer", "{bad}/flipped.onnx", "--text", "hello"], "the seal is broken"),
        (["inspect", "{bad}/flipped.onnx"], "the seal is broken"),
        (["inspect", "{bad}"], "is a folder; give the path of an artifact"),
        (["export", "--model", "emb_rnn", "-o", "{bad}/file/model.onnx"], "is a file, not a folder; write somewhere else"),
        (["export", "--model", "emb_rnn", "-o", "{bad}/model.bin"], "must end in .onnx, got 'model.bin'"),
        (
            ["export", "--model", "emb_rnn", "--checkpoint", "none.safetensors"],
            "no checkpoint here; make one with `rnnx train`",
        ),
        (["export", "--model", "emb_rnn", "--checkpoint", "{bad}/text.onnx"], "is not a checkpoint made by `rnnx train`"),
        (
            ["export", "--model", "emb_rnn", "--checkpoint", "{bad}/other.safetensors"],
            "is a checkpoint of 'gru_rnn', not of 'emb_rnn'",
        ),
        (["train", "--model", "emb_rnn", "--epochs", "1", "-o", "{bad}"], "is a folder"),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else "",
)
def test_bad_input(arguments, error, rnnx, bad, exported):
    before = {path: path.read_bytes() for path in (exported[0] / "artifacts").iterdir()}
    result = rnnx(*(argument.format(bad=bad) for argument in arguments))
    assert result.exit_code == 1
    assert result.stdout == ""
    *progress, last = result.stderr.splitlines()
    assert last.startswith("Error: ")
    assert error in last
    assert all(line.startswith("emb_rnn: epoch") for line in progress)
    assert {path: path.read_bytes() for path in (exported[0] / "artifacts").iterdir()} == before
    assert not list(bad.glob(".tmp*"))


def python(code, folder):
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["models"], ["infer", "artifacts/model.onnx", "--text", "hello"], ["inspect", "artifacts/model.onnx"]],
)
def test_what_needs_no_torch_imports_none(arguments, exported):
    code = f"""
import sys
from rnnx._cli import main
main({arguments!r}, standalone_mode=False)
assert not {{"torch", "onnx", "onnxscript", "safetensors"}} & set(sys.modules), "imported"
"""
    assert python(code, exported[0]).returncode == 0


@pytest.mark.parametrize("command", ["export", "train"])
def test_without_torch_the_command_says_what_to_install(command, exported):
    code = f"""
import sys
sys.modules["torch"] = None
from rnnx._cli import main
main(["{command}", "--model", "emb_rnn"])
"""
    result = python(code, exported[0])
    assert result.returncode == 1
    assert result.stderr == "Error: this needs torch, which is not installed: pip install 'rnnx[export]'\n"


def test_without_torch_the_library_says_what_to_install(exported):
    result = python("import sys; sys.modules['torch'] = None\nimport rnnx; rnnx.export", exported[0])
    assert "ExportError: this needs torch, which is not installed: pip install 'rnnx[export]'" in result.stderr
