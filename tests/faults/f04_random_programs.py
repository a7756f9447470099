"""F4: random programs of streams and a pool, side by side with plain numpy models: of calls that may come in any order.

The programs are those of tests/runtime/test_programs.py, where each rule stands; a program has as many as 50 of them.
"""

import traceback
from functools import partial
from typing import Final

from hypothesis import Phase
from tests.faults.harness import Fault, Limits, Tally, WrongAnswerError, attempt
from tests.runtime.conftest import NAMES
from tests.runtime.test_programs import run_programs

RULES: Final = 50  # of a program, at most
TOGETHER: Final = 25  # programs of one child
LIMITS: Final = Limits(seconds=120)  # what fails is not made smaller: that takes longer
MODELS: Final = (*NAMES, "running_sum")


def run(count: int, seed: int) -> Tally:
    tally = Tally()
    for number in range(count // TOGETHER):
        name = MODELS[number % len(MODELS)]
        tally.add(f"{name}, seed {seed + number}", attempt(partial(_programs, name, seed + number), LIMITS), ["correct"])
    tally.figures["programs"] = f"{count // TOGETHER * TOGETHER:,} of up to {RULES} calls"
    return tally


def _programs(name: str, seed: int) -> None:
    try:
        run_programs(name, seed, max_examples=TOGETHER, stateful_step_count=RULES, phases=[Phase.generate])
    except AssertionError as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = " ".join([str(error), *getattr(error, "__notes__", ())]).split()
        raise WrongAnswerError(f"{place.name}: {place.line}: {' '.join(said)}") from error


FAULT: Final = Fault(
    "F4",
    "random programs",
    "Every answer, state and position is the numpy model's; what breaks the contract is refused and changes nothing.",
    full=2000,
    reduced=100,
    run=run,
)
