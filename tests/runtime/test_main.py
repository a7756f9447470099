import base64
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.runtime.handmade import with_manifest
from tests.runtime.test_trust import GELU, gelu

from rnnx_runtime import __main__ as command


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rnnx_runtime", *map(str, arguments)])
        return command.main(), *capsys.readouterr()

    return run


def test_a_text_is_answered(golden, char_rnn):
    program = [sys.executable, "-m", "rnnx_runtime", golden / "char_rnn.onnx", "--text", "hello"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, char_rnn.infer("hello") + "\n", "")


def test_bad_input_is_one_line_and_an_exit_code(golden):
    program = [sys.executable, "-m", "rnnx_runtime", golden / "char_rnn.onnx", "--text", "hex"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: character 'x' at position 2 is not in the model's vocabulary of 4: 'ehlo'\n"


@pytest.mark.parametrize("text", ["hello", "o", ""])
def test_the_answer_stands_alone_on_a_line(run, golden, char_rnn, text):
    assert run(golden / "char_rnn.onnx", "--text", text) == (0, char_rnn.infer(text) + "\n", "")


def test_a_missing_artifact_says_how_to_make_one(run, tmp_path):
    path = tmp_path / "model.onnx"
    assert run(path, "--text", "hello") == (1, "", f"Error: no file at '{path}'; make an artifact with `rnnx export`\n")


def test_a_folder_in_place_of_an_artifact_is_one_line(run, golden):
    code, out, err = run(golden, "--text", "hello")
    assert (code, out) == (1, "")
    assert err == f"Error: '{golden}' is a folder; give the path of an artifact, for example model.onnx\n"


def test_a_broken_artifact_is_one_line(run, golden, tmp_path):
    data = bytearray((golden / "char_rnn.onnx").read_bytes())
    data[1000] ^= 1
    (tmp_path / "model.onnx").write_bytes(data)
    code, out, err = run(tmp_path / "model.onnx", "--text", "hello")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"Error: '{tmp_path / 'model.onnx'}': the seal is broken: ")


def test_an_artifact_without_text_says_so(run, golden):
    wanted = "Error: this artifact has no text codec; give arrays instead of text\n"
    assert run(golden / "lstm.onnx", "--text", "hello") == (1, "", wanted)


def test_a_device_tests_an_artifact(run, golden):
    code, out, err = run(golden / "lstm.onnx", "--selftest")
    assert (code, err) == (0, "")
    assert re.match(r"(bit-exact|within tolerance): .*\n  golden trace of 1 row and 4 steps, on cpu, in ", out)
    assert all(line.isascii() for line in out.split("\n"))


def test_a_device_that_computes_something_else_is_told_so(run, golden, tmp_path):
    def lie(said):
        zeros = [dict(array) for array in said["golden"]["outputs"].values()]
        for array in zeros:
            array["data"] = base64.b64encode(bytes(len(base64.b64decode(array["data"])))).decode()
        said["golden"]["outputs"] = dict(zip(said["golden"]["outputs"], zeros, strict=True))

    (tmp_path / "wrong.onnx").write_bytes(with_manifest((golden / "lstm.onnx").read_bytes(), lie))
    code, out, err = run(tmp_path / "wrong.onnx", "--selftest")
    assert (code, err) == (1, "")
    assert re.match(r"broken: off by \d\.\de-\d\d, 1e-04 is allowed; use another version of onnxruntime\n", out)


def test_a_provider_is_chosen_for_an_answer_and_for_a_test(run, golden):
    for what in (["--text", "hello"], ["--selftest"]):
        assert run(golden / "char_rnn.onnx", *what, "--provider", "cpu")[0] == 0
        code, out, err = run(golden / "char_rnn.onnx", *what, "--provider", "gpu")
        assert (code, out) == (1, "")
        assert err.startswith("Error: unknown provider 'gpu'; known are ")


