"""What a module means where it does not say so: which output hands a state back, what begins a sequence, how far it looks back."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

import rnnx
from rnnx_runtime import load
from rnnx_runtime.artifact import Constant


class Step(nn.Module):
    """A step whose forward is given."""

    def __init__(self, forward):
        super().__init__()
        self.cell = nn.LSTMCell(4, 6)
        self.a, self.b, self.out = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self._forward = forward

    def forward(self, x, h, c):
        return self._forward(self, x, h, c)


class DictStep(Step):
    def forward(self, x, state):
        h, c = self.cell(x, (state["h"], state["c"]))
        return self.out(h), {"c": c, "h": h}


def swapped(m, x, h, c):
    h, c = m.cell(x, (h, c))
    return m.out(h), c, h


def by_key(m, x, h, c):
    h, c = torch.tanh(m.a(x) + m.b(h)), c * 0.9 + h
    return {"c": c, "h": h, "y": m.out(h)}


def by_hand(m, x, h, c):
    h, c = torch.tanh(m.a(x) + m.b(h)), c * 0.9 + h
    return m.out(h), c, h


def follow(model, module, steps, states, call):
    """Step an artifact beside its owner, who carries the states himself."""
    stream = model.stream(batch=2)
    with torch.no_grad():
        for t in range(steps):
            x = torch.randn(2, 4, generator=torch.Generator().manual_seed(t))
            expected, states = call(module, x, states)
            answer = stream.step(x.numpy())
            np.testing.assert_allclose(answer, expected.numpy(), atol=1e-5)


def zeros():
    return torch.zeros(2, 6)


def test_a_state_finds_its_output_by_the_cell_that_carries_it(tmp_path):
    module = Step(swapped)
    done = rnnx.export(module, (torch.randn(2, 4), zeros(), zeros()), tmp_path / "m.onnx")

    def call(m, x, states):
        y, c, h = m(x, *states)
        return y, (h, c)

    follow(load(done.path), module, 5, (zeros(), zeros()), call)


def test_a_state_finds_its_output_by_its_key(tmp_path):
    module = DictStep(None)
    done = rnnx.export(module, (torch.randn(2, 4), {"h": zeros(), "c": zeros()}), tmp_path / "m.onnx")
    follow(load(done.path), module, 5, {"h": zeros(), "c": zeros()}, lambda m, x, state: m(x, state))

    module = Step(by_key)
    done = rnnx.export(module, (torch.randn(2, 4), zeros(), zeros()), tmp_path / "m.onnx")

    def call(m, x, states):
        answer = m(x, *states)
        return answer["y"], (answer["h"], answer["c"])

    follow(load(done.path), module, 5, (zeros(), zeros()), call)


def test_the_order_alone_is_no_evidence(tmp_path):
    module, example = Step(by_hand), (torch.randn(2, 4), zeros(), zeros())
    with pytest.raises(
        rnnx.LiftError, match=r"which output hands each state back cannot be known; say .* states=\{'h': 'output.1'"
    ):
        rnnx.export(module, example, tmp_path / "m.onnx")
    done = rnnx.export(module, example, tmp_path / "m.onnx", states={"h": "output.2", "c": "output.1"})

    def call(m, x, states):
        y, c, h = m(x, *states)
        return y, (h, c)

    follow(load(done.path), module, 5, (zeros(), zeros()), call)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(4, 6)

    def forward(self, x, h, n):
        h = self.cell(x, h) * (n % 2 == 0).float()[:, None]
        return h, n + 1


def test_a_counter_is_a_state(tmp_path):
    states = {"h": "output.0", "n": "output.1"}
    done = rnnx.export(Counting(), (torch.randn(2, 4), zeros(), torch.tensor([0, 1])), tmp_path / "m.onnx", states=states)
    assert {s.name: s.dtype for s in done.manifest.states} == {"h": "float32", "n": "int64"}


class Changed(nn.Module):
    """Changes the state that it is given, and returns it."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(4, 6)

    def forward(self, x, h):
        h.mul_(0.9)
        h = self.cell(x, h)
        return h * 2, h


def test_a_state_changed_in_place_and_returned(tmp_path):
    assert rnnx.export(Changed(), (torch.randn(2, 4), zeros()), tmp_path / "m.onnx", states={"h": "output.1"}).parity.passed


class Cached(nn.Module):
    def forward(self, x, cache):
        cache["h"] = 0.5 * cache["h"] + x
        return cache["h"] * 2


def test_a_state_that_is_only_changed_in_place_is_refused(tmp_path):
    with pytest.raises(rnnx.ExportError, match=r"cache.h: forward changes what it is given in place; return what it becomes"):
        rnnx.export(Cached(), (torch.randn(2, 4), {"h": torch.randn(2, 4)}), tmp_path / "m.onnx")


