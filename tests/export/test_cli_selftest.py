"""`rnnx selftest`, and `--trust` on the commands that run an artifact."""

import base64
import json
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from tests.runtime import frames
from tests.runtime.conftest import GOLDEN
from tests.runtime.handmade import running_sum, with_manifest
from tests.runtime.test_providers import SECOND
from tests.runtime.test_trust import GELU, gelu

from rnnx._cli import main

LSTM = GOLDEN / "lstm.onnx"


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def wrong(tmp_path):
    """An artifact whose golden trace says that every answer is zero."""

    def lie(said):
        array = said["golden"]["outputs"]["output.0"]
        array["data"] = base64.b64encode(bytes(len(base64.b64decode(array["data"])))).decode()

    path = tmp_path / "wrong.onnx"
    path.write_bytes(with_manifest(LSTM.read_bytes(), lie))
    return path


def test_a_device_that_computes_what_was_exported_passes_with_the_numbers():
    done = run("selftest", LSTM)
    assert (done.exit_code, done.stderr) == (0, "")
    first, second, head, *rows = done.stdout.splitlines()
    assert re.match("(bit-exact|within tolerance): ", first)
    assert second.startswith("  golden trace of 1 row and 4 steps, on cpu, in ")
    assert head.split() == ["off", "by", "whole", "chunks", "steps"]
    assert [row.split()[1] for row in rows] == ["output.0", "lstm.l0.h", "lstm.l0.c"]
    assert all(float(number) < 1e-6 for row in rows for number in row.split()[2:])


def test_a_device_that_computes_something_else_fails(wrong):
    done = run("selftest", wrong)
    assert (done.exit_code, done.stderr) == (1, "")
    assert re.match(r"broken: off by \d\.\de-0\d, 1e-04 is allowed; use another version of onnxruntime\n", done.stdout)


def test_a_machine_reads_the_whole_result(wrong):
    for path, code in ((LSTM, 0), (wrong, 1)):
        done = run("selftest", path, "--json")
        said = json.loads(done.stdout)
        assert (done.exit_code, said["passed"], said["artifact"]) == (code, code == 0, str(path))
        assert (said["verdict"] == "broken") == (code == 1)
        assert set(said["differences"][0]) == {"name", "kind", "way", "absolute", "relative"}
        assert len(said["differences"]) == 9
        assert said["placement"]["granted"] == ["cpu"]
        assert (said["tolerance"], said["batch"], said["steps"]) == (1e-4, 1, 4)


@pytest.mark.skipif(not SECOND, reason="this machine has the CPU's provider only")
def test_a_provider_that_computes_something_else_is_reported_and_not_only_refused(wrong):
    done = run("selftest", wrong, "--provider", SECOND[0], "--provider", "cpu")
    assert done.exit_code == 1
    assert done.stdout.startswith("broken: off by ")
    assert f"on {SECOND[0]}" in done.stdout
    refused = run("providers", wrong)
    assert f"  {SECOND[0]:<10} wrong: off by " in refused.stdout


def test_what_cannot_be_tested_is_one_line(tmp_path):
    empty = tmp_path / "empty.onnx"
    empty.write_bytes(running_sum())
    for arguments, rule in (
        ([tmp_path / "none.onnx"], f"no file at '{tmp_path / 'none.onnx'}'; make an artifact with `rnnx export`"),
        ([LSTM, "--provider", "gpu"], "unknown provider 'gpu'; known are "),
        ([empty], "the golden trace of this artifact holds no step, so there is nothing to test; export it again"),
    ):
        done = run("selftest", *arguments)
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert done.stderr.startswith(f"Error: {rule}")


@pytest.mark.parametrize("name", ["frozen", "without_rows", "of_three"])
def test_graphs_that_others_published_are_tested_too(tmp_path, name):
    (tmp_path / "model.onnx").write_bytes(frames.artifact(name))
    assert run("selftest", tmp_path / "model.onnx").exit_code == 0


def test_trust_is_asked_for_by_every_command_that_runs_the_artifact_and_by_none_that_reads_it(tmp_path):
    path = tmp_path / "gelu.onnx"
    path.write_bytes(gelu(trusted=(GELU,)))
    signal = tmp_path / "signal.csv"
    signal.write_text("1,2,3\n4,5,6\n", encoding="utf-8")
    for command, *arguments in (["selftest"], ["providers"], ["infer", "--input", signal], ["generate"]):
        done = run(command, path, *arguments)
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.startswith(
            f"Error: '{path}': this artifact holds operators outside the runtime's list, {GELU}, that"
        )
        assert "--trust" in run(command, "--help").stdout
        assert "operators outside the runtime's list" not in run(command, path, "--trust", *arguments).stderr
    assert run("infer", path, "--input", signal, "--trust").stdout.count("\n") == 2
    assert run("selftest", path, "--trust").stdout.startswith("broken: ")  # its trace is that of another network
    assert run("inspect", path).exit_code == 0


def test_the_command_imports_no_torch_and_no_onnx():
    program = (
        "import sys; from rnnx._cli import main\n"
        f"try: main(['selftest', {str(LSTM)!r}])\n"
        "except SystemExit as end: print(end.code, *(m for m in ('torch', 'onnx') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0"
