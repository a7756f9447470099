import threading

import numpy as np
import pytest

from rnnx_runtime import ExecutionError, InputError
from rnnx_runtime._generation import StopFilter
from rnnx_runtime._sampling import Sampler, SamplerOptions, log_softmax

LOGITS = np.log(np.array([0.05, 0.5, 0.15, 0.3], np.float32))
DRAWS = 4000


def sampling(seed=None, symbols=4, **options):
    return Sampler(SamplerOptions(**options).checked(), seed, symbols)


def shares(sampler, logits=LOGITS):
    """How often each token is drawn."""
    return np.bincount([sampler.draw(logits) for _ in range(DRAWS)], minlength=len(logits)) / DRAWS


def test_large_logits_that_are_equal_are_drawn_alike_even_when_cold():
    assert shares(sampling(seed=0, symbols=2, temperature=1e-3), np.full(2, 1e5, np.float32)) == near([0.5, 0.5])


def near(wanted):
    return pytest.approx(wanted, abs=0.04)  # five standard deviations of a share among 4000


def test_tokens_are_drawn_as_likely_as_the_model_says():
    assert shares(sampling(seed=0)) == near([0.05, 0.5, 0.15, 0.3])


@pytest.mark.parametrize("temperature", [0.5, 2])
def test_the_temperature_sharpens_or_flattens(temperature):
    likely = np.exp(LOGITS / temperature)
    assert shares(sampling(temperature=temperature, seed=0)) == near(likely / likely.sum())


@pytest.mark.parametrize("temperature", [0, 0.0, 1e-6, 1e-300, 5e-324])
@pytest.mark.parametrize("logits", [LOGITS, LOGITS * 1e30, np.array([-3e38, 3e38, 0, 0], np.float32)])
def test_no_temperature_takes_the_most_likely(temperature, logits):
    sampler = sampling(temperature=temperature, top_p=0.9, seed=0)
    assert {sampler.draw(logits) for _ in range(50)} == {1}


@pytest.mark.parametrize(
    ("top_k", "wanted"),
    [(1, [0, 1, 0, 0]), (2, [0, 0.625, 0, 0.375]), (4, [0.05, 0.5, 0.15, 0.3]), (99, [0.05, 0.5, 0.15, 0.3])],
)
def test_top_k_draws_from_the_most_likely(top_k, wanted):
    found = shares(sampling(top_k=top_k, seed=0))
    assert found == near(wanted)
    assert np.count_nonzero(found) == np.count_nonzero(wanted)


@pytest.mark.parametrize(
    ("top_p", "wanted"),
    [(1e-9, [0, 1, 0, 0]), (0.49, [0, 1, 0, 0]), (0.6, [0, 0.625, 0, 0.375]), (0.9, [0, 10 / 19, 3 / 19, 6 / 19]), (1, None)],
)
def test_top_p_draws_from_the_most_likely_that_reach_it_together(top_p, wanted):
    wanted = wanted or [0.05, 0.5, 0.15, 0.3]
    found = shares(sampling(top_p=top_p, seed=0))
    assert found == near(wanted)
    assert np.count_nonzero(found) == np.count_nonzero(wanted)


@pytest.mark.parametrize(
    ("min_p", "wanted"),
    [(0, None), (0.05, None), (0.2, [0, 10 / 19, 3 / 19, 6 / 19]), (0.5, [0, 0.625, 0, 0.375]), (1, [0, 1, 0, 0])],
)
def test_min_p_draws_from_what_is_not_much_less_likely_than_the_best(min_p, wanted):
    wanted = wanted or [0.05, 0.5, 0.15, 0.3]
    found = shares(sampling(min_p=min_p, seed=0))
    assert found == near(wanted)
    assert np.count_nonzero(found) == np.count_nonzero(wanted)


