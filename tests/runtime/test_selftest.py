"""The golden trace on this machine: what a self-test says, and that it can say each of it."""

import hashlib
import math
from dataclasses import FrozenInstanceError, replace

import msgspec
import numpy as np
import pytest
from tests.runtime import frames
from tests.runtime import protobuf_writer as pb
from tests.runtime.handmade import with_manifest
from tests.runtime.test_providers import SECOND, WHY_NONE

from rnnx_runtime import ArtifactError, InputError, ProviderError, SelfTest, Stream, TensorDifference, load, selftest
from rnnx_runtime._golden import compare
from rnnx_runtime._stepper import Stepper
from rnnx_runtime.artifact import MANIFEST_KEY, Array, GoldenTrace, Output, golden_sha256, seal

NAMES = ["char_rnn", "lstm", "gru"]
ALL_WAYS = {"whole", "chunks", "steps"}


def nudged(trace, key, name, by):
    """A trace with another first value in one tensor."""
    array = trace[key][name].numpy().copy()
    array.ravel()[0] += by
    return trace | {key: trace[key] | {name: Array.of(array)}}


def changed(data, change):
    """An artifact with another golden trace, and no digest of it: `change` maps it, a dict of dicts of arrays."""

    def rewrite(said):
        trace = {
            key: {name: msgspec.convert(array, Array) for name, array in said["golden"][key].items()}
            for key in ("inputs", "states", "outputs", "next_states")
        }
        said["golden"] |= msgspec.to_builtins(change(trace)) | {"sha256": ""}

    return with_manifest(data, rewrite)


def tokens(said):
    """An artifact that answers every step with three times the token 20000, and whose trace has `said` there."""
    shape = pb.fields(1, [pb.field(2, "batch"), pb.field(1, 3)])
    graph = pb.graph(
        [
            pb.node("Neg", ["h"], ["h.next"]),
            pb.node("Cast", ["x"], ["i"], [pb.integer("to", pb.INT64)]),
            pb.node("Constant", [], ["c"], [pb.integer("value_int", 20_000)]),
            pb.node("Mul", ["i", "c"], ["y"]),
        ],
        [pb.value_info("h", ["batch", 4]), pb.value_info("x", ["batch", 3])],
        [
            pb.value_info("h.next", ["batch", 4]),
            pb.field(1, "y") + pb.field(2, pb.field(1, pb.field(1, pb.INT64) + pb.field(2, shape))),
        ],
    )
    contract = frames.manifest(
        "frame",
        outputs=(Output(name="y", dtype="int64", shape=("batch", 3), role="values"),),
        golden=GoldenTrace(
            inputs={"x": Array.of(np.ones((1, 1, 3), np.float32))},
            states={"h": Array.of(np.ones((1, 4), np.float32))},
            outputs={"y": Array.of(np.full((1, 1, 3), said))},
            next_states={"h": Array.of(-np.ones((1, 4), np.float32))},
        ),
    )
    return seal(pb.model(graph, pb.metadata(MANIFEST_KEY, contract.encode())))


@pytest.fixture(params=NAMES)
def data(golden, request):
    return (golden / f"{request.param}.onnx").read_bytes()


@pytest.fixture
def lstm_data(golden):
    return (golden / "lstm.onnx").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_artifact_passes_in_every_way(models, name):
    model = models[name]
    found = model.selftest()
    assert found.passed
    assert found.verdict in ("bit-exact", "within tolerance")
    tensors = [("output", spec.name) for spec in model.manifest.outputs] + [("state", s.name) for s in model.manifest.states]
    assert [(one.kind, one.name) for one in found.differences] == 3 * tensors
    assert [one.way for one in found.differences[:: len(tensors)]] == ["whole", "chunks", "steps"]
    assert found.largest <= 1e-6 < found.tolerance == 1e-4
    assert (found.batch, found.steps) == (1, 4)
    assert 0 < found.seconds < 5
    assert found.placement == model.placement


