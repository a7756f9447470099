import json

import msgspec
import numpy as np
import pytest

from rnnx_runtime import ArtifactError
from rnnx_runtime._manifest import check_names, decode_manifest
from rnnx_runtime.artifact import FORMAT_VERSION, Array, Constant, Input, Manifest, StateSpec, Zeros


@pytest.fixture
def said(char_rnn):
    """A manifest as plain data, to be changed."""
    return json.loads(char_rnn.manifest.encode())


def test_a_manifest_is_the_same_after_writing_and_reading(model):
    text = model.manifest.encode()
    assert decode_manifest(text) == model.manifest
    assert decode_manifest(text).encode() == text
    assert model.manifest.format_version == FORMAT_VERSION == 1


def test_a_manifest_cannot_be_changed(char_rnn):
    with pytest.raises(AttributeError, match="immutable"):
        char_rnn.manifest.name = "other"
    with pytest.raises(AttributeError, match="immutable"):
        char_rnn.manifest.inputs[0].name = "other"


@pytest.mark.parametrize("version", [0, 2, 999, -1])
def test_another_format_version_is_refused_before_anything_else_is_read(said, version):
    for content in (said | {"format_version": version}, {"format_version": version, "all else": "unknown"}):
        with pytest.raises(ArtifactError, match=f"has format version {version}, this runtime reads version 1; export the model"):
            decode_manifest(json.dumps(content))


@pytest.mark.parametrize(
    "text",
    ["", "hello", "[]", "null", "1", '"text"', "{}", '{"format_version": "1"}', '{"format_version": 1}', '{"format_version": 1'],
)
def test_what_is_no_manifest_is_refused(text):
    with pytest.raises(ArtifactError, match="the manifest is not valid: "):
        decode_manifest(text)


@pytest.mark.parametrize("version", [True, None, 1.5, "1", [1]])
def test_a_format_version_is_a_whole_number(said, version):
    with pytest.raises(ArtifactError, match="the manifest is not valid: Expected `int`"):
        decode_manifest(json.dumps(said | {"format_version": version}))


def test_a_manifest_nested_without_end_is_refused():
    with pytest.raises(ArtifactError, match="the manifest is not valid"):
        decode_manifest('{"format_version": 1, "name": ' + "[" * 100_000 + "]" * 100_000 + "}")


def test_something_behind_the_manifest_is_refused(said):
    with pytest.raises(ArtifactError, match="the manifest is not valid"):
        decode_manifest(json.dumps(said) + "{}")


@pytest.mark.parametrize(
    "key",
    [
        "name",
        "inputs",
        "outputs",
        "states",
        "streamable",
        "lowering",
        "precision",
        "provenance",
        "golden",
    ],
)
def test_a_missing_key_is_refused(said, key):
    del said[key]
    with pytest.raises(ArtifactError, match=f"the manifest is not valid: Object missing required field `{key}`"):
        decode_manifest(json.dumps(said))