def test_operators_outside_the_list_must_be_trusted_here_too(run, tmp_path):
    path = tmp_path / "gelu.onnx"
    path.write_bytes(gelu(trusted=(GELU,)))
    for what in (["--text", "hello"], ["--selftest"]):
        code, out, err = run(path, *what)
        assert (code, out) == (1, "")
        assert err.startswith(f"Error: '{path}': this artifact holds operators outside the runtime's list, {GELU}, ")
    assert run(path, "--selftest", "--trust")[1].startswith("broken: ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["model.onnx"],
        ["--text", "hello"],
        ["model.onnx", "--text"],
        ["a", "b", "--text", "c"],
        ["a", "--text", "c", "--selftest"],
    ],
)
def test_a_call_that_is_not_complete_shows_how_to_call(run, capsys, arguments):
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)
    assert "usage: python -m rnnx_runtime" in capsys.readouterr().err


def test_help_tells_what_it_does(run, capsys):
    with pytest.raises(SystemExit, match="0"):
        run("--help")
    said = " ".join(capsys.readouterr().out.split())
    assert "Answer a text with an artifact (--text), or test it on this machine (--selftest)." in said
    assert "made by `rnnx export` or `rnnx adopt`" in said


@pytest.mark.parametrize("name", ["red\x1b[31m.onnx", "two\nlines.onnx", "over\u202ewritten.onnx", "\x07bell.onnx"])
@pytest.mark.parametrize("content", [None, b"no artifact"])
def test_a_file_name_writes_no_control_characters_to_the_terminal(run, tmp_path, name, content):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    code, out, err = run(path, "--text", "hello")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err[:-1].isprintable()


def test_a_text_writes_no_control_characters_to_the_terminal(run, golden):
    code, out, err = run(golden / "char_rnn.onnx", "--text", "h\x1b[31m")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err[:-1].isprintable()


@pytest.fixture
def foreign(golden, tmp_path):
    """An artifact that answers in letters which ASCII lacks."""
    data = (golden / "char_rnn.onnx").read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(with_manifest(data, lambda said: said["codec"].update(vocabulary="éàüö")))
    return path


def answer(arguments, *, shell="", **environment):
    program = [sys.executable, "-m", "rnnx_runtime", *map(str, arguments)]
    if shell:
        program = ["sh", "-c", f'exec "$@" {shell}', "sh", *program]
    done = subprocess.run(
        program, capture_output=True, text=True, check=False, encoding="utf-8", env=os.environ | environment, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


def test_an_answer_that_the_terminal_cannot_write_is_one_line(foreign):
    arguments = [foreign, "--text", "éàü"]
    code, out, err = answer(arguments, PYTHONIOENCODING="ascii")
    assert (code, out) == (1, "")
    assert err == "Error: the answer cannot be written in ascii; set PYTHONIOENCODING=utf-8\n"
    code, out, err = answer(arguments, PYTHONIOENCODING="utf-8")
    assert (code, len(out), err) == (0, 4, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no such device")
def test_an_answer_that_finds_no_room_is_one_line(golden):
    code, _, err = answer([golden / "char_rnn.onnx", "--text", "hello"], shell="> /dev/full")
    assert (code, err) == (1, "Error: the answer cannot be written: No space left on device\n")


@pytest.mark.skipif(not Path("/bin/sh").exists(), reason="this system has no such shell")
def test_an_answer_without_an_output_is_one_line(golden):
    code, _, err = answer([golden / "char_rnn.onnx", "--text", "hello"], shell=">&-")
    assert (code, err) == (1, "Error: the answer cannot be written: there is no standard output\n")


@pytest.mark.skipif(not hasattr(os, "pipe"), reason="this system has no pipes")
def test_an_answer_that_nobody_reads_is_one_line(golden):
    reader, writer = os.pipe()
    os.close(reader)
    program = [sys.executable, "-m", "rnnx_runtime", str(golden / "char_rnn.onnx"), "--text", "hello"]
    done = subprocess.run(program, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "Error: the answer cannot be written: Broken pipe\n")
