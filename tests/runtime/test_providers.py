"""Execution providers. What needs a second one runs on each that this machine has, and says so where it has none."""

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as core
from tests.runtime.answers import assert_close, named, sample, stacked
from tests.runtime.conftest import GOLDEN

from rnnx_runtime import ProviderError, State, _session, list_providers, load
from rnnx_runtime._engine import Engine
from rnnx_runtime._golden import TOLERANCE, bindings_hold, golden_difference
from rnnx_runtime._providers import PROVIDERS, Availability, Node, Placement, check_placement, find_provider, parse_providers
from rnnx_runtime._session import Session

REPORTS = list_providers(GOLDEN / "lstm.onnx")
# One that cannot start is not here either: builds for CUDA say that they have it wherever they are installed.
SECOND = [one.name for one in REPORTS if one.name != "cpu" and one.here and not one.because.startswith("fails: ")]
WHY_NONE = "; ".join(f"{one.name}: {one.because}" for one in REPORTS if one.name in ("cuda", "tensorrt", "openvino"))
# Other kernels round differently, and a recurrence carries that on.
NEAR = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module", params=SECOND or [pytest.param("none", marks=pytest.mark.skip(reason=WHY_NONE))])
def second(request):
    return request.param


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        ("gpu", "unknown provider 'gpu'; known are cpu, cuda, "),
        ("CPU", "unknown provider 'CPU'; known are cpu, "),
        ("CUDAExecutionProvider", "unknown provider 'CUDAExecutionProvider'; \"cuda\" is meant; known are "),
        (["cpu", "nonsense"], "unknown provider 'nonsense'; known are "),
        (["cpu", "cpu"], r"a provider stands twice in \['cpu', 'cpu'\]; name each once, in the order of preference"),
        (["auto", "cpu"], '"auto" chooses among all providers of this machine; give it alone'),
        ({"cpu": {"threads": 2}}, "provider cpu has no option 'threads'; it has none"),
        ({"cuda": {"enable_cuda_graph": 1}}, "provider cuda has no option 'enable_cuda_graph'; it has device_id, "),
        ({"cuda": {"use_tf32": 2}}, "provider cuda: use_tf32 must be one of 0, 1, got 2"),
        ({"cuda": {"device_id": -1}}, "provider cuda: device_id must be a whole number from 0, got -1"),
        ({"cuda": {"device_id": "first"}}, "provider cuda: device_id must be a whole number from 0, got 'first'"),
        ({"openvino": {"precision": "int8"}}, "provider openvino: precision must be one of f32, f16, bf16, got 'int8'"),
        ({"cpu": 3}, "the options of provider cpu must be a mapping, got 3"),
        ({"auto": {"device_id": 1}}, "provider auto has no option 'device_id'; it has none"),
        ([], "providers must be a name, several, or a mapping of names to options, got "),
        (3, "providers must be a name, several, or a mapping of names to options, got 3; for example"),
        (None, "providers must be a name, several, or a mapping of names to options, got None; for example"),
        ([3], "providers must be a name, several, or a mapping of names to options, got "),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_the_file_is_looked_at(asked, rule, tmp_path):
    with pytest.raises((ProviderError, ValueError), match=f"^{rule}"):
        load(tmp_path / "missing.onnx", providers=asked)


def test_options_reach_the_provider_as_text():
    assert parse_providers({"cuda": {"device_id": 1, "use_tf32": True}, "cpu": {}}) == {
        "cuda": {"device_id": "1", "use_tf32": "1"},
        "cpu": {},
    }


@pytest.mark.parametrize("name", [name for name in PROVIDERS if not find_provider(name).here])
def test_what_is_not_here_is_refused_and_where_that_is_allowed_said(name, golden):
    provider = PROVIDERS[name]
    with pytest.raises(ProviderError, match=f"^provider {name} is not available: ") as caught:
        load(golden / "lstm.onnx", providers=name)
    assert provider.install in str(caught.value) or provider.needs in str(caught.value)
    model = load(golden / "lstm.onnx", providers=name, strict=False)
    assert model.placement.requested == (name,)
    assert model.placement.granted == ("cpu",)
    assert len(model.placement.fell_back) == len(model.placement.nodes) > 0


def test_the_placement_names_every_node(lstm):
    placement = lstm.placement
    assert (placement.requested, placement.granted, placement.fell_back) == (("cpu",), ("cpu",), ())
    assert "LSTM" in {node.operator for node in placement.nodes}
    assert {node.provider for node in placement.nodes} == {"cpu"}
    assert str(placement) == f"requested cpu; nodes: {len(placement.nodes)} on cpu"


NODES = (Node("a", "LSTM", "cuda"), Node("b", "Scan", "cpu"), Node("c", "Add", "cpu"))


