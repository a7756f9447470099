"""What the linter says of files that torch's own exporters and ONNX Runtime's quantiser write."""

import json
import logging
import subprocess
import sys
from typing import Any

import pytest
import torch
from onnxruntime.quantization import quantize_dynamic
from tests.export.test_lint import GOLDEN, rules
from torch import Tensor, nn

from rnnx._lint import lint
from rnnx._quiet import quiet

FREE = {"x": {0: "batch", 1: "seq"}, "y": {0: "batch", 1: "seq"}, "h0": {1: "batch"}, "c0": {1: "batch"}}
FREE |= {"hn": FREE["h0"], "cn": FREE["c0"]}


class Net(nn.Module):
    """Tokens `(B, T)` → `(B, T, 5)`; with a state, that and the next one."""

    def __init__(self, kind: type[nn.RNNBase], hidden: int = 16, **options: Any) -> None:
        super().__init__()
        self.emb = nn.Embedding(5, 8)
        self.rnn = kind(8, hidden, batch_first=True, **options)
        self.fc = nn.Linear(hidden * (2 if self.rnn.bidirectional else 1), 5)

    def forward(self, x: Tensor, *state: Tensor) -> Any:
        y, following = self.rnn(self.emb(x), *([state] if len(state) == 2 else state))
        return (self.fc(y), following) if state else self.fc(y)


class Remembering(nn.Module):
    """The state is kept in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 6)
        self.register_buffer("h", torch.zeros(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        self.h.copy_(self.cell(x, self.h))
        return self.h.clone()


class Looping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        state, answers = None, []
        for step in range(x.size(1)):
            state = self.cell(x[:, step], state)
            answers.append(state[0])
        return torch.stack(answers, 1)


class Training(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 6, batch_first=True)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.rnn(x)[0])


TOKENS = torch.randint(5, (2, 6), generator=torch.Generator().manual_seed(0))
VALUES = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def exported(tmp_path):
    """What one of torch's exporters writes."""

    def export(module: nn.Module, *example: Tensor, train: bool = False, **options: Any):
        path = tmp_path / "net.onnx"
        module.train(train)
        if options.get("dynamo") is False and train:
            options["training"] = torch.onnx.TrainingMode.TRAINING
        with quiet():
            torch.onnx.export(module, example, path, verbose=False, **options)
        logging.captureWarnings(False)  # torch leaves it on
        return path

    return export


def names(*states: str) -> dict[str, list[str]]:
    return {"input_names": ["x", *(f"{state}0" for state in states)], "output_names": ["y", *(f"{s}n" for s in states)]}


# The older exporter: the recurrence stays, and mostly what is around it is wrong


def older(*states: str) -> dict[str, Any]:
    named = names(*states)
    axes = {name: FREE[name] for name in (*named["input_names"], *named["output_names"])}
    return {"dynamo": False, "dynamic_axes": axes, **named}


def test_older_with_states_is_clean(exported):
    path = exported(Net(nn.LSTM), TOKENS, torch.zeros(1, 2, 16), torch.zeros(1, 2, 16), **older("h", "c"))
    report = lint(path)
    assert report.ran
    assert report.findings == ()


@pytest.mark.parametrize(
    ("module", "example", "found"),
    [
        (lambda: Net(nn.GRU), TOKENS, {("baked-state", "warning")}),
        (lambda: Net(nn.LSTM, bidirectional=True), TOKENS, {("bidirectional", "note")}),
        (
            Looping,
            VALUES,
            {("idle-steps", "error")}
            | {(rule, "warning") for rule in ("baked-state", "refused-size", "shape-lies", "unrolled-time")},
        ),
        (
            lambda: Net(nn.LSTM).double(),
            TOKENS,
            {("recurrent-dtype", "error"), ("does-not-run", "note"), ("baked-state", "warning")},
        ),
    ],
    ids=["no state", "both directions", "loop", "double"],
)
def test_older(exported, module, example, found):
    assert rules(lint(exported(module(), example, **older()))) == found


def test_older_stores_a_buffer(exported):
    report = lint(exported(Remembering(), VALUES[:1, 0], dynamo=False, **names()))
    assert rules(report) == {("baked-state", "warning"), ("frozen-batch", "note")}
    assert "multiplies constants only, 'h' and weights: a state that begins anew" in str(report)