@pytest.mark.parametrize("name", frames.STYLES)
def test_graphs_of_one_step_and_one_batch_are_tested_too(name):
    style = frames.STYLES[name]
    found = load(frames.artifact(name)).selftest()
    assert found.passed
    assert (found.batch, found.steps) == (style.fixed_batch or 2, frames.STEPS)
    assert {one.way for one in found.differences} == ALL_WAYS


def test_the_same_bits_are_told_from_other_bits_within_the_tolerance(data):
    plain = with_manifest(data, lambda said: said["golden"].update(sha256=""))
    digest = golden_sha256(load(plain))
    same = with_manifest(data, lambda said: said["golden"].update(sha256=digest))
    other = with_manifest(data, lambda said: said["golden"].update(sha256="0" * 64))
    assert load(same).selftest().verdict == "bit-exact"
    assert load(other).selftest().verdict == "within tolerance"


def test_the_very_bits_of_the_trace_are_bit_exact_without_a_digest():
    style = frames.STYLES["of_three"]  # a sum of few numbers, which numpy rounds alike
    assert not frames.golden_trace(style).sha256
    assert load(frames.artifact("of_three")).selftest().verdict == "bit-exact"


def test_the_digest_is_of_all_bytes_of_outputs_and_next_states_in_the_manifests_order(models):
    model = models["gru"]
    golden = model.manifest.golden
    x, start = golden.inputs["x"].numpy(), {name: array.numpy() for name, array in golden.states.items()}
    answers, state = model.run(x.swapaxes(0, 1), model.make_state(start))
    arrays = [answers[spec.name] for spec in model.manifest.outputs] + [state[spec.name] for spec in model.manifest.states]
    assert golden_sha256(model) == hashlib.sha256(b"".join(np.ascontiguousarray(one).tobytes() for one in arrays)).hexdigest()


@pytest.mark.parametrize("key", ["outputs", "next_states"])
def test_a_difference_beyond_the_tolerance_is_broken_and_within_it_is_not(data, key):
    name = next(iter(getattr(load(data).manifest.golden, key)))
    found = load(changed(data, lambda trace: nudged(trace, key, name, 1e-5))).selftest()
    assert found.verdict == "within tolerance"
    found = load(changed(data, lambda trace: nudged(trace, key, name, 1e-2))).selftest()
    assert (found.verdict, found.passed) == ("broken", False)
    assert found.largest == pytest.approx(1e-2, rel=0.1)
    assert "broken: off by 1.0e-02, 1e-04 is allowed; use another version of onnxruntime" in str(found)
    kind = "output" if key == "outputs" else "state"
    wrong = {(one.kind, one.name) for one in found.differences if one.relative > 1e-3}
    assert wrong == {(kind, load(data).manifest.states[0].name if kind == "state" else name)}


def test_a_digest_that_fits_does_not_make_up_for_a_trace_that_does_not(lstm_data):
    digest = golden_sha256(load(lstm_data))
    wrong = changed(lstm_data, lambda trace: nudged(trace, "outputs", "output.0", 1))
    wrong = with_manifest(wrong, lambda said: said["golden"].update(sha256=digest))
    assert load(wrong).selftest().verdict == "broken"


def test_steps_that_go_wrong_are_seen_though_the_whole_is_right(lstm, monkeypatch):
    step = Stepper.step
    monkeypatch.setattr(Stepper, "step", lambda self, x: step(self, x) + np.float32(0.5))
    found = lstm.selftest()
    assert found.verdict == "broken"
    assert {one.way for one in found.differences if one.relative > found.tolerance} == {"steps"}


def test_chunks_that_go_wrong_are_seen_though_the_whole_is_right(lstm, monkeypatch):
    feed = Stream.feed

    def forgetful(self, chunk):
        self.reset()
        return feed(self, chunk)

    monkeypatch.setattr(Stream, "feed", forgetful)
    found = lstm.selftest()
    assert {one.way for one in found.differences if one.relative > found.tolerance} == {"chunks"}


def test_a_value_that_is_not_a_number_is_broken(lstm, monkeypatch):
    step = Stepper.step
    monkeypatch.setattr(Stepper, "step", lambda self, x: step(self, x) * np.float32(np.nan))
    found = lstm.selftest()
    assert (found.verdict, found.largest) == ("broken", math.inf)
    assert str(found).startswith("broken: off by inf, 1e-04 is allowed; ")


