import json

import msgspec
import numpy as np
import pytest

from rnnx_runtime import ArtifactError
from rnnx_runtime._manifest import decode_manifest
from rnnx_runtime.artifact import FORMAT_VERSION, Array, Constant, Input, Manifest, Sampling, StateSpec, Zeros


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
        with pytest.raises(
            ArtifactError, match=f"has format version {version}, this runtime reads version 1; export the model"
        ):
            decode_manifest(json.dumps(content))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[]",
        "null",
        "1",
        '"text"',
        "{}",
        '{"format_version": "1"}',
        '{"format_version": 1}',
        '{"format_version": 1',
    ],
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
        (["precision"], "bfloat16", "Invalid enum value 'bfloat16'"),
        (["precision"], "float16", "the precision is float16, but what is said of the weights is for full precision"),
        (["precision"], "int8", "the precision is int8, but what is said of the weights is for full precision"),
        (["codec", "kind"], "python", "Invalid value 'python'"),
        (["codec", "vocabulary"], "", "the vocabulary is empty"),
        (["codec", "vocabulary"], "hello", "the vocabulary has 'l' twice"),
        (["inputs"], [], "an artifact has at least one input and one output"),
        (["outputs"], [], "an artifact has at least one input and one output"),
        (["inputs", 0, "dtype"], "float16", "Invalid enum value 'float16'"),
        (["inputs", 0, "dtype"], "object", "Invalid enum value 'object'"),
        (["inputs", 0, "role"], "text", "Invalid enum value 'text'"),
        (
            ["inputs", 0, "shape"],
            ["batch", "time"],
            r"tokens: shape \('batch', 'time'\) has a symbol other than batch and seq_len",
        ),
        (["inputs", 0, "shape"], ["batch", "seq_len*2"], "has a symbol other than"),
        (["inputs", 0, "shape"], ["batch", ""], "has a symbol other than"),
        (["inputs", 0, "shape"], ["batch\n", "seq_len"], "has a symbol other than"),
        (["inputs", 0, "shape"], ["batch", "batch"], "has a symbol twice"),
        (["inputs", 0, "shape"], ["batch", "batch*seq_len"], "has a symbol twice"),
        (["inputs", 0, "shape"], ["seq_len", "seq_len", "batch"], "has a symbol twice"),
        (["inputs", 0, "shape"], ["seq_len"], "has no axis batch"),
        (["inputs", 0, "shape"], [], "has no axis batch"),
        (["inputs", 0, "shape"], [1, 2], "has no axis batch"),
        (["inputs", 0, "shape"], ["batch", -1], "has an axis without elements, too many axes or too many elements"),
        (["inputs", 0, "shape"], ["batch", 2**16, 2**16], "has an axis without elements, too many axes or too many elements"),
        (["inputs", 0, "shape"], ["batch", 1.5], "Expected `int | str`, got `float`"),
        (["inputs", 0, "shape"], "batch", "Expected `array`, got `str`"),
        (["states", 0, "shape"], [1, "batch", "batch"], "batch must stand at batch_axis 1 of"),
        (["states", 0, "shape"], [1, "seq_len", 8], "batch must stand at batch_axis 1 of"),
        (["states", 0, "shape"], [1, "batch*seq_len", 8], "batch must stand at batch_axis 1 of"),
        (["states", 0, "shape"], ["batch", 1, 8], "batch must stand at batch_axis 1 of"),
        (["states", 0, "shape"], [1, 1, 8], "batch must stand at batch_axis 1 of"),
        (["states", 0, "shape"], [1, "batch", 0], "has an axis without elements, too many axes or too many elements"),
        (["states", 0, "shape"], [1, "batch", -8], "has an axis without elements, too many axes or too many elements"),
        (["states", 0, "shape"], [-1, "batch", -8], "has an axis without elements, too many axes or too many elements"),
        (["states", 0, "shape"], [2**16, "batch", 2**16], "has an axis without elements, too many axes or too many elements"),
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


def test_a_lone_surrogate_is_refused(said):
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
    return StateSpec(name="h", input="h", output="o", dtype="float32", shape=(2, "batch", 3), batch_axis=1, init=init)


def test_a_state_starts_with_zeros_in_every_row():
    start = _state(Zeros()).initial(4)
    assert (start.shape, start.dtype) == ((2, 4, 3), np.float32)
    assert not start.any()


def test_a_state_starts_with_its_constant_in_every_row():
    value = np.arange(6, dtype=np.float32).reshape(2, 1, 3)
    start = _state(Constant(value=Array.of(value))).initial(4)
    assert (start.shape, start.dtype) == ((2, 4, 3), np.float32)
    for row in range(4):
        np.testing.assert_array_equal(start[:, row : row + 1], value)


@pytest.mark.parametrize(
    "value",
    [np.zeros((2, 2, 3), np.float32), np.zeros((2, 3), np.float32), np.zeros((2, 1, 3)), np.zeros((3, 1, 2), np.float32)],
)
def test_a_constant_has_the_shape_and_type_of_its_state_with_one_row(value):
    with pytest.raises(ValueError, match=r"h: the initial value is .*, not \(2, 1, 3\)"):
        _state(Constant(value=Array.of(value)))


