"""What becomes of an export whose gate fails; which faults it catches is in `test_mutants.py`."""

import pickle

import pytest
import torch
from tests.export.modules import Explicit, Hidden, example
from tests.export.mutants import MODULES, batch_statistics, computed, gates, lowered, steps_frozen

import rnnx
from rnnx import _torchscript
from rnnx._lint import lint
from rnnx_runtime import load

wrong_gate_order = gates("LSTM", (0, 1, 2, 3))


def test_nothing_is_written_and_the_table_says_where_it_differs(monkeypatch, tmp_path):
    wrong_gate_order(monkeypatch)
    module = Explicit("lstm", num_layers=2)
    with pytest.raises(rnnx.ParityError, match="differs from Explicit; nothing was written") as caught:
        rnnx.export(module, example(module), tmp_path / "model.onnx")
    lines = str(caught.value).splitlines()
    assert lines[1].split() == ["check", "cases", "failed", "outputs", "states"]
    assert lines[-1].startswith("  first at: untouched, batch 2, 4 steps, initial state")
    assert list(tmp_path.iterdir()) == []
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.report) == (str(caught.value), caught.value.report)


def test_a_mismatch_is_written_where_it_is_allowed_and_says_that_it_is_not_proven(monkeypatch, tmp_path):
    wrong_gate_order(monkeypatch)
    module = Explicit("lstm")
    done = rnnx.export(module, example(module), tmp_path / "model.onnx", allow_mismatch=True)
    assert str(done).startswith(f"{done.path}: Explicit, NOT proven\n")
    assert "NOT proven, it differs from the module" in str(done)
    assert load(done.path).manifest.parity.passed is False
    monkeypatch.undo()
    assert not rnnx.verify(done.path, module, example(module), proof="quick").passed


def test_a_graph_that_does_not_run_at_every_size_is_a_difference_too(monkeypatch, tmp_path):
    lowered(steps_frozen)(monkeypatch)
    with pytest.raises(rnnx.ParityError, match="first at: .* state: ONNX Runtime failed: ") as caught:
        rnnx.export(*MODULES["lstm batch first"](), tmp_path / "model.onnx")
    assert caught.value.report.trajectory is None


def test_what_the_linter_calls_an_error_stops_an_export_and_what_is_allowed_is_shown(monkeypatch, tmp_path):
    computed(batch_statistics)(monkeypatch)
    done = rnnx.export(*MODULES["gru"](), tmp_path / "coupled.onnx", allow_mismatch=True, proof="quick")
    assert "rows-depend" in {finding.rule for finding in done.lint.findings}
    monkeypatch.undo()
    found = lint(done.path)
    assert not found.passed
    monkeypatch.setattr("rnnx._export.lint", lambda data: found)
    with pytest.raises(rnnx.ExportError, match="has what fails in silence; nothing was written"):
        rnnx.export(*MODULES["gru"](), tmp_path / "model.onnx", proof="quick")
    assert not (tmp_path / "model.onnx").exists()


def test_little_is_compared_where_that_is_asked_for(tmp_path):
    module = Explicit("lstm")
    done = rnnx.export(module, example(module), tmp_path / "model.onnx", proof="quick")
    assert done.parity.trajectory is None
    assert done.manifest.parity.proof == "quick"
    assert len(done.parity.cases) < 70
    assert {row.check for row in done.parity.rows()} >= {"untouched", "whole", "one step", "chunks", "steps", "equal"}


def test_progress_tells_each_check_and_ends_with_the_whole(tmp_path):
    told = []
    module = Hidden("gru")
    rnnx.export(module, example(module), tmp_path / "model.onnx", progress=lambda *of: told.append(of))
    assert list(dict.fromkeys(check for check, _ in told)) == [
        *("untouched", "whole", "padding", "one step", "chunks", "protocol", "visited", "long", "trajectory", "proof"),
    ]
    shares = [done for _, done in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)


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
