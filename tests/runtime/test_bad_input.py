import re

import numpy as np
import pytest

from rnnx_runtime import InputError

STEP = {
    "Model.step": lambda model, x: model.step(x, model.initial_state()),
    "Stream.step": lambda model, x: model.stream().step(x),
}
CHUNK = {
    "Model.run": lambda model, x: model.run(x),
    "Model.infer": lambda model, x: model.infer(x),
    "Stream.feed": lambda model, x: model.stream().feed(x),
}

CONTENT = [  # one step of one row, and the rule that it breaks
    ("char_rnn", [-1], "tokens: token -1 is outside the vocabulary, 0 to 3"),
    ("char_rnn", [4], "tokens: token 4 is outside the vocabulary, 0 to 3"),
    ("char_rnn", [2**40], "tokens: token 1099511627776 is outside the vocabulary, 0 to 3"),
    ("char_rnn", [2**63], "tokens: token 9223372036854775808 is outside the vocabulary, 0 to 3"),
    ("char_rnn", [2**70], "tokens: expected int64, got object; convert it first"),
    ("char_rnn", [1.0], "tokens: expected int64, got float64; convert it first"),
    ("char_rnn", [True], "tokens: expected int64, got bool; convert it first"),
    ("char_rnn", ["h"], "tokens: expected int64, got <U1; convert it first"),
    ("char_rnn", [b"h"], "tokens: expected int64, got |S1; convert it first"),
    ("char_rnn", [None], "tokens: expected int64, got object; convert it first"),
    ("char_rnn", [1j], "tokens: expected int64, got complex128; convert it first"),
    ("lstm", [[0, np.nan, 0]], "x: nan at "),
    ("lstm", [[0, np.inf, 0]], "x: inf at "),
    ("lstm", [[0, -np.inf, 0]], "x: -inf at "),
    ("lstm", [[0, 1e39, 0]], "x: 1e+39 at "),
    ("lstm", [[True, False, True]], "x: expected float32, got bool; convert it first"),
    ("lstm", [["a", "b", "c"]], "x: expected float32, got <U1; convert it first"),
    ("lstm", [[1j, 0, 0]], "x: expected float32, got complex128; convert it first"),
    ("gru", [[0, np.nan, 0]], "x: nan at "),
    ("lstm", {}, "the inputs are ['x'], got []"),
    ("lstm", {"tokens": [[0, 0, 0]]}, "the inputs are ['x'], got ['tokens']"),
    ("lstm", {"x": [[0, 0, 0]], "h": [[0]]}, "the inputs are ['x'], got ['h', 'x']"),
]


@pytest.mark.parametrize("way", STEP)
@pytest.mark.parametrize(("name", "x", "rule"), CONTENT)
@pytest.mark.usefixtures("no_onnxruntime")
def test_a_step_with_wrong_content_is_refused_before_onnxruntime_sees_it(models, way, name, x, rule):
    with pytest.raises(InputError, match="^" + re.escape(rule)):
        STEP[way](models[name], x)


@pytest.mark.parametrize("way", CHUNK)
@pytest.mark.parametrize(("name", "x", "rule"), CONTENT)
@pytest.mark.usefixtures("no_onnxruntime")
def test_a_chunk_with_wrong_content_is_refused_before_onnxruntime_sees_it(models, way, name, x, rule):
    chunk = x if isinstance(x, dict) else [[x[0]]]
    with pytest.raises(InputError, match="^" + re.escape(rule)):
        CHUNK[way](models[name], chunk)


@pytest.mark.parametrize("way", CHUNK)
@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("char_rnn", (), "(B, T)"),
        ("char_rnn", (5,), "(B, T)"),
        ("char_rnn", (1, 5, 1), "(B, T)"),
        ("char_rnn", (1, 1, 1, 1), "(B, T)"),
        ("lstm", (), "(B, T, 3)"),
        ("lstm", (3,), "(B, T, 3)"),
        ("lstm", (5, 3), "(B, T, 3)"),
        ("lstm", (1, 5, 2), "(B, T, 3)"),
        ("lstm", (1, 5, 4), "(B, T, 3)"),
        ("lstm", (1, 5, 0), "(B, T, 3)"),
        ("lstm", (1, 3, 5), "(B, T, 3)"),
        ("lstm", (1, 5, 3, 1), "(B, T, 3)"),
        ("gru", (5, 3), "(B, T, 3)"),
        ("gru", (1, 5, 2), "(B, T, 3)"),
        ("gru", (0, 0, 2), "(B, T, 3)"),
    ],
)
@pytest.mark.usefixtures("no_onnxruntime")
def test_a_chunk_of_another_shape_is_refused(models, way, name, shape, wanted):
    chunk = np.zeros(shape, models[name].manifest.inputs[0].dtype)
    with pytest.raises(
        InputError, match="^" + re.escape(f"{models[name].manifest.inputs[0].name}: expected the shape {wanted}, got {shape}")
    ):
        CHUNK[way](models[name], chunk)


@pytest.mark.parametrize("way", STEP)
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("char_rnn", ()),
        ("char_rnn", (1, 1)),
        ("char_rnn", (1, 5)),
        ("char_rnn", (1, 1, 1)),
        ("lstm", ()),
        ("lstm", (3,)),
        ("lstm", (1, 1, 3)),
        ("lstm", (1, 2)),
        ("lstm", (1, 4)),
        ("lstm", (1, 0)),
        ("gru", (3,)),
        ("gru", (1, 5, 3)),
    ],
)
@pytest.mark.usefixtures("no_onnxruntime")
def test_a_step_of_another_shape_is_refused_with_the_shape_that_was_given(models, way, name, shape):
    x = np.zeros(shape, models[name].manifest.inputs[0].dtype)
    with pytest.raises(InputError, match=r"^(tokens|x): expected the shape .*, got " + re.escape(str(shape))):
        STEP[way](models[name], x)


@pytest.mark.parametrize("way", [*STEP, *CHUNK])
@pytest.mark.parametrize("name", ["char_rnn", "lstm"])
@pytest.mark.usefixtures("no_onnxruntime")
def test_ragged_lists_are_refused(models, way, name):
    with pytest.raises(InputError, match=r"^(tokens|x): list is no array of numbers: [^\n]*$"):
        (STEP | CHUNK)[way](models[name], [[0], [1, 2]])


@pytest.mark.parametrize("way", [*STEP, *CHUNK])
@pytest.mark.parametrize("nothing", [None, object(), iter([1]), {1}, b"hello"])
@pytest.mark.usefixtures("no_onnxruntime")
def test_what_is_no_array_is_refused(char_rnn, way, nothing):
    with pytest.raises(InputError, match="^tokens: expected int64, got "):
        (STEP | CHUNK)[way](char_rnn, nothing)


def test_wrong_content_in_one_row_of_many_is_found(char_rnn, lstm):
    tokens, values = np.zeros((64, 50), np.int64), np.zeros((64, 50, 3), np.float32)
    tokens[63, 49], values[63, 49, 2] = 4, np.nan
    with pytest.raises(InputError, match="^tokens: token 4 is outside the vocabulary, 0 to 3$"):
        char_rnn.run(tokens)
    with pytest.raises(InputError, match=r"^x: nan at \[63, 49, 2\]; every value must be finite in float32$"):
        lstm.run(values)


@pytest.mark.parametrize("value", [3.4e38, -3.4e38, 1e-45, -0.0])
def test_the_largest_and_smallest_numbers_are_answered(lstm, value):
    answer, state = lstm.run(np.full((1, 4, 3), value, np.float32))
    assert np.isfinite(answer).all()
    assert all(np.isfinite(array).all() for array in state.values())
