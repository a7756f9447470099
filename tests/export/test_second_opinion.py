"""onnx's own evaluator on our graphs: agrees, disagrees where something is wrong, and says where it cannot judge."""

import numpy as np
import onnx
import pytest
import torch
from tests.export.corpus import STYLES
from tests.export.mutants import MODULES

import rnnx
from rnnx._parity.proof import prove
from rnnx._parity.second_opinion import SecondOpinion, Unable
from rnnx._quiet import quiet
from rnnx._readings import lift as find_lift
from rnnx_runtime import load


def export(name, folder):
    module, example = MODULES[name]()
    return module, example, rnnx.export(module, example, folder / "model.onnx", proof="quick").path


def report(name, folder, change=lambda model: None):
    """The gate's report on an artifact, whose second opinion is asked of a changed graph."""
    module, example, path = export(name, folder)
    model = onnx.load(path)
    change(model)
    with quiet():
        return prove(find_lift(module, example), load(path), model.SerializeToString())


@pytest.mark.parametrize("name", ["lstm", "gru", "tanh", "characters", "loop", "last"])
def test_it_agrees(name, tmp_path):
    found = report(name, tmp_path)
    assert found.no_second_opinion_because == ""
    assert [case.passed for case in found.cases if case.check == "reference"] == [True, True]
    assert found.summary().second_opinion < 1e-6


def test_what_only_it_computes_otherwise_fails_the_gate(tmp_path):
    def change(model):
        node = next(node for node in model.graph.node if node.op_type == "GRU")
        attribute = next(a for a in node.attribute if a.name == "linear_before_reset")
        attribute.i = 0

    found = report("gru", tmp_path, change)
    assert found.failed == ("long", "reference")  # both are asked of the file's bytes


@pytest.mark.parametrize(
    ("name", "reason"), [("padded", "it disregards the lengths of GRU"), ("rnn", "Unknown activation function 'Relu'.")]
)
def test_where_it_cannot_judge_that_is_said(name, reason, tmp_path):
    module, example = MODULES[name]()
    done = rnnx.export(module, example, tmp_path / "model.onnx")
    assert done.parity.no_second_opinion_because == f"onnx's reference evaluator cannot judge this graph: {reason}"
    assert "no second opinion: onnx's reference evaluator cannot judge" in done.parity.table()
    assert done.manifest.parity.second_opinion is None


@pytest.mark.parametrize("name", ["sine_cells_double", "names_rnn", "two_own_layers", "conv_lstm", "step_decoder"])
def test_loops_are_judged_whatever_axis_they_run_along(name, tmp_path):
    style = next(style for style in STYLES if style.name == name)
    torch.manual_seed(0)
    done = rnnx.export(style.make(), style.example(), tmp_path / "model.onnx", proof="quick", **style.kwargs)
    opinion = SecondOpinion(done.manifest, done.path.read_bytes())
    golden = done.manifest.golden
    feeds = {name: array.numpy() for name, array in golden.inputs.items()}
    feeds |= {spec.input: golden.states[spec.name].numpy() for spec in done.manifest.states}
    found = opinion.run(feeds)
    assert not isinstance(found, Unable), found
    for spec in done.manifest.outputs:
        np.testing.assert_allclose(found[spec.name], golden.outputs[spec.name].numpy(), atol=2e-6, rtol=1e-5)
    for spec in done.manifest.states:
        np.testing.assert_allclose(found[spec.output], golden.next_states[spec.name].numpy(), atol=2e-6, rtol=1e-5)


def test_a_graph_that_is_none_cannot_be_judged(tmp_path):
    _, _, path = export("gru", tmp_path)
    manifest = load(path).manifest
    found = SecondOpinion(manifest, b"nothing").run({})
    assert isinstance(found, Unable)
    assert found.because.startswith("onnx's reference evaluator cannot judge this graph: ")
