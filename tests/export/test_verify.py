"""The proof again: with the module, without it, after something changed, on the command line and as a page."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from tests.export.modules import Explicit, Hidden, example
from tests.export.mutants import MODULES, gates, packed, weights_in_half_precision
from torch import nn

import rnnx
from rnnx._cli import main
from rnnx_runtime.artifact import CharCodec

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def lstm(tmp_path_factory):
    """A module, its example and its artifact."""
    torch.manual_seed(0)
    module = Explicit("lstm", num_layers=2)
    given = example(module)
    return module, given, rnnx.export(module, given, tmp_path_factory.mktemp("lstm") / "lstm.onnx").path


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with an exported emb_rnn and its checkpoint."""
    folder = tmp_path_factory.mktemp("project")
    command = [sys.executable, "-m", "rnnx", "export", "--model", "emb_rnn", "--quick"]
    subprocess.run(command, cwd=folder, capture_output=True, check=True)
    return folder


@pytest.fixture
def command(project, monkeypatch):
    monkeypatch.chdir(project)
    return lambda *arguments: CliRunner().invoke(main, ["verify", *arguments])


def test_with_the_module_everything_is_compared_again(lstm):
    module, given, path = lstm
    found = rnnx.verify(path, module, given, torchscript=path.with_suffix(".pt"))
    assert found.passed
    assert (found.module, found.same_weights) == ("Explicit", True)
    assert found.selftest.verdict == "bit-exact"
    labels = {row.check for row in found.parity.rows()}
    assert labels >= {"whole", "one step", "visited", "protocol", "reference", "torchscript whole"}
    assert found.parity.trajectory.steps == 10_000
    assert str(found).startswith(f"{path}: Explicit holds, compared with eager Explicit\n")


def test_without_the_module_it_is_compared_with_itself_and_its_golden_trace(lstm):
    found = rnnx.verify(lstm[2])
    assert found.passed
    assert (found.module, found.same_weights) == (None, None)
    assert [(row.check, row.cases) for row in found.parity.rows()] == [("chunks", 3), ("steps", 3), ("reference", 1)]
    assert "holds, compared with the golden trace and itself only" in str(found)


@pytest.mark.parametrize("name", [*MODULES])
def test_every_kind_of_artifact_can_be_compared_with_itself(name, tmp_path):
    module, given = MODULES[name]()
    done = rnnx.export(module, given, tmp_path / "model.onnx", proof="quick")
    found = rnnx.verify(done.path)
    assert found.passed, str(found)
    assert bool([case for case in found.parity.cases if case.check == "steps"]) == done.manifest.streamable