def test_a_state_of_equal_rows_is_where_a_sequence_starts(tmp_path):
    module = Changed()
    done = rnnx.export(module, (torch.randn(2, 4), torch.ones(2, 6)), tmp_path / "m.onnx", states={"h": "output.1"})
    assert isinstance(done.manifest.states[0].init, Constant)
    np.testing.assert_array_equal(load(done.path).initial_state(1)["h"], np.ones((1, 6), np.float32))


class Free(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.gru = nn.GRU(4, 6, batch_first=True)
        self.both = nn.GRU(4, 6, batch_first=True, bidirectional=True)
        self.cell = nn.GRUCell(4, 6)
        self.out = nn.Linear(12, 5)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


def echo(m, x):
    y, _ = m.gru(x)
    return y + torch.nn.functional.pad(y, (0, 0, 400, 0))[:, : y.size(1)]


def late(m, x):
    h, out = torch.zeros(x.size(0), 6), []
    for t in range(x.size(1)):
        if t == 1000:
            h = h * 0
        h = m.cell(x[:, t], h)
        out.append(h)
    return torch.stack(out, 1)


def some_steps(m, x):
    h = torch.zeros(x.size(0), 6)
    for t in range(min(x.size(1), 150)):
        h = m.cell(x[:, t], h)
    return h


def masked(m, x):
    scores = m.out(m.both(x)[0])
    return scores.masked_fill(torch.tensor([False, False, True, False, False]), -torch.inf).reshape(-1, 5)


def test_memory_longer_than_the_gates_sequences_is_seen(tmp_path):
    assert not rnnx.export(Free(echo), torch.randn(2, 5, 4), tmp_path / "m.onnx").manifest.streamable


@pytest.mark.parametrize("forward", [late, some_steps])
def test_a_loop_that_does_something_else_later_is_refused(forward, tmp_path):
    with pytest.raises(rnnx.LiftError, match="every step must do the same|does not follow|depends on|other things"):
        rnnx.export(Free(forward), torch.randn(2, 5, 4), tmp_path / "m.onnx")


def test_infinities_do_not_hide_the_layout(tmp_path):
    module, x = Free(masked).eval(), torch.randn(2, 5, 4)
    done = rnnx.export(module, x, tmp_path / "m.onnx")
    assert done.manifest.outputs[0].shape == ("batch*seq_len", 5)
    with torch.no_grad():
        np.testing.assert_allclose(load(done.path).infer(x.numpy()), module(x).reshape(2, 5, 5).numpy(), atol=1e-5)


def test_differences_of_neighbours_are_no_branch(tmp_path):
    module = Free(lambda m, x: m.gru(x)[0][:, 1:] - m.gru(x)[0][:, :-1])
    with pytest.raises(rnnx.ExportError, match="must follow batch or seq_len"):  # not: a branch on the length
        rnnx.export(module, torch.randn(2, 5, 4), tmp_path / "m.onnx")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_compiled_module_is_the_one_inside(tmp_path):
    module = Free(lambda m, x: m.gru(x)[0])
    done = rnnx.export(torch.compile(module), torch.randn(2, 5, 4), tmp_path / "m.onnx")
    assert done.manifest.name == "Free"


def test_weights_that_are_not_there(tmp_path):
    with torch.device("meta"):
        module = Free(lambda m, x: m.gru(x)[0])
    with pytest.raises(rnnx.ExportError, match="cannot be copied to the CPU"):
        rnnx.export(module, torch.randn(2, 5, 4), tmp_path / "m.onnx")


class LastOfEach(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 6, batch_first=True)

    def forward(self, x, lengths):
        y, _ = self.gru(x)
        return y.gather(1, (lengths - 1).view(-1, 1, 1).expand(-1, 1, 6)).squeeze(1)


def test_lengths_that_choose_the_last_step(tmp_path):
    module = LastOfEach().eval()
    done = rnnx.export(module, (torch.randn(3, 5, 4), torch.tensor([5, 2, 4])), tmp_path / "m.onnx")
    assert [spec.role for spec in done.manifest.inputs] == ["values", "lengths"]
    x, lengths = torch.randn(2, 9, 4), torch.tensor([3, 9])
    with torch.no_grad():
        expected = module(x, lengths).numpy()
    np.testing.assert_allclose(load(done.path).infer({"x": x.numpy(), "lengths": lengths.numpy()}), expected, atol=1e-5)
    with pytest.raises(ValueError, match="every length must be from 1 to 9, the steps of the chunk"):
        load(done.path).infer({"x": x.numpy(), "lengths": np.array([3, 10])})


class Warm(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.h = nn.GRUCell(4, 6), None

    def forward(self, x):
        h = torch.zeros(x.size(0), 6) if self.h is None else self.h * 0.9
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
        self.h = h
        return h


def test_a_module_that_was_called_before_must_be_reset(tmp_path):
    module, x = Warm(), torch.randn(2, 5, 4)
    module(x)
    with pytest.raises(rnnx.LiftError, match="reset what the module keeps before it is exported|keeps state"):
        rnnx.export(module, x, tmp_path / "m.onnx")


class Leaky(nn.Module):
    """Begins with a Python number, as spiking networks do."""

    def __init__(self):
        super().__init__()
        self.fc, self.v = nn.Linear(4, 6), 0.0

    def forward(self, x):
        self.v = 0.8 * self.v + self.fc(x)
        return torch.relu(self.v)


def test_a_kept_state_that_begins_as_a_number(tmp_path):
    done = rnnx.export(Leaky(), torch.randn(2, 4), tmp_path / "m.onnx")
    assert [state.found for state in done.manifest.states] == ["attribute v"]


class Named(nn.Module):
    """An argument called output, and a loop variable called as an argument."""

    def __init__(self):
        super().__init__()
        self.w = nn.Linear(10, 6)

    def forward(self, output):
        x = torch.zeros(output.size(0), 6)
        for t in range(output.size(1)):
            x = torch.tanh(self.w(torch.cat((output[:, t], x), 1)))
        return x


def test_names_do_not_collide(tmp_path):
    done = rnnx.export(Named(), torch.randn(2, 5, 4), tmp_path / "m.onnx")
    assert [spec.name for spec in done.manifest.outputs] == ["result"]


def test_two_exports_at_once_leave_the_process_as_it_was(tmp_path):
    import logging
    import sys

    before = sys.stderr, logging.root.manager.disable
    threads = [
        threading.Thread(
            target=rnnx.export, args=(Free(lambda m, x: m.gru(x)[0]), torch.randn(2, 5, 4), tmp_path / f"{number}.onnx")
        )
        for number in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sys.stderr, logging.root.manager.disable) == before
    assert all((tmp_path / f"{number}.onnx").exists() for number in range(2))


class TwoWays(nn.Module):
    """One way for a single step, another for more, as people write it who stream by hand."""

    def __init__(self, loop):
        super().__init__()
        self.gru, self.cell, self.loop = nn.GRU(4, 6, batch_first=True), nn.GRUCell(4, 6), loop
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(self.cell, name, getattr(self.gru, f"{name}_l0"))

    def forward(self, x, h):
        if x.size(1) == 1:
            y = self.cell(x[:, 0], h[0])
            return y[:, None], y[None]
        if not self.loop:
            return self.gru(x, h)
        out, y = [], h[0]
        for t in range(x.size(1)):
            y = self.cell(x[:, t], y)
            out.append(y)
        return torch.stack(out, 1), y[None]


@pytest.mark.parametrize("loop", [False, True])
def test_one_way_for_one_step_and_another_for_more(loop, tmp_path):
    module = TwoWays(loop).eval()
    done = rnnx.export(module, (torch.randn(2, 5, 4), torch.zeros(1, 2, 6)), tmp_path / "m.onnx")
    model, x = load(done.path), torch.randn(2, 4, 4)
    stream, h = model.stream(batch=2), torch.zeros(1, 2, 6)
    with torch.no_grad():
        for part in (x[:, :1], x[:, 1:3], x[:, 3:]):
            y, h = module(part, h)
            np.testing.assert_allclose(stream.feed(part.numpy()), y.numpy(), atol=1e-5)


def test_two_ways_that_differ_are_refused(tmp_path):
    module = TwoWays(False)
    module.cell.weight_hh = nn.Parameter(torch.randn(18, 6))
    with pytest.raises(rnnx.ExportError):
        rnnx.export(module, (torch.randn(2, 5, 4), torch.zeros(1, 2, 6)), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


class Decayed(nn.Module):
    """Scales its states once per call, and returns them the other way round; a second layer begins anew with every call."""

    def __init__(self):
        super().__init__()
        self.lstm, self.gru = nn.LSTM(4, 6, batch_first=True), nn.GRU(6, 6, batch_first=True)

    def forward(self, x, h, c):
        y, (h, c) = self.lstm(x, (0.9 * h, 0.8 * c))
        return self.gru(y)[0], c, h


def test_where_calls_matter_the_order_is_no_evidence_either(tmp_path):
    module, start = Decayed().eval(), torch.zeros(1, 2, 6)
    example = (torch.randn(2, 5, 4), start, start.clone())
    with pytest.raises(rnnx.LiftError, match=r"which output of Decayed hands each state back cannot be known; say .* states="):
        rnnx.export(module, example, tmp_path / "m.onnx")
    done = rnnx.export(module, example, tmp_path / "m.onnx", states={"h": "output.2", "c": "output.1"})
    assert done.manifest.chunks_matter_because
    stream, h, c = load(done.path).stream(batch=2), start, start
    with torch.no_grad():
        for steps in (3, 1, 2):
            x = torch.randn(2, steps, 4)
            y, c, h = module(x, h, c)
            np.testing.assert_allclose(stream.feed(x.numpy()), y.numpy(), atol=1e-5)
