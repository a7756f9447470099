"""`rnnx.quantize`: what becomes of an artifact in fewer bits, and what is promised of it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import rnnx
from rnnx import QuantizeError
from rnnx._cli import main
from rnnx._quantize.editor import graphs_of
from rnnx._quantize.halves import CONVERTER
from rnnx._quantize.packing import pack, unpack
from rnnx_runtime import load, selftest
from rnnx_runtime.artifact import CharCodec, open_artifact

converts = pytest.mark.skipif(
    tuple(map(int, onnxruntime.__version__.split(".")[:2])) < CONVERTER, reason="this ONNX Runtime makes no float16"
)

VOCABULARY = "abcdefghijklmnopqrstuvwxyz .,!"


class Speller(nn.Module):
    """Tokens `(B, T)` → logits `(B, T, V)`; recurrent layers of any kind in between."""

    def __init__(self, layer=nn.LSTM, hidden=48, layers=2, **given):
        super().__init__()
        self.emb = nn.Embedding(len(VOCABULARY), 24)
        self.rnn = layer(24, hidden, layers, batch_first=True, **given)
        self.fc = nn.Linear(hidden * (2 if given.get("bidirectional") else 1), len(VOCABULARY))

    def forward(self, tokens):
        return self.fc(self.rnn(self.emb(tokens))[0])


class Looped(nn.Module):
    """Values `(B, T, 6)` → `(B, T, 3)`: a cell of one's own, in a Python loop."""

    def __init__(self):
        super().__init__()
        self.inner, self.across, self.out = nn.Linear(6, 40), nn.Linear(40, 40), nn.Linear(40, 3)

    def forward(self, x):
        h, answers = torch.zeros(x.size(0), 40), []
        for t in range(x.size(1)):
            h = torch.tanh(self.inner(x[:, t]) + self.across(h))
            answers.append(self.out(h))
        return torch.stack(answers, 1)


class Stacked(nn.Module):
    """Values `(T, B, 9)` → `(T, B, 4)`, time-major, from a start that it learned."""

    def __init__(self):
        super().__init__()
        self.start = nn.Parameter(torch.randn(1, 1, 33))
        self.gru, self.fc = nn.GRU(9, 33), nn.Linear(33, 4)

    def forward(self, x):
        return self.fc(self.gru(x, self.start.expand(-1, x.size(1), -1).contiguous())[0])


TOKENS = torch.arange(2 * 5).view(2, 5)
MODELS = {
    "lstm": (Speller, (TOKENS,)),
    "gru": (lambda: Speller(nn.GRU), (TOKENS,)),
    "rnn": (lambda: Speller(nn.RNN, 33, 1), (TOKENS,)),
    "both ways": (lambda: Speller(nn.LSTM, 20, 1, bidirectional=True), (TOKENS,)),
    "looped": (Looped, (torch.randn(2, 5, 6),)),
    "stacked": (Stacked, (torch.randn(5, 2, 9),)),
}


@pytest.fixture(scope="module", autouse=True)
def hurried():
    """No test is about how fast it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rnnx._quantize.quantisation._SECONDS", 0.02)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the float artifacts are."""
    path = tmp_path_factory.mktemp("float")
    for name, (make, example) in MODELS.items():
        torch.manual_seed(0)
        codec = CharCodec(vocabulary=VOCABULARY) if example[0] is TOKENS else None
        rnnx.export(make().eval(), example, path / f"{name}.onnx", codec=codec, proof="quick", name=name)
    return path


@pytest.fixture(scope="module")
def quantised(folder, tmp_path_factory):
    """Artifacts in fewer bits, made once for each asking."""
    made, path = {}, tmp_path_factory.mktemp("few")

    def get(name, **given):
        key = (name, *sorted(given.items()))
        if key not in made:
            target = path / f"{len(made)}.onnx"
            made[key] = rnnx.quantize(folder / f"{name}.onnx", target, allow_loss=True, **given)
        return made[key]

    return get


def proto(path):
    return onnx.load_model_from_string(Path(path).read_bytes())


