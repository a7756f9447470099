import pickle

import msgspec
import numpy as np
import pytest

from rnnx_runtime import InputError
from rnnx_runtime.artifact import CharCodec, Codec, OneHotCodec

EHLO = CharCodec(vocabulary="ehlo")


def test_a_token_is_the_position_in_the_vocabulary():
    tokens = EHLO.encode("hello")
    assert tokens.tolist() == [1, 0, 2, 2, 3]
    assert tokens.dtype == np.int64
    assert EHLO.decode(tokens) == "hello"


def test_no_text_has_no_tokens():
    assert EHLO.encode("").shape == (0,)
    assert EHLO.encode("").dtype == np.int64
    assert EHLO.decode([]) == ""


@pytest.mark.parametrize(
    "vocabulary", ["a", "\n\t\0 ", "häß", "e\u0301", "👩\u200d🚀🏽", "\ufeff日本語", "aA", "".join(map(chr, range(0x250)))]
)
def test_text_is_the_same_after_encoding_and_decoding(vocabulary):
    codec = CharCodec(vocabulary=vocabulary)
    text = vocabulary + vocabulary[::-1]
    assert len(codec.encode(text)) == len(text)
    assert codec.decode(codec.encode(text)) == text
    written = msgspec.json.encode(codec)
    assert msgspec.json.decode(written, type=Codec) == codec


@pytest.mark.parametrize(
    ("text", "char", "position"), [("Hello", "'H'", 0), ("hello!", "'!'", 5), ("he\nllo", r"'\\n'", 2), ("é", "'é'", 0)]
)
def test_a_character_outside_the_vocabulary_is_named_with_its_position(text, char, position):
    with pytest.raises(
        InputError, match=f"^character {char} at position {position} is not in the model's vocabulary of 4: 'ehlo'$"
    ):
        EHLO.encode(text)


def test_text_is_not_normalised():
    composed, decomposed = "é", "e\u0301"
    with pytest.raises(InputError, match="at position 0"):
        CharCodec(vocabulary=decomposed).encode(composed)


def test_a_long_vocabulary_is_shown_shortened():
    codec = CharCodec(vocabulary="".join(map(chr, range(0x4E00, 0x5E00))))
    with pytest.raises(InputError, match="vocabulary of 4096: '.{40}…'$"):
        codec.encode("a")
    codec = CharCodec(vocabulary="".join(map(chr, range(0x4E00, 0x4E00 + 40))))
    with pytest.raises(InputError, match="vocabulary of 40: '.{40}'$"):
        codec.encode("a")


@pytest.mark.parametrize("token", [-1, 4, 10**30, -(2**63)])
def test_a_token_outside_the_vocabulary_is_refused(token):
    with pytest.raises(InputError, match=r"^token .* is outside the vocabulary of 4$"):
        EHLO.decode([token])


@pytest.mark.parametrize(
    "tokens", [[float("nan")], [1.0], [True], ["h"], [[0], [1, 2]], None, {0}, "hello", b"he", [None], 1.5]
)
@pytest.mark.parametrize("kind", [CharCodec, OneHotCodec])
def test_what_are_no_tokens_are_refused(kind, tokens):
    rule = f"^tokens must be whole numbers in one array, got {type(tokens).__name__}$"
    with pytest.raises(InputError, match=rule):
        kind(vocabulary="ehlo").decode(tokens)


@pytest.mark.parametrize("text", [None, 3, b"hello", ["h", "e"], ("h",), np.array(["h"])])
@pytest.mark.parametrize("kind", [CharCodec, OneHotCodec])
def test_what_is_no_text_is_refused(kind, text):
    with pytest.raises(InputError, match=f"^a text must be a str, got {type(text).__name__}$"):
        kind(vocabulary="ehlo").encode(text)


@pytest.mark.parametrize(
    ("vocabulary", "unknown", "cleaned"),
    [
        ("ehlo", "skip", "hello"),
        ("ehlo", "replace", "ehelloee"),
        (" ehlo", "replace", " hello  "),
        ("ehlo ", "replace", " hello  "),
        ("ehlo ", "skip", "hello"),
    ],
)
def test_a_text_may_be_cleaned_of_unknown_characters(vocabulary, unknown, cleaned):
    for kind in (CharCodec, OneHotCodec):
        codec = kind(vocabulary=vocabulary)
        assert codec.clean("Xhello\n!", unknown) == cleaned
        assert codec.clean("hello", unknown) == "hello"
        assert codec.clean("", unknown) == ""
        codec.encode(codec.clean("Any text: 日本語", unknown))
        with pytest.raises(
            InputError, match="^unknown characters are dealt with by 'error', 'skip' or 'replace', got 'drop'$"
        ):
            codec.clean("hello", "drop")