@pytest.mark.parametrize(
    "path",
    [
        [],
        ["inputs", 0],
        ["outputs", 0],
        ["states", 0],
        ["states", 0, "init"],
        ["codec"],
        ["golden"],
        ["golden", "inputs", "tokens"],
        ["parity"],
        ["provenance"],
    ],
)
def test_an_unknown_key_is_refused_at_every_depth(said, path):
    place = said
    for key in path:
        place = place[key]
    place["surprise"] = 1
    with pytest.raises(ArtifactError, match="the manifest is not valid: Object contains unknown field `surprise`"):
        decode_manifest(json.dumps(said))


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        (["name"], 3, "Expected `str`, got `int`"),
        (["streamable"], 1, "Expected `bool`, got `int`"),
        (["lowering"], "loop", "Invalid enum value 'loop'"),
        (["precision"], "float16", "Invalid enum value 'float16'"),
        (["codec", "kind"], "python", "Invalid value 'python'"),
        (["codec", "vocabulary"], "", "the vocabulary is empty"),
        (["codec", "vocabulary"], "hello", "the vocabulary has 'l' twice"),
        (["inputs"], [], "an artifact has at least one input and one output"),
        (["outputs"], [], "an artifact has at least one input and one output"),
        (["inputs", 0, "dtype"], "float16", "Invalid enum value 'float16'"),
        (["inputs", 0, "dtype"], "object", "Invalid enum value 'object'"),
        (["inputs", 0, "role"], "text", "Invalid enum value 'text'"),
        (["inputs", 0, "shape"], ["batch", "time"], r"tokens: shape \('batch', 'time'\) has a symbol other than batch and seq_len"),
        (["inputs", 0, "shape"], ["batch", "seq_len*2"], "has a symbol other than"),
        (["inputs", 0, "shape"], ["batch", ""], "has a symbol other than"),
        (["inputs", 0, "shape"], ["batch\n", "seq_len"], "has a symbol other than"),
        (["inputs", 0, "shape"], ["batch", "batch"], "has a symbol twice"),
        (["inputs", 0, "shape"], ["batch", "batch*seq_len"], "has a symbol twice"),
        (["inputs", 0, "shape"], ["seq_len", "seq_len", "batch"], "has a symbol twice"),
        (["inputs", 0, "shape"], ["seq_len"], "has no axis batch"),
        (["inputs", 0, "shape"], [], "has no axis batch"),
        (["inputs", 0, "shape"], [1, 2], "has no axis batch"),
        (["inputs", 0, "shape"], ["batch", -1], "is negative or too large"),
        (["inputs", 0, "shape"], ["batch", 2**16, 2**16], "is negative or too large"),
        (["inputs", 0, "shape"], ["batch", 1.5], "Expected `int | str`, got `float`"),
        (["inputs", 0, "shape"], "batch", "Expected `array`, got `str`"),
        (["states", 0, "shape"], [1, "batch", "batch"], "batch must stand at batch_axis 1 of"),
        (["states", 0, "shape"], [1, "seq_len", 8], "batch must stand at batch_axis 1 of"),
        (["states", 0, "shape"], [1, "batch*seq_len", 8], "batch must stand at batch_axis 1 of"),
        (["states", 0, "shape"], ["batch", 1, 8], "batch must stand at batch_axis 1 of"),
        (["states", 0, "shape"], [1, 1, 8], "batch must stand at batch_axis 1 of"),
        (["states", 0, "shape"], [1, "batch", 0], "is empty or too large"),
        (["states", 0, "shape"], [1, "batch", -8], "is empty or too large"),
        (["states", 0, "shape"], [-1, "batch", -8], "is empty or too large"),
        (["states", 0, "shape"], [2**16, "batch", 2**16], "is empty or too large"),
        (["states", 0, "batch_axis"], 0, "batch must stand at batch_axis 0 of"),
        (["states", 0, "batch_axis"], -2, "batch must stand at batch_axis -2 of"),
        (["states", 0, "init", "kind"], "random", "Invalid value 'random'"),
        (["states", 0, "name"], "rnn.l1.h", "a name stands twice in"),
        (["states", 0, "input"], "rnn.l1.h", "a name stands twice in"),
        (["states", 0, "input"], "tokens", "a name stands twice in"),
        (["states", 0, "output"], "output", "a name stands twice in"),
        (["streamable"], False, "not_streamable_because must stand where streamable is false, and only there"),
        (["not_streamable_because"], "I say so", "not_streamable_because must stand where streamable is false"),
        (["golden", "inputs", "tokens", "shape"], [1, 5], r"int64 \(1, 5\) needs 40 bytes, not 32"),
        (["golden", "inputs", "tokens", "shape"], [-1, -4], "needs 32 bytes, not 32"),
        (["golden", "inputs", "tokens", "dtype"], "int32", r"int32 \(1, 4\) needs 16 bytes, not 32"),
        (["golden", "inputs", "tokens", "data"], "*not base64*", "Invalid base64 encoded string"),
    ],
)
def test_a_value_that_breaks_the_contract_is_refused(said, path, value, rule):
    *way, last = path
    place = said
    for key in way:
        place = place[key]
    place[last] = value
    with pytest.raises(ArtifactError, match=f"the manifest is not valid: .*{rule}"):
        decode_manifest(json.dumps(said))


@pytest.mark.parametrize(
    "change",
    [
        {"vocabulary_size": None},
        {"vocabulary_size": 0},
        {"vocabulary_size": -4},
        {"dtype": "float32"},
        {"dtype": "bool"},
    ],
)
def test_tokens_are_integers_with_a_vocabulary_size(said, change):
    said["inputs"][0].update(change)
    with pytest.raises(ArtifactError, match="the manifest is not valid"):
        decode_manifest(json.dumps(said))


def test_a_lone_surrogate_in_the_manifest_is_refused_or_read_but_nothing_else(said):
    said["name"] = "\ud800"
    with pytest.raises(ArtifactError, match="the manifest is not valid"):
        decode_manifest(json.dumps(said))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)])
def test_an_array_is_the_same_after_writing_and_reading(dtype, shape):
    array = (np.random.default_rng(0).standard_normal(shape) * 100).astype(dtype)
    array = np.asarray(array)
    read = msgspec.json.decode(msgspec.json.encode(Array.of(array)), type=Array).numpy()
    assert (read.dtype, read.shape) == (np.dtype(dtype), shape)
    np.testing.assert_array_equal(read, array)
    assert not read.flags.writeable


