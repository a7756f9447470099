"""Other people's files: adopted, and streamed by the runtime as the file answers in plain ONNX Runtime with its states wired by hand."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from tests.export import foreign

import rnnx
from rnnx import AdoptError
from rnnx_runtime import InputError, load

STEPS = 5


@dataclass(frozen=True)
class Style:
    """A file in somebody's style.

    `pairs`: its states, by input. `feeds`: one step in the file's own layout; `step`: the same as a stream takes it; `answer`:
    what the file answers, as a stream does.
    """

    model: Callable[[], Any]
    pairs: dict[str, str]
    feeds: Callable[[np.random.Generator], dict[str, Any]]
    step: Callable[[dict[str, Any]], Any]
    answer: Callable[[dict[str, Any]], Any]
    batch: int = 1
    said: dict[str, Any] = field(default_factory=dict)


def values(*shape: int) -> Callable[[np.random.Generator], Any]:
    return lambda random: random.standard_normal(shape).astype(np.float32)


STYLES = {
    "a language model with stacked states": Style(
        foreign.language_model,
        {"h0": "hn", "c0": "cn"},
        lambda random: {"tokens": random.integers(0, 5, (2, 1))},
        lambda feeds: feeds["tokens"][:, 0],
        lambda found: found["log_probs"][:, 0],
        batch=2,
    ),
    "a detector that chooses by sample rate": Style(
        foreign.detector,
        {"state": "stateN"},
        lambda random: {"input": values(2, 32)(random), "sr": np.array(16000)},
        lambda feeds: feeds["input"],
        lambda found: found["output"],
        batch=2,
        said={"set": {"sr": 16000}, "axes": {"input": "B32"}},
    ),
    "the same at its other rate": Style(
        foreign.detector,
        {"state": "stateN"},
        lambda random: {"input": values(1, 16)(random), "sr": np.array(8000)},
        lambda feeds: feeds["input"],
        lambda found: found["output"],
        said={"set": {"sr": 8000}, "axes": {"input": "B16"}},
    ),
    "a detector of whole recordings, without rows": Style(
        foreign.sequence_detector,
        {"h": "hn", "c": "cn"},
        lambda random: {"input": values(1, 8)(random)},
        lambda feeds: feeds["input"],
        lambda found: found["speech_probs"],
    ),
    "an enhancer with convolution caches, opset 11": Style(
        foreign.enhancer,
        {"conv_cache": "conv_cache_out", "inter_cache": "inter_cache_out"},
        lambda random: {"mix": values(1, 6, 1, 2)(random)},
        lambda feeds: feeds["mix"][:, :, 0],
        lambda found: found["enh"][:, :, 0],
    ),
    "the same, opset 17": Style(
        lambda: foreign.enhancer(opset=17),
        {"conv_cache": "conv_cache_out", "inter_cache": "inter_cache_out"},
        lambda random: {"mix": values(1, 6, 1, 2)(random)},
        lambda feeds: feeds["mix"][:, :, 0],
        lambda found: found["enh"][:, :, 0],
    ),
    "names that say nothing": Style(
        foreign.unnamed,
        {"input_3": "tf_op_layer_stack_2"},
        lambda random: {"input_2": values(1, 1, 3)(random)},
        lambda feeds: feeds["input_2"][:, 0],
        lambda found: found["activation_2"][:, 0],
    ),
    "names that say nothing, a cell written out": Style(
        lambda: foreign.unnamed(decomposed=True),
        {"input_3": "tf_op_layer_stack_2"},
        lambda random: {"input_2": values(1, 1, 3)(random)},
        lambda feeds: feeds["input_2"][:, 0],
        lambda found: found["activation_2"][:, 0],
        said={"states": {"input_3": "tf_op_layer_stack_2"}},
    ),
    "one step, without an axis for time": Style(
        foreign.cell,
        {"h_in": "h_out"},
        lambda random: {"x": values(3, 3)(random)},
        lambda feeds: feeds["x"],
        lambda found: found["y"],
        batch=3,
    ),
    "a flat state, no rows, a limit for all frames": Style(
        foreign.flat,
        {"states": "new_states"},
        lambda random: {"input_frame": values(5)(random), "atten_lim_db": np.array(50, np.float32)},
        lambda feeds: feeds["input_frame"][None],
        lambda found: {"enhanced_audio_frame": found["enhanced_audio_frame"][None], "lsnr": found["lsnr"][None]},
        said={"set": {"atten_lim_db": 50}},
    ),
    "time first, and no names": Style(
        foreign.time_major,
        {"hx": "175"},
        lambda random: {"input.1": values(1, 2, 3)(random)},
        lambda feeds: feeds["input.1"][0],
        lambda found: found["180"][0],
        batch=2,
    ),
    "time first, flattened": Style(
        lambda: foreign.time_major(flattened=True),
        {"hx": "175"},
        lambda random: {"input.1": values(1, 2, 3)(random)},
        lambda feeds: feeds["input.1"][0],
        lambda found: found["180"],
        batch=2,
    ),
    "values quantised in each call": Style(
        foreign.quantised,
        {"h": "hn"},
        lambda random: {"x": values(1, 1, 8)(random)},
        lambda feeds: feeds["x"][:, 0],
        lambda found: found["answer"][:, 0],
        said={"trust": True},
    ),
    "no state at all": Style(
        foreign.pointwise,
        {},
        lambda random: {"x": values(2, 1, 3)(random)},
        lambda feeds: feeds["x"][:, 0],
        lambda found: found["y"][:, 0],
        batch=2,
    ),
}


def plain(model: Any) -> Any:
    import onnxruntime  # after the runtime, which switches its telemetry off

    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.fixture(params=STYLES.values(), ids=STYLES.keys())
def style(request) -> Style:
    return request.param


@pytest.fixture
def adopted(style, tmp_path):
    return rnnx.adopt(style.model().SerializeToString(), tmp_path / "adopted.onnx", **style.said)


def test_it_streams_as_the_file_does_with_its_states_wired_by_hand(style, adopted):
    session, random = plain(style.model()), np.random.default_rng(0)
    model = load(adopted.path, trust=style.said.get("trust", False))
    stream = model.stream(style.batch)
    states = {spec.input: stream.state[spec.name] for spec in model.manifest.states}
    assert {spec.input: spec.output for spec in model.manifest.states} == style.pairs
    for _ in range(STEPS):
        feeds = style.feeds(random)
        names = [value.name for value in session.get_outputs()]
        found = dict(zip(names, session.run(names, {**feeds, **states}), strict=True))
        answer, expected = stream.step(style.step(feeds)), style.answer(found)
        for name in expected if isinstance(expected, dict) else [None]:
            have, want = (answer, expected) if name is None else (answer[name], expected[name])
            assert np.array_equal(have, want)
        states = {taken: found[given] for taken, given in style.pairs.items()}
    assert all(np.array_equal(stream.state[name], array) for name, array in states.items())


def test_the_golden_trace_is_what_this_machine_answers(style, adopted):
    done = load(adopted.path, trust=style.said.get("trust", False)).selftest()
    assert (done.verdict, done.steps) == ("bit-exact", 4)


def test_it_says_what_it_was_made_of(style, adopted):
    manifest = adopted.manifest
    assert (manifest.lowering, manifest.parity, adopted.difference) == ("adopted", None, 0.0)
    assert len(manifest.provenance.source_sha256) == 64
    assert f"adopted from a file with sha256 {manifest.provenance.source_sha256}" in str(adopted)
    assert f"{adopted.comparisons} comparisons with it, every bit equal" in str(adopted)
    assert adopted.comparisons >= (3 if not style.pairs else 12)


def contract(adopted: Any) -> tuple[Any, ...]:
    return adopted.manifest.fixed_batch, adopted.manifest.one_step, adopted.manifest.streamable


def test_batch_and_time_are_what_the_graph_takes(tmp_path):
    def found(model: Any, **said: Any) -> tuple[Any, ...]:
        return contract(rnnx.adopt(model.SerializeToString(), tmp_path / "a.onnx", **said))

    assert found(foreign.language_model()) == (None, False, True)
    assert found(foreign.sequence_detector()) == (1, False, True)
    assert found(foreign.detector(), set={"sr": 8000}, axes={"input": "B16"}) == (None, True, True)
    assert found(foreign.cell()) == (None, True, True)
    assert found(foreign.enhancer()) == (1, True, True)
    assert found(foreign.forgetful()) == (None, False, False)


def test_tokens_are_found_where_they_are_looked_up(tmp_path):
    spec = rnnx.adopt(foreign.language_model(7).SerializeToString(), tmp_path / "a.onnx").manifest.inputs[0]
    assert (spec.role, spec.vocabulary_size) == ("tokens", 7)


def test_only_folding_what_must_be_keeps_the_nodes(tmp_path):
    model = foreign.language_model()
    done = rnnx.adopt(model.SerializeToString(), tmp_path / "a.onnx")
    assert done.operators == tuple(node.op_type for node in model.graph.node)
    assert done.notes == ()


def test_a_branch_that_is_always_taken_and_weights_put_together_are_folded(tmp_path):
    done = rnnx.adopt(foreign.detector().SerializeToString(), tmp_path / "a.onnx", set={"sr": 16000}, axes={"input": "B32"})
    assert not {"If", "Equal", "Shape", "ConstantOfShape"} & set(done.operators)
    assert done.operators.count("Concat") == 1  # the state's; those of the weights are gone
    assert done.notes[0] == "sr is 16000 in every call"
    assert done.notes[1].startswith("what is the same in every call is computed: ")
    assert done.manifest.trusted == ()


def test_declared_sizes_are_those_that_were_measured(tmp_path):
    import onnx

    def declared(path: Any) -> dict[str, list[Any]]:
        graph = onnx.load(path).graph
        return {
            value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
            for value in (*graph.input, *graph.output)
        }

    path = tmp_path / "a.onnx"
    rnnx.adopt(foreign.detector().SerializeToString(), path, set={"sr": 8000}, axes={"input": "B16"})
    assert declared(path) == {
        "input": ["batch", 16],
        "state": [2, "batch", 4],
        "output": ["batch", 1],
        "stateN": [2, "batch", 4],
    }
    rnnx.adopt(foreign.unnamed().SerializeToString(), path)  # it declares an output of N rows, and gives one
    assert declared(path)["tf_op_layer_stack_2"] == [1, 4, 2]
    rnnx.adopt(foreign.time_major().SerializeToString(), path)
    assert declared(path)["180"] == ["seq_len", "batch", 2]


def test_the_same_file_gives_the_same_bytes(tmp_path):
    data = foreign.enhancer().SerializeToString()
    first, second = (rnnx.adopt(data, tmp_path / f"{name}.onnx").path.read_bytes() for name in "ab")
    assert first == second


def test_a_stateless_file_is_adopted_as_such_and_it_says_so(tmp_path):
    done = rnnx.adopt(foreign.pointwise().SerializeToString(), tmp_path / "a.onnx")
    assert done.manifest.states == ()
    assert "it keeps no state: no output is an input of the next call" in done.notes
    assert "adopted with no state" in str(done)


def test_a_file_that_forgets_is_for_whole_sequences_and_says_how_to_lift(tmp_path):
    done = rnnx.adopt(foreign.forgetful().SerializeToString(), tmp_path / "a.onnx")
    assert done.manifest.not_streamable_because.startswith("steps answer otherwise than the whole, off by 0.")
    assert "LSTM rnn.LSTM begins anew in each call; --lift makes its state an input" in done.notes
    with pytest.raises(InputError, match="cannot be stepped"):
        load(done.path).stream()


def test_what_rows_do_to_each_other_fixes_the_batch(tmp_path):
    done = rnnx.adopt(foreign.quantised().SerializeToString(), tmp_path / "a.onnx", trust=True)
    assert done.manifest.fixed_batch == 1
    assert any("a row alone is answered otherwise than among others" in note for note in done.notes)
    assert done.manifest.chunks_matter_because.startswith("its values are quantised over all of a call")
    assert done.manifest.trusted == ("DynamicQuantizeLinear",)
    assert "DynamicQuantizeLinear: not in the runtime's list; load it with --trust" in str(done)


def test_a_vocabulary_makes_it_write(tmp_path):
    done = rnnx.adopt(foreign.language_model(4).SerializeToString(), tmp_path / "a.onnx", codec=rnnx_codec("ehlo"))
    model = load(done.path)
    assert done.manifest.outputs[0].role == "logits"
    assert len(model.infer("hello")) == 5
    assert len("".join(model.stream().generate("he", 6, seed=0))) == 6


def writer(*, chained: bool) -> Any:
    """Scores of four symbols, and features of that size: `chained`, what the scores are made of, or beside them."""
    b = foreign.Builder(3)
    b.given("tokens", ["batch", "seq"], foreign.INT64)
    b.given("h0", [1, "batch", 4])
    x = b.node("Transpose", b.node("Gather", b.weight(4, 3), "tokens"), perm=[1, 0, 2])
    b.recurrent("GRU", x, 3, 4, "h0", to=["g", "hn"])
    b.node("Transpose", b.node("Squeeze", "g", b.ints(1)), to="features" if chained else "hidden", perm=[1, 0, 2])
    b.node("MatMul", "features" if chained else "hidden", b.weight(4, 4), to="scores")
    if not chained:
        b.node("MatMul", "hidden", b.weight(4, 4), to="features")
    for name in ("features", "scores"):
        b.gives(name, ["batch", "seq", 4])
    b.gives("hn", [1, "batch", 4])
    return b.model()


def test_what_scores_are_made_of_is_not_taken_for_them(tmp_path):
    path = tmp_path / "a.onnx"
    done = rnnx.adopt(writer(chained=True).SerializeToString(), path, codec=rnnx_codec("ehlo"))
    assert {spec.name: spec.role for spec in done.manifest.outputs} == {"features": "values", "scores": "logits"}
    assert len("".join(load(path).stream().generate("he", 6, seed=0))) == 6
    with pytest.raises(
        AdoptError, match="features, scores may each score the 4 symbols of the vocabulary; take all but one off"
    ):
        rnnx.adopt(writer(chained=False).SerializeToString(), path, codec=rnnx_codec("ehlo"))


def rnnx_codec(vocabulary: str) -> Any:
    from rnnx_runtime.artifact import CharCodec

    return CharCodec(vocabulary=vocabulary)


def test_what_the_adoption_itself_got_wrong_is_caught(tmp_path, monkeypatch):
    """A planted mistake: one weight changed while the graph is put in order."""
    from onnx import numpy_helper

    from rnnx._adopt import adoption

    def careless(model: Any) -> Any:
        found, notes = tidy(model)
        tensor = next(one for one in found.graph.initializer if numpy_helper.to_array(one).dtype == np.float32)
        values = numpy_helper.to_array(tensor).copy()
        values.flat[0] += 0.01
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return found, notes

    tidy = adoption.tidy
    monkeypatch.setattr(adoption, "tidy", careless)
    with pytest.raises(
        AdoptError, match="the artifact answers otherwise than the file, .* off by .*: .*; nothing was written"
    ):
        rnnx.adopt(foreign.cell().SerializeToString(), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_it_needs_no_torch(tmp_path):
    (tmp_path / "cell.onnx").write_bytes(foreign.cell().SerializeToString())
    code = "import sys; sys.modules['torch'] = None\nimport rnnx; print(rnnx.adopt('cell.onnx', 'a.onnx').manifest.name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("cell\n", "")