def inputs(model, batch, steps, seed=0):
    random, spec = np.random.default_rng(seed), model.manifest.inputs[0]
    if spec.vocabulary_size is not None:
        return random.integers(spec.vocabulary_size, size=(batch, steps))
    return random.standard_normal((batch, steps, spec.shape[-1])).astype(np.float32)


def same(one, other):
    return np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", MODELS)
def test_the_contract_stays_and_the_answers_are_near(folder, quantised, name, bits):
    done = quantised(name, bits=bits)
    before, after = load(folder / f"{name}.onnx"), load(done.path)
    for what in ("inputs", "outputs", "states", "codec", "streamable", "name", "provenance"):
        assert getattr(before.manifest, what) == getattr(after.manifest, what)
    chunk = inputs(before, 3, 20)
    wanted, found = before.run(chunk)[0], after.run(chunk)[0]
    assert 0 < np.sqrt(np.square(found - wanted).mean()) < (0.02 if bits == 8 else 0.2) * wanted.std()


@pytest.mark.parametrize("name", MODELS)
def test_no_large_weight_is_left_and_none_lies_in_a_body(quantised, name):
    done = quantised(name, bits=8)
    graph = proto(done.path).graph
    assert not done.quantisation.left
    assert not [
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type == 1 and len(tensor.dims) > 1 and np.prod(tensor.dims) > 1000
    ]
    bodies = list(graphs_of(graph))[1:]
    assert all(not body.initializer for body in bodies)
    assert {node.op_type for inner in graphs_of(graph) for node in inner.node}.isdisjoint(
        ["LSTM", "GRU", "RNN", "Gemm", "MatMul"]
    )


def test_what_the_inputs_give_is_one_product_in_front_of_the_scan(quantised):
    graph = proto(quantised("lstm", bits=8).path).graph
    outside = [node.op_type for node in graph.node]
    assert outside.count("Scan") == 2
    assert outside.count("MatMulNBits") == 3  # of the inputs of both layers, and the head
    for body in list(graphs_of(graph))[1:]:
        operators = [node.op_type for node in body.node]
        assert operators.count("MatMulNBits") == 1
        assert len(operators) == 13


@pytest.mark.parametrize(("bits", "block"), [(8, 32), (4, 16)])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "both ways"])
def test_a_stream_answers_the_same_bits_alone_in_a_batch_in_a_pool_and_however_it_is_cut(quantised, name, bits, block):
    model = load(quantised(name, bits=bits, block=block).path)
    rows, steps = 5, 9
    chunk = inputs(model, rows, steps)
    chunk[0] *= 7 if chunk.dtype.kind == "f" else 1  # a loud neighbour
    together, ended = model.run(chunk)
    streams = [model.stream() for _ in range(rows)]
    alone = [stream.feed(chunk[row : row + 1]) for row, stream in enumerate(streams)]
    assert same(np.concatenate(alone), together)
    for state in ended:
        axis = next(spec.batch_axis for spec in model.manifest.states if spec.name == state)
        assert same(np.concatenate([stream.state[state] for stream in streams], axis), ended[state])
    batched = model.stream(rows)
    single = [batched.step(chunk[:, step]) for step in range(steps)]
    assert same(np.stack(single, 1), together)
    pool = model.pool()
    for row in range(rows):
        pool.join(row)
    for step in range(steps):
        answers = pool.step({row: chunk[row, step] for row in range(rows) if row != 3 or step % 2 == 0})
        assert all(same(answers[row], together[row, step]) for row in answers if row != 3)


def test_the_result_says_that_rows_and_ways_give_the_same_bits(quantised):
    done = quantised("lstm", bits=8)
    assert (done.comparison.rows, done.comparison.ways) == (0, 0)
    assert "a row among others and alone give the same bits" in str(done)