def test_arrays_are_written_little_endian_and_in_c_order():
    array = np.arange(6, dtype=">i4").reshape(2, 3)
    little = np.arange(6, dtype="<i4").tobytes()
    assert Array.of(array).data == little
    assert Array.of(np.asfortranarray(array)).data == little
    assert Array.of(array.T).data == np.arange(6, dtype="<i4").reshape(2, 3).T.tobytes()
    assert Array.of(array).dtype == "int32"


def _state(init):
    return {
        "name": "h", "input": "h", "output": "h.next", "dtype": "float32", "shape": [2, "batch", 3], "batch_axis": 1, "init": init,
    }  # fmt: skip


def test_a_state_starts_with_zeros_in_every_row():
    spec = StateSpec(name="h", input="h", output="o", dtype="float32", shape=(2, "batch", 3), batch_axis=1, init=Zeros())
    start = spec.initial(4)
    assert (start.shape, start.dtype) == ((2, 4, 3), np.float32)
    assert not start.any()


def test_a_state_starts_with_its_constant_in_every_row():
    value = np.arange(6, dtype=np.float32).reshape(2, 1, 3)
    spec = StateSpec(
        name="h", input="h", output="o", dtype="float32", shape=(2, "batch", 3), batch_axis=1, init=Constant(value=Array.of(value))
    )
    start = spec.initial(4)
    assert (start.shape, start.dtype) == ((2, 4, 3), np.float32)
    for row in range(4):
        np.testing.assert_array_equal(start[:, row : row + 1], value)


@pytest.mark.parametrize(
    "value", [np.zeros((2, 2, 3), np.float32), np.zeros((2, 3), np.float32), np.zeros((2, 1, 3)), np.zeros((3, 1, 2), np.float32)]
)
def test_a_constant_has_the_shape_and_type_of_its_state_with_one_row(value):
    said = _state({"kind": "constant", "value": msgspec.to_builtins(Array.of(value))})
    with pytest.raises(msgspec.ValidationError, match=r"h: the initial value is .*, not \(2, 1, 3\)"):
        msgspec.convert(said, StateSpec)


def test_the_state_of_the_next_step_is_read_from_the_key_that_says_so(gru):
    for spec in gru.manifest.states:
        assert isinstance(spec.init, Constant)
        assert (spec.output, spec.batch_axis) == (f"{spec.input}.next", 1)


def test_names_may_stand_in_any_order(char_rnn):
    manifest = char_rnn.manifest
    inputs = ["rnn.l1.h", "tokens", "rnn.l0.h"]
    outputs = ["rnn.l1.h.next", "rnn.l0.h.next", "output"]
    check_names(manifest, inputs, outputs)
    check_names(manifest, inputs[::-1], outputs[::-1])


@pytest.mark.parametrize(
    ("inputs", "outputs", "kind"),
    [
        (["tokens", "rnn.l0.h"], ["output", "rnn.l0.h.next", "rnn.l1.h.next"], "inputs"),
        (["tokens", "rnn.l0.h", "rnn.l1.h", "more"], ["output", "rnn.l0.h.next", "rnn.l1.h.next"], "inputs"),
        (["tokens", "rnn.l0.h", "rnn.l1.h", "tokens"], ["output", "rnn.l0.h.next", "rnn.l1.h.next"], "inputs"),
        (["tokens", "rnn.l0.h", "rnn.l1.h"], ["output", "rnn.l0.h.next"], "outputs"),
        (["tokens", "rnn.l0.h", "rnn.l1.h"], ["output", "rnn.l0.h.next", "rnn.l1.h.next", ""], "outputs"),
        ([], [], "inputs"),
    ],
)
def test_names_that_do_not_match_are_refused(char_rnn, inputs, outputs, kind):
    with pytest.raises(ArtifactError, match=f"the manifest names the {kind} .*, the graph has "):
        check_names(char_rnn.manifest, inputs, outputs)


def test_the_manifest_holds_no_paths_and_no_times(model):
    text = model.manifest.encode()
    for trace in ("/home", "/root", "/work", "/tmp", "site-packages", ".py", "20:"):
        assert trace not in text
    assert set(msgspec.structs.asdict(model.manifest.provenance)) == {"module", "weights_sha256", "versions"}


def test_an_optional_key_may_be_left_out(said):
    for key in ("codec", "parity", "not_streamable_because"):
        del said[key]
    manifest = decode_manifest(json.dumps(said))
    assert isinstance(manifest, Manifest)
    assert (manifest.codec, manifest.parity, manifest.not_streamable_because) == (None, None, None)


def test_values_need_no_vocabulary():
    assert Input(name="x", dtype="float32", shape=("batch", 3), role="values").vocabulary_size is None