@pytest.mark.parametrize(
    ("found", "wanted", "absolute", "relative"),
    [
        ([1.5, 2.0], [1.0, 2.0], 0.5, 0.5),
        ([100.0], [110.0], 10, 10 / 110),
        ([-110.0], [100.0], 210, 2.1),
        ([0.5], [0.0], 0.5, 0.5),
        ([np.inf, -np.inf], [np.inf, -np.inf], 0, 0),
        ([np.inf], [1.0], math.inf, math.inf),
        ([1.0], [np.inf], math.inf, math.inf),
        ([np.nan], [1.0], math.inf, math.inf),
        ([np.nan], [np.nan], math.inf, math.inf),
        (np.float32([1.0]), [1.0], math.inf, math.inf),
        ([-0.0], [0.0], 0, 0),
        ([], [], 0, 0),
    ],
)
def test_differences_are_relative_above_one(found, wanted, absolute, relative):
    assert compare(np.array(found), np.array(wanted)) == (absolute, pytest.approx(relative))


def test_booleans_and_integers_differ_by_numbers():
    assert compare(np.array([True, False]), np.array([True, True])) == (1, 1)
    assert compare(np.array([7, 3]), np.array([7, 1])) == (2, 2)
    assert compare(np.array([1_000_000]), np.array([1_000_001])) == (1, 1)
    assert compare(np.array([2**53]), np.array([2**53 + 1])) == (1, 1)
    assert compare(np.array([2**62]), np.array([2**62])) == (0, 0)
    assert compare(np.array([], np.int64), np.array([], np.int64)) == (0, 0)
    assert compare(np.array([1], np.int32), np.array([1])) == (math.inf, math.inf)
    assert compare(np.array([1.0]), np.array([1])) == (math.inf, math.inf)


def test_integers_that_are_off_by_one_are_broken_however_large():
    found = load(tokens(20_000)).selftest()
    assert (found.verdict, found.largest) == ("bit-exact", 0)
    found = load(tokens(20_001)).selftest()
    assert (found.verdict, found.largest) == ("broken", 1)


def test_a_model_that_cannot_be_stepped_is_tested_whole(lstm_data):
    change = {"streamable": False, "not_streamable_because": "it looks ahead"}
    found = load(with_manifest(lstm_data, lambda said: said.update(change))).selftest()
    assert found.passed
    assert {one.way for one in found.differences} == {"whole"}


def test_answers_that_depend_on_how_a_stream_is_cut_are_tested_whole(lstm_data):
    found = load(with_manifest(lstm_data, lambda said: said.update(chunks_matter_because="it is normed"))).selftest()
    assert {one.way for one in found.differences} == {"whole"}


def test_a_trace_of_one_step_has_no_chunks():
    trace = frames.golden_trace(frames.STYLES["frame"], steps=1)
    found = load(frames.artifact("frame", golden=trace)).selftest()
    assert (found.passed, found.steps) == (True, 1)
    assert {one.way for one in found.differences} == {"whole", "steps"}
    assert "  golden trace of 2 rows and 1 step, on cpu, in " in str(found)


def test_a_trace_without_a_step_is_no_pass(running_sum):
    with pytest.raises(
        ArtifactError, match="^the golden trace of this artifact holds no step, so there is nothing to test; exp"
    ):
        running_sum.selftest()
    assert golden_sha256(running_sum) == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": {}},
        {"outputs": {}},
        {"next_states": {}},
        {"states": {}},
        {"inputs": {"x": Array.of(np.zeros((), np.float32))}},
        {"inputs": {"x": Array.of(np.zeros((2, 5), np.float32))}},
        {"outputs": {"y": Array.of(np.zeros((2, 3), np.float32))}},
        {"states": {"h": Array.of(np.full((2, 4), np.nan, np.float32))}},
        {"next_states": {"h": Array.of(np.zeros((3, 4), np.float32))}},
    ],
)
def test_a_trace_that_is_none_is_an_error_of_the_artifact(changes):
    with pytest.raises(ArtifactError, match="^the golden trace does not fit the artifact: "):
        load(frames.with_golden("frame", **changes)).selftest()


