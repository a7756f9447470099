"""`rnnx adopt`, as a person types it."""

import json

import pytest
from click.testing import CliRunner
from tests.export import foreign

from rnnx._cli import adopt as adopt_command
from rnnx._cli import main
from rnnx_runtime import load


@pytest.fixture
def rnnx(tmp_path, monkeypatch):
    """Runs the command in a folder with somebody's files."""
    monkeypatch.chdir(tmp_path)
    for name, model in {
        "detector.onnx": foreign.detector(),
        "enhancer.onnx": foreign.enhancer(),
        "lm.onnx": foreign.language_model(4),
        "keras.onnx": foreign.unnamed(decomposed=True),
        "tagger.onnx": foreign.forgetful(),
        "int8.onnx": foreign.quantised(),
        "plain.onnx": foreign.pointwise(),
    }.items():
        (tmp_path / name).write_bytes(model.SerializeToString())
    return lambda *arguments: CliRunner().invoke(main, arguments)


def test_adopt_finds_pairs_and_says_what_it_found(rnnx):
    result = rnnx("adopt", "enhancer.onnx")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "artifacts/adopted.onnx: enhancer, adopted with 2 states, proven equal to the file in 12 comparisons"
    for line in (
        "  inputs     mix  float32 [batch, 6, seq_len, 2]",
        "  states     conv_cache → conv_cache_out  float32 [1, 2, 2, 6], starts with zeros (a cache that is shifted)",
        "             inter_cache → inter_cache_out  float32 [1, 1, 5], starts with zeros (where GRU_1 begins and ends)",
        "  axes       batch is 1, seq_len is 1: a call takes one step; every other size is the file's",
        "  parity     no module was compared, only the file",
        "  notes      opset 11 is written as 13",
        "             a step is mix [B, 6, 2]",
    ):
        assert line in lines
    assert rnnx("inspect", "artifacts/adopted.onnx").exit_code == 0
    assert rnnx("selftest", "artifacts/adopted.onnx").stdout.startswith("bit-exact")


def test_adopt_says_it_to_machines(rnnx):
    found = json.loads(rnnx("adopt", "enhancer.onnx", "-o", "e.onnx", "--json").stdout)
    assert (found["path"], found["comparisons"], found["difference"]) == ("e.onnx", 12, 0.0)
    assert found["notes"] == ["opset 11 is written as 13", "a step is mix [B, 6, 2]"]
    assert found["manifest"]["fixed_batch"] == 1


def test_everything_that_can_be_said(rnnx):
    result = rnnx(
        *("adopt", "detector.onnx", "--state", "state=stateN", "--set", "sr=16000", "--axes", "input=B32"),
        *("--name", "speech", "-o", "d.onnx"),
    )
    assert (result.exit_code, result.stderr) == (0, "")
    assert load("d.onnx").manifest.name == "speech"
    result = rnnx("adopt", "lm.onnx", "--state", "h0=hn,c0=cn", "--vocabulary", "ehlo", "-o", "lm2.onnx")
    assert result.exit_code == 0
    assert len(rnnx("infer", "lm2.onnx", "--text", "hello").stdout) == 6
    assert rnnx("generate", "lm2.onnx", "--prompt", "h", "--length", "3", "--seed", "1").exit_code == 0
    assert rnnx("adopt", "tagger.onnx", "--lift", "-o", "t.onnx").exit_code == 0
    assert load("t.onnx").manifest.streamable
    assert rnnx("adopt", "keras.onnx", "--state", "none", "-o", "k.onnx").exit_code == 0
    assert load("k.onnx").manifest.states == ()


def test_a_vocabulary_in_a_file_ends_before_the_end_of_its_line(rnnx, tmp_path):
    (tmp_path / "letters.txt").write_text("\nhlo\n", encoding="utf-8")
    assert rnnx("adopt", "lm.onnx", "--vocabulary", "letters.txt").exit_code == 0
    assert load("artifacts/adopted.onnx").manifest.codec.vocabulary == "\nhlo"