def test_a_node_on_a_provider_that_was_not_asked_for_is_an_error():
    rule = r"^cuda did not take 2 of 3 nodes \(Add, Scan\), they would run on cpu; allow that with providers=\['cuda', 'cpu'\]"
    with pytest.raises(ProviderError, match=rule):
        check_placement(Placement(("cuda",), ("cuda", "cpu"), NODES))
    check_placement(Placement(("cuda", "cpu"), ("cuda", "cpu"), NODES))


def test_a_provider_that_does_not_start_is_an_error(golden, monkeypatch):
    """As ONNX Runtime does where CUDA is built in and no GPU is there: a session on the CPU, and not a word."""
    monkeypatch.setattr("rnnx_runtime._providers.find_provider", lambda name: Availability(PROVIDERS[name], True, ""))
    monkeypatch.setattr("rnnx_runtime._session.add_to", lambda *arguments: None)
    monkeypatch.setattr(
        "rnnx_runtime._session.select", lambda asked, strict: [Availability(PROVIDERS[n], True, "") for n in asked]
    )
    with pytest.raises(ProviderError, match="^provider cuda is installed but does not start here; it needs an NVIDIA GPU"):
        load(golden / "lstm.onnx", providers="cuda")
    assert load(golden / "lstm.onnx", providers="cuda", strict=False).placement.granted == ("cpu",)


@pytest.fixture
def pretended(monkeypatch):
    """A provider that takes every node, and is the CPU's in truth."""
    there = Availability(PROVIDERS["migraphx"], True, "")
    placed, running = _session.placed, onnxruntime.InferenceSession.get_providers
    monkeypatch.setattr("rnnx_runtime._session.select", lambda asked, strict: [there] if "migraphx" in asked else [])
    monkeypatch.setattr("rnnx_runtime._session.add_to", lambda *arguments: None)
    monkeypatch.setattr(
        "rnnx_runtime._session.placed", lambda session: tuple(Node(n.name, n.operator, "migraphx") for n in placed(session))
    )
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda session: [there.provider.ort, *running(session)])
    return "migraphx"


@pytest.mark.parametrize("failing", [RuntimeError, OSError, core.EPFail, core.Fail])
def test_a_provider_that_dies_in_a_call_says_so_and_the_stream_stays(golden, monkeypatch, pretended, failing, capfd):
    model = load(golden / "lstm.onnx", providers=pretended)
    stream, xs = model.stream(), sample(model, 1, 9)
    stream.step(xs[:, 0])
    before = stream.state

    def fail(self, *arguments):
        raise failing("the device was lost\nand more")

    rule = "^migraphx failed: the device was lost; load the model with another provider to go on$"
    with monkeypatch.context() as patch:
        patch.setattr(core.InferenceSession, "run", fail)
        for use in (lambda: stream.step(xs[:, 1]), lambda: stream.feed(xs[:, 1:]), lambda: model.run(xs)):
            with pytest.raises(ProviderError, match=rule):
                use()
    assert (stream.state, stream.position) == (before, 1)
    stream.step(xs[:, 1])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("failing", [RuntimeError, OSError, core.EPFail, core.Fail])
def test_a_provider_that_dies_at_the_start_leaves_the_cpu_only_where_that_is_allowed(golden, monkeypatch, failing, capfd):
    there, create = Availability(PROVIDERS["migraphx"], True, ""), onnxruntime.InferenceSession._create_inference_session
    asked = []
    monkeypatch.setattr("rnnx_runtime._session.select", lambda requested, strict: [there])
    monkeypatch.setattr("rnnx_runtime._session.add_to", lambda *arguments: asked.append(there))

    def creating(self, *arguments):
        if asked:
            asked.clear()
            raise failing("no such device\nand more")
        create(self, *arguments)

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", creating)
    with pytest.raises(ProviderError, match="^migraphx cannot load the model: no such device$"):
        load(golden / "lstm.onnx", providers="migraphx")
    placement = load(golden / "lstm.onnx", providers="migraphx", strict=False).placement
    assert (placement.requested, placement.granted) == (("migraphx",), ("cpu",))
    assert placement.fell_back == placement.nodes
    assert placement.because == "migraphx cannot load the model: no such device"
    assert capfd.readouterr() == ("", "")


