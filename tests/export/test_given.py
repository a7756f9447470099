"""`rnnx export --module`: anybody's file, weights and inputs, in words."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from torch import nn

from rnnx._cli import main
from rnnx._cli.given import load_weights
from rnnx._errors import ExportError
from rnnx_runtime import load

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, hidden=6):
        super().__init__()
        self.emb = nn.Embedding(9, 4)
        self.w = nn.Linear(4 + hidden, hidden)

    def forward(self, tokens, state):
        state = torch.tanh(self.w(torch.cat((self.emb(tokens), state), 1)))
        return state.flip(-1), state

class Layer(nn.Module):
    def __init__(self, hidden=6):
        super().__init__()
        self.emb = nn.Embedding(9, 4)
        self.gru = nn.GRU(4, hidden)

    def forward(self, tokens):
        return self.gru(self.emb(tokens))[0]

def make(hidden=6):
    return Layer(hidden)

def with_example():
    return Layer(), torch.randint(0, 9, (5, 2))

def nothing():
    return 3

def failing():
    raise KeyError("oh")
"""


@pytest.fixture
def net(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(main, ["export", *arguments])


def weights(hidden=6, seed=3):
    generator = torch.Generator().manual_seed(seed)
    sizes = {"emb.weight": (9, 4), "gru.weight_ih_l0": (3 * hidden, 4), "gru.weight_hh_l0": (3 * hidden, hidden)}
    sizes |= {"gru.bias_ih_l0": (3 * hidden,), "gru.bias_hh_l0": (3 * hidden,)}
    return {name: torch.randn(*size, generator=generator) for name, size in sizes.items()}


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth", "training.pt"])
def test_weights_arguments_and_inputs_in_words(net, name):
    if name == "w.safetensors":
        safetensors.torch.save_file(weights(8), name)
    else:
        torch.save({"state_dict": weights(8), "epoch": 3} if name == "training.pt" else weights(8), name)
    result = run(
        "--module",
        "net.py:make",
        "--checkpoint",
        name,
        "--arg",
        "hidden=8",
        "--example",
        "int64[T=5,B=2] < 9",
        "-o",
        "a/n.onnx",
    )
    assert result.exit_code == 0, result.output
    assert "n.onnx: Layer, proven equal to eager PyTorch" in result.output
    model = load("a/n.onnx")
    assert model.manifest.inputs[0].shape == ("seq_len", "batch")
    module = torch.nn.GRU(4, 8)
    module.load_state_dict({key.removeprefix("gru."): value for key, value in weights(8).items() if key.startswith("gru.")})
    tokens = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        expected = module(weights(8)["emb.weight"][tokens].transpose(0, 1))[0].transpose(0, 1)
    np.testing.assert_allclose(model.run(tokens.numpy())[0], expected.numpy(), atol=1e-5)


def test_a_factory_may_bring_its_example(net):
    assert run("--module", "net.py:with_example").exit_code == 0
    assert load("artifacts/model.onnx").manifest.name == "Layer"


def test_a_class_is_a_factory_and_a_state_can_be_said(net):
    example = ["--example", "int64[B=3] < 9", "--example", "state: float32[B=3,6]"]
    result = run("--module", "net.py:Net", *example)
    assert result.exit_code == 1
    assert "Net takes one step, and which output hands each state back cannot be known; say which" in result.output
    assert "states={'state': 'output.1'}" in result.output
    result = run("--module", "net.py:Net", *example, "--states", "state=output.1", "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert [state["found"] for state in said["manifest"]["states"]] == ["argument state"]
    assert said["manifest"]["inputs"][0]["shape"] == ["batch", "seq_len"]
    assert {row["failed"] for row in said["parity"]} == {0}


def test_axes_can_be_said(net):
    result = run("--module", "net.py:make", "--example", "int64[4,4] < 9", "--axes", "tokens=TB")
    assert result.exit_code == 0, result.output
    assert load("artifacts/model.onnx").manifest.inputs[0].shape == ("seq_len", "batch")


@pytest.mark.parametrize("opset", [18, 21, 23])
def test_the_opset_is_that_asked_for(net, opset):
    import onnx

    result = run("--module", "net.py:with_example", "--opset", str(opset))
    assert result.exit_code == 0, result.output
    assert [o.version for o in onnx.load("artifacts/model.onnx").opset_import if o.domain == ""] == [opset]


def test_another_models_artifact_is_replaced_and_said(net):
    assert run("--module", "net.py:with_example").exit_code == 0
    (net / "other.py").write_text(NET.replace("class Layer", "class Other").replace("Layer(", "Other("))
    result = run("--module", "other.py:with_example")
    assert "artifacts/model.onnx held Layer before; it is replaced" in result.output
    assert "before" not in run("--module", "other.py:with_example").output


BAD = {
    "no file": (["--module", "no.py:make"], "no.py: no such file"),
    "no factory": (["--module", "net.py:no"], "net.py has no function or class 'no'"),
    "no colon": (["--module", "net.py"], "expected a file and a factory in it, such as net.py:make_net; got 'net.py'"),
    "no module": (["--module", "net.py:nothing"], "must return a torch.nn.Module, or (module, example); it returned int"),
    "a factory that fails": (["--module", "net.py:failing"], "failing of net.py failed: KeyError: 'oh'"),
    "a wrong argument": (["--module", "net.py:make", "--arg", "x=1"], "unexpected keyword argument 'x'"),
    "an argument without a name": (["--module", "net.py:make", "--arg", "64"], "as name=value, such as hidden=64; got '64'"),
    "no example": (["--module", "net.py:make"], "describe its inputs, such as --example"),
    "an example of no type": (["--module", "net.py:make", "--example", "int9[2]"], "expected an input such as"),
    "an example of no size": (
        ["--module", "net.py:make", "--example", "int64[B=,T=7] < 9"],
        "'B=' in 'int64[B=,T=7] < 9' is no size",
    ),
    "integers without a limit": (
        ["--module", "net.py:make", "--example", "int64[B=2,T=7]"],
        "integers, and only they, need <",
    ),
    "floats with a limit": (["--module", "net.py:make", "--example", "float32[B=2] < 3"], "integers, and only they, need <"),
    "too many inputs": (["--module", "net.py:make", "--example", "bool[2]", "--example", "bool[2]"], "2 inputs do not fit"),
    "a state of no argument": (
        ["--module", "net.py:with_example", "--states", "h=output"],
        "has no argument 'h'; it has tokens",
    ),
    "a state without an output": (
        ["--module", "net.py:with_example", "--states", "h"],
        "--states: expected name=value, such as",
    ),
    "axes that do not fit": (["--module", "net.py:with_example", "--axes", "tokens=BTF"], "expected 2 letters, B once"),
    "axes of no input": (["--module", "net.py:with_example", "--axes", "x=BT"], "has no 'x'; it has tokens"),
    "an opset of the past": (["--module", "net.py:with_example", "--opset", "9"], "opset must be from 18 to 23, got 9"),
    "a folder": (["--module", "net.py:with_example", "-o", "."], "must end in .onnx"),
    "no checkpoint": (["--module", "net.py:with_example", "--checkpoint", "no.pt"], "no.pt: no checkpoint here"),
    "a checkpoint of another kind": (
        ["--module", "net.py:with_example", "--checkpoint", "net.py"],
        "a checkpoint ends in .safetensors",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(net, name):
    arguments, expected = BAD[name]
    result = run(*arguments)
    assert result.exit_code == 1
    assert expected in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not (net / "artifacts").exists()


def test_model_or_module(net):
    for arguments in ([], ["--model", "gru", "--module", "net.py:make"], ["--model", "gru", "--arg", "a=1"]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "--module" in result.output


BAD_WEIGHTS = {
    "missing and foreign": (
        lambda w: {("x" if n == "emb.weight" else n): t for n, t in w.items()},
        "missing in the file: emb.weight; not in the module: x",
    ),
    "shapes": (
        lambda w: w | {"emb.weight": torch.zeros(3, 4)},
        "of another shape: emb.weight (3, 4), not (9, 4); build the module as it was trained (--arg)",
    ),
    "of DataParallel": (
        lambda w: {f"module.{n}": t for n, t in w.items()},
        "every name begins with 'module.': save model.module.state_dict()",
    ),
    "not finite": (lambda w: w | {"emb.weight": torch.full((9, 4), float("nan"))}, "emb.weight holds NaN or infinity"),
    "sparse": (lambda w: w | {"emb.weight": torch.zeros(9, 4).to_sparse()}, "w.pt: a tensor is not dense"),
    "numbers": (lambda w: {"a": 1}, "holds no state_dict"),
    "another type": (
        lambda w: w | {"emb.weight": torch.zeros(9, 4).double()},
        "emb.weight is float64, and float32 in the module",
    ),
    "complex": (lambda w: w | {"emb.weight": torch.zeros(9, 4) * 1j}, "of a type that is not read (ComplexFloatStorage)"),
    "expanded": (lambda w: w | {"emb.weight": torch.zeros(1).expand(9, 4)}, "overlap or lie apart; save a .clone() of it"),
}


@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_weights_that_do_not_fit_are_refused(net, name):
    change, expected = BAD_WEIGHTS[name]
    torch.save(change(weights()), "w.pt")
    result = run("--module", "net.py:with_example", "--checkpoint", "w.pt")
    assert result.exit_code == 1
    assert expected in result.output
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize("data", [b"", b"no weights", b"PK\x03\x04broken"])
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_files_that_are_none_are_refused(net, name, data):
    (net / name).write_bytes(data)
    result = run("--module", "net.py:with_example", "--checkpoint", name)
    assert result.exit_code == 1
    assert name in result.output
    assert len(result.output.strip().splitlines()) == 1


class RunsCode:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_a_checkpoint_never_runs_code(net):
    torch.save({"w": RunsCode()}, "w.pt")
    result = run("--module", "net.py:with_example", "--checkpoint", "w.pt")
    assert "w.pt: holds more than weights, and reading it would run code; save module.state_dict()" in result.output
    assert not (net / "ran").exists()


def layer():
    return nn.ModuleDict({"emb": nn.Embedding(9, 4), "gru": nn.GRU(4, 6)})


def kept():
    """State dicts as people save them, each of which is read to the same values."""
    flat = torch.cat([tensor.flatten() for tensor in weights().values()])
    parts = flat.split([tensor.numel() for tensor in weights().values()])
    emb = weights()["emb.weight"]
    optimizer = torch.optim.Adam([nn.Parameter(emb.clone())])
    optimizer.param_groups[0]["params"][0].grad = emb
    optimizer.step()
    return {
        "as they are": weights(),
        "views of one tensor": {name: part.view(w.shape) for (name, w), part in zip(weights().items(), parts, strict=True)},
        "in another order of axes": weights() | {"emb.weight": emb.t().contiguous().t()},
        "parameters": {name: nn.Parameter(tensor) for name, tensor in weights().items()},
        "beside an optimiser": {"model_state_dict": weights(), "optimizer": optimizer.state_dict(), "epoch": 2, "name": "n"},
    }


@pytest.mark.parametrize("how", list(kept()))
def test_what_torch_saves_is_read_to_the_same_values(net, how):
    torch.save(kept()[how], "w.pt")
    module = layer()
    load_weights(module, Path("w.pt"))
    assert all(torch.equal(tensor, weights()[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_floats_of_fewer_bits_are_taken(net, dtype):
    torch.save({name: tensor.to(dtype) for name, tensor in weights().items()}, "w.pt")
    module = layer()
    load_weights(module, Path("w.pt"))
    assert all(torch.equal(tensor, weights()[name].to(dtype).float()) for name, tensor in module.state_dict().items())


def test_bytes_that_were_changed_are_noticed_by_their_checksum(net):
    torch.save(weights(), "w.pt")
    data = bytearray((net / "w.pt").read_bytes())
    at = data.index(weights()["emb.weight"].numpy().tobytes())
    data[at] ^= 1
    (net / "w.pt").write_bytes(data)
    with pytest.raises(ExportError, match="w.pt: its weights cannot be read: Bad CRC-32"):
        load_weights(layer(), Path("w.pt"))