def test_what_is_replaced_is_said(rnnx):
    rnnx("adopt", "enhancer.onnx")
    result = rnnx("adopt", "plain.onnx")
    assert result.stderr == "artifacts/adopted.onnx held enhancer before; it is replaced\n"


def test_a_large_file_is_announced(rnnx, monkeypatch):
    monkeypatch.setattr(adopt_command, "_LARGE", 1 << 10)
    assert "MiB; it is run a hundred times, which takes a while" in rnnx("adopt", "enhancer.onnx").stderr


def test_notes_fit_a_terminal(rnnx):
    lines = rnnx("adopt", "tagger.onnx").stdout.splitlines()
    notes = lines[next(place for place, line in enumerate(lines) if line.startswith("  notes")) :]
    assert len(notes) == 3
    assert max(map(len, notes)) <= 80


def test_trust_is_asked_for_again(rnnx):
    assert "--trust allows them" in rnnx("adopt", "int8.onnx").stderr
    assert rnnx("adopt", "int8.onnx", "--trust").exit_code == 0
    assert "only if you trust where it comes from" in rnnx("selftest", "artifacts/adopted.onnx").stderr
    assert rnnx("selftest", "artifacts/adopted.onnx", "--trust").stdout.startswith("bit-exact")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.onnx"], "Error: none.onnx: no file here; give the path of an .onnx file"),
        (["lm.onnx", "--state", "h0"], "Error: --state needs a name and a value, such as --state state=stateN; got 'h0'"),
        (["lm.onnx", "--state", "h0=hn,h0=cn"], "Error: --state h0 is given twice, as hn and as cn; give it once"),
        (["lm.onnx", "--state", "h0=hn,none"], "Error: --state needs a name and a value"),
        (
            ["lm.onnx", "--state", "h0=nh"],
            "Error: 'nh', said to hand h0 back, is no output of the graph, which has log_probs, hn, cn",
        ),
        (["detector.onnx", "--set", "sr=fast"], "Error: --set sr needs a number, or a list of numbers; got 'fast'"),
        (["detector.onnx", "--set", "sr=1e300"], "Error: --set sr: 1e+300 does not fit int64"),
        (["detector.onnx", "--set", "sr=1j"], "Error: --set sr: 1j is no array of int64"),
        (["detector.onnx", "--set", "sr=True"], "Error: --set sr: True does not fit int64"),
        (["detector.onnx", "--set", f"sr={'9' * 5000}"], "Error: --set sr needs a number, or a list of numbers; got '9999"),
        (
            ["detector.onnx", "--set", f"sr=[{'1, ' * 5000}]"],
            "Error: --set sr: a value of the shape [5000] does not fit sr []",
        ),
        (
            ["enhancer.onnx", "-o", "enhancer.onnx"],
            "Error: enhancer.onnx is the file that is adopted; give the artifact another",
        ),
        (["enhancer.onnx", "-o", "plain.onnx"], "Error: plain.onnx is there already, and is no artifact; give another name"),
        (["detector.onnx", "--set", "sr"], "Error: --set needs a name and a value, such as --set sr=16000; got 'sr'"),
        (["detector.onnx"], "Error: sr [] is one number, which has no rows"),
        (["detector.onnx", "--set", "sr=8000", "--axes", "input=b"], "Error: axes are a letter or a size each"),
        (["keras.onnx"], "Error: which outputs hand states back cannot be told: input_2 [1, 1, 3] → activation_2"),
        (["plain.onnx", "--lift"], "Error: nothing to lift"),
        (["lm.onnx", "--vocabulary", "hello"], "Error: --vocabulary: the vocabulary has 'l' twice; give each character once"),
        (["lm.onnx", "--vocabulary", "abc"], "Error: the vocabulary has 3 symbols, but tokens takes 4 tokens"),
        (["lm.onnx", "-o", "lm.txt"], "Error: the artifact's name must end in .onnx, got 'lm.txt'"),
    ],
)
def test_bad_input_is_one_line(rnnx, tmp_path, arguments, message):
    before = sorted(tmp_path.rglob("*"))
    result = rnnx("adopt", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) < 400
    assert sorted(tmp_path.rglob("*")) == before
