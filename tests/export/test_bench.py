"""`rnnx.bench`: who takes part, what is compared before it is timed, and what stands in the result. Never how long it took."""

import gc
import importlib.util
import json
import os
import re

import numpy as np
import pytest
import torch
from tests.export.modules import Explicit, Hidden, example
from tests.runtime import frames
from tests.runtime.conftest import GOLDEN
from tests.runtime.test_providers import SECOND
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnnx
from rnnx._bench import onnx_peers, openvino_peer, torch_peers
from rnnx._bench.peers import PEERS
from rnnx_runtime import ArtifactNotFoundError, InputError, ProviderError

LSTM = GOLDEN / "lstm.onnx"
TEXT = GOLDEN / "char_rnn.onnx"
SHORT = {"seconds": 0.05, "streams": 8}


class TwoSides(nn.Module):
    """Tokens and values `(B, T)`, `(B, T, 3)` → two answers."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(10, 4)
        self.layer = nn.GRU(7, 6, batch_first=True)
        self.head = nn.Linear(6, 2)

    def forward(self, tokens, x):
        y, _ = self.layer(torch.cat([self.emb(tokens), x], -1))
        return {"y": y, "score": self.head(y)}


class Doubles(nn.Module):
    """In float64."""

    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(3, 4).double()

    def forward(self, x):
        return self.layer(x)[0]


class Packed(nn.Module):
    """Whole sequences with lengths."""

    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.layer(packed)[0], batch_first=True, total_length=x.shape[1])[0]


class Conditioned(nn.Module):
    """The initial state is computed."""

    def __init__(self):
        super().__init__()
        self.start = nn.Linear(5, 4)
        self.layer = nn.GRU(3, 4, batch_first=True)

    def forward(self, image, x):
        return self.layer(x, torch.tanh(self.start(image))[None])[0]


class OneStep(nn.Module):
    """Takes one step; its owner writes the loop."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(3, 4)

    def forward(self, x, h, c):
        h, c = self.cell(x, (h, c))
        return 2 * h, h, c


MODULES = {
    "explicit": lambda: (Explicit("lstm", num_layers=2), example(Explicit("lstm", num_layers=2))),
    "two_sides": lambda: (TwoSides(), (torch.randint(10, (2, 5)), torch.randn(2, 5, 3))),
    "doubles": lambda: (Doubles(), (torch.randn(5, 2, 3, dtype=torch.float64),)),
    "packed": lambda: (Packed(), (torch.randn(3, 5, 3), torch.tensor([5, 3, 2]))),
    "conditioned": lambda: (Conditioned(), (torch.randn(2, 5), torch.randn(2, 4, 3))),
    "one_step": lambda: (OneStep(), (torch.randn(2, 3), torch.zeros(2, 4), torch.zeros(2, 4))),
}