def test_an_artifact_whose_calls_matter_is_stepped_only(tmp_path):
    class PerCall(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.GRU(3, 5, batch_first=True)

        def forward(self, x, h):
            y, h = self.layer(x, 0.9 * h)
            return y, h

    done = rnnx.export(PerCall(), (torch.randn(2, 4, 3), torch.zeros(1, 2, 5)), tmp_path / "model.onnx")
    assert done.manifest.chunks_matter_because
    found = rnnx.verify(done.path)
    assert found.passed
    assert [row.check for row in found.parity.rows()] == ["steps", "reference"]


def test_a_module_trained_on_is_told_by_its_weights(lstm):
    _, given, path = lstm
    torch.manual_seed(1)
    other = Explicit("lstm", num_layers=2)
    found = rnnx.verify(path, other, given, proof="quick")
    assert not found.passed
    assert found.same_weights is False
    assert "NOT those that were exported: another checkpoint, or trained on" in str(found)
    assert "does NOT hold" in str(found)


def test_a_wrong_artifact_does_not_hold(monkeypatch, tmp_path):
    gates("LSTM", (0, 1, 2, 3))(monkeypatch)
    module = Explicit("lstm")
    done = rnnx.export(module, example(module), tmp_path / "model.onnx", allow_mismatch=True, proof="quick")
    monkeypatch.undo()
    found = rnnx.verify(done.path, module, example(module))
    assert not found.passed
    assert "one step" in found.parity.failed
    assert found.same_weights
    alone = rnnx.verify(done.path)  # the golden trace is the module's
    assert not alone.passed
    assert alone.selftest.verdict == "broken"


def test_fewer_bits_have_a_tolerance_of_their_own_where_they_were_asked_for(monkeypatch, tmp_path):
    packed(weights_in_half_precision)(monkeypatch)
    module, given = MODULES["tanh"]()
    done = rnnx.export(module, given, tmp_path / "half.onnx", allow_mismatch=True, proof="quick")
    monkeypatch.undo()
    assert not rnnx.verify(done.path, module, given, proof="quick").passed
    monkeypatch.setattr("rnnx_runtime._engine.Engine.tolerance", 5e-2)  # as with providers={"cuda": {"use_tf32": 1}}
    found = rnnx.verify(done.path, module, given)
    assert found.passed, str(found)
    assert found.parity.tolerance.one_step == 2e-3


def test_another_module_is_refused(lstm):
    _, _, path = lstm
    other = Explicit("gru")
    with pytest.raises(
        rnnx.ExportError, match=r"is not what the artifact was exported from: its states are layer\.l0\.h float32 \["
    ):
        rnnx.verify(path, other, example(other))


def test_torchscript_of_another_artifact_is_refused(lstm, tmp_path):
    module, given, path = lstm
    other = Hidden("gru")
    script = rnnx.export(other, example(other), tmp_path / "other.onnx", proof="quick").torchscript
    with pytest.raises(rnnx.ExportError, match="was written beside another artifact; export the model again"):
        rnnx.verify(path, module, given, torchscript=script, proof="quick")
    with pytest.raises(rnnx.ExportError, match="is no TorchScript written by `rnnx export`"):
        rnnx.verify(path, module, given, torchscript=path, proof="quick")


def test_what_a_codec_makes_of_text_does_not_matter(tmp_path):
    module, given = MODULES["characters"]()
    done = rnnx.export(module, given, tmp_path / "model.onnx", codec=CharCodec(vocabulary="abcd"), proof="quick")
    assert rnnx.verify(done.path, module, given, proof="quick").passed


def test_the_command_compares_with_a_model_of_ours(command):
    result = command("artifacts/model.onnx", "--model", "emb_rnn")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "emb_rnn holds, compared with eager EmbRnn" in result.stdout
    assert "trajectory of 10000 steps" in result.stdout


def test_the_command_alone_says_how_to_compare_more(command):
    result = command("artifacts/model.onnx")
    assert result.exit_code == 0
    assert "compared with the golden trace and itself only" in result.stdout
    assert result.stderr == "give --model NAME or --module FILE.py:FACTORY to compare it with the eager module\n"


def test_for_machines(command):
    result = command("artifacts/model.onnx", "--model", "emb_rnn", "--quick", "--json")
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    assert (said["passed"], said["compared_with"], said["same_weights"]) == (True, "EmbRnn", True)
    assert said["golden"]["verdict"] == "bit-exact"
    assert said["parity"]["passed"] is True
    assert {case["check"] for case in said["parity"]["cases"]} >= {"whole", "one step"}
    assert json.loads(command("artifacts/model.onnx", "--json").stdout)["compared_with"] is None


def test_where_the_checkpoint_is_gone_the_golden_trace_is_left_and_that_is_said(command, project):
    checkpoint = project / "artifacts/emb_rnn.safetensors"
    away = checkpoint.rename(project / "away.safetensors")
    try:
        result = command("artifacts/model.onnx", "--model", "emb_rnn")
    finally:
        away.rename(checkpoint)
    assert result.exit_code == 3
    assert "holds, compared with the golden trace and itself only" in result.stdout
    assert result.stderr == (
        "there is no checkpoint at artifacts/emb_rnn.safetensors: verified from the golden trace only; train again, or give "
        "--checkpoint\n"
    )


def test_a_checkpoint_trained_anew_fails(command, project, tmp_path):
    other = str(tmp_path / "other.safetensors")
    assert CliRunner().invoke(main, ["train", "--model", "emb_rnn", "--seed", "1", "-o", other]).exit_code == 0
    result = command("artifacts/model.onnx", "--model", "emb_rnn", "--checkpoint", other, "--quick")
    assert result.exit_code == 1
    assert "NOT those that were exported" in result.stdout


def test_anybodys_module(command, tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef make():\n    torch.manual_seed(3)\n"
        "    return nn.GRU(3, 5, batch_first=True), torch.randn(2, 4, 3)\n"
    )
    target = f"{tmp_path}/net.py:make"
    done = CliRunner().invoke(main, ["export", "--module", target, "-o", str(tmp_path / "net.onnx"), "--quick"])
    assert done.exit_code == 0
    result = command(str(tmp_path / "net.onnx"), "--module", target, "--quick")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "compared with eager GRU" in result.stdout


@pytest.mark.parametrize("command", ["export", "verify"])
def test_in_a_pipe_a_long_proof_says_now_and_then_how_far_it_is(command, project):
    code = f"""
from rnnx._cli import progress
progress._SECONDS = 0.0
from rnnx._cli import main
main(["{command}", *{["artifacts/model.onnx"] if command == "verify" else []}, "--model", "emb_rnn"])
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    lines = result.stderr.splitlines()
    assert lines[0] == "proof: 0 %, untouched"
    assert any(line.endswith("%, trajectory") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["none.onnx"], 1, "no file at 'none.onnx'"),
        (["artifacts/model.onnx", "--model", "emb_rn"], 1, "did you mean 'emb_rnn'?"),
        (["artifacts/model.onnx", "--model", "emb_rnn", "--checkpoint", "none"], 1, "no checkpoint here"),
        (["artifacts/model.onnx", "--model", "emb_rnn", "--module", "net.py:make"], 2, "for your own"),
        (["artifacts/model.onnx", "--checkpoint", "x"], 2, "--checkpoint and --torchscript need --model NAME"),
        (["artifacts/model.onnx", "--model", "emb_rnn", "--example", "x"], 2, "--example belongs to --module"),
        (["artifacts/model.onnx", "--report", "parity.pdf"], 1, "its name must end in .html, got 'parity.pdf'"),
        (
            ["artifacts/model.onnx", "--report", "artifacts/model.pt/page.html"],
            1,
            "is a file, not a folder; write somewhere else",
        ),
        (["artifacts/model.onnx", "--provider", "cudda"], 1, "unknown provider 'cudda'"),
        (["artifacts/model.onnx", "--provider", "migraphx"], 1, "provider migraphx is not available"),
    ],
)
def test_bad_input(arguments, code, error, command, project):
    before = sorted(project.rglob("*"))
    result = command(*arguments)
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert error in result.stderr
    assert sorted(project.rglob("*")) == before


def test_without_torch_it_is_compared_with_itself(project):
    code = """
import sys
sys.modules["torch"] = None
from rnnx._cli import main
main(["verify", "artifacts/model.onnx"])
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=False)
    assert (result.returncode, "reference" in result.stdout) == (0, True)


