import time

import pytest

from rnnx_runtime import InputError
from rnnx_runtime._stats import Stats


def test_nothing_is_measured_before_it_is_asked_for(char_rnn):
    stream = char_rnn.stream()
    stream.step([1])
    assert stream.stats is None
    assert "step" not in vars(stream)  # the method itself: nothing in front of it


def test_a_streams_calls_are_measured(char_rnn):
    stream = char_rnn.stream(2)
    stream.step([1, 2])
    stats = stream.measure(deadline_ms=1e6)
    stream.step([1, 2])
    stream.feed([[1, 2, 3], [0, 1, 2]])
    with pytest.raises(InputError):
        stream.step([1, 9])
    assert stream.stats is stats
    assert (stats.calls, stats.steps, stats.deadline_misses) == (2, 4, 0)
    assert 0 < stats.p50_ms <= stats.p99_ms <= stats.max_ms
    assert str(stats).startswith("4 steps in 2 calls: p50 0.")
    assert str(stats).endswith(", 0 over 1e+06 ms")
    again = stream.measure()
    stream.step([1, 2])
    assert (stats.calls, again.calls, again.deadline_ms) == (2, 1, None)
    assert stream.fork().stats is None


def test_percentiles_are_of_the_latest_calls_and_the_rest_of_all():
    stats = Stats(deadline_ms=3.5)
    assert str(stats) == "0 steps in 0 calls: p50 nan ms, p99 nan ms, max 0.000 ms, 0 over 3.5 ms"
    for count, milliseconds in ((1000, 9), (96, 4), (4000, 1)):
        for _ in range(count):
            stats.add(milliseconds, 1)
    assert (stats.calls, stats.steps, stats.max_ms, stats.deadline_misses) == (5096, 5096, 9, 1096)
    assert (stats.p50_ms, stats.p99_ms) == (1, 4)


def test_a_slow_call_misses_its_deadline():
    stats = Stats(deadline_ms=1)
    stats.timed(time.sleep, lambda: 0)(0.005)
    assert stats.deadline_misses == 1
    assert stats.max_ms >= 5


@pytest.mark.parametrize("deadline", [0, -1, float("nan"), "x"])
def test_a_deadline_out_of_range_is_refused(char_rnn, deadline):
    stream = char_rnn.stream()
    with pytest.raises(InputError, match="^deadline_ms must be (above 0|a finite number), got "):
        stream.measure(deadline)
    assert stream.stats is None
