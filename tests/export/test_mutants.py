"""The gate is tested by planted faults: each leaves no artifact, and is caught by the check that is there for it."""

import pytest
from tests.export.mutants import MODULES, MUTANTS

import rnnx


@pytest.mark.parametrize("name", MODULES)
def test_without_a_fault_the_module_is_exported(name, tmp_path):
    module, example = MODULES[name]()
    done = rnnx.export(module, example, tmp_path / "model.onnx")
    assert done.parity.failed == ()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_caught(mutant, monkeypatch, tmp_path):
    module, example = MODULES[mutant.module]()
    mutant.plant(monkeypatch)
    with pytest.raises(rnnx.ParityError, match="nothing was written") as caught:
        rnnx.export(module, example, tmp_path / "model.onnx")
    failed = caught.value.report.failed
    assert mutant.caught_by in failed
    assert not set(mutant.passes) & set(failed)
    assert list(tmp_path.iterdir()) == []


def test_there_are_enough_of_them():
    assert len(MUTANTS) >= 20
    assert {mutant.caught_by for mutant in MUTANTS} >= {
        *("untouched", "whole", "one step", "strict", "visited", "chunks", "padding", "long", "trajectory"),
    }