def test_without_onnx_there_is_no_second_opinion(project):
    code = """
import sys
sys.modules["torch"] = sys.modules["onnx"] = None
from rnnx._cli import main
main(["verify", "artifacts/model.onnx"])
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert "no second opinion: onnx is not installed" in result.stdout


@pytest.fixture(scope="module")
def page(project):
    """The page of a whole verification."""
    from rnnx._page import write_page
    from rnnx_models.checkpoint import load_checkpoint

    recipe, module = load_checkpoint(project / "artifacts/emb_rnn.safetensors", "emb_rnn")
    found = rnnx.verify(project / "artifacts/model.onnx", module, recipe.example())
    path = project / "parity.html"
    write_page(path, found)
    return path


def test_the_page_stands_by_itself(page):
    text = page.read_text()
    assert "<script" not in text
    assert not re.findall(r"(?:src|href)=\"(?!#)", text)
    links = {link for link in re.findall(r"https?://[^\"' <)]+", text) if "w3.org" not in link and "purl.org" not in link}
    assert links <= {"http://creativecommons.org/ns#", "http://matplotlib.org", "https://matplotlib.org/"}
    assert "#01010" not in text


def test_the_page_shows_tables_and_a_panel_for_every_output_and_state(page):
    text = page.read_text()
    assert re.search(r"<h1>emb_rnn <span class=\"good\">holds</span></h1>", text)
    for tensor in ("output output", "state rnn.l0.h", "state rnn.l1.h"):
        assert f">{tensor}</text>" in text or tensor in text[text.index("<svg") : text.index("</svg>")]
    for heading in ("Checks", "Error over time", "Tensors", "Golden trace", "Made and verified with"):
        assert f"<h2>{heading}</h2>" in text
    assert "<th class=number>step 10000</th>" in text


def test_names_are_text_on_the_page(lstm):
    import dataclasses

    import msgspec

    from rnnx._page import page as made

    found = rnnx.verify(lstm[2])
    evil = dataclasses.replace(found, path="<b>", manifest=msgspec.structs.replace(found.manifest, name="<i>x</i>"))
    text = made(evil)
    assert "<i>" not in text
    assert "<b>" not in text.replace("<b class=", "")
    assert "&lt;i&gt;x&lt;/i&gt;" in text


def test_a_page_of_what_does_not_hold_marks_it(lstm):
    from rnnx._page import page as made

    torch.manual_seed(1)
    other = Explicit("lstm", num_layers=2)
    text = made(rnnx.verify(lstm[2], other, lstm[1]))
    assert '<span class="bad">does not hold</span>' in text
    assert text.count('<span class="bad">') > 5


@pytest.mark.skipif(BROWSER is None, reason="no browser is installed: apt-get install chromium")
def test_a_browser_shows_the_page(page, tmp_path):
    shot = tmp_path / "page.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", "--window-size=1000,3000"]
    subprocess.run([BROWSER, *options, f"--screenshot={shot}", page.as_uri()], capture_output=True, check=True, timeout=120)
    dom = subprocess.run(
        [BROWSER, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert dom.count("<table>") == 6
    assert dom.count("<svg") == 1

    from PIL import Image

    with Image.open(shot) as image:
        colours = image.convert("RGB").getcolors(1 << 24)
    found = {colour for count, colour in colours if count > 20}
    assert {(0xC2, 0x41, 0x0C), (0x1D, 0x4E, 0xD8)} <= found  # the curves are drawn, in the colours of the page


@pytest.fixture
def exported(lstm, tmp_path):
    """A copy of an artifact and what stands beside it."""
    for path in lstm[2].parent.iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path / "lstm.onnx"


@pytest.mark.parametrize("ending", [".pt", ".parity.json"])
def test_a_file_beside_it_of_another_export_is_named(exported, ending):
    assert rnnx.verify(exported).strangers == ()
    other = exported.parent / "other.onnx"
    module = Explicit("lstm", num_layers=2)
    rnnx.export(module, example(module), other, proof="quick")
    shutil.copy(other.with_suffix(ending), exported.with_suffix(ending))
    found = rnnx.verify(exported)
    assert found.passed
    assert found.strangers == (str(exported.with_suffix(ending)),)
    said = CliRunner().invoke(main, ["verify", str(exported)])
    assert said.stderr == (
        f"{exported.with_suffix(ending)} does not belong to it: it was written with another artifact; export the model again\n"
        "give --model NAME or --module FILE.py:FACTORY to compare it with the eager module\n"
    )


@pytest.mark.parametrize("content", [b"", b"PK", b"[" * 100_000, b'{"artifact": 3}'])
def test_damaged_files_beside_it_are_no_companions(exported, content):
    exported.with_suffix(".pt").write_bytes(content)  # perhaps somebody else's
    exported.with_suffix(".parity.json").write_bytes(content)
    assert rnnx.verify(exported).strangers == (str(exported.with_suffix(".parity.json")),)


def test_the_report_names_the_artifact(lstm):
    path = lstm[2]
    assert json.loads(path.with_suffix(".parity.json").read_bytes())["artifact"] == rnnx.verify(path).digest
