import numpy as np
import pytest

from rnnx_runtime import InputError
from rnnx_runtime._inputs import Port, by_name, check_chunk, real, whole
from rnnx_runtime.artifact import Input


def values(spec, value):
    port = Port(spec)
    return port.checked(port.array(value), 4)


TOKENS = Input(name="tokens", dtype="int64", shape=("batch", "seq_len"), role="tokens", vocabulary_size=4)
SMALL_TOKENS = Input(name="tokens", dtype="int32", shape=("batch", "seq_len"), role="tokens", vocabulary_size=4)
VALUES = Input(name="x", dtype="float32", shape=("batch", "seq_len", 3), role="values")
DOUBLES = Input(name="x", dtype="float64", shape=("batch", "seq_len", 3), role="values")
COUNTS = Input(name="n", dtype="int32", shape=("batch", "seq_len"), role="values")
LONG_COUNTS = Input(name="n", dtype="int64", shape=("batch", "seq_len"), role="values")
FLAGS = Input(name="on", dtype="bool", shape=("batch", "seq_len"), role="values")


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (TOKENS, [[0, 3]]),
        (TOKENS, ((0, 3),)),
        (TOKENS, np.array([[0, 3]], np.uint8)),
        (TOKENS, np.array([[0, 3]], np.int16)),
        (TOKENS, np.array([[0, 3]], ">i8")),
        (TOKENS, np.array([[0, 3]], np.uint64)),
        (SMALL_TOKENS, np.array([[0, 3]], np.int64)),
        (TOKENS, []),
        (TOKENS, [[]]),
        (VALUES, [[0.5, 1, -2]]),
        (VALUES, [[1, 2, 3]]),
        (VALUES, np.array([1.5], np.float16)),
        (VALUES, np.array([1.5], ">f4")),
        (VALUES, np.array([1.5], ">f8")),
        (VALUES, np.array([1.5], np.longdouble)),
        (VALUES, 3.5),
        (VALUES, np.float32(3.5)),
        (VALUES, [3.4028234e38]),
        (VALUES, [1e-320]),
        (DOUBLES, [1e300]),
        (COUNTS, [-(2**31), 2**31 - 1]),
        (LONG_COUNTS, [-(2**63), 2**63 - 1]),
        (FLAGS, [[True, False]]),
    ],
)
def test_numbers_of_the_right_kind_become_the_type_of_the_graph(spec, value):
    array = values(spec, value)
    assert array.dtype == np.dtype(spec.dtype)
    assert array.dtype.isnative
    np.testing.assert_array_equal(array, np.asarray(value, spec.dtype))


def test_an_array_that_fits_is_not_copied():
    array = np.zeros((1, 2, 3), np.float32)
    assert values(VALUES, array) is array


@pytest.mark.parametrize(
    "strange", [np.arange(12)[::-2] % 4, np.asfortranarray(np.arange(6).reshape(2, 3) % 4), np.broadcast_to(1, (2, 3))]
)
def test_the_order_of_an_array_in_memory_does_not_matter(strange):
    np.testing.assert_array_equal(values(TOKENS, strange), strange)
    np.testing.assert_array_equal(values(VALUES, strange.astype(np.float32)), strange)


@pytest.mark.parametrize(
    ("spec", "value", "rule"),
    [
        (TOKENS, [-1], "tokens: token -1 is outside the vocabulary, 0 to 3"),
        (TOKENS, [4], "tokens: token 4 is outside the vocabulary, 0 to 3"),
        (TOKENS, [-1, 4], "tokens: token -1 is outside"),
        (TOKENS, [2**63 - 1], "tokens: token 9223372036854775807 is outside"),
        (TOKENS, [2**63], "tokens: token 9223372036854775808 is outside"),
        (TOKENS, [-(2**63)], "tokens: token -9223372036854775808 is outside"),
        (SMALL_TOKENS, [2**32], "tokens: token 4294967296 is outside"),
        (SMALL_TOKENS, [2**32 + 1], "tokens: token 4294967297 is outside"),
        (TOKENS, [2**64], "tokens: expected int64, got object; convert it first"),
        (TOKENS, [0.0], "tokens: expected int64, got float64; convert it first"),
        (TOKENS, [True], "tokens: expected int64, got bool; convert it first"),
        (TOKENS, [np.nan], "tokens: expected int64, got float64"),
        (TOKENS, "hello", "tokens: expected int64, got str"),
        (TOKENS, ["1"], "tokens: expected int64, got <U1"),
        (TOKENS, b"hello", "tokens: expected int64, got bytes"),
        (TOKENS, None, "tokens: expected int64, got NoneType"),
        (TOKENS, [1j], "tokens: expected int64, got complex128"),
        (TOKENS, np.array(["2020-01-01"], "M8[D]"), "tokens: expected int64, got datetime64"),
        (TOKENS, {1, 2}, "tokens: expected int64, got set"),
        (TOKENS, iter([1]), "tokens: expected int64, got list_iterator"),
        (TOKENS, [[1], [1, 2]], "tokens: list is no array of numbers: "),
        (VALUES, [np.nan], r"x: nan at \[0\]; every value must be finite"),
        (VALUES, [[0, np.inf]], r"x: inf at \[0, 1\]; every value must be finite"),
        (VALUES, [-np.inf], r"x: -inf at \[0\]"),
        (VALUES, [1e300], r"x: 1e\+300 at \[0\]; every value must be finite in float32"),
        (VALUES, [-1e39], r"x: -1e\+39 at \[0\]"),
        (VALUES, np.array([np.nan], ">f4"), r"x: nan at \[0\]"),
        (VALUES, [True], "x: expected float32, got bool"),
        (VALUES, ["1.5"], "x: expected float32, got <U3"),
        (VALUES, [1j], "x: expected float32, got complex128"),
        (VALUES, [None], "x: expected float32, got object"),
        (VALUES, [10**400], "x: expected float32, got object"),
        (VALUES, [[1.0], [1.0, 2.0]], "x: list is no array of numbers: "),
        (DOUBLES, [np.nan], r"x: nan at \[0\]"),
        (COUNTS, [1.0], "n: expected int32, got float64"),
        (FLAGS, [1], "on: expected bool, got int64"),
    ],
)
def test_numbers_that_break_the_contract_are_refused(spec, value, rule):
    with pytest.raises(InputError, match=f"^{rule}"):
        values(spec, value)


