"""Every rule finds what it is for, in files as others make them, and nothing in files that are right."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, helper
from tests.export import foreign
from tests.export.corpus import STYLES
from tests.export.lint_faults import FAULTS, GOLDEN, biases
from tests.export.lint_models import H, convolution_caches, endless, model, stored, streamed, value, weight
from tests.runtime import frames
from tests.runtime.handmade import computed_sum, with_manifest
from tests.runtime.test_trust import GELU, gelu
from torch import nn

import rnnx
from rnnx._lint import LintReport, lint, trials
from rnnx._lint.linter import THEMES
from rnnx._lint.source import LintSource
from rnnx_runtime import ArtifactError, ArtifactNotFoundError

PAGE = Path(__file__).parents[2] / "docs" / "lint.md"
RULES = {rule.name: rule for theme in THEMES for rule in theme.rules}


def look(made: ModelProto | bytes, **options: Any) -> LintReport:
    return lint(made if isinstance(made, bytes) else made.SerializeToString(), **options)


def rules(report: LintReport) -> set[tuple[str, str]]:
    return {(finding.rule, finding.severity) for finding in report.findings}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.rule}-{fault.make.__name__}")
def test_a_fault_is_found(fault):
    made = fault.make()
    for static in (False, True):
        findings = [finding for finding in look(made, static=static).findings if finding.rule == fault.rule]
        hits = [one for one in findings if one.where == fault.where and re.search(fault.found, one.found)]
        if static and fault.only_running:
            assert not hits
            continue
        assert hits, [(one.where, one.found) for one in findings]
        assert {one.severity for one in hits} == {fault.severity}
        assert {(one.consequence, one.remedy) for one in hits} == {(RULES[fault.rule].consequence, RULES[fault.rule].remedy)}


def test_every_rule_has_a_fault_for_each_of_its_severities():
    shown = {(fault.rule, fault.severity) for fault in FAULTS} | {("external-data", "error")}  # that one needs a path
    assert shown == {(rule.name, severity) for rule in RULES.values() for severity in rule.severities}


RIGHT = {
    "LSTM": streamed,
    "GRU": lambda: streamed("GRU"),
    "RNN": lambda: streamed("RNN"),
    "RNN with Relu": lambda: streamed("RNN", activations=["Relu"]),
    "convolution caches": convolution_caches,
    "a cache that grows": lambda: convolution_caches(growing=True),
    "a mask of minus infinity": lambda: biases(0.0, -np.inf),
    "a language model": foreign.language_model,
    "a cell written out": foreign.cell,
    "no axis for rows": foreign.flat,
    "attention": foreign.attention,
    "time first": foreign.time_major,
}


@pytest.mark.parametrize("name", RIGHT)
def test_nothing_is_found_where_nothing_is_wrong(name):
    report = look(RIGHT[name]())
    assert report.ran
    assert [finding for finding in report.findings if finding.severity != "note"] == []


def test_a_published_detector_has_what_must_be_trusted_and_no_error():
    report = look(foreign.detector())
    assert report.ran
    assert report.passed
    assert ("outside-operator", "warning") in rules(report)


def test_the_graph_alone_tells_of_a_reshape_to_the_example():
    fault = next(fault for fault in FAULTS if fault.make.__name__ == "example_in_a_reshape")
    finding = next(one for one in look(fault.make(), static=True).findings if one.rule == "frozen-axis")
    assert (finding.where, finding.found) == ("Reshape 'flat'", "makes [5, 2, 4] of a value whose axis 'seq' is free")


def test_what_could_not_be_told_apart_without_running_is_not_said():
    report = look(streamed("GRU"), static=True)
    assert not report.ran
    assert str(report) == f"bytes: nothing found by {len(RULES)} rules (not run)"


def test_local_functions_are_looked_into():
    made = streamed("GRU", linear_before_reset=0)
    node = made.graph.node[0]
    node.input[4] = "lens"
    made.functions.append(
        helper.make_function("mine", "Layer", node.input, node.output, [node], [helper.make_opsetid("", 18)])
    )
    call = helper.make_node("Layer", [*node.input], [*node.output], domain="mine")
    call.input[4] = ""
    made.graph.node[0].CopyFrom(call)
    made.opset_import.add(domain="mine", version=1)
    assert ("linear-before-reset", "warning") in rules(look(made))
    assert "outside-operator" not in {rule for rule, _ in rules(look(made))}


def test_names_out_of_files_cannot_move_the_cursor():
    made = streamed("GRU")
    made.graph.input.append(value("mask\x1b[2J", ["batch"]))
    assert "mask\\x1b[2J" in str(look(made))
    assert "\x1b" not in str(look(made))


# What is run


def test_a_graph_that_does_not_come_back_is_given_up(monkeypatch):
    monkeypatch.setattr(trials, "_TIMEOUT", 2.0)
    found = [one for one in look(endless()).findings if one.rule == "does-not-load"]
    assert [one.found for one in found] == ["it did not come to an end in 2 seconds"]


def test_what_the_preflight_lets_through_is_run_here(monkeypatch):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("another process")

    monkeypatch.setattr(subprocess, "run", never)
    assert look(streamed("GRU")).ran
    with pytest.raises(AssertionError, match="another process"):
        look(endless())


def test_onnx_runtime_prints_nothing_of_its_own(capfd):
    made = streamed("GRU", direction=b"\xff")  # its Python package would print that it tries again
    assert "does-not-load" in {rule for rule, _ in rules(look(made))}
    assert capfd.readouterr() == ("", "")


def test_axes_that_belong_together_are_varied_together():
    """Two symbols for the rows, as exporters write them that were given no names."""
    made = streamed("GRU", batch="rows_of_x")
    made.graph.input[1].type.tensor_type.shape.dim[1].dim_param = "rows_of_h"
    made.graph.output[1].type.tensor_type.shape.dim[1].dim_param = "rows_of_h"
    report = look(made)
    assert report.ran
    assert report.findings == ()


@pytest.mark.parametrize("symbols", [1, 2])
def test_an_input_that_can_have_one_value_only_is_not_idle(symbols):
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=1), helper.make_node("Sub", ["f", "f"], ["y"])]
    symbolic = ["batch", "seq"]
    made = model(nodes, [value("x", symbolic, onnx.TensorProto.INT64)], [value("y", symbolic)])
    tokens = trials.TrialInput("x", "int64", ("batch", "seq"), below=symbols)
    found = trials.run_here(made.SerializeToString(), trials.Plan((tokens,), ("y",), batch="batch", time="seq"))
    assert found.worked
    assert found.idle == ([] if symbols == 1 else ["x"])
    assert (found.idle_steps is None) == (symbols == 1)


def test_weights_in_another_file_are_read_beside_the_model(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(
        stored(streamed("GRU"), weight("R", 1, 3 * H, H)),
        path,
        save_as_external_data=True,
        location="net.data",
        size_threshold=0,
    )
    report = lint(path)
    assert report.ran
    assert rules(report) == {("external-data", "warning")}
    (tmp_path / "net.data").unlink()
    report = lint(path)
    assert not report.ran
    assert rules(report) == {("external-data", "error"), ("not-run", "note")}
    assert "not-run" in {rule for rule, _ in rules(lint(path.read_bytes()))}
    assert rules(lint(path, static=True)) == {("external-data", "error")}


def test_of_a_large_file_only_the_small_weights_are_kept():
    made = stored(streamed("GRU"), weight("large", 1 << 10, 1 << 10))
    made.graph.node.append(helper.make_node("ReduceSum", ["large"], ["sum"]))
    made.graph.output.append(value("sum", [1, 1]))
    source = LintSource(made.SerializeToString())
    assert source.model.proto.ByteSize() < 4000
    assert source.model.weights["large"].shape == (1 << 10, 1 << 10)
    assert source.model.weights["large"].values is None
    assert look(made).ran


@pytest.mark.parametrize("trust_me", ["/etc/passwd", "../up.data"])
def test_files_outside_the_folder_are_not_read(trust_me, tmp_path):
    (tmp_path / "up.data").write_bytes(bytes(1000))
    folder = tmp_path / "folder"
    folder.mkdir()
    made = streamed("GRU")
    onnx.external_data_helper.set_external_data(made.graph.initializer[0], trust_me, 0, 144)
    made.graph.initializer[0].ClearField("raw_data")
    (folder / "net.onnx").write_bytes(made.SerializeToString())
    source = LintSource(folder / "net.onnx")
    assert source.model.weights["W"].values is None
    assert not lint(folder / "net.onnx").passed


# Artifacts: what they say of themselves is believed


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.onnx")), ids=lambda path: path.stem)
def test_golden_artifacts_are_clean(file):
    report = lint(file)
    assert report.ran
    assert report.findings == ()
    assert str(report) == f"{file}: nothing found by {len(RULES)} rules"


@pytest.mark.parametrize("name", sorted(set(frames.STYLES) - {"stateless"}))
def test_adopted_frames_are_clean(name):
    report = lint(frames.artifact(name))
    assert report.ran
    assert [finding for finding in report.findings if finding.severity != "note"] == []


@pytest.mark.parametrize("name", ["topic_lm", "zoneout_gru"])
def test_exports_are_clean(name, tmp_path):
    style = next(style for style in STYLES if style.name == name)
    done = rnnx.export(style.make(), style.example(), tmp_path / "net.onnx", **style.kwargs)
    report = lint(done.path.read_bytes())
    assert report.ran
    assert report.findings == ()


def test_an_artifact_may_look_both_ways_where_its_manifest_says_so(tmp_path):
    done = rnnx.export(nn.LSTM(3, 4, bidirectional=True, batch_first=True), torch.randn(2, 5, 3), tmp_path / "both.onnx")
    assert lint(done.path).findings == ()

    def claim(said: dict[str, Any]) -> None:
        said.update(streamable=True, not_streamable_because=None)

    assert ("bidirectional", "error") in rules(lint(with_manifest(done.path.read_bytes(), claim)))


def test_operators_that_were_trusted_are_known():
    assert lint(gelu(trusted=(GELU,))).findings == ()
    assert rules(lint(gelu())) == {("broken-artifact", "error"), ("outside-operator", "warning")}


def test_the_graph_of_initial_states_is_looked_at():
    node = helper.make_node("Add", ["image", "image"], ["sum"], doc_string="/home/jane/net.py(3)")
    graph = helper.make_graph([node], "initial", [value("image", ["batch", 2])], [value("sum", ["batch", 2])])
    second = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    report = lint(computed_sum(second.SerializeToString()))
    assert [one.where for one in report.findings] == ["doc_string of nodes of the graph of initial states"]


# The report


def test_the_same_of_several_nodes_is_said_once():
    made = streamed("GRU", linear_before_reset=0)
    for number in range(4):
        node = helper.make_node("GRU", ["x", "W", "R", "B", "", "h0"], [f"y{number}"], f"gru_{number}", hidden_size=H)
        made.graph.node.append(node)
        made.graph.output.append(value(f"y{number}", ["seq", 1, "batch", H]))
    report = look(made)
    assert report.count("warning") == 9  # with four whose state does not go out
    assert str(report).count("warning: linear-before-reset") == 2  # one says 0, four do not say
    assert "  at     GRU 'gru_0', GRU 'gru_1', GRU 'gru_2' and 1 more" in str(report)
    assert len([one for one in report.to_dict()["findings"] if one["rule"] == "linear-before-reset"]) == 5


def test_errors_come_first_and_lines_fit():
    made = streamed("GRU", linear_before_reset=0, dtype=np.float64, batch=2)
    made.graph.node[0].name = "a" * 200
    report = look(made)
    severities = [one.severity for one in report.findings]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert all(len(line) <= 80 for line in str(report).splitlines() if "aaaa" not in line)
    assert str(report).splitlines()[0] == "bytes: 1 error, 2 warnings, 1 note"


def test_not_an_onnx_file(tmp_path):
    with pytest.raises(ArtifactError, match="^'bytes' is not an ONNX file: it cannot be parsed$"):
        lint(b"hello")
    with pytest.raises(ArtifactError, match="^'bytes' is not an ONNX file: it holds no graph with an output$"):
        lint(b"")
    with pytest.raises(ArtifactNotFoundError, match="no file at "):
        lint(tmp_path / "none.onnx")
    with pytest.raises(ArtifactError, match="is a folder"):
        lint(tmp_path)


def test_torch_is_not_needed():
    code = f"import sys; from rnnx._lint import lint; lint({str(GOLDEN / 'lstm.onnx')!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# The page


def page() -> str:
    lines = [
        "# What `rnnx lint` looks for",
        "",
        "`rnnx lint FILE...` looks for silent failures in any ONNX file, whoever made it, and says of each what was found, what it means,",
        "and what to do. It looks at the graph, then runs it at a few small sizes, in a process of its own where the runtime's preflight",
        "does not let it through; `--static` only looks, for files that you do not trust. `--json` is for machines. The exit code is 1",
        "where there is an error. Of an artifact, its manifest is believed: what it calls a state is one, and a layer that looks both ways",
        "is right where it says that it cannot be streamed.",
        "",
        "**error**: wrong answers, or it cannot run · **warning**: it will bite · **note**: good to know.",
        "",
        "This page is made from the rules; `RNNX_WRITE_LINT=1 python -m pytest tests/export/test_lint.py` writes it anew.",
    ]
    for theme in THEMES:
        lines += ["", f"## {theme.theme}", "", "| rule | severity | finds | means | remedy |", "|---|---|---|---|---|"]
        lines += [
            f"| `{rule.name}` | {', '.join(rule.severities)} | {rule.finds} | {rule.consequence} | {rule.remedy} |"
            for rule in theme.rules
        ]
    return "\n".join([*lines, ""])


def test_the_page_says_what_is_so():
    if os.environ.get("RNNX_WRITE_LINT"):
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(), "RNNX_WRITE_LINT=1 writes docs/lint.md anew"