def test_the_weights_in_the_file_are_those_that_were_packed(folder, quantised):
    before, after = proto(folder / "lstm.onnx"), proto(quantised("lstm", bits=4).path)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in after.graph.initializer}
    node = next(node for node in after.graph.node if node.op_type == "MatMulNBits" and node.output[0] == "output")
    head = next(node for node in before.graph.node if node.op_type == "MatMul")
    weight = next(onnx.numpy_helper.to_array(t) for t in before.graph.initializer if t.name == head.input[1])
    packed = pack(np.ascontiguousarray(weight.T), 4, 32)
    assert same(stored[node.input[1]], packed.codes)
    assert same(stored[node.input[2]], packed.scales)
    assert np.abs(unpack(packed) - weight.T).max() < np.abs(weight).max() / 7


@pytest.mark.parametrize("given", [{"bits": 8}, {"bits": 4}, {"fp16": True}])
def test_the_golden_trace_is_its_own_and_a_device_can_test_itself(quantised, given):
    done = quantised("lstm", **given)
    found = selftest(done.path)
    assert found.verdict == "bit-exact"
    assert found.tolerance == (5e-2 if "fp16" in given else 2e-1)
    assert {one.way for one in found.differences} == {"whole", "chunks", "steps"}


def test_the_selftest_of_a_graph_that_is_wired_wrongly_is_broken(quantised):
    from rnnx_runtime.artifact import seal

    model = proto(quantised("lstm", bits=8).path)
    scan = next(node for node in model.graph.node if node.op_type == "Scan")
    body = next(attribute.g for attribute in scan.attribute if attribute.name == "body")
    sigmoids = [node for node in body.node if node.op_type == "Sigmoid"]
    sigmoids[0].input[0], sigmoids[2].input[0] = sigmoids[2].input[0], sigmoids[0].input[0]  # gates i and f
    for tensor in model.graph.initializer:
        if tensor.data_type == 1 and tensor.name.endswith("scales") and "MatMul" in tensor.name:
            tensor.CopyFrom(onnx.numpy_helper.from_array(30 * onnx.numpy_helper.to_array(tensor), tensor.name))
    del model.metadata_props[-1]
    assert selftest(seal(model.SerializeToString())).verdict == "broken"


def test_the_manifest_claims_no_proof_that_is_another_ones(folder, quantised):
    source, done = open_artifact(folder / "lstm.onnx"), quantised("lstm", bits=8)
    said = open_artifact(done.path).manifest
    assert source.manifest.parity is not None
    assert said.parity is None
    assert said.precision == "int8"
    assert (said.lowering, said.lowering_because) == (
        "scan",
        "recurrent layers with weights of few bits; ONNX has no operator for them",
    )
    found = said.quantisation
    assert (found.bits, found.block, found.source_sha256, found.source_proven) == (8, 32, source.digest, True)
    assert found.source_bytes == len(source.data) > done.size
    assert found.unit == "bits per symbol"
    assert found.loss_after == pytest.approx(found.loss_before * (1 + found.rise))
    assert 0 < found.one_step < 0.1
    assert 0 < found.drift < 0.05
    assert found.drift_steps == 1000
    assert 0.9 < found.agreement <= 1
    assert sum(one.bytes_after for one in found.weights) < 0.4 * sum(one.bytes_before for one in found.weights)


def test_what_a_model_writes_itself_has_its_entropy_as_loss_before(folder, quantised):
    done = quantised("lstm", bits=4)
    model = load(folder / "lstm.onnx")
    text = "a" + "".join(model.stream().generate("a", 4000, temperature=1.0, seed=0))
    assert done.quantisation.loss_before == pytest.approx(model.score(text), abs=1e-6)
    assert done.quantisation.loss_after == pytest.approx(load(done.path).score(text), abs=1e-6)
    assert done.quantisation.data == "4000 symbols that the float artifact wrote itself, seed 0"


