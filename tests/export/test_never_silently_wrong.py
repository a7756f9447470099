"""Modules for which an export could look right and be wrong: each is refused with its reason, or exported right."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rnnx
from rnnx_runtime import load


class Free(nn.Module):
    """A module whose forward is given."""

    def __init__(self, forward, kind=nn.GRU, **options):
        super().__init__()
        self.layer = kind(3, 5, batch_first=True, **options)
        self.other = nn.GRU(5, 5, batch_first=True)
        self.cell = nn.GRUCell(5, 5)
        self.emb = nn.Embedding(7, 3)
        self.small = nn.Embedding(3, 3)
        self.start = nn.Parameter(torch.randn(7, 5))
        self.head = nn.Linear(5, 4)
        self.baked = torch.ones(1, 3, 5)
        self._forward = forward

    def forward(self, *arguments):
        return self._forward(self, *arguments)


def one(forward, example=None, **options):
    """A module of one input."""

    class One(Free):
        def forward(self, x: Tensor):
            return forward(self, x)

    return One(forward, **options), torch.randn(2, 4, 3) if example is None else example


def two(forward, second, example=None, **options):
    """A module of two arguments, `x` and `h`."""

    class Two(Free):
        def forward(self, x: Tensor, h: Tensor):
            return forward(self, x, h)

    return Two(forward, **options), (torch.randn(2, 4, 3) if example is None else example, second)


def zeros(*shape):
    return torch.zeros(*(shape or (1, 2, 5)))


def masked_in_place(m, x, done):
    h = torch.ones(1, x.size(0), 5)
    h[:, done] = 0
    return m.layer(x, h)[0]


def own_cell(m, x, h):
    y, _ = m.layer(x)
    h = m.cell(y[:, -1], h)
    return m.head(h), h


REFUSED = {
    "branch on the length": (
        one(lambda m, x: m.layer(x)[0] * (2 if x.shape[1] >= 100 else 1)),
        "does one thing where seq_len < 100",
    ),
    "branch on one length": (one(lambda m, x: m.layer(x)[0] * (2 if x.shape[1] == 50 else 1)), "does one thing where"),
    "branch on the batch": (one(lambda m, x: m.layer(x)[0] * (2 if x.shape[0] == 7 else 1)), "does one thing where .*batch"),
    "branch on both": (
        one(lambda m, x: m.layer(x)[0] * (2 if x.shape[0] * x.shape[1] > 2000 else 1)),
        r"batch\*seq_len|seq_len\*batch",
    ),
    "state masked in place": (
        two(masked_in_place, torch.zeros(2, dtype=torch.bool)),
        "decides the initial state|torch cannot trace|ONNX has no operator",
    ),
    "start chosen by a constant id": (
        two(lambda m, x, h: m.layer(x, m.start[h][None])[0], torch.zeros(2, dtype=torch.int64)),
        "h: the example holds 0 only",
    ),
    "rows that depend on each other": (
        one(lambda m, x: torch.softmax(m.layer(x)[0], 0)),
        "the rows must not depend on each other",
    ),
    "length taken as a number": (
        one(lambda m, x: m.layer(x)[0] * math.floor(float(x.shape[1]))),
        "does one thing where|torch cannot trace|works for a seq_len",
    ),
    "layer that overrides forward": (
        one(
            lambda m, x: m.layer(x)[0],
            kind=type("Mine", (nn.GRU,), {"forward": lambda self, x, hx=None: nn.GRU.forward(self, x, hx)}),
        ),
        "Mine has a forward of its own",
    ),
    "attention weights": (
        one(
            lambda m, x: torch.softmax(
                m.layer(x)[0] @ m.layer.weight_hh_l0[:5] @ x[..., :1].expand(-1, -1, 5).transpose(1, 2), -1
            )
        ),
        "may stand once each|depends on",
    ),
    "squeezed outputs": (one(lambda m, x: m.layer(x)[0].squeeze()), "as squeeze\\(\\) makes it"),
    "fixed step": (one(lambda m, x: m.layer(x)[0][:, 3]), "does not run on"),
    "colliding names": (one(lambda m, x: {"a.b": x, "a": {"b": m.layer(x)[0]}}), "two outputs would have one name"),
    "scripted": ((torch.nn.Sequential(torch.nn.GRU(3, 5)), torch.randn(4, 2, 3)), "TorchScript"),
    "empty batch": (one(lambda m, x: m.layer(x)[0], torch.randn(0, 4, 3)), "at least one row and one step"),
    "random operator": (one(lambda m, x: m.layer(x)[0] + torch.rand_like(x[..., :1])), "not a function of its inputs"),
    "unsigned bytes": (
        one(lambda m, x: m.layer(x.float())[0], torch.ones(2, 4, 3, dtype=torch.uint8)),
        "x is torch.uint8; an artifact takes",
    ),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    (module, example), reason = REFUSED[name]
    if name == "scripted":
        module = torch.jit.script(module)
    with pytest.raises(rnnx.ExportError, match=reason):
        rnnx.export(module, example, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def uses_state(m, x, h):
    y, n = m.layer(x, h)
    return torch.sigmoid(m.head(h[-1]))[:, None] * m.head(y), n


def changes_its_input(m, x):
    x.mul_(2).clamp_(-1, 1)
    return m.layer(x)[0]


def step_wise_mask(m, x, h):
    return m.layer(x * h[..., None])[0]


EXPORTED = {
    "the state is used elsewhere too, so that it cannot be stepped": two(uses_state, zeros()),
    "forward changes its input": one(changes_its_input),
    "example batch of one": two(lambda m, x, h: m.layer(x, h), torch.randn(1, 1, 5), torch.randn(1, 4, 3)),
    "same zeros for h and c": ((lambda z: two(lambda m, x, h: m.layer(x, h), (z, z), kind=nn.LSTM))(zeros())),
    "baked batch that the grid lacks": one(lambda m, x: m.layer(x, m.baked)[0], torch.randn(3, 4, 3)),
    "final state as an output": one(lambda m, x: (lambda y, n: {"seq": y, "emb": n[-1]})(*m.layer(x))),
    "final state as the only output": one(lambda m, x: m.layer(x)[1][-1]),
    "tags beside logits": one(lambda m, x: (lambda y: (y, y.argmax(-1)))(m.head(m.layer(x)[0]))),
    "truth values": one(lambda m, x: m.head(m.layer(x)[0]) > 0),
    "tiny outputs, flattened": one(lambda m, x: (1e-6 * m.head(m.layer(x)[0])).transpose(0, 1).reshape(-1, 4)),
    "tokens of another type": one(
        lambda m, x: m.layer(m.emb(x.long()))[0], torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.int32)
    ),
    "tokens by keyword": one(lambda m, x: m.layer(m.emb(input=x))[0], torch.tensor([[1, 2, 3], [4, 5, 6]])),
    "bool mask per step": two(step_wise_mask, torch.tensor([[True, False, True, True], [True, True, False, True]])),
    "masked logits": one(lambda m, x: m.head(m.layer(x)[0]) + torch.tensor([0, 0, 0, -math.inf])),
    "large values": one(lambda m, x: m.layer(x)[0], torch.randn(2, 4, 3) * 100),
    "views of the length": one(
        lambda m, x: m.layer(x)[0] * torch.arange(x.shape[1]).float()[None, :, None].div(1000).clamp(max=0)
    ),
}


@pytest.mark.parametrize("name", EXPORTED)
def test_exported(name, tmp_path):
    module, example = EXPORTED[name]
    before = [t.clone() for t in (example if isinstance(example, tuple) else (example,)) if isinstance(t, Tensor)]
    done = rnnx.export(module, example, tmp_path / "model.onnx")
    assert done.parity.passed
    assert all(isinstance(s.init, rnnx_zeros) or "baked" in name for s in done.manifest.states)
    after = [t for t in (example if isinstance(example, tuple) else (example,)) if isinstance(t, Tensor)]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


from rnnx_runtime.artifact import Zeros as rnnx_zeros  # noqa: E402, N813

ONCE_PER_CALL = {
    "state changed on its way out": two(lambda m, x, h: (lambda y, n: (y, n * 0.5))(*m.layer(x, h)), zeros()),
    "one state for two layers": two(lambda m, x, h: m.other(m.layer(x, h)[0], h), zeros()),
    "half of a state": two(
        lambda m, x, h: (lambda y, n: (y, n[0]))(*m.layer(x, (h, torch.zeros_like(h)))), zeros(), kind=nn.LSTM
    ),
    "cell beside the layer": two(own_cell, zeros(2, 5)),
    "average carried by hand": two(lambda m, x, h: (m.layer(x)[0], h * 0.9 + x.mean(dim=(1, 2))[:, None]), zeros(2, 5)),
}


@pytest.mark.parametrize("name", ONCE_PER_CALL)
def test_what_is_done_once_per_call_stays_so(name, tmp_path):
    """A call of the artifact is a call of the module, whose owner hands its state over; how he cuts a sequence matters."""
    module, (x, h) = ONCE_PER_CALL[name]
    done = rnnx.export(module, (x, h), tmp_path / "model.onnx")
    assert done.manifest.chunks_matter_because
    assert "h" in [spec.name for spec in done.manifest.states]
    model = load(done.path)
    state = model.initial_state(2)
    with torch.no_grad():
        for chunk in torch.randn(3, 2, 4, 3):
            expected, h = module(chunk, h)
            answer, state = model.run(chunk.numpy(), state)
            np.testing.assert_allclose(answer, expected.numpy(), atol=1e-5)
            np.testing.assert_allclose(state["h"], h.numpy(), atol=1e-5)


def test_tiny_flattened_outputs_have_the_right_order(tmp_path):
    module, x = EXPORTED["tiny outputs, flattened"]
    done = rnnx.export(module, x, tmp_path / "model.onnx")
    assert done.manifest.outputs[0].shape == ("seq_len*batch", 4)


def test_a_window_over_the_last_steps_is_refused(tmp_path):
    module, x = one(lambda m, x: m.head(m.layer(x[:, -20:])[0][:, -1]))
    with pytest.raises(rnnx.ExportError, match="does one thing where -seq_len > -20"):
        rnnx.export(module, x, tmp_path / "model.onnx")


def test_tokens_of_every_spelling_get_their_vocabulary(tmp_path):
    for name in ("tokens of another type", "tokens by keyword"):
        module, x = EXPORTED[name]
        done = rnnx.export(module, x, tmp_path / "model.onnx")
        assert done.manifest.inputs[0].vocabulary_size == 7
        with pytest.raises(ValueError, match="token -1 is outside the vocabulary"):
            load(done.path).run([[-1]])


def test_the_final_state_is_an_output_only_where_it_is_asked_for(tmp_path):
    module, x = EXPORTED["final state as an output"]
    done = rnnx.export(module, x, tmp_path / "model.onnx")
    assert {spec.name: spec.shape for spec in done.manifest.outputs} == {
        "output.seq": ("batch", "seq_len", 5),
        "output.emb": ("batch", 5),
    }


def test_a_caller_who_hands_the_state_over_is_followed(tmp_path):
    module, example = two(lambda m, x, h: m.layer(x, h), zeros(), num_layers=1)
    done = rnnx.export(module, example, tmp_path / "model.onnx")
    assert "protocol" in {row.check for row in done.parity.rows()}


def test_weights_in_the_place_of_torchscript_are_not_replaced(tmp_path):
    module, x = one(lambda m, x: m.layer(x)[0])
    torch.save(module.layer.state_dict(), tmp_path / "model.pt")
    before = (tmp_path / "model.pt").read_bytes()
    with pytest.raises(rnnx.ExportError, match=r"model.pt would be replaced by TorchScript, but it is not an export of rnnx"):
        rnnx.export(module, x, tmp_path / "model.onnx")
    assert (tmp_path / "model.pt").read_bytes() == before


def test_torchscript_of_an_export_before_does_not_stay_beside_another_model(tmp_path, monkeypatch):
    module, x = one(lambda m, x: m.layer(x)[0])
    assert rnnx.export(module, x, tmp_path / "model.onnx").torchscript.exists()
    monkeypatch.setattr(torch.jit, "trace", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("no more")))
    assert rnnx.export(module, x, tmp_path / "model.onnx").torchscript is None
    assert not (tmp_path / "model.pt").exists()


def test_torchscript_names_no_path(tmp_path):
    module, x = one(lambda m, x: m.layer(x)[0])
    script = rnnx.export(module, x, tmp_path / "model.onnx").torchscript.read_bytes()
    assert b"/home" not in script
    assert b"site-packages" not in script
    assert str(Path(__file__).parent).encode() not in script


def test_nothing_reaches_the_terminal(tmp_path, capfd):
    module, x = one(lambda m, x: m.layer(x)[0] if x.abs().max() > -1 else m.layer(x)[0] * 2)
    with pytest.raises(rnnx.ExportError, match="torch cannot trace One"):
        rnnx.export(module, x, tmp_path / "model.onnx")
    module, x = one(lambda m, x: m.layer(x)[0])
    rnnx.export(module, x, tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")


def test_a_module_that_training_left_tensors_on_is_copied(tmp_path):
    module, x = one(lambda m, x: m.layer(x)[0])
    module.left = module.head(torch.ones(5)) * 2
    before = module.left
    rnnx.export(module, x, tmp_path / "model.onnx")
    assert module.left is before


def test_a_train_method_that_returns_nothing(tmp_path):
    module, x = one(lambda m, x: m.layer(x)[0])
    type(module).train = lambda self, mode=True: nn.Module.train(self, mode) and None
    rnnx.export(module, x, tmp_path / "model.onnx")


def test_a_long_example_takes_no_more_than_the_grid(tmp_path):
    module, x = one(lambda m, x: m.layer(x)[0], torch.randn(1, 5000, 3))
    done = rnnx.export(module, x, tmp_path / "model.onnx")
    assert max(case.steps for case in done.parity.cases if case.check not in ("untouched", "long")) <= 300
    assert np.isfinite(done.parity.summary().outputs)
