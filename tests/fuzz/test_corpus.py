"""The fuzzers' targets without a fuzzer: on what they start from, on what has broken one, and on a few thousand mutations."""

import random
from contextlib import suppress
from pathlib import Path

import pytest
from tests.fuzz.mutations import MUTATIONS
from tests.fuzz.targets import TARGETS

from rnnx_runtime import RnnxError

HERE = Path(__file__).parent
MUTANTS = 1500  # of each target


def files(folder: str) -> list[Path]:
    return sorted(path for path in (HERE / folder).rglob("*") if path.is_file())


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


@pytest.mark.parametrize("path", files("corpus"), ids=named)
def test_a_seed_gets_to_the_end_of_its_target(path):
    """Else it is out of date: `python -m tests.fuzz.seeds` writes it anew."""
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("path", files("crashers"), ids=named)
def test_what_broke_a_target_is_refused(path):
    with suppress(RnnxError):
        TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_a_mutant_is_read_or_refused(target):
    chance = random.Random(0)
    seeds = [path.read_bytes() for path in files(f"corpus/{target}")]
    refused = 0
    for number in range(MUTANTS):
        data = chance.choice(seeds)
        for _ in range(1 + number % 3):
            data = MUTATIONS[target](data, chance)
        try:
            TARGETS[target](data)
        except RnnxError:
            refused += 1
    assert 0 < refused < MUTANTS