def test_the_loss_on_a_text_is_the_score_of_both(folder, tmp_path):
    text = "the quick brown fox jumps over the lazy dog. " * 12
    (tmp_path / "held.txt").write_text(text)
    done = rnnx.quantize(folder / "gru.onnx", tmp_path / "few.onnx", bits=8, data=tmp_path / "held.txt")
    assert done.quantisation.loss_before == pytest.approx(load(folder / "gru.onnx").score(text), abs=1e-6)
    assert done.quantisation.loss_after == pytest.approx(load(done.path).score(text), abs=1e-6)
    assert done.quantisation.data == f"the {len(text)} symbols of held.txt"


def test_values_are_judged_by_targets_where_there_are_some(folder, tmp_path):
    model = load(folder / "looped.onnx")
    x = inputs(model, 2, 50)
    answer = model.run(x)[0]
    target = answer + 0.3 * np.random.default_rng(1).standard_normal(answer.shape)
    np.savez(tmp_path / "data.npz", x=x, output=target)
    done = rnnx.quantize(folder / "looped.onnx", tmp_path / "few.onnx", data=tmp_path / "data.npz")
    found = load(done.path).run(x)[0]
    assert done.quantisation.unit == "RMSE"
    assert done.quantisation.loss_before == pytest.approx(np.sqrt(np.square(answer - target).mean()))
    assert done.quantisation.loss_after == pytest.approx(np.sqrt(np.square(found - target).mean()))
    np.save(tmp_path / "x.npy", x)
    alone = rnnx.quantize(folder / "looped.onnx", tmp_path / "few.onnx", data=tmp_path / "x.npy").quantisation
    assert alone.unit == "RMSE over spread"
    assert alone.loss_after == pytest.approx(np.sqrt(np.square(found - answer).mean()) / answer.std(), rel=1e-4)


def test_what_becomes_too_much_worse_is_not_written_unless_that_is_allowed(folder, tmp_path):
    target = tmp_path / "few.onnx"
    with pytest.raises(
        QuantizeError, match="becomes worse than is allowed.*5% is the limit; nothing was written: take --bits 8"
    ):
        rnnx.quantize(folder / "stacked.onnx", target, bits=4)
    assert not list(tmp_path.iterdir())
    done = rnnx.quantize(folder / "stacked.onnx", target, bits=4, allow_loss=True)
    assert done.quantisation.rise > done.quantisation.limit == 0.05
    assert target.is_file()


def test_the_same_artifact_gives_the_same_bytes(folder, quantised, tmp_path):
    done = quantised("gru", bits=8)
    again = rnnx.quantize(folder / "gru.onnx", tmp_path / "again.onnx", bits=8)
    assert again.digest == done.digest


def test_an_older_onnxruntime_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(onnxruntime, "__version__", "1.30.0")
    with pytest.raises(QuantizeError, match=r" gets float16 by onnxruntime 1\.31 or later, here is 1\.30\.0: upgrade it, or "):
        rnnx.quantize(folder / "both ways.onnx", tmp_path / "half.onnx", fp16=True)
    assert not (tmp_path / "half.onnx").exists()


@converts
def test_float16_has_float32_at_its_borders_and_halves_the_file(folder, quantised):
    for name in ("lstm", "gru", "looped", "stacked", "both ways"):
        done = quantised(name, fp16=True)
        before, after = load(folder / f"{name}.onnx"), load(done.path)
        assert after.manifest.states == before.manifest.states
        assert after.manifest.outputs == before.manifest.outputs
        chunk = inputs(before, 2, 12)
        assert 0 < np.abs(after.run(chunk)[0] - before.run(chunk)[0]).max() < 5e-3
        assert {tensor.data_type for tensor in proto(done.path).graph.initializer if tensor.data_type in (1, 10)} == {10}
    assert done.quantisation.block is None


@converts
def test_any_program_can_load_what_is_in_float16(quantised):
    """ONNX Runtime ends the process at some graphs in float16; here no option of the runtime's is set."""
    code = "import sys, onnxruntime\nfor path in sys.argv[1:]: onnxruntime.InferenceSession(path)\nprint('loaded')"
    paths = [str(quantised(name, fp16=True).path) for name in MODELS]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "loaded\n"), done.stderr