def test_older_in_training(exported):
    report = lint(exported(Training(), VALUES, train=True, **older()))
    assert rules(report) >= {("training-mode", "error"), ("not-repeatable", "error"), ("baked-state", "warning")}


# The newer exporter: what the example was goes into the graph


def test_newer_with_states(exported):
    axes = ({0: "batch", 1: "seq"}, ({1: "batch"},))
    module = Net(nn.GRU, hidden=64)  # the weights of a smaller one are put in order at the export
    path = exported(module, TOKENS, torch.zeros(1, 2, 64), dynamic_shapes=axes, external_data=False, **names("h"))
    report = lint(path)
    assert report.ran
    assert report.passed
    assert rules(report) == {(rule, "warning") for rule in ("computed-weights", "shape-lies", "local-path")}


def test_newer_drops_a_buffer(exported):
    report = lint(exported(Remembering(), VALUES[:1, 0], external_data=False))
    assert ("dropped-buffer", "error") in rules(report)
    assert "buffer 'h'" in str(report)


def test_newer_unrolls_a_layer_into_two_files(exported):
    report = lint(exported(Net(nn.RNN), TOKENS))
    assert report.ran
    assert rules(report) >= {("unrolled-time", "warning"), ("external-data", "warning"), ("local-path", "warning")}


# ONNX Runtime's quantiser


@pytest.mark.parametrize("kind", [nn.GRU, nn.RNN, nn.LSTM])
def test_quantised(exported, tmp_path, kind):
    states = ("h", "c") if kind is nn.LSTM else ("h",)
    path = exported(Net(kind), TOKENS, *(torch.zeros(1, 2, 16) for _ in states), **older(*states))
    with quiet():
        quantize_dynamic(path, tmp_path / "net.int8.onnx")
    report = lint(tmp_path / "net.int8.onnx")
    assert report.ran
    expected = {("coupled-rows", "warning"), ("outside-operator", "warning")}
    assert rules(report) == (expected if kind is nn.LSTM else expected | {("quantised-in-part", "warning")})


def test_quantised_nothing(exported, tmp_path):
    path = exported(nn.GRU(3, 6), VALUES, torch.zeros(1, 6, 6), dynamo=False)
    with quiet():
        quantize_dynamic(path, tmp_path / "net.int8.onnx")
    assert ("quantised-nothing", "warning") in rules(lint(tmp_path / "net.int8.onnx"))
    assert ("quantised-nothing", "warning") not in rules(lint(path))
    path.rename(tmp_path / "net_int8.onnx")
    assert "it is called 'net_int8.onnx', and nothing in it is quantised" in str(lint(tmp_path / "net_int8.onnx"))


# The command


def run(*arguments: Any, cwd: Any = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rnnx", "lint", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_the_command_reads_several_files(exported, tmp_path):
    exported(Net(nn.GRU), TOKENS, **older())
    (tmp_path / "text.onnx").write_text("hello")
    result = run("net.onnx", "text.onnx", "none.onnx", GOLDEN / "gru.onnx", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "Error: 'text.onnx' is not an ONNX file: it cannot be parsed",
        "Error: no file at 'none.onnx'; make an artifact with `rnnx export`",
    ]
    assert result.stdout.startswith("net.onnx: 1 warning\n\nwarning: baked-state\n  at     GRU '/rnn/GRU'\n")
    assert "\x1b" not in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines() if not line.startswith("/"))
    assert "gru.onnx: nothing found by" in result.stdout


def test_the_exit_code_tells_of_errors_only(exported, tmp_path):
    exported(Net(nn.GRU), TOKENS, **older())
    assert run("net.onnx", cwd=tmp_path).returncode == 0
    exported(Net(nn.GRU).double(), TOKENS, **older())
    result = run("--json", "--static", "net.onnx", cwd=tmp_path)
    assert result.returncode == 1
    (report,) = json.loads(result.stdout)
    assert (report["file"], report["ran"], report["errors"], report["warnings"]) == ("net.onnx", False, 1, 1)
    assert report["findings"][0]["rule"] == "recurrent-dtype"
    assert set(report["findings"][0]) == {"rule", "severity", "where", "found", "consequence", "remedy"}
