"""The gate is tested by planted mistakes: each must be caught, and nothing may be written."""

import pytest
import torch
from tests.export.modules import Explicit, Hidden, example

import rnnx
from rnnx import _lower, _operators, _torchscript
from rnnx._operators import OperatorModule

original_packed = _operators._packed
original_compute = OperatorModule.compute


def wrong_gate_order(monkeypatch):
    monkeypatch.setitem(_operators._GATES, "LSTM", (0, 1, 2, 3))


def dropped_recurrent_bias(monkeypatch):
    def packed(layer, number):
        weights = original_packed(layer, number)
        weights["onnx_b"][:, weights["onnx_b"].shape[1] // 2 :] = 0
        return weights

    monkeypatch.setattr(_operators, "_packed", packed)


def initial_state_baked_to_zero(monkeypatch):
    def compute(self, layer, x, states):
        return original_compute(self, layer, x, [torch.zeros_like(state) for state in states])

    monkeypatch.setattr(OperatorModule, "compute", compute)


def layers_swapped(monkeypatch):
    def packed(layer, number):
        return original_packed(layer, number) | {"onnx_r": original_packed(layer, 1 - number)["onnx_r"]}

    monkeypatch.setattr(_operators, "_packed", packed)


def states_crossed(monkeypatch):
    def compute(self, layer, x, states):
        y, following = original_compute(self, layer, x, states)
        return y, following[::-1]

    monkeypatch.setattr(OperatorModule, "compute", compute)


@pytest.mark.parametrize(
    "plant",
    [wrong_gate_order, dropped_recurrent_bias, initial_state_baked_to_zero, layers_swapped, states_crossed],
    ids=lambda plant: plant.__name__,
)
def test_a_planted_mistake_leaves_no_artifact(plant, monkeypatch, tmp_path):
    plant(monkeypatch)
    module = Explicit("lstm", num_layers=2)
    with pytest.raises(rnnx.ParityError, match="differs from Explicit; nothing was written") as caught:
        rnnx.export(module, example(module), tmp_path / "model.onnx")
    assert "first at: " in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_gru_that_applies_the_reset_gate_too_early_is_caught(monkeypatch, tmp_path):
    lowered = _lower.lower

    def lower(lift, opset):
        model = lowered(lift, opset)
        for node in model.graph.node:
            kept = [attribute for attribute in node.attribute if attribute.name != "linear_before_reset"]
            del node.attribute[:]
            node.attribute.extend(kept)
        return model

    monkeypatch.setattr("rnnx._export.lower", lower)
    module = Hidden("gru")
    with pytest.raises(rnnx.ParityError):
        rnnx.export(module, example(module), tmp_path / "model.onnx")


def test_a_wrong_torchscript_is_not_written(monkeypatch, tmp_path):
    computed = _torchscript.NativeModule.compute

    def compute(self, layer, x, states):
        y, following = computed(self, layer, x, states)
        return y * 1.001, following

    monkeypatch.setattr(_torchscript.NativeModule, "compute", compute)
    module = Hidden("gru")
    done = rnnx.export(module, example(module), tmp_path / "model.onnx")
    assert done.torchscript is None
    assert "the TorchScript of Hidden differs from it" in done.torchscript_refused
    assert not (tmp_path / "model.pt").exists()


def test_a_failed_export_leaves_the_artifact_that_was_there(monkeypatch, tmp_path):
    module = Explicit("lstm")
    done = rnnx.export(module, example(module), tmp_path / "model.onnx")
    before = done.path.read_bytes()
    wrong_gate_order(monkeypatch)
    with pytest.raises(rnnx.ParityError):
        rnnx.export(module, example(module), tmp_path / "model.onnx")
    assert done.path.read_bytes() == before


def test_where_torch_refuses_torchscript_the_artifact_is_written_all_the_same(monkeypatch, tmp_path):
    def refuse(*arguments, **options):
        raise RuntimeError("TorchScript is gone")

    monkeypatch.setattr(torch.jit, "trace", refuse)
    module = Hidden("gru")
    done = rnnx.export(module, example(module), tmp_path / "model.onnx")
    assert done.path.exists()
    assert done.torchscript is None
    assert "TorchScript is gone" in done.torchscript_refused
