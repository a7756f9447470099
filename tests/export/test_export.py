"""The whole path, for every layer, number of layers, layout and style of state that the foundation supports."""

import copy
import itertools
import json
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tests.export.modules import LAYERS, CharRnn, Explicit, Hidden, example

import rnnx
from rnnx_runtime import load
from rnnx_runtime.artifact import MANIFEST_KEY, CharCodec, open_artifact

OPTIONS = [
    {"num_layers": layers, "batch_first": batch_first, "bias": bias}
    for layers, batch_first, bias in itertools.product((1, 2), (False, True), (False, True))
]


def option_name(options):
    words = [f"{options['num_layers']}layers", "batch_first" * options["batch_first"], "no_bias" * (not options["bias"])]
    return "-".join(filter(None, words))


@pytest.mark.parametrize("options", OPTIONS, ids=option_name)
@pytest.mark.parametrize("kind", LAYERS)
def test_every_layer_is_exported_with_dynamic_axes_and_proven(kind, options, tmp_path):
    # The two styles of state alternate over the options, so that each meets each layer and layout.
    style = Hidden if OPTIONS.index(options) % 2 else Explicit
    module = style(kind, **options).train()
    before = copy.deepcopy(module.state_dict())

    done = rnnx.export(module, example(module), tmp_path / "model.onnx")

    assert done.parity.passed
    checks = {"untouched", "whole", "one step", "visited", "chunks", "steps", "equal", "long"}
    checks |= {f"torchscript {check}" for check in ("whole", "one step", "chunks")}
    checks |= {"protocol"} if style is Explicit else set()
    checks |= {"reference"} if kind != "rnn_relu" else set()  # which the evaluator does not know
    assert {row.check for row in done.parity.rows()} == checks
    assert done.parity.trajectory.steps == 10_000
    assert done.manifest.streamable
    assert module.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    operator = "RNN" if kind.startswith("rnn") else kind.upper()
    assert done.operators.count(operator) == options["num_layers"]

    # Plain ONNX tools take it, and its axes are symbolic.
    model = onnx.load(done.path)
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in model.graph.input
    }
    assert shapes["x"] == (["batch", "seq_len", 3] if options["batch_first"] else ["seq_len", "batch", 3])
    assert all(shape == [1, "batch", 5] for name, shape in shapes.items() if name != "x")

    # Plain ONNX Runtime gives what the eager module gives, at a size that the export never saw.
    module.eval()
    module.batch = 3
    arguments = example(module, batch=3, steps=6)
    with torch.no_grad():
        returned = module(*arguments)
    expected = returned if isinstance(module, Hidden) else returned[0]
    session = onnxruntime.InferenceSession(done.path, providers=["CPUExecutionProvider"])
    feeds = {spec.input: spec.initial(3) for spec in done.manifest.states} | {"x": arguments[0].numpy()}
    found = session.run([done.manifest.outputs[0].name], feeds)[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_the_char_rnn_keeps_each_recurrence_one_node_and_answers_batch_first(tmp_path):
    done = rnnx.export(CharRnn(), torch.tensor([[1, 0, 2, 2, 3]]), tmp_path / "model.onnx", codec=CharCodec(vocabulary="ehlo"))

    assert done.operators == (
        *("Gather", "Transpose", "RNN", "Squeeze", "RNN", "Squeeze", "Transpose", "MatMul", "Add", "Reshape"),
    )
    output = onnx.load(done.path).graph.output[0].type.tensor_type.shape.dim
    assert {*output[0].dim_param.split("*")} == {"batch", "seq_len"}
    assert done.manifest.outputs[0].shape == ("batch*seq_len", 4)
    assert done.manifest.inputs[0].vocabulary_size == 4
    assert load(done.path).run(np.zeros((3, 7), np.int64))[0].shape == (3, 7, 4)


def test_stepping_gives_the_logits_of_the_whole_text(tmp_path):
    done = rnnx.export(CharRnn(), torch.tensor([[1, 0, 2, 2, 3]]), tmp_path / "model.onnx", codec=CharCodec(vocabulary="ehlo"))
    model = load(done.path)
    tokens = model.encode("hello")
    whole, _ = model.run(tokens[None])
    stream = model.stream()
    steps = np.stack([stream.step([token]) for token in tokens], axis=1)
    np.testing.assert_allclose(steps, whole, atol=1e-6)


def test_an_export_is_the_same_bytes_twice_and_names_no_path(tmp_path):
    module = Explicit("lstm", num_layers=2, batch_first=True)
    arguments = example(module)
    rnnx.export(module, arguments, tmp_path / "a.onnx")
    rnnx.export(module, arguments, tmp_path / "b.onnx")
    first = (tmp_path / "a.onnx").read_bytes()
    assert first == (tmp_path / "b.onnx").read_bytes()
    assert b"/home" not in first
    assert str(tmp_path).encode() not in first
    assert b".py" not in first


def test_torchscript_carries_the_manifest_and_runs_at_any_size(tmp_path):
    module = Explicit("gru", num_layers=2)
    done = rnnx.export(module, example(module), tmp_path / "model.onnx")
    files = {MANIFEST_KEY: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says on every load that TorchScript is deprecated
        script = torch.jit.load(done.torchscript, _extra_files=files)
    assert json.loads(files[MANIFEST_KEY])["name"] == "Explicit"
    x, hidden = example(module.eval(), batch=3, steps=5)
    with torch.no_grad():
        expected, following = module(x, hidden)
        y, *states = script(x, hidden[:1], hidden[1:])
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.cat(states), following)


def test_a_learned_initial_state_becomes_the_artifacts(tmp_path):
    class Learned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = torch.nn.GRU(3, 5, 2)
            self.start = torch.nn.Parameter(torch.randn(2, 1, 5))

        def forward(self, x):
            y, _ = self.gru(x, self.start.expand(-1, x.size(1), -1).contiguous())
            return y

    module = Learned()
    done = rnnx.export(module, torch.randn(4, 2, 3), tmp_path / "model.onnx")
    state = load(done.path).initial_state(3)
    for layer in range(2):
        np.testing.assert_array_equal(state[f"gru.l{layer}.h"], module.start[layer].detach().expand(1, 3, 5).numpy())


def test_an_output_that_looks_ahead_makes_the_artifact_not_streamable(tmp_path):
    class Mean(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = torch.nn.RNN(3, 5, batch_first=True)

        def forward(self, x):
            return self.rnn(x)[0].mean(dim=1)

    done = rnnx.export(Mean(), torch.randn(2, 4, 3), tmp_path / "model.onnx")
    assert not done.manifest.streamable
    with pytest.raises(ValueError, match="cannot be stepped: output depends on more than the state"):
        load(done.path).stream()


def test_the_last_step_alone_is_streamable(tmp_path):
    class Last(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(3, 5)

        def forward(self, x):
            return self.lstm(x)[0][-1]

    done = rnnx.export(Last(), torch.randn(4, 2, 3), tmp_path / "model.onnx")
    assert done.manifest.streamable
    assert done.manifest.outputs[0].shape == ("batch", 5)


@pytest.mark.parametrize("order", ["batch", "time"])
def test_flattened_outputs_are_put_back_in_order(order, tmp_path):
    class Flat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = torch.nn.RNN(3, 5, batch_first=order == "batch")

        def forward(self, x):
            return self.rnn(x)[0].reshape(-1, 5).unsqueeze(0)

    x = torch.randn(2, 4, 3) if order == "batch" else torch.randn(4, 2, 3)
    done = rnnx.export(Flat(), x, tmp_path / "model.onnx")
    assert done.manifest.outputs[0].shape == (1, "batch*seq_len" if order == "batch" else "seq_len*batch", 5)


def test_several_layers_inputs_and_outputs_keep_their_names(tmp_path):
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.slow = torch.nn.GRU(3, 4, batch_first=True)
            self.fast = torch.nn.LSTM(7, 2, batch_first=True)

        def forward(self, left, right):
            a, _ = self.slow(left)
            b, _ = self.fast(torch.cat((a, right), dim=-1))
            return {"a": a, "b": b}

    done = rnnx.export(Two(), {"left": torch.randn(2, 4, 3), "right": torch.randn(2, 4, 3)}, tmp_path / "model.onnx")
    assert [spec.name for spec in done.manifest.inputs] == ["left", "right"]
    assert [spec.name for spec in done.manifest.states] == ["slow.l0.h", "fast.l0.h", "fast.l0.c"]
    assert [spec.name for spec in done.manifest.outputs] == ["output.a", "output.b"]
    answer = load(done.path).stream().step({"left": np.zeros((1, 3)), "right": np.zeros((1, 3))})
    assert {name: array.shape for name, array in answer.items()} == {"output.a": (1, 4), "output.b": (1, 2)}


def test_a_bare_layer_is_a_module_too(tmp_path):
    done = rnnx.export(torch.nn.LSTM(3, 5), torch.randn(4, 2, 3), tmp_path / "model.onnx")
    assert [spec.name for spec in done.manifest.states] == ["l0.h", "l0.c"]


def test_the_report_beside_the_artifact_lists_every_case(tmp_path):
    module = Hidden("gru")
    done = rnnx.export(module, example(module), tmp_path / "model.onnx")
    report = json.loads(done.parity_path.read_bytes())
    assert report["passed"]
    assert sum(case["form"] == "onnx" for case in report["cases"]) == open_artifact(done.path).manifest.parity.cases
    assert {case["form"] for case in report["cases"]} == {"onnx", "torchscript"}
    assert report["trajectory"]["marks"][-1] == 10_000
    assert report["versions"].keys() >= {"torch", "onnxruntime", "numpy"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.parity.json", "model.pt"]


def test_float64_is_kept_where_steps_can_be_taken_and_cast_where_not(tmp_path):
    class Reader(torch.nn.Module):
        def __init__(self, **options):
            super().__init__()
            self.layer = torch.nn.LSTM(3, 5, batch_first=True, **options)

        def forward(self, x):
            return self.layer(x)[0]

    x = torch.randn(2, 4, 3, dtype=torch.float64)
    kept = rnnx.export(Reader().double(), x, tmp_path / "kept.onnx").manifest
    assert (kept.precision, kept.states[0].dtype, kept.outputs[0].dtype) == ("float64", "float64", "float64")
    assert kept.parity.outputs < 1e-14
    cast = rnnx.export(Reader(bidirectional=True).double(), x, tmp_path / "cast.onnx").manifest
    assert (cast.precision, cast.inputs[0].dtype) == ("float32", "float32")
    assert "the answers differ from those in float64 by" in cast.lowering_because