def test_the_penalty_is_for_tokens_that_were_there_before():
    sampler = sampling(repetition_penalty=2, temperature=0)
    logits = np.array([3, 2, -1, -3], np.float32)
    assert sampler.draw(logits) == 0
    sampler.seen[0] = True
    assert sampler.draw(logits) == 1  # 1.5 against 2
    sampler.seen[1] = True
    assert sampler.draw(logits) == 0  # 1.5 against 1
    np.testing.assert_array_equal(logits, np.array([3, 2, -1, -3], np.float32))
    below = np.array([-1, -1.5, -9, -9], np.float32)
    sampler.seen[:] = [True, False, False, False]
    assert sampler.draw(below) == 1  # -2 against -1.5


def test_top_k_and_top_p_together_draw_from_what_both_leave():
    assert shares(sampling(top_k=3, top_p=0.8, seed=0)) == near([0, 0.625, 0, 0.375])


def test_a_token_of_no_likelihood_is_never_drawn():
    logits = np.array([-np.inf, 0, -np.inf, 0], np.float32)
    for sampler in (
        sampling(seed=0),
        sampling(temperature=1e-9, seed=0),
        sampling(top_p=0.99, seed=0),
        sampling(top_k=3, seed=0),
    ):
        assert {sampler.draw(logits) for _ in range(200)} == {1, 3}


@pytest.mark.parametrize("logits", [[0, np.nan], [0, np.inf], [-np.inf, -np.inf]])
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_mean_nothing_are_an_error_of_the_model(logits, temperature):
    with pytest.raises(ExecutionError, match=r"^the model gave a logit of (nan|inf|-inf); no token can be drawn from it$"):
        sampling(symbols=2, temperature=temperature).draw(np.array(logits, np.float32))


def test_a_seed_draws_the_same_again():
    first, again, other, free, free_too = (
        [sampler.draw(LOGITS) for _ in range(100)]
        for sampler in (sampling(seed=7), sampling(seed=7), sampling(seed=8), sampling(), sampling())
    )
    assert first == again
    assert first != other
    assert free != free_too


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"top_k": 3}])
@pytest.mark.parametrize("draws", [0, 1, 7, 1023, 1024, 1025, 2500])  # 1024 of 4 symbols are drawn at once
def test_the_random_numbers_go_on_where_they_stood(draws, options):
    sampler, other = sampling(seed=3, **options), sampling(seed=4, **options)
    for _ in range(draws):
        sampler.draw(LOGITS)
    other.set_random_state(sampler.random_state())
    assert [other.draw(LOGITS) for _ in range(50)] == [sampler.draw(LOGITS) for _ in range(50)]


def test_a_token_of_no_likelihood_is_not_drawn_at_any_temperature():
    logits = np.array([0, -np.inf, 0, 0], np.float32)
    sampler = sampling(temperature=1e38, seed=0)
    assert {sampler.draw(logits) for _ in range(300)} == {0, 2, 3}


def test_the_logits_are_left_alone():
    logits = LOGITS.copy()
    sampling(temperature=0.5, top_k=2, top_p=0.5, seed=0).draw(logits)
    np.testing.assert_array_equal(logits, LOGITS)


BAD = [
    ({"temperature": -0.1}, r"temperature must be 0 or more, got -0\.1"),
    ({"temperature": np.nan}, "temperature must be a finite number, got nan"),
    ({"temperature": np.inf}, "temperature must be a finite number, got inf"),
    ({"temperature": "x"}, "temperature must be a finite number, got 'x'"),
    ({"temperature": None}, "temperature must be a finite number, got None"),
    ({"temperature": True}, "temperature must be a finite number, got True"),
    ({"top_k": 0}, "top_k must be at least 1, got 0"),
    ({"top_k": 2.5}, r"top_k must be a whole number, got 2\.5"),
    ({"top_k": "2"}, "top_k must be a whole number, got '2'"),
    ({"top_k": True}, "top_k must be at least 1, got True"),
    ({"top_p": 0}, "top_p must be above 0 and at most 1, got 0"),
    ({"top_p": 1.01}, r"top_p must be above 0 and at most 1, got 1\.01"),
    ({"top_p": np.nan}, "top_p must be a finite number, got nan"),
    ({"top_p": "x"}, "top_p must be a finite number, got 'x'"),
    ({"min_p": -0.1}, r"min_p must be from 0 to 1, got -0\.1"),
    ({"min_p": 2}, "min_p must be from 0 to 1, got 2"),
    ({"min_p": "x"}, "min_p must be a finite number, got 'x'"),
    ({"repetition_penalty": 0}, "repetition_penalty must be above 0, got 0"),
    ({"repetition_penalty": "x"}, "repetition_penalty must be a finite number, got 'x'"),
    ({"on_token": 3}, "on_token must be a function of one text, got 3"),
    ({"seed": -1}, "seed must be at least 0, got -1"),
    ({"seed": 1.5}, r"seed must be a whole number, got 1\.5"),
    ({"seed": "x"}, "seed must be a whole number, got 'x'"),
]


