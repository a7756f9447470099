"""The harness itself: what it must tell apart."""

import os
import signal
import time

import numpy as np
import pytest
from tests.faults.harness import Limits, Tally, WrongAnswerError, attempt, percentile

from rnnx_runtime import InputError


def clean():
    raise InputError("the rule")


def wrong():
    raise WrongAnswerError("1 instead of 2")


def foreign():
    raise KeyError("name")


def crash():
    os.write(2, b"terminate called\n")
    os.abort()


def leave():
    os._exit(3)


def hang():
    time.sleep(60)


@pytest.mark.parametrize(
    ("case", "kind", "said"),
    [
        (lambda: None, "correct", ""),
        (clean, "error", "InputError: the rule"),
        (wrong, "wrong", "1 instead of 2"),
        (foreign, "foreign", "KeyError: 'name'"),
        (crash, "signal", "SIGABRT terminate called"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "signal", "SIGSEGV"),
        (leave, "signal", "the process ended by itself, with 3: "),
        (hang, "hang", "no end in 0.5 s"),
        (lambda: np.ones(1 << 40), "foreign", "MemoryError: "),
    ],
)
def test_what_becomes_of_a_case_is_told_apart(case, kind, said):
    outcome = attempt(case, Limits(seconds=0.5 if case is hang else 20))
    assert outcome.kind == kind
    assert outcome.said.startswith(said)
    tally = Tally()
    tally.add("case", outcome)
    assert bool(tally.broken) == (kind not in ("correct", "error"))


def test_the_memory_of_a_case_is_measured():
    small, large = attempt(lambda: np.ones(1 << 10).sum()), attempt(lambda: np.ones(1 << 24).sum())
    assert small.peak < 64 << 20 < large.peak < 256 << 20


def test_a_percentile_is_one_of_the_values():
    assert percentile([], 99) == 0
    assert percentile([3.0, 1.0, 2.0], 50) == 2
    assert percentile([3.0, 1.0, 2.0], 100) == 3