def test_a_weight_beyond_a_float16_is_refused(tmp_path):
    module = Looped()
    with torch.no_grad():
        module.out.weight[0, 0] = 1e5
    rnnx.export(module, (torch.randn(2, 5, 6),), tmp_path / "m.onnx", proof="quick", allow_mismatch=True)
    with pytest.raises(QuantizeError, match="has the value 100000; a float16 holds 65504 at most"):
        rnnx.quantize(tmp_path / "m.onnx", fp16=True)


def test_both_are_timed_and_what_is_slower_is_said_to_be(quantised):
    done = quantised("lstm", bits=8)
    assert [one.steps for one in done.speed] == [1, 64]
    assert all(one.before.median > 0 < one.after.median for one in done.speed)
    assert [one.steps for one in quantised("both ways", bits=8).speed] == [64]
    said = str(done)
    assert done.slower == ("keep the float artifact where speed counts" in said.replace("\n             ", " "))


@pytest.mark.parametrize("given", [{"bits": 8}, {"bits": 4}, {"fp16": True}])
@pytest.mark.parametrize("name", ["lstm", "gru", "looped"])
def test_it_can_be_verified_with_its_module_within_what_its_precision_states(quantised, name, given):
    make, example = MODELS[name]
    torch.manual_seed(0)
    found = rnnx.verify(quantised(name, **given).path, make().eval(), example, proof="quick")
    assert found.passed, str(found)
    assert found.same_weights
    with torch.no_grad():
        torch.manual_seed(0)
        wrong = make().eval()
        for parameter in wrong.parameters():
            parameter.copy_(parameter.flip(0))
    assert not rnnx.verify(quantised(name, **given).path, wrong, example, proof="quick").passed


def test_it_can_be_verified_by_itself(quantised):
    found = rnnx.verify(quantised("lstm", bits=8).path)
    assert found.passed
    assert max(row.outputs for row in found.parity.rows()) == 0


@pytest.mark.parametrize("given", [{"bits": 8}, {"bits": 4}])
@pytest.mark.parametrize("name", MODELS)
def test_the_linter_finds_nothing(quantised, name, given):
    assert not rnnx.lint(quantised(name, **given).path).findings


def test_the_difference_to_the_float_artifact_is_told(folder, quantised):
    found = rnnx.diff(folder / "lstm.onnx", quantised("lstm", bits=8).path)
    assert not found.same
    assert "float32 → int8" in str(found)
    assert rnnx.diff(quantised("lstm", bits=8).path, quantised("lstm", bits=8).path).same


def test_the_command_says_what_was_done_and_inspect_says_it_again(folder, tmp_path):
    shutil.copy(folder / "lstm.onnx", tmp_path / "model.onnx")
    done = CliRunner().invoke(main, ["quantize", str(tmp_path / "model.onnx"), "--allow-loss"])
    assert done.exit_code == 0, done.output
    made = tmp_path / "model.int8.onnx"
    assert done.output.startswith(f"{made}: lstm, int8, blocks of 32, made of {tmp_path / 'model.onnx'}")
    for label in ("weights", "size", "speed", "data", "loss", "one step", "drift", "agreement", "rows"):
        assert f"\n  {label:<11}" in done.output
    shown = CliRunner().invoke(main, ["inspect", str(made)]).output
    assert "quantised  int8 in blocks of 32: 6 weights" in shown
    assert "parity     none of its own: made of the artifact with sha256" in shown
    as_json = CliRunner().invoke(main, ["quantize", str(tmp_path / "model.onnx"), "--bits", "4", "--allow-loss", "--json"])
    said = json.loads(as_json.output)
    assert said["manifest"]["quantisation"]["bits"] == 4
    assert [one["steps"] for one in said["speed"]] == [1, 64]
    assert said["rows_apart"] == said["ways_apart"] == 0


def test_it_needs_no_torch(folder, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import rnnx\n"
        f"done = rnnx.quantize({str(folder / 'gru.onnx')!r}, {str(tmp_path / 'few.onnx')!r}, bits=8, allow_loss=True)\n"
        "assert done.size"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