@pytest.mark.parametrize("pieces", ["abcde", ["abcde"], ["ab", "cd", "e"], ["a", "bcd", "e"], ["", "abc", "", "de"]])
@pytest.mark.parametrize(
    ("stop", "wanted"),
    [
        ([], "abcde"),
        (["cd"], "ab"),
        (["c"], "ab"),
        (["abcde"], ""),
        (["a"], ""),
        (["e"], "abcd"),
        (["abcdef"], "abcde"),
        (["x", "def", "bce"], "abcde"),
        (["d", "bc"], "a"),  # the first in the text, not in the list
        (["cdx", "cd"], "ab"),
        (["bcd", "cd"], "a"),
    ],
)
def test_the_text_ends_before_the_first_stop_string(pieces, stop, wanted):
    assert "".join(until_stop(iter(pieces), stop)) == wanted


def test_a_piece_is_held_back_only_while_it_may_begin_a_stop_string():
    given = []

    def pieces():
        for piece in "aab-abx":
            given.append(piece)
            yield piece

    found = [(piece, "".join(given)) for piece in until_stop(pieces(), ["abc"])]
    assert found == [("a", "aa"), ("ab-", "aab-"), ("abx", "aab-abx")]


def test_what_was_held_back_is_given_at_the_end():
    assert list(until_stop(iter("xab"), ["abc"])) == ["x", "ab"]


def test_nothing_is_drawn_after_the_stop_string():
    rest = iter("abcd")
    assert list(until_stop(rest, ["b"])) == ["a"]
    assert list(rest) == ["c", "d"]


def until_stop(pieces, stop):
    stopping = StopFilter(stop)
    for piece in pieces:
        if text := stopping.push(piece):
            yield text
        if stopping.ended:
            return
    if rest := stopping.flush():
        yield rest


def greedy(model, prompt, count):
    """The most likely answer, by pure steps."""
    answer, state = model.run(model.encode(prompt)[None])
    logits, text = answer[0, -1], ""
    for _ in range(count):
        text += "ehlo"[int(logits.argmax())]
        answer, state = model.step(model.encode(text[-1]), state)
        logits = answer[0]
    return text


@pytest.mark.parametrize("prompt", ["h", "hello", "oooo"])
def test_without_temperature_each_symbol_is_the_most_likely(char_rnn, prompt):
    assert "".join(char_rnn.stream().generate(prompt, 30, temperature=0)) == greedy(char_rnn, prompt, 30)
    assert "".join(char_rnn.stream().generate(prompt, 30, top_k=1)) == greedy(char_rnn, prompt, 30)


def test_the_same_seed_gives_the_same_text(char_rnn):
    def text(**options):
        return "".join(char_rnn.stream().generate("he", 60, **options))

    assert text(seed=1) == text(seed=1)
    assert text(seed=1, temperature=0.8, top_k=3, top_p=0.9) == text(seed=1, temperature=0.8, top_k=3, top_p=0.9)
    assert text(seed=1) != text(seed=2)
    assert text() != text()
    assert len(text()) == 60


def test_the_answer_comes_in_pieces_and_ends_after_256_symbols(char_rnn):
    pieces = list(char_rnn.stream().generate("h", seed=0))
    assert len(pieces) == 256
    assert all(len(piece) == 1 and piece in "ehlo" for piece in pieces)


