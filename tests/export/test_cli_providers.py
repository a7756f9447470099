"""Providers and scalers from the command line."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import rnnx
from rnnx._cli import main
from rnnx_runtime.artifact import ScalerCodec

GOLDEN = Path(__file__).parent.parent / "golden" / "lstm.onnx"


class Sensor(nn.Module):
    """Values `(B, T, 2)` → `(B, T, 3)`."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(2, 3, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0]


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_providers_are_listed_with_what_is_missing():
    done = run("providers", GOLDEN)
    assert done.stdout.startswith(f"on this machine, with the golden trace of {GOLDEN}\n  cpu  ")
    assert "\nnot on this machine\n" in done.stdout
    assert "install onnxruntime-gpu" in done.stdout
    said = json.loads(run("providers", GOLDEN, "--json").stdout)
    assert said["providers"][0]["name"] == "cpu"
    assert said["providers"][0]["microseconds"] > 0


def test_without_an_artifact_the_providers_are_only_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("providers")
    assert "  cpu        ready\n" in done.stdout
    assert done.stderr == "give an artifact to run its golden trace on each\n"


def test_a_provider_is_chosen_by_name_or_refused(tmp_path):
    signal = tmp_path / "signal.csv"
    signal.write_text("1,2,3\n4,5,6\n", encoding="utf-8")
    plain = run("infer", GOLDEN, "--input", signal).stdout
    assert run("infer", GOLDEN, "--input", signal, "--provider", "auto").stdout.count("\n") == plain.count("\n")
    assert run("infer", GOLDEN, "--input", signal, "--provider", "cpu").stdout == plain
    refused = run("infer", GOLDEN, "--input", signal, "--provider", "gpu")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("Error: unknown provider 'gpu'; known are cpu, cuda, ")


def test_a_scaler_is_applied_to_values_from_a_file(tmp_path):
    module = Sensor()
    plain = rnnx.export(module, torch.randn(1, 4, 2), tmp_path / "plain.onnx").path
    codec = ScalerCodec(mean=(10.0, 20.0), std=(2.0, 5.0), output_mean=(7.0,), output_std=(100.0,))
    scaled = rnnx.export(module, torch.randn(1, 4, 2), tmp_path / "scaled.onnx", codec=codec, name="scaled").path
    (tmp_path / "units.csv").write_text("12,25\n8,20\n", encoding="utf-8")
    (tmp_path / "plain.csv").write_text("1,1\n-1,0\n", encoding="utf-8")
    found = np.loadtxt(io.StringIO(run("infer", scaled, "--input", tmp_path / "units.csv").stdout), delimiter=",")
    wanted = np.loadtxt(io.StringIO(run("infer", plain, "--input", tmp_path / "plain.csv").stdout), delimiter=",")
    np.testing.assert_allclose(found, wanted * 100 + 7, rtol=1e-4, atol=1e-3)
    assert "  codec      scaler, in mean 10, 20 std 2, 5; out mean 7 std 100\n" in run("inspect", scaled).stdout


def test_a_scaler_of_other_features_is_refused(tmp_path):
    for codec, rule in (
        (ScalerCodec(mean=(1.0,) * 3, std=(1.0,) * 3), r"the scaler has 3 input features; x is torch.float32 .*"),
        (
            ScalerCodec(mean=(1.0,), std=(1.0,), output_mean=(1.0,) * 2, output_std=(1.0,) * 2),
            "the scaler has 2 output features",
        ),
    ):
        with pytest.raises(rnnx.ExportError, match=f"^{rule}"):
            rnnx.export(Sensor(), torch.randn(1, 4, 2), tmp_path / "m.onnx", codec=codec)
