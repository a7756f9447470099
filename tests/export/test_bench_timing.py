"""Timing by turns: what is called how often and in which order, and what follows from given durations."""

import gc
import os
import time

import pytest

from rnnx._bench.timing import Timing, measure, on_one_core, taken_by_others


def test_all_have_a_turn_in_each_round():
    calls = {"a": 0, "b": 0}

    def count(name):
        def call():
            calls[name] += 1
            assert not gc.isenabled()

        return call

    found = measure({name: count(name) for name in calls}, 0.02, {"b": 4})
    assert gc.isenabled()
    assert len(found["a"].seconds) == len(found["b"].seconds) >= 5
    assert all(spell for timing in found.values() for spell in timing.seconds)
    assert (found["a"].units, found["b"].units) == (1, 4)
    assert all(sum(map(len, found[name].seconds)) < count for name, count in calls.items())  # the first ones are not counted


def test_long_calls_are_not_repeated_needlessly():
    calls = []
    measure({"slow": lambda: calls.append(time.sleep(0.02))}, 0.001)
    assert len(calls) == 1 + 5 * 2  # once before all; then in each round once to warm up, and once counted


def test_progress_is_the_share_of_the_time():
    told = []
    measure({"a": lambda: None}, 0.02, progress=told.append)
    assert told == sorted(told)
    assert (told[-1], len(told) >= 5) == (1.0, True)


def test_figures_are_for_one_unit():
    timing = Timing(((1.0, 3.0), (2.0, 100.0)), 2)
    assert timing.percentile(0.0) == 0.5
    assert timing.median == 1.5
    assert timing.p99 == 50.0  # the longest of so few
    assert timing.calls == 4


def test_ratios_are_of_the_same_round():
    slow = Timing(((2.0,), (4.0,), (8.0,), (16.0,)))
    fast = Timing(((2.0,), (4.0,), (8.0,), (16.0,)), 2)
    assert slow.over(fast).median == slow.over(fast).low == slow.over(fast).high == 2.0
    with pytest.raises(ValueError, match="zip"):
        slow.over(Timing(((1.0,),)))


def test_the_spread_is_of_the_rounds_middle_half():
    assert Timing(((1.0, 9.0, 1.0),) * 8).spread == 0
    assert Timing(tuple((float(value),) for value in (10, 10, 11, 12, 12, 90))).spread == pytest.approx(2 / 11.5)


def test_a_thread_is_kept_on_one_core_and_let_go_again():
    before = os.sched_getaffinity(0)
    with on_one_core() as core:
        assert os.sched_getaffinity(0) == {core}
        assert core in before
    with pytest.raises(KeyboardInterrupt), on_one_core():
        raise KeyboardInterrupt
    assert os.sched_getaffinity(0) == before


def test_what_a_process_waits_is_not_its_own_time():
    with taken_by_others() as taken:
        time.sleep(0.1)
    assert 0.5 < taken() <= 1