def test_generation_goes_on_from_what_the_stream_has_read(char_rnn):
    stream, whole = char_rnn.stream(), char_rnn.stream()
    stream.feed(char_rnn.encode("hell")[None])
    assert "".join(stream.generate("o", 20, temperature=0)) == "".join(whole.generate("hello", 20, temperature=0))


def test_the_state_goes_with_the_text(char_rnn):
    stream = char_rnn.stream()
    text = "".join(stream.generate("he", 5, seed=3))
    wanted = char_rnn.run(char_rnn.encode("he" + text)[None])[1]
    for name, array in stream.state.items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-5, atol=1e-6)


def test_no_new_tokens_are_no_text_but_the_prompt_is_read(char_rnn):
    stream = char_rnn.stream()
    assert list(stream.generate("hello", 0)) == []
    assert stream.state == char_rnn.run(char_rnn.encode("hello")[None])[1]


@pytest.mark.parametrize("stop", ["lo", ["lo"], ("lo",), ["x", "lo"], {"lo"}])
def test_a_stop_string_ends_the_answer(char_rnn, stop):
    whole = "".join(char_rnn.stream().generate("h", 400, seed=5))
    assert "lo" in whole
    answer = "".join(char_rnn.stream().generate("h", 400, seed=5, stop=stop))
    assert answer == whole[: whole.index("lo")]


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        *BAD,
        ({"prompt": ""}, "the prompt is empty; give at least one character to begin with"),
        ({"prompt": "hex"}, "character 'x' at position 2 is not in the model's vocabulary of 4: 'ehlo'"),
        ({"prompt": ["h", "e"]}, "a text must be a str, got list"),
        ({"prompt": 3}, "a text must be a str, got int"),
        ({"max_new_tokens": -1}, "max_new_tokens must be at least 0, got -1"),
        ({"max_new_tokens": 2.0}, r"max_new_tokens must be a whole number, got 2\.0"),
        ({"max_new_tokens": None}, "max_new_tokens must be a whole number, got None"),
        ({"stop": ""}, "stop strings are texts and not empty, got ''"),
        ({"stop": ["lo", ""]}, r"stop strings are texts and not empty, got \['lo', ''\]"),
        ({"stop": [3]}, r"stop strings are texts and not empty, got \[3\]"),
        ({"stop": 3}, "stop must be a text or several, got 3"),
        ({"stop": None}, "stop must be a text or several, got None"),
    ],
)
def test_a_call_that_breaks_the_contract_is_refused_before_the_stream_moves(char_rnn, arguments, rule):
    stream = char_rnn.stream()
    with pytest.raises(InputError, match=f"^{rule}$"):
        stream.generate(**{"prompt": "h"} | arguments)
    assert stream.state == char_rnn.initial_state()


def test_text_is_generated_for_one_stream_at_a_time(char_rnn):
    with pytest.raises(InputError, match="^text is generated one stream at a time, this one has a batch of 2$"):
        char_rnn.stream(2).generate("h")


def test_a_model_without_text_generates_none(lstm):
    with pytest.raises(InputError, match="^this artifact does not answer in text; it takes and gives numbers$"):
        lstm.stream().generate("h")


@pytest.mark.parametrize(
    "move", [lambda s: s.step([1]), lambda s: s.reset(), lambda s: s.generate("h", 5), lambda s: s.feed([[1, 2]])]
)
def test_a_generation_notices_that_its_stream_was_moved(char_rnn, move):
    stream = char_rnn.stream()
    generation = stream.generate("hell", 20, seed=1)
    next(generation)
    move(stream)
    rule = r"^the stream is at position \d+, this text left it at 5; a generation has its stream to itself: go on with a fork"
    with pytest.raises(InputError, match=rule):
        next(generation)
    with pytest.raises(InputError, match=rule):
        generation.to_bytes()


def test_a_fork_may_be_moved(char_rnn):
    stream = char_rnn.stream()
    generation = stream.generate("hell", 20, seed=1)
    begun = next(generation)
    stream.fork().step([1])
    assert begun + "".join(generation) == "".join(char_rnn.stream().generate("hell", 20, seed=1))