def test_a_plugin_that_cannot_list_its_devices_is_not_here(monkeypatch):
    def fail():
        raise RuntimeError("no driver\nand more")

    monkeypatch.setattr("rnnx_runtime._providers._register", lambda provider: "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(onnxruntime, "get_ep_devices", fail)
    found = find_provider("openvino")
    assert (found.here, found.because) == (False, "its plugin cannot list its devices: no driver")


def test_auto_says_why_it_chose(golden):
    placement = load(golden / "lstm.onnx", providers="auto").placement
    assert placement.requested == ("auto",)
    assert placement.fell_back == ()
    assert "runs the golden trace fastest: cpu " in placement.because


def test_auto_takes_no_provider_that_is_wrong(golden, monkeypatch):
    monkeypatch.setattr("rnnx_runtime._trials.golden_difference", lambda graph, session: 1.0)
    with pytest.raises(
        ProviderError, match=r"^no provider of this machine runs the golden trace rightly: cpu: wrong: off by 1\.0"
    ):
        load(golden / "lstm.onnx", providers="auto")


def test_the_list_has_every_provider_and_runs_the_trace(golden):
    reports = {report.name: report for report in list_providers(golden / "gru.onnx")}
    assert list(reports) == list(PROVIDERS)
    assert reports["cpu"].microseconds > 0
    assert reports["cpu"].difference < TOLERANCE
    assert all(report.because for report in reports.values())
    assert [report.name for report in list_providers()] == list(PROVIDERS)
    assert all(report.microseconds is None for report in list_providers())


def test_device_memory_is_bound_as_host_memory_is(golden, monkeypatch):
    """The way of a GPU, with the CPU as the device: inputs staged, states kept by ONNX Runtime."""
    monkeypatch.setattr(Session, "on_device", property(lambda session: session._memory == "cpu"))
    for name in ("char_rnn", "lstm", "gru"):
        model, plain = load(golden / f"{name}.onnx"), load(golden / f"{name}.onnx")
        xs = sample(model, 2, 6)
        stream = model.stream(2)
        assert_close(stacked(model, [stream.step(xs[:, t]) for t in range(6)]), named(model, plain.run(xs)[0]))
        assert stream.state.position == 6


def test_a_binding_that_copies_once_is_found_out(golden, monkeypatch):
    engine = load(golden / "char_rnn.onnx")._engine
    assert bindings_hold(engine.graph, engine.open())
    bind = Session.bind

    def stale(self, inputs, outputs, states, following):
        return bind(self, {name: array.copy() for name, array in inputs.items()}, outputs, states, following)

    monkeypatch.setattr(Session, "bind", stale)
    assert not bindings_hold(engine.graph, engine.open())


def test_without_kept_bindings_a_step_is_the_same(golden):
    engine = load(golden / "lstm.onnx")._engine
    assert isinstance(engine, Engine)
    engine.open().forget_bindings()
    model = load(golden / "lstm.onnx")
    xs = sample(model, 3, 5)
    stepper, stream = engine.stepper(3), model.stream(3)
    for t in range(5):
        np.testing.assert_array_equal(stepper.step(xs[:, t]), stream.step(xs[:, t]))


@pytest.mark.parametrize("name", ["char_rnn", "lstm", "gru"])
class TestSecondProvider:
    def test_it_takes_every_node(self, second, golden, name):
        placement = load(golden / f"{name}.onnx", providers=second).placement
        assert placement.granted == (second,)

    def test_the_golden_trace_holds(self, second, golden, name):
        engine = load(golden / f"{name}.onnx", providers=second)._engine
        assert golden_difference(engine.graph, engine.open()) < TOLERANCE

    @pytest.mark.parametrize("batch", [1, 3])
    def test_steps_chunks_and_the_whole_are_those_of_the_cpu(self, second, golden, name, batch):
        model, cpu = load(golden / f"{name}.onnx", providers=second), load(golden / f"{name}.onnx")
        xs = sample(model, batch, 12)  # different tokens at each step: a stale binding would repeat the first
        wanted, state = cpu.run(xs)
        whole, followed = model.run(xs)
        stream, chunked = model.stream(batch), model.stream(batch)
        steps = stacked(model, [stream.step(xs[:, t]) for t in range(12)])
        for first, last in ((0, 5), (5, 6), (6, 12)):
            chunked.feed(xs[:, first:last])
        for found in (named(model, whole), steps):
            for output, array in named(cpu, wanted).items():
                np.testing.assert_allclose(found[output], array, **NEAR)
        for other in (followed, stream.state, chunked.state):
            for key, array in state.items():
                np.testing.assert_allclose(other[key], array, **NEAR)

    def test_a_state_moves_from_the_cpu_and_back(self, second, golden, name):
        model, cpu = load(golden / f"{name}.onnx", providers=second), load(golden / f"{name}.onnx")
        xs = sample(model, 1, 10)
        wanted = cpu.run(xs)[1]
        here, there = cpu.stream(), model.stream()
        here.feed(xs[:, :4])
        there.restore(State.from_bytes(here.state.to_bytes()))
        for t in range(4, 8):
            there.step(xs[:, t])
        here.restore(State.from_bytes(there.state.to_bytes()))
        here.feed(xs[:, 8:])
        assert here.position == 10
        for key, array in wanted.items():
            np.testing.assert_allclose(here.state[key], array, **NEAR)