@pytest.mark.parametrize(
    ("spec", "number"),
    [(COUNTS, 2**31), (COUNTS, -(2**31) - 1), (COUNTS, 2**40), (LONG_COUNTS, 2**63), (LONG_COUNTS, 2**64 - 1)],
)
def test_a_number_too_large_for_the_graph_is_refused_and_not_wrapped(spec, number):
    with pytest.raises(InputError, match=r"^n: a value does not fit int(32|64), -\d+ to \d+$"):
        values(spec, [number])


def test_the_first_value_that_is_not_finite_is_pointed_at():
    array = np.zeros((2, 3, 3), np.float32)
    array[1, 2, 0] = np.nan
    with pytest.raises(InputError, match=r"^x: nan at \[1, 2, 0\]; every value must be finite in float32$"):
        values(VALUES, array)


def test_a_masked_array_is_refused():
    with pytest.raises(InputError, match="^x: a masked array; fill or drop what is masked first$"):
        values(VALUES, np.ma.masked_array([1.0, 2.0], [True, False]))


def test_what_fails_while_it_becomes_an_array_is_told_on_one_line():
    class Hostile:
        def __array__(self, *_, **__):
            raise OSError("no\n\x1b[31mred")

    with pytest.raises(InputError, match="^x: Hostile is no array of numbers: ") as caught:
        values(VALUES, Hostile())
    assert str(caught.value).isprintable()


def _ports(*specs):
    return {spec.name: Port(spec) for spec in specs}


def test_one_input_may_be_given_bare_or_by_name():
    for value in ([[1]], {"tokens": [[1]]}):
        (name, array), *rest = by_name(_ports(TOKENS), value).items()
        assert (name, array.tolist(), rest) == ("tokens", [[1]], [])


def test_several_inputs_are_given_by_name():
    ports = _ports(TOKENS, VALUES)
    found = by_name(ports, {"x": [[[1, 2, 3]]], "tokens": [[1]]})
    assert list(found) == ["tokens", "x"]
    with pytest.raises(InputError, match=r"^this model has several inputs; give a mapping with \['tokens', 'x'\]$"):
        by_name(ports, [[1]])


@pytest.mark.parametrize("value", [{}, {"tokens": [[1]]}, {"tokens": [[1]], "x": [], "more": []}, {"tokens": [[1]], 3: []}])
def test_a_missing_or_unknown_input_is_refused(value):
    with pytest.raises(InputError, match=r"^the inputs are \['tokens', 'x'\], got \["):
        by_name(_ports(TOKENS, VALUES), value)


def test_a_chunk_has_one_batch_size_and_number_of_steps():
    ports = _ports(TOKENS, VALUES)
    arrays, batch, steps = check_chunk(ports, by_name(ports, {"x": np.ones((2, 4, 3)), "tokens": np.ones((2, 4), np.uint8)}))
    assert (batch, steps) == (2, 4)
    assert {name: (array.dtype, array.shape) for name, array in arrays.items()} == {
        "tokens": (np.int64, (2, 4)),
        "x": (np.float32, (2, 4, 3)),
    }


@pytest.mark.parametrize("value", [1, 7, np.int8(7), np.uint64(7)])
def test_a_whole_number_is_taken_from_any_type_of_them(value):
    assert whole("n", value, 1, 7) == value
    assert type(whole("n", value, 1)) is int


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (0, "n must be from 1 to 7, got 0"),
        (8, "n must be from 1 to 7, got 8"),
        (2**62, "n must be from 1 to 7, got 4611686018427387904"),
        (True, "n must be from 1 to 7, got True"),
        (np.True_, "n must be "),
        (2.0, r"n must be a whole number, got 2\.0"),
        ("2", "n must be a whole number, got '2'"),
        ("\x1b[31m", r"n must be a whole number, got '\\x1b\[31m'"),
        (None, "n must be a whole number, got None"),
        ([2], r"n must be a whole number, got \[2\]"),
    ],
)
def test_what_is_no_whole_number_in_range_is_refused(value, rule):
    with pytest.raises(InputError, match=f"^{rule}"):
        whole("n", value, 1, 7)


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.5), np.int64(3)])
def test_a_number_is_taken_from_any_type_of_them(value):
    assert real("r", value) == value
    assert type(real("r", value)) is float


@pytest.mark.parametrize("value", [True, "0.5", None, 1j, [0.5], np.nan, np.inf, -np.inf, np.array([0.5])])
def test_what_is_no_finite_number_is_refused(value):
    with pytest.raises(InputError, match="^r must be a finite number, got "):
        real("r", value)