def test_on_token_sees_every_symbol_and_may_end_the_text(char_rnn):
    seen = []
    whole = "".join(char_rnn.stream().generate("hell", 20, seed=1, on_token=seen.append))
    assert "".join(seen) == whole
    seen.clear()
    text = "".join(char_rnn.stream().generate("hell", 20, seed=1, on_token=lambda s: seen.append(s) or len(seen) < 7))
    assert text == "".join(seen) == whole[:7]
    held = char_rnn.stream().generate("hell", 20, seed=1, stop=whole[:9], on_token=lambda s: False)
    assert list(held) == [whole[0]]


def test_the_log_probability_of_the_pieces_is_that_of_the_text(char_rnn):
    generation = char_rnn.stream().generate(
        "hell", 30, seed=1, temperature=0.5, top_k=2, repetition_penalty=1.5, stop="hhhhhh"
    )
    total = sum(generation.logprob for _ in generation)
    tokens = char_rnn.encode("hell" + generation.text)
    likely = log_softmax(char_rnn.run(tokens[None])[0][0])
    wanted = sum(likely[place - 1, tokens[place]] for place in range(4, len(tokens)))
    assert total == pytest.approx(wanted, rel=1e-5)


def test_a_penalty_keeps_a_text_from_repeating_itself(char_rnn):
    def distinct(penalty):
        return len(set("".join(char_rnn.stream().generate("h", 3, temperature=0, repetition_penalty=penalty))))

    assert distinct(1e6) == 3
    assert distinct(1) < 3


def test_a_callback_that_fails_loses_no_symbol(char_rnn):
    whole = "".join(char_rnn.stream().generate("eh", 8, seed=1))
    seen = []

    def failing(symbol):
        seen.append(symbol)
        if len(seen) == 3:
            raise KeyError(symbol)

    generation, pieces = char_rnn.stream().generate("eh", 8, seed=1, on_token=failing), []
    pieces += [next(generation), next(generation)]
    with pytest.raises(KeyError):
        next(generation)
    resumed = char_rnn.stream().resume(generation.to_bytes())
    assert "".join(pieces) + "".join(resumed) == whole
    assert "".join(pieces) + "".join(generation) == whole


def test_a_callback_may_make_a_checkpoint_but_not_go_on_itself(char_rnn):
    checkpoints, refused = [], []

    def callback(symbol):
        checkpoints.append(generation.to_bytes())
        try:
            next(generation)
        except InputError as error:
            refused.append(str(error))

    generation = char_rnn.stream().generate("eh", 8, seed=1, on_token=callback)
    whole = "".join(generation)
    assert whole == "".join(char_rnn.stream().generate("eh", 8, seed=1))
    assert set(refused) == {"this text is being written by another call; one thread at a time goes on with it"}
    for count, checkpoint in enumerate(checkpoints):
        resumed = char_rnn.stream().resume(checkpoint)
        assert resumed.text == whole[:count]
        assert "".join(resumed) == whole[count:]


def test_another_thread_may_read_the_text_but_not_make_a_checkpoint(char_rnn):
    seen = []

    def elsewhere():
        with pytest.raises(InputError, match="^this text is being written by another call; "):
            generation.to_bytes()
        with pytest.raises(InputError, match="^this text is being written by another call; "):
            next(generation)
        seen.append(generation.text)

    def callback(symbol):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    generation = char_rnn.stream().generate("eh", 4, seed=1, on_token=callback)
    assert generation.logprob == 0
    whole = "".join(generation)
    assert seen == [whole[:count] for count in range(4)]


def test_a_checkpoint_after_a_failed_call_is_the_same(char_rnn):
    stream = char_rnn.stream()
    generation = stream.generate("eh", 10, seed=3)
    begun = next(generation)
    stream._lock.acquire()
    with pytest.raises(InputError, match="^this stream is in use by another call"):
        next(generation)
    stream._lock.release()
    resumed = char_rnn.stream().resume(generation.to_bytes())
    assert begun + "".join(resumed) == begun + "".join(generation) == "".join(char_rnn.stream().generate("eh", 10, seed=3))