def test_a_self_test_touches_no_stream_and_any_model_can_be_asked(lstm_data):
    with load(lstm_data) as model:
        stream = model.stream()
        stream.step(np.ones((1, 3)))
        before = stream.state
        assert model.selftest().passed
        assert stream.state == before
    with pytest.raises(InputError, match="^this model is closed; load it again$"):
        model.selftest()


def test_a_result_is_a_value(lstm):
    found = lstm.selftest()
    assert isinstance(found, SelfTest)
    assert isinstance(found.differences[0], TensorDifference)
    with pytest.raises(FrozenInstanceError):
        found.verdict = "broken"


def test_a_result_as_text_says_the_verdict_first_and_then_the_numbers(lstm):
    lines = str(replace(lstm.selftest(), verdict="within tolerance", seconds=0.00123)).split("\n")
    assert lines[0].startswith("within tolerance: off by ")
    assert lines[0].endswith(" at most, 1e-04 is allowed")
    assert lines[1] == "  golden trace of 1 row and 4 steps, on cpu, in 1.2 ms"
    assert lines[2].split() == ["off", "by", "whole", "chunks", "steps"]
    assert [line.split()[:2] for line in lines[3:]] == [
        ["output", "output.0"],
        ["state", "lstm.l0.h"],
        ["state", "lstm.l0.c"],
    ]
    assert len({len(line) for line in lines[2:]}) == 1
    exact = replace(lstm.selftest(), verdict="bit-exact")
    assert str(exact).split("\n")[0] == "bit-exact: the same bits as where the artifact was made"


def test_a_result_of_many_tensors_shows_the_worst_of_them_within_80_columns(lstm):
    many = [
        TensorDifference(f"encoder.layers.{number}.recurrent.module.lstm.h", "state", way, number / 1e9, number / 1e9)
        for way in ("whole", "chunks", "steps")
        for number in range(40)
    ]
    lines = str(replace(lstm.selftest(), differences=tuple(many))).split("\n")
    assert len(lines) == 12
    assert max(map(len, lines)) <= 80
    assert lines[3].split()[1:3] == ["....39.recurrent.module.lstm.h", "3.9e-08"]
    assert lines[-1] == "  and 32 more, none further off"


@pytest.fixture(scope="module", params=SECOND or [pytest.param("none", marks=pytest.mark.skip(reason=WHY_NONE))])
def second(request):
    return request.param


def test_another_provider_is_tested_by_its_own_numbers(second, lstm_data):
    found = selftest(lstm_data, providers=[second, "cpu"])
    assert found.passed
    assert second in found.placement.granted
    assert second in str(found)


def test_a_provider_that_load_refuses_is_still_reported_with_numbers(second, lstm_data):
    wrong = changed(lstm_data, lambda trace: nudged(trace, "outputs", "output.0", 1))
    with pytest.raises(ProviderError, match=f"^{second} runs this artifact wrongly: its golden trace is off by "):
        load(wrong, providers=second)
    found = selftest(wrong, providers=second)
    assert (found.verdict, found.placement.granted) == ("broken", (second,))
    assert str(found).startswith("broken: off by ")
    assert str(found).split("\n")[0].endswith("; use another provider")


def test_fewer_bits_have_a_tolerance_of_their_own(second, lstm_data):
    if second != "openvino":
        pytest.skip("only OpenVINO is asked for fewer bits here")
    found = selftest(lstm_data, providers={"openvino": {"precision": "bf16"}})
    assert found.tolerance == 5e-2
    assert found.passed


def test_what_cannot_be_loaded_cannot_be_tested(lstm_data, tmp_path):
    with pytest.raises(ProviderError, match="^unknown provider 'gpu'"):
        selftest(lstm_data, providers="gpu")
    with pytest.raises(InputError, match="^threads must be from 1 to 256, got 0$"):
        selftest(lstm_data, threads=0)
    with pytest.raises(ArtifactError, match="^no file at "):
        selftest(tmp_path / "model.onnx")
