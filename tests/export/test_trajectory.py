"""Long runs: what is allowed grows with what the module's own rounding makes of it."""

import dataclasses

import numpy as np
import pytest
import torch
from tests.export.mutants import Integrator
from torch import nn

import rnnx
from rnnx._parity.subjects import ArtifactSubject
from rnnx._parity.task import TaskMeter
from rnnx._parity.tolerances import TOLERANCES
from rnnx._parity.trajectory import _marks, follow
from rnnx._parity.twins import Twins
from rnnx._quiet import quiet
from rnnx._readings import lift as find_lift
from rnnx_runtime import load


class Gru(nn.Module):
    """A GRU whose weights are `scale` times torch's own: 1 forgets, 8 is chaotic."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.layer = nn.GRU(3, 8, batch_first=True)
        with torch.no_grad():
            self.layer.weight_hh_l0 *= scale

    def forward(self, x):
        return self.layer(x)[0]


def exported(module, example, folder, **options):
    return rnnx.export(module, example, folder / "model.onnx", **options)


def test_a_network_that_forgets_stays_at_its_rounding(tmp_path):
    run = exported(Gru(), torch.randn(2, 4, 3), tmp_path).parity.trajectory
    assert (run.reference, run.steps, run.marks[-1]) == ("float64", 10_000, 10_000)
    assert run.horizon is run.eager_horizon is None
    assert 0 < run.error < 2e-6
    assert 0 < run.eager < 1e-5
    assert [(curve.kind, curve.name) for curve in run.curves] == [("output", "output"), ("state", "layer.l0.h")]
    for curve in run.curves:
        assert list(curve.exported) == sorted(curve.exported)
        assert all(1e-6 < bound < 1e-3 for bound in curve.allowed)


def test_a_chaotic_network_is_proven_and_its_horizon_is_told(tmp_path):
    done = exported(Gru(12.0), torch.randn(2, 4, 3), tmp_path)
    run = done.parity.trajectory
    assert done.parity.passed
    assert 10 < run.horizon < 10_000
    assert 10 < run.eager_horizon < 10_000
    assert run.error > 0.1
    assert run.task.rmse < 1e-3  # up to the horizon
    assert f"another run from step {run.horizon} on" in str(done)
    assert done.manifest.parity.trajectory.horizon == run.horizon


def test_a_chaotic_network_with_a_long_example_is_as_near_as_float32_comes(tmp_path):
    done = exported(Gru(12.0), torch.randn(2, 100, 3), tmp_path)
    longest = [case for case in done.parity.cases if case.check == "whole" and case.steps == 300]
    assert max(case.outputs["output"] for case in longest) > 0.1
    assert done.parity.passed


def test_large_values_leave_larger_roundings(tmp_path):
    done = exported(Gru(), torch.randn(2, 4, 3) * 1000, tmp_path)
    assert done.parity.passed


def test_a_module_that_leaves_the_finite_numbers_is_followed_until_then(tmp_path):
    class Growing(nn.Module):
        def forward(self, x, h):
            answers = []
            for t in range(x.shape[1]):
                h = 1.5 * h + x[:, t]
                answers.append(h)
            return torch.stack(answers, 1), h

    done = exported(Growing(), (torch.randn(2, 4, 3), torch.zeros(2, 3)), tmp_path)
    assert 100 < done.parity.trajectory.steps < 300  # 1.5 ** 219 is float32's largest number
    assert done.parity.passed


def test_a_module_that_float64_does_not_run_is_compared_with_itself_nudged(tmp_path):
    class Single(Gru):
        def forward(self, x):
            return self.layer(x.float() if x.dtype == torch.float32 else x.to(torch.float16))[0]

    run = exported(Single(), torch.randn(2, 4, 3), tmp_path).parity.trajectory
    assert run.reference == "nudged"
    assert 0 < run.error < 1e-6
    assert 0 < run.eager < 1e-5


def test_zeros_that_forward_makes_are_float64_in_the_reference(tmp_path):
    class Zeros(Gru):
        def forward(self, x):
            return self.layer(x, torch.zeros(1, x.shape[0], 8))[0]

    assert exported(Zeros(), torch.randn(2, 4, 3), tmp_path).parity.trajectory.reference == "float64"
    assert torch.get_default_dtype() == torch.float32


def test_weights_in_plain_attributes_are_float64_in_the_reference(tmp_path):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.randn(3, 3) / 3

        def forward(self, x, h):
            answers = []
            for t in range(x.shape[1]):
                h = torch.tanh(x[:, t] + h @ self.w)
                answers.append(h)
            return torch.stack(answers, 1), h

    run = exported(Plain(), (torch.randn(2, 4, 3), torch.zeros(2, 3)), tmp_path).parity.trajectory
    assert run.reference == "float64"


def test_float64_modules_are_held_to_float64s_rounding(tmp_path):
    class Double(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.LSTM(3, 5, batch_first=True)

        def forward(self, x):
            return self.layer(x)[0]

    run = exported(Double().double(), torch.randn(2, 4, 3, dtype=torch.float64), tmp_path).parity.trajectory
    assert run.reference == "nudged"
    assert run.error < 1e-13
    assert max(bound for curve in run.curves for bound in curve.allowed) < 1e-9


def test_the_same_threads_are_left_as_were_found(tmp_path):
    before = torch.get_num_threads()
    exported(Gru(), torch.randn(2, 4, 3), tmp_path)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("steps", "marks"), [(1, [1]), (2, [1, 2]), (10, [1, 2, 3, 4, 6, 7, 10]), (12, [1, 2, 3, 4, 6, 7, 10, 12])]
)
def test_marks_are_evenly_spaced_in_their_logarithm_and_end_with_the_last_step(steps, marks):
    assert list(_marks(steps)) == marks


def test_a_tolerance_that_is_too_strict_fails_at_the_step_where_it_is_broken(tmp_path):
    module, x = Integrator(), torch.randn(2, 4, 3)
    done = exported(module, x, tmp_path)
    with quiet():
        lift = find_lift(module, x)
    strict = dataclasses.replace(TOLERANCES["float32"], envelope=0.01, floor=0.0)
    run = follow(lift, ArtifactSubject(lift, load(done.path)), 300, strict, Twins(lift))
    assert not run.passed
    report = dataclasses.replace(done.parity, trajectory=run)
    assert report.failed == ("trajectory",)
    assert "trajectory leaves its envelope: " in report.table()


def logits_meter(tmp_path):
    class Characters(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb = nn.Embedding(4, 6)
            self.rnn = nn.RNN(6, 5, batch_first=True)
            self.fc = nn.Linear(5, 4)

        def forward(self, tokens):
            return self.fc(self.rnn(self.emb(tokens))[0])

    module, tokens = Characters(), torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])
    done = exported(module, tokens, tmp_path, proof="quick")
    with quiet():
        return TaskMeter(find_lift(module, tokens), done.manifest)


def test_choices_and_surprise_by_hand(tmp_path):
    meter = logits_meter(tmp_path)
    expected = np.log(np.array([[[0.5, 0.25, 0.125, 0.125], [0.25, 0.5, 0.125, 0.125], [0.25, 0.25, 0.5, 1e-9]]]))
    found = expected.copy()
    found[0, 0] = np.log([0.25, 0.5, 0.125, 0.125])
    meter.add({"output": found}, {"output": expected}, {"tokens": torch.tensor([[2, 0, 1]])}, 3, 3)
    task = meter.result(TOLERANCES["float32"])
    assert task.agreement == pytest.approx(2 / 3)
    assert task.bits == pytest.approx(1 / 2)  # 1 bit at token 0, 2 bits by the other; the second token is alike; mean over two
    assert task.rmse is None
    assert not task.passed  # by the bits: of few choices, one may differ


def test_either_of_two_equal_scores_is_right(tmp_path):
    meter = logits_meter(tmp_path)
    expected = np.array([[[1.0, 1.0 + 1e-7, 0.0, 0.0]]])
    meter.add({"output": expected[..., [1, 0, 2, 3]]}, {"output": expected}, {"tokens": torch.tensor([[2]])}, 1, 1)
    assert meter.result(TOLERANCES["float32"]).agreement == 1


def test_values_are_held_against_their_spread(tmp_path):
    module, x = Gru(), torch.randn(2, 4, 3)
    done = exported(module, x, tmp_path, proof="quick")
    with quiet():
        meter = TaskMeter(find_lift(module, x), done.manifest)
    expected = np.array([[[1.0] * 8, [3.0] * 8]])
    meter.add({"output": expected + 0.5}, {"output": expected}, {}, 2, 2)
    task = meter.result(TOLERANCES["float32"])
    assert (task.agreement, task.bits) == (None, None)
    assert task.rmse == pytest.approx(0.5)
    assert not task.passed