def test_a_start_that_is_not_finite_is_refused(said):
    for value in (np.nan, np.inf, -np.inf):
        start = Array.of(np.full((1, 1, 8), value, np.float32))
        with pytest.raises(ValueError, match="^an initial value is not finite$"):
            Constant(value=start)
        said["states"][0]["init"] = {"kind": "constant", "value": msgspec.to_builtins(start)}
        with pytest.raises(ArtifactError, match="the manifest is not valid: an initial value is not finite"):
            decode_manifest(json.dumps(said))


def test_the_golden_artifacts_start_as_their_modules_do(char_rnn, lstm, gru):
    assert all(isinstance(spec.init, Zeros) for model in (char_rnn, lstm) for spec in model.manifest.states)
    assert all(isinstance(spec.init, Constant) for spec in gru.manifest.states)


def test_the_manifest_holds_no_paths_and_no_times(model):
    provenance = msgspec.structs.asdict(model.manifest.provenance)
    assert set(provenance) == {"module", "weights_sha256", "versions", "source_sha256"}
    said = (*(provenance[key] for key in ("module", "weights_sha256", "source_sha256")), *provenance["versions"].values())
    for text in said:
        assert not set(text) & set("/\\: ")


def test_an_optional_key_may_be_left_out(said):
    said["outputs"][0]["role"] = "values"  # logits are those of a codec's symbols
    for key in ("codec", "parity", "not_streamable_because", "conditions", "sampling"):
        del said[key]
    manifest = decode_manifest(json.dumps(said))
    assert isinstance(manifest, Manifest)
    assert (manifest.codec, manifest.parity, manifest.not_streamable_because) == (None, None, None)
    assert (manifest.conditions, manifest.sampling) == ((), None)


@pytest.mark.parametrize("change", [{"codec": None}, {"codec": None, "sampling": {"prompt": "h"}}])
def test_logits_and_sampling_need_a_codec(said, change):
    with pytest.raises(ArtifactError, match="the manifest is not valid: logits and sampling need a codec"):
        decode_manifest(json.dumps(said | change))


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[31mred", "a\0", "\u202e"])
@pytest.mark.parametrize(
    "path", [["name"], ["inputs", 0, "name"], ["outputs", 0, "name"], ["states", 0, "name"], ["states", 0, "input"]]
)
def test_a_name_can_be_printed(said, path, name):
    *way, last = path
    place = said
    for key in way:
        place = place[key]
    place[last] = name
    with pytest.raises(ArtifactError, match="a name is empty or has characters that cannot be printed") as caught:
        decode_manifest(json.dumps(said))
    assert str(caught.value).isprintable()


def test_no_message_about_a_manifest_writes_control_characters(said):
    for change in ({"\x1b[31m": 1}, {"precision": "\x1b[31m"}, {"inputs": [{"\x1b[2J": 1}]}, {"lowering": "a\nb"}):
        with pytest.raises(ArtifactError, match="the manifest is not valid") as caught:
            decode_manifest(json.dumps(said | change))
        assert str(caught.value).isprintable()


SAMPLED = {"prompt": "he", "stop": ["l"], "temperature": 0.5, "max_new_tokens": 9}
CONDITION = {"name": "image", "dtype": "float32", "shape": ["batch", 3], "role": "values"}


def test_sampling_defaults_are_the_same_after_writing_and_reading(said):
    manifest = decode_manifest(json.dumps(said | {"sampling": SAMPLED}))
    assert manifest.sampling == Sampling(prompt="he", stop=("l",), temperature=0.5, max_new_tokens=9)
    assert decode_manifest(manifest.encode()) == manifest


@pytest.mark.parametrize(
    ("conditions", "computed", "rule"),
    [
        ([CONDITION], False, "conditions must stand where a state is computed, and only there"),
        ([], True, "conditions must stand where a state is computed, and only there"),
        ([CONDITION, CONDITION], True, "a condition has the name of an input, or an axis seq_len"),
        ([CONDITION | {"name": "tokens"}], True, "a condition has the name of an input, or an axis seq_len"),
        ([CONDITION | {"shape": ["batch", "seq_len", 3]}], True, "a condition has the name of an input, or an axis seq_len"),
        ([CONDITION | {"shape": ["batch*seq_len"]}], True, "a condition has the name of an input, or an axis seq_len"),
        ([CONDITION | {"shape": [1, 3]}], True, "image has no axis batch, which only a graph of one row may lack"),
    ],
)
def test_conditions_are_those_of_computed_states(said, conditions, computed, rule):
    said["conditions"] = conditions
    if computed:
        said["states"][0]["init"] = {"kind": "computed"}
    with pytest.raises(ArtifactError, match=f"the manifest is not valid: {rule}"):
        decode_manifest(json.dumps(said))


def test_values_need_no_vocabulary():
    assert Input(name="x", dtype="float32", shape=("batch", 3), role="values").vocabulary_size is None