@pytest.fixture(autouse=True)
def cpu_only(request, monkeypatch):
    """Other providers take a second to load; the tests that are about them have them."""
    if "another_provider" not in request.node.name:
        monkeypatch.setattr("rnnx._bench.peers.list_providers", list)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Each module with its example and its artifact, exported when first asked for."""
    folder, made = tmp_path_factory.mktemp("bench"), {}

    def get(name):
        if name not in made:
            torch.manual_seed(0)
            module, given = MODULES[name]()
            made[name] = module, given, rnnx.export(module, given, folder / f"{name}.onnx", proof="quick").path
        return made[name]

    return get


@pytest.fixture(scope="module")
def found():
    """A benchmark of an artifact that writes text."""
    return rnnx.bench(TEXT, against="session.run,binding", **SHORT)


def names(found):
    return [one.name for one in found.contests]


def reasons(found):
    return {one.name: one.because for one in found.skipped}


def test_everything_that_applies_is_measured(found):
    assert names(found)[:3] == ["rnnx", "session.run", "binding"]
    assert (found.batch, found.steps, found.providers, found.threads) == (1, 1, ("cpu",), 1)
    assert found.selftest in ("bit-exact", "within tolerance")
    assert (found.chunk.units, found.generation.units) == (64, 64)
    assert [(row.batch, row.stream.units, row.pool.units) for row in found.streams] == [(1, 1, 1), (8, 8, 8)]
    assert found.best_batch in (1, 8)
    assert sum(found.histogram.counts) + found.histogram.slower == sum(map(len, found.ours.seconds))
    rounds = {len(one.timing.seconds) for one in found.contests} | {len(found.chunk.seconds), len(found.generation.seconds)}
    assert len(rounds) == 1  # by turns, so that ratios are of the same rounds
    assert all(one.timing.median > 0 and one.timing.p99 >= one.timing.median for one in found.contests)


def test_another_provider_of_this_machine_stands_beside_it(found):
    others = {one.provider for one in found.contests if one.provider} | {
        one.name.removeprefix("rnnx on ") for one in found.skipped if one.name.startswith("rnnx on ")
    }
    assert others == set(SECOND)


def test_the_text_has_all_parts(found):
    text = str(found)
    assert text.startswith(f"{TEXT}: CharRnn, ")
    for line in (
        r"  machine    .+, \d+ cores?; timed on core \d+ alone",
        r"  runs on    cpu, 1 thread",
        r"  versions   python 3\S+, rnnx \S+, onnxruntime \S+, numpy \S+",
        r"one step +median +p99   times rnnx",
        r"  rnnx +[\d.,]+ µs +([\d.,]+ µs|–)   1",
        r"  session.run +[\d.,]+ µs +([\d.,]+ µs|–)   \d+\.\d\d \(\d+\.\d\d to \d+\.\d\d\)",
        r"chunk of 64 +[\d.,]+ µs a step, .*step by step",
        r"generation +[\d.,]+ µs a character, [\d,]+ a second, temperature 0.8",
        r"latency of one step, [\d,]+ calls",
        r" +above  .* %, the longest [\d.,]+ µs",
        r"many streams +in lockstep +times one +in a pool +times one",
        r" +8 +[\d,]+ steps/s +[\d.]+ +[\d,]+ steps/s +[\d.]+( +best)?",
        r"advice.*",
    ):
        assert re.search(f"^{line}$", text, re.MULTILINE), line


def test_machines_read_the_same(found):
    said = json.loads(found.to_json())
    assert set(said) == {
        *("path", "sha256", "name", "bytes", "machine", "providers", "threads", "selftest", "spread", "taken", "noisy"),
        *("batch", "steps", "contenders", "skipped", "chunk", "generation", "streams", "no_streams_because", "best_batch"),
        *("thread_counts", "histogram", "advice"),
    }
    assert set(said["contenders"][1]) == {"name", "median_us", "p99_us", "calls", "ratio", "remark"}
    assert set(said["contenders"][1]["ratio"]) == {"median", "low", "high"}
    assert said["contenders"][0]["ratio"] == {"median": 1, "low": 1, "high": 1}
    assert said["contenders"][0]["median_us"] == pytest.approx(found.ours.median * 1e6)
    assert said["sha256"] == found.digest
    assert [row["batch"] for row in said["streams"]] == [1, 8]
    assert said["streams"][1]["pool"]["per_second"] == pytest.approx(1 / found.streams[1].pool.median)
    assert len(said["histogram"]["edges_us"]) == len(said["histogram"]["counts"]) + 1
    assert said["chunk"]["steps"] == 64
    assert [set(one) for one in said["advice"]] == [{"rule", "because", "do"}] * len(found.advice)


@pytest.mark.parametrize("name", [name for name in MODULES if name != "conditioned"])
def test_every_peer_answers_as_the_artifact_does(exported, name):
    module, given, path = exported(name)
    done = rnnx.bench(path, against=PEERS, module=module, example=given, **SHORT)
    wanted = set(PEERS) - (set() if importlib.util.find_spec("openvino") else {"openvino"})
    if name in ("packed", "doubles"):  # OpenVINO knows neither lengths nor, inside, float64
        wanted -= {"openvino"}
    assert wanted <= set(names(done)), reasons(done)
    assert done.manifest.streamable == (done.chunk is not None) == bool(done.streams)
    assert json.loads(done.to_json())["steps"] == (64 if name == "packed" else 1)


def test_a_computed_initial_state_is_carried_and_its_module_is_not_timed(exported):
    module, given, path = exported("conditioned")
    done = rnnx.bench(path, against="eager,torchscript,session.run,binding", module=module, example=given, **SHORT)
    assert {"torchscript", "session.run", "binding"} <= set(names(done))
    assert reasons(done)["eager"].startswith("forward computes the initial state anew in every call")
    assert [row.batch for row in done.streams] == [1, 8]


def test_a_module_with_a_baked_batch_is_compared_and_named(tmp_path):
    module = Hidden("gru", batch=2, batch_first=True)
    path = rnnx.export(module, torch.randn(2, 5, 3), tmp_path / "m.onnx", proof="quick").path
    done = rnnx.bench(path, against="eager", module=module, example=torch.randn(2, 5, 3), **SHORT)
    assert reasons(done)["eager"].startswith("forward does not run on a batch of 1: ")


def test_a_step_of_a_module_that_takes_no_state_is_remarked(exported):
    module, given, path = exported("two_sides")
    done = rnnx.bench(path, against="eager", module=module, example=given, **SHORT)
    remarks = {one.name: one.remark for one in done.contests}
    assert remarks["eager"] == "forward takes no state: each of its steps starts anew"
    assert "starts anew" in str(done)


def test_whole_sequences_only_is_said(exported):
    module, given, path = exported("packed")
    text = str(rnnx.bench(path, against="eager", module=module, example=given, **SHORT))
    assert "\n  steps      whole sequences only: layer: a packed batch" in text
    assert re.search(r"^a sequence of 64 steps +median", text, re.MULTILINE)
    assert re.search(r"^that is +[\d.]+ µs a step$", text, re.MULTILINE)
    assert "\nmany streams: not timed: the model cannot be stepped; give whole sequences in a batch to Model.run\n" in text


@pytest.mark.parametrize("style", frames.STYLES)
def test_adopted_graphs_are_measured_as_they_are(tmp_path, style):
    path = tmp_path / "m.onnx"
    path.write_bytes(frames.artifact(style))
    done = rnnx.bench(path, against=["session.run", "binding", "eager"], **SHORT)
    fixed = frames.STYLES[style].fixed_batch
    assert {"rnnx", "session.run", "binding"} <= set(names(done)), reasons(done)
    assert (done.batch, len(done.streams)) == ((1, 2) if fixed is None else (fixed, 0))
    assert fixed is None or done.no_streams_because == (
        f"this graph takes a batch of {fixed} in a call, so that more streams take as many calls"
    )


def no_state(peer, given):
    """One call from the first state, whatever came before."""
    peer.reset()
    return type(peer).__mro__[0].honest(peer, given)


@pytest.mark.parametrize("peer", [onnx_peers.SessionRun, onnx_peers.Binding, torch_peers.TorchScript])
def test_a_peer_that_loses_its_state_is_named_and_not_timed(exported, monkeypatch, peer):
    monkeypatch.setattr(peer, "honest", peer.step, raising=False)
    monkeypatch.setattr(peer, "step", no_state)
    done = rnnx.bench(exported("explicit")[2], against="session.run,binding,torchscript", **SHORT)
    name = {"SessionRun": "session.run", "Binding": "binding", "TorchScript": "torchscript"}[peer.__name__]
    assert name not in names(done)
    assert len(names(done)) >= 3
    assert re.fullmatch(r"it answers something else, off by \d\.\de-0\d, 1e-04 is allowed", reasons(done)[name])
    assert re.search(rf"^  {name} +not timed: it answers something else", str(done), re.MULTILINE)


def test_a_module_with_other_weights_is_named_and_not_timed(exported):
    _, given, path = exported("explicit")
    torch.manual_seed(1)
    done = rnnx.bench(path, against="eager", module=Explicit("lstm", num_layers=2), example=given, **SHORT)
    assert reasons(done)["eager"].startswith("it answers something else, off by ")


@pytest.mark.skipif(not SECOND, reason="this machine has the CPU's provider only")
def test_on_another_provider_the_cpu_is_what_it_is_measured_beside(exported):
    done = rnnx.bench(exported("explicit")[2], against="session.run", providers=SECOND[0], **SHORT)
    assert done.providers == (SECOND[0],)
    assert "rnnx on cpu" in names(done)
    assert reasons(done)["session.run"] == f"it runs on the provider cpu, and this on {SECOND[0]}"


def test_peers_that_cannot_be_had_are_skipped_with_the_remedy(monkeypatch, tmp_path):
    path = tmp_path / "lstm.onnx"
    path.write_bytes(LSTM.read_bytes())
    monkeypatch.setattr(openvino_peer.importlib.util, "find_spec", lambda name: None)
    done = rnnx.bench(path, against=PEERS, **SHORT)
    assert reasons(done) == {
        "eager": "it needs the module: --model NAME or --module FILE.py:FACTORY, module= in Python",
        "torchscript": f"there is no {tmp_path / 'lstm.pt'}; name it with --torchscript FILE, torchscript= in Python",
        "openvino": "the package openvino is not installed: pip install openvino",
    }


def test_torchscript_of_another_artifact_is_skipped(exported):
    other = exported("two_sides")[2].with_suffix(".pt")
    done = rnnx.bench(exported("explicit")[2], against="torchscript", torchscript=other, **SHORT)
    assert reasons(done)["torchscript"] == f"{other} was written beside another artifact; export the model again"


def test_a_package_that_fails_stops_nothing(monkeypatch):
    def fail(self, task, data, threads):
        raise RuntimeError("no such instruction\nand more")

    monkeypatch.setattr(onnx_peers.Binding, "__init__", fail)
    done = rnnx.bench(LSTM, against="binding,session.run", **SHORT)
    assert reasons(done)["binding"] == "it fails: RuntimeError: no such instruction"
    assert "session.run" in names(done)


def test_another_module_than_was_exported_is_an_error(exported):
    module, given, _ = exported("two_sides")
    with pytest.raises(rnnx.ExportError, match="^TwoSides is not what the artifact was exported from: its inputs are tokens"):
        rnnx.bench(exported("explicit")[2], against="eager", module=module, example=given, **SHORT)


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (
            {"against": "session.run,tflite"},
            "unknown peer 'tflite'; known are eager, torchscript, session.run, binding, openvino; ",
        ),
        ({"against": ["Eager"]}, "unknown peer 'Eager'; known are "),
        ({"streams": 0}, "streams must be a whole number from 1 to 65536, got 0"),
        ({"streams": 2.5}, r"streams must be a whole number from 1 to 65536, got 2\.5"),
        ({"seconds": 0}, "seconds must be above 0 and at most 3600, got 0"),
        ({"seconds": float("nan")}, "seconds must be above 0 and at most 3600, got nan"),
        ({"threads": 0}, "threads must be from 1 to 256, got 0"),
        ({"module": nn.LSTM(3, 4)}, "a module is given, but nothing is compared with it; ask for the peer 'eager'"),
        (
            {"torchscript": "m.pt"},
            "a TorchScript file is given, but nothing is compared with it; ask for the peer 'torchscript'",
        ),
    ],
)
def test_bad_arguments_are_refused_with_the_rule(arguments, rule):
    with pytest.raises(InputError, match=f"^{rule}"):
        rnnx.bench(LSTM, **{**SHORT, **arguments})


def test_what_is_no_artifact_is_refused(tmp_path):
    with pytest.raises(ArtifactNotFoundError):
        rnnx.bench(tmp_path / "none.onnx")
    with pytest.raises(ProviderError, match="^unknown provider 'gpu'"):
        rnnx.bench(LSTM, providers="gpu")


def test_numbers_of_streams_that_take_too_long_are_left_out_and_named(monkeypatch):
    monkeypatch.setattr("rnnx._bench.workloads._once", lambda call: 0.5)
    done = rnnx.bench(LSTM, **SHORT)
    assert [row.batch for row in done.streams] == [1]
    assert done.no_streams_because == "8 and more were left out: they need more seconds"
    assert f"\n  {done.no_streams_because}" in str(done)


def test_the_process_is_as_it_was(exported):
    module, given, path = exported("explicit")
    before = os.sched_getaffinity(0), torch.get_num_threads(), torch.is_grad_enabled(), gc.isenabled(), dict(os.environ)
    told = []
    rnnx.bench(
        path,
        against="eager,torchscript,openvino",
        module=module,
        example=given,
        progress=lambda what, share: told.append((what, share)),
        **SHORT,
    )
    after = os.sched_getaffinity(0), torch.get_num_threads(), torch.is_grad_enabled(), gc.isenabled(), dict(os.environ)
    assert after == before
    assert not torch.is_inference_mode_enabled()
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 1
    assert {what for what, _ in told} >= {"one step", "many streams"}


def test_more_threads_are_measured_where_there_are_cores(monkeypatch):
    monkeypatch.setattr("rnnx._bench.measurement.usable_cores", lambda: 2)
    done = rnnx.bench(LSTM, **SHORT)
    assert [row.threads for row in done.thread_counts] == [1, 2]
    assert [(row.batch, row.streams.units, row.chunk.units) for row in done.thread_counts] == [(8, 8, 64)] * 2
    assert re.search(r"^threads +one step +chunk of 64, a step +8 streams, a step$", str(done), re.MULTILINE)
    assert {"threads"} <= {one.rule for one in done.advice}
    monkeypatch.setattr("rnnx._bench.measurement.usable_cores", lambda: 1)
    assert rnnx.bench(LSTM, **SHORT).thread_counts == ()


def test_with_several_threads_nothing_is_kept_on_one_core():
    done = rnnx.bench(LSTM, threads=2, **SHORT)
    assert done.machine.core is None
    assert "; not pinned to a core\n" in str(done)


def test_what_is_given_is_what_the_model_takes():
    from rnnx._bench.samples import Samples, Task
    from rnnx_runtime import load

    for path in GOLDEN.glob("*.onnx"):
        samples = Samples(load(path))
        for batch, steps in ((1, 1), (3, 5)):
            samples.model.run(samples.chunk(batch, steps), samples.state(batch))
        feeds = Task(samples).feeds()
        assert len({b"".join(array.tobytes() for array in one.values()) for one in feeds}) > 1  # not the same over and over
        assert all(np.isfinite(array).all() for one in feeds for array in one.values())