def test_one_hot_rows_of_a_large_vocabulary_take_no_more_than_themselves():
    codec = OneHotCodec(vocabulary="".join(map(chr, range(0x10000, 0x10000 + 200_000))))
    rows = codec.encode("\U00010003")  # a unit matrix of this vocabulary would take 150 GiB
    assert rows.shape == (1, 200_000)
    assert (rows.argmax(), rows.sum()) == (3, 1)


@pytest.mark.parametrize("tokens", [[1, 0, 2], (1, 0, 2), np.array([1, 0, 2], np.uint8), np.array([[1], [0], [2]], ">i4")])
def test_tokens_come_in_any_form(tokens):
    assert EHLO.decode(tokens) == "hel"


@pytest.mark.parametrize(("vocabulary", "rule"), [("", "the vocabulary is empty"), ("hello", "the vocabulary has 'l' twice")])
def test_a_vocabulary_has_each_character_once(vocabulary, rule):
    with pytest.raises(ValueError, match=rule):
        CharCodec(vocabulary=vocabulary)
    with pytest.raises(msgspec.ValidationError, match=rule):
        msgspec.convert({"kind": "char", "vocabulary": vocabulary}, Codec)


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        ({"kind": "char"}, "missing required field `vocabulary`"),
        ({"kind": "pickle", "vocabulary": "a"}, "Invalid value 'pickle'"),
        ({"kind": "char", "vocabulary": ["a"]}, "Expected `str`, got `array`"),
        ({"kind": "char", "vocabulary": "a", "code": "import os"}, "unknown field `code`"),
    ],
)
def test_a_codec_is_data_and_read_strictly(said, rule):
    with pytest.raises(msgspec.ValidationError, match=rule):
        msgspec.convert(said, Codec)


def test_a_one_hot_row_has_its_one_at_the_token():
    codec = OneHotCodec(vocabulary="ehlo")
    rows = codec.encode("hello")
    assert (rows.shape, rows.dtype) == ((5, 4), np.float32)
    np.testing.assert_array_equal(rows, np.eye(4)[[1, 0, 2, 2, 3]])
    np.testing.assert_array_equal(rows.argmax(axis=-1), EHLO.encode("hello"))
    assert codec.encode("").shape == (0, 4)
    assert codec.decode(rows.argmax(axis=-1)) == "hello"
    with pytest.raises(InputError, match="^character 'x' at position 2 is not in the model's vocabulary of 4: 'ehlo'$"):
        codec.encode("hex")


def test_the_kind_tells_the_codecs_apart():
    for codec, kind in ((CharCodec(vocabulary="ab"), b'"char"'), (OneHotCodec(vocabulary="ab"), b'"one_hot"')):
        written = msgspec.json.encode(codec)
        assert b'"kind":' + kind in written
        read = msgspec.json.decode(written, type=Codec)
        assert read == codec
        assert type(read) is type(codec)
    assert CharCodec(vocabulary="ab") != OneHotCodec(vocabulary="ab")
    with pytest.raises(msgspec.ValidationError, match="missing required field `kind`"):
        msgspec.convert({"vocabulary": "ab"}, Codec)


def test_using_a_codec_changes_nothing_about_it():
    used, fresh = CharCodec(vocabulary="ehlo"), CharCodec(vocabulary="ehlo")
    used.encode("hello")
    assert used == fresh
    assert hash(used) == hash(fresh)
    assert msgspec.json.encode(used) == msgspec.json.encode(fresh)
    assert pickle.loads(pickle.dumps(used)) == fresh
    with pytest.raises(AttributeError, match="immutable"):
        used.vocabulary = "other"


def test_a_vocabulary_has_an_end_and_a_late_repeat_in_it_is_found_at_once():
    most = "".join(map(chr, range(0x10000, 0x10000 + 200_000)))
    assert len(CharCodec(vocabulary=most).vocabulary) == 200_000
    with pytest.raises(ValueError, match=r"^the vocabulary has '.*' twice$"):
        CharCodec(vocabulary=most[:-1] + most[-2])
    with pytest.raises(ValueError, match="^the vocabulary has 200001 characters; it may have 200000$"):
        CharCodec(vocabulary=most + "a")
