"""Text to learn from: what is refused, and how it is cut."""

import itertools

import pytest
import torch

from rnnx_models._corpus import CorpusError, default_text, held_out_windows, read_text, split, vocabulary_of, windows
from rnnx_models._recipe import SettingsError
from rnnx_models.train import train


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "text.txt is empty; give a text to learn from"),
        (b"\xef\xbb\xbf", "text.txt is empty"),
        (b"caf\xe9", r"text.txt is not UTF-8: byte 3 is 0xe9, in line 1; save the text as UTF-8"),
        (b"one\ntwo\nthr\xff\xfe", r"byte 11 is 0xff, in line 3"),
        ("cut off: ö".encode()[:-1], r"byte 9 is 0xc3"),
        ("utf-16".encode("utf-16"), r"byte 0 is 0xff, in line 1"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused(data, message, tmp_path):
    (tmp_path / "text.txt").write_bytes(data)
    with pytest.raises(CorpusError, match=message):
        read_text(tmp_path / "text.txt")


def test_a_text_is_taken_as_it_is_but_for_a_byte_order_mark(tmp_path):
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo \xe2\x82\xac\n")
    assert read_text(tmp_path / "text.txt") == "one\r\ntwo €\n"


def test_the_default_text_is_half_a_million_characters_of_english():
    text = default_text()
    assert len(text) > 300_000
    assert "The" in text
    assert vocabulary_of("hello") == "ehlo"


def test_the_last_tenth_is_held_out():
    learned, held_out = split(torch.arange(1005))
    assert (len(learned), len(held_out)) == (905, 100)
    assert torch.equal(torch.cat([learned, held_out]), torch.arange(1005))


def test_rows_go_on_from_window_to_window_and_targets_are_one_ahead():
    made = windows(torch.arange(1000), 3, 10, torch.Generator().manual_seed(0))
    assert len(made) == 33
    assert all(x.shape == y.shape == (3, 10) for x, y in made)
    assert all(torch.equal(x + 1, y) for x, y in made)
    assert all(torch.equal(after[0][:, 0], before[1][:, -1]) for before, after in itertools.pairwise(made))


def test_each_epoch_leaves_out_something_else():
    generator = torch.Generator().manual_seed(0)
    starts = {int(windows(torch.arange(1000), 3, 10, generator)[0][0][0, 0]) for _ in range(50)}
    assert min(starts) == 0
    assert max(starts) == 9  # 1000 - 3 * 33 * 10 are left out, and a target is needed after the last


@pytest.mark.parametrize("length", [2, 3, 255, 600, 100_000])
def test_the_held_out_text_is_judged_nearly_whole(length):
    made = list(held_out_windows(torch.arange(length)))
    assert sum(y.numel() for _, y in made) > 0.99 * (length - 1) - 32
    assert all(torch.equal(x + 1, y) for x, y in made)


@pytest.mark.parametrize(("batch_size", "seq_len"), [(1, 1), (1, 9), (7, 9), (64, 64)])
def test_the_number_of_characters_that_an_error_asks_for_is_enough_and_not_too_many(batch_size, seq_len, make):
    settings = {"epochs": 1, "batch_size": batch_size, "seq_len": seq_len}
    with pytest.raises(SettingsError, match="^the text is too short: it has 1 characters, and") as caught:
        train(make("char_rnn", "a", vocabulary="ab", hidden=2), **settings)
    needed = int(str(caught.value).split("and ")[1].split()[0])
    train(make("char_rnn", ("ab" * needed)[:needed], vocabulary="ab", hidden=2), **settings)
    with pytest.raises(SettingsError, match=f"it has {needed - 1} characters, and {needed} are needed"):
        train(make("char_rnn", ("ab" * needed)[: needed - 1], vocabulary="ab", hidden=2), **settings)


def test_a_character_outside_the_vocabulary_is_refused(make):
    with pytest.raises(
        CorpusError, match="^the text does not fit the model: character 'c' at position 3000 is not in the model's"
    ):
        train(make("char_rnn", "ab" * 1500 + "c", vocabulary="ab"))
