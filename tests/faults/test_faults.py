"""Every family of faults, in its reduced size."""

import pytest
from tests.faults.__main__ import MODULES, run_aside
from tests.faults.harness import WELL


@pytest.mark.parametrize("key", MODULES)
def test_every_case_ends_well(key):
    tally = run_aside(key, reduced=True)
    assert not tally.broken
    assert sum(tally.counts.values()) > 0
    assert tally.counts.keys() <= set(WELL)
