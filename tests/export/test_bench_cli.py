"""`rnnx bench`: on a terminal, for machines, as a picture; without torch; and what it refuses."""

import errno
import json
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from click.testing import CliRunner
from PIL import Image
from tests.runtime import frames
from tests.runtime.conftest import GOLDEN
from tests.runtime.test_trust import GELU, gelu

from rnnx._cli import main

LSTM = GOLDEN / "lstm.onnx"
SHORT = ("--seconds", "0.05", "--streams", "4")
NET = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.GRU(3, 4, batch_first=True), (torch.randn(2, 5, 3), torch.zeros(1, 2, 4))
"""


@pytest.fixture(autouse=True)
def cpu_only(monkeypatch):
    """Other providers take a second to load."""
    monkeypatch.setattr("rnnx._bench.peers.list_providers", list)


def run(*arguments):
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


def test_a_page_of_tables_on_standard_output():
    done = run(LSTM, *SHORT, "--against", "binding, session.run")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{LSTM}: ")
    assert [line.split()[0] for line in done.stdout.splitlines() if "µs" in line][:3] == ["rnnx", "binding", "session.run"]


def test_json_for_machines_and_peers_of_the_module(tmp_path):
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    module, artifact = f"{tmp_path / 'net.py'}:make", tmp_path / "net.onnx"
    exported = CliRunner().invoke(main, ["export", "--module", module, "--quick", "-o", str(artifact)])
    assert exported.exit_code == 0, exported.stderr
    done = run(artifact, *SHORT, "--against", "eager,torchscript", "--module", module, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert {"rnnx", "eager", "torchscript"} <= {one["name"] for one in said["contenders"]}
    assert "torch" in said["machine"]["versions"]


@pytest.mark.parametrize("ending", ["png", "svg"])
@pytest.mark.parametrize("style", [None, "frozen"])
def test_a_picture_that_can_be_read(tmp_path, ending, style):
    artifact, plot = tmp_path / "m.onnx", tmp_path / f"plot.{ending}"
    artifact.write_bytes(LSTM.read_bytes() if style is None else frames.artifact(style))
    done = run(artifact, *SHORT, "--plot", plot, "--against", "session.run")
    assert (done.exit_code, done.stderr) == (0, "")
    if ending == "svg":
        assert ET.parse(plot).getroot().tag.endswith("svg")
        return
    with Image.open(plot) as image:
        assert image.width == (1320 if style is None else 840)
        assert (
            len(
                set(
                    image.convert("L").getdata()
                    if not hasattr(image, "get_flattened_data")
                    else image.convert("L").get_flattened_data()
                )
            )
            > 20
        )


@pytest.mark.parametrize(
    ("arguments", "code", "rule"),
    [
        (["--against", "tract"], 1, "unknown peer 'tract'; known are eager, torchscript, session.run, binding, openvino"),
        (["--streams", "0"], 1, "streams must be a whole number from 1 to 65536, got 0"),
        (["--seconds", "-1"], 1, "seconds must be above 0 and at most 3600, got -1.0"),
        (["--threads", "999"], 1, "threads must be from 1 to 256, got 999"),
        (["--provider", "gpu"], 1, "unknown provider 'gpu'; known are cpu, cuda, "),
        (["--plot", "plot.pdf"], 1, "a plot is a PNG or an SVG: its name must end in .png or .svg, got 'plot.pdf'"),
        (["--against", "eager", "--model", "nothing"], 1, "no model is called 'nothing'"),
        (
            ["--against", "eager", "--model", "emb_rnn"],
            1,
            "artifacts/emb_rnn.safetensors: no checkpoint here; make one with `rnnx train`",
        ),
        (["--model", "emb_rnn"], 2, "--model and --module are for --against eager"),
        (["--torchscript", "m.pt"], 2, "--torchscript is for --against torchscript"),
        (["--checkpoint", "m.safetensors"], 2, "--checkpoint needs --model NAME or --module FILE.py:FACTORY"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, arguments, code, rule):
    monkeypatch.chdir(tmp_path)
    done = run(LSTM, *SHORT, *arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr.splitlines()[-1].startswith(f"Error: {rule}")
    assert code == 2 or done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_artifact_is_one_line(tmp_path):
    (tmp_path / "text.onnx").write_text("no model", encoding="utf-8")
    for name in ("none.onnx", "text.onnx"):
        done = run(tmp_path / name, *SHORT, "--plot", tmp_path / "plot.png")
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert not (tmp_path / "plot.png").exists()


def test_a_picture_without_matplotlib_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = run(LSTM, *SHORT, "--plot", tmp_path / "plot.png")
    assert done.stderr == "Error: a plot needs matplotlib, which is not installed: pip install 'rnnx[plot]'\n"


def test_what_was_measured_is_not_lost_with_its_picture(monkeypatch, tmp_path):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("rnnx._bench.picture.write_atomic", full)
    done = run(LSTM, *SHORT, "--plot", tmp_path / "plot.png", "--json")
    assert (done.exit_code, done.stderr) == (1, f"Error: {tmp_path / 'plot.png'}: No space left on device\n")
    assert json.loads(done.stdout)["path"] == str(LSTM)
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_that_must_be_trusted_runs_with_trust_only(tmp_path):
    path = tmp_path / "gelu.onnx"
    path.write_bytes(gelu(trusted=(GELU,)))
    assert "--trust" in run(path, *SHORT).stderr
    done = run(path, *SHORT, "--trust", "--against", "binding")
    assert done.exit_code == 0
    assert "BROKEN" in done.stdout  # its trace is that of another network


def test_the_command_needs_neither_torch_nor_onnx():
    program = f"""
import importlib.util, sys
MISSING = ("torch", "onnx", "onnxscript", "onnx_ir", "safetensors", "matplotlib")

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in MISSING else find(name, *rest)
from rnnx._cli import main
main(["bench", {str(LSTM)!r}, *{SHORT!r}, "--against", "session.run,torchscript,eager", "--torchscript", {str(LSTM)!r}])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "\n  torchscript           not timed: torch is not installed: pip install 'rnnx[export]'\n" in done.stdout
    assert "\n  eager                 not timed: it needs the module: " in done.stdout
