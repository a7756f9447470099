"""What a training says of itself: lines in a pipe, a bar on a terminal."""

import io
import re

import pytest
from rich.console import Console

from rnnx._cli import progress
from rnnx_models import _report
from rnnx_models._recipe import Score
from rnnx_models.train import Progress


def at(epoch, step, score=None):
    return Progress(epoch, 40, step, 10, 0.693147, score)


def test_plain_lines_are_few_in_a_short_training_and_tell_the_time_left(make, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_report.time, "monotonic", lambda: now[0])
    said = []
    say = _report.PlainProgress(make("char_rnn", vocabulary="ab"), said.append)
    for epoch in range(1, 41):
        for step in range(1, 11):
            now[0] += 0.5
            say(at(epoch, step, Score(2.5, "bits per character", False, True) if epoch > 1 else None))
    assert len(said) == 10
    assert said[0] == "char_rnn: epoch 4/40, loss 0.6931 (1.000 bits), 2.5 bits per character, 3 min left"
    assert said[-1] == "char_rnn: epoch 40/40, loss 0.6931 (1.000 bits), 2.5 bits per character"


def test_plain_lines_come_every_twenty_seconds_in_a_long_training(make, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_report.time, "monotonic", lambda: now[0])
    said = []
    say = _report.PlainProgress(make("char_rnn", vocabulary="ab"), said.append)
    for step in range(1, 11):
        now[0] += 15
        say(at(1, step))
    assert said[0] == "char_rnn: epoch 1/40, step 2/10, loss 0.6931 (1.000 bits), 1 h 40 min left"
    assert len(said) == 5


def test_a_terminal_shows_a_bar(make, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=140))
    with progress.training_progress(make("char_rnn", vocabulary="ab")) as on_progress:
        on_progress(at(1, 5))
        on_progress(at(20, 10, Score(2.5, "bits per character", False, True)))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "char_rnn 20/40" in shown
    assert "loss 0.693 (1.000 bits)  judged 2.5" in shown
    assert "left" in shown


@pytest.mark.parametrize("name", ["char_lstm", "caption_rnn"])
def test_a_terminal_of_80_columns_shows_bar_figures_and_time_left(name, make, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=80))
    sizes = {"vocabulary": "ab"} if name == "char_lstm" else {}
    score = (
        Score(2.656, "bits per character", False, True) if name == "char_lstm" else Score(0.9875, "of the words right", False)
    )
    with progress.training_progress(make(name, **sizes)) as on_progress:
        on_progress(at(1, 5))
        on_progress(at(20, 10, score))
    (line,) = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).split("\r")[-1].strip().splitlines()
    figures = r"loss 0\.693 \(1\.000 bits\)  judged 2\.656" if name == "char_lstm" else r"loss 0\.693  judged 98\.75 %"
    assert re.fullmatch(rf"{name} 20/40 [━╸╺]{{4,}} +{figures} [-\d:]+ left", line)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (99, "99 s"), (170, "3 min"), (5940, "99 min"), (7500, "2 h 5 min")]
)
def test_times_are_spoken(seconds, words):
    assert _report.spoken(seconds) == words
