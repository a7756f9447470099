import itertools
import math

import numpy as np
import pytest
from tests.runtime import handmade

from rnnx_runtime import InputError, load

SYMBOLS = "ehlo"


def log_p(model, prompt, text):
    """The natural log-probability of `text` after `prompt`, by the whole sequence at once."""
    logits = model.run(model.encode(prompt + text)[None])[0][0].astype(np.float64)
    likely = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    tokens = model.encode(prompt + text)
    return sum(likely[place - 1, tokens[place]] for place in range(len(prompt), len(tokens)))


@pytest.mark.parametrize("text", ["he", "hello", "ohlol" * 7])
def test_the_score_is_bits_per_character(char_rnn, text):
    wanted = -log_p(char_rnn, text[0], text[1:]) / math.log(2) / (len(text) - 1)
    assert char_rnn.score(text) == pytest.approx(wanted, rel=1e-6)


def test_a_long_text_is_scored_in_pieces(char_rnn, monkeypatch):
    text = "".join(np.random.default_rng(0).choice(list(SYMBOLS), 1300))
    wanted = -log_p(char_rnn, text[0], text[1:]) / math.log(2) / (len(text) - 1)
    run, longest = char_rnn._engine.run, []
    monkeypatch.setattr(char_rnn._engine, "run", lambda chunk, state: longest.append(chunk.steps) or run(chunk, state))
    assert char_rnn.score(text) == pytest.approx(wanted, rel=1e-6)
    assert longest == [512, 512, 275]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "a text of 0 known characters has nothing to predict; give at least two"),
        ("h", "a text of 1 known characters has nothing to predict; give at least two"),
        ("hex", "character 'x' at position 2 is not in the model's vocabulary of 4: 'ehlo'"),
        (3, "a text must be a str, got int"),
    ],
)
def test_a_text_without_a_score_is_refused(char_rnn, text, rule):
    with pytest.raises(InputError, match=f"^{rule}$"):
        char_rnn.score(text)


def test_numbers_have_no_score(lstm):
    with pytest.raises(InputError, match="^this artifact does not answer in text; it takes and gives numbers$"):
        lstm.score("hello")


def test_a_wide_beam_finds_the_likeliest_of_all_texts(char_rnn):
    texts = ["".join(symbols) for symbols in itertools.product(SYMBOLS, repeat=4)]
    likely = sorted(((log_p(char_rnn, "hel", text), text) for text in texts), reverse=True)
    found = char_rnn.stream().beam_search("hel", 4, num_beams=256)
    assert [one.text for one in found[:20]] == [text for _, text in likely[:20]]
    np.testing.assert_allclose([one.logprob for one in found], [logprob for logprob, _ in likely], rtol=1e-5)
    assert len(found) == 256


def test_one_beam_is_greedy(char_rnn):
    (found,) = char_rnn.stream().beam_search("hel", 30, num_beams=1)
    assert found.text == "".join(char_rnn.stream().generate("hel", 30, temperature=0))


def test_more_beams_are_no_worse_and_the_best_comes_first(char_rnn):
    best = []
    for beams in (1, 2, 4, 16):
        found = char_rnn.stream().beam_search("hel", 12, num_beams=beams)
        assert [one.logprob for one in found] == sorted((one.logprob for one in found), reverse=True)
        assert len({one.text for one in found}) == len(found) == beams
        for one in found:
            assert one.logprob == pytest.approx(log_p(char_rnn, "hel", one.text), rel=1e-5)
        best.append(found[0].logprob)
    assert best[0] <= best[-1]


def test_the_search_starts_where_the_stream_is_and_leaves_it_there(char_rnn):
    stream = char_rnn.stream()
    stream.feed(char_rnn.encode("hel")[None])
    before = stream.state
    assert stream.beam_search("lo", 8)[0].text == char_rnn.stream().beam_search("hello", 8)[0].text
    assert stream.state == before


def test_a_beam_ends_at_a_stop_string(char_rnn):
    free = char_rnn.stream().beam_search("hel", 10, num_beams=8)
    for one in char_rnn.stream().beam_search("hel", 10, num_beams=8, stop=["l"]):
        assert "l" not in one.text
    assert any("l" in one.text for one in free)


def test_a_length_penalty_prefers_longer_or_shorter_texts(char_rnn):
    def mean(penalty):
        found = char_rnn.stream().beam_search("hel", 12, num_beams=8, stop="o", length_penalty=penalty)
        return np.mean([len(one.text) for one in found])

    assert mean(-5) < mean(5)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"prompt": ""}, "the prompt is empty; give at least one character to begin with"),
        ({"num_beams": 0}, "num_beams must be from 1 to 1024, got 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"length_penalty": None}, "length_penalty must be a finite number, got None"),
        ({"stop": [""]}, r"stop strings are texts and not empty, got \[''\]"),
    ],
)
def test_an_option_out_of_range_is_refused(char_rnn, options, rule):
    with pytest.raises(InputError, match=f"^{rule}$"):
        char_rnn.stream().beam_search(**{"prompt": "h"} | options)


def scaled(**codec):
    return load(handmade.with_manifest(handmade.running_sum(), lambda said: said.update(codec={"kind": "scaler", **codec})))


def test_a_scaler_is_in_front_and_behind():
    model = scaled(mean=[10, 100], std=[2, 4], output_mean=[5, 5], output_std=[10, 1])
    answer = model.infer([[[12, 104], [10, 96]]])
    assert answer.tolist() == [[[15, 6], [15, 5]]]
    np.testing.assert_array_equal(model.encode([[12, 104]]), [[1, 1]])
    assert model.run([[[1, 1]]])[0].tolist() == [[[1, 1]]]  # the graph's own numbers
    stream = model.stream()
    assert model.decode(stream.step(model.encode([[12, 104]]))).tolist() == [[15, 6]]


def test_one_number_may_be_for_all_features_and_the_answer_may_stay_as_it_is():
    model = scaled(mean=[10], std=[2])
    assert model.infer([[[12, 14]]]).tolist() == [[[1, 2]]]
