"""F11: servers that load a model and fork: ONNX Runtime's threads are in the parent only, and a worker that ends must not wait for them."""

import json
import math
import os
import random
import subprocess
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final

from tests.faults.forking import ENDS, USES
from tests.faults.harness import Fault, Limits, Tally, WrongAnswerError, attempt

ROOT: Final = Path(__file__).parent.parent.parent
LIMITS: Final = Limits(seconds=90, memory=None)
LONGEST_SECONDS: Final = 2.0
METHODS: Final = [f"multiprocessing {method}" for method in ("spawn", "forkserver", "fork")]
GOLDEN_ONLY: Final = ("generate", "pool_generate", "selftest")

Case = dict[str, Any]


def run(count: int, seed: int) -> Tally:
    tally = Tally()
    reading, writing = os.pipe()
    for case in _cases(random.Random(seed))[:count]:
        tally.add(json.dumps(case), attempt(partial(_served, case, writing), LIMITS), ["correct"])
    os.close(writing)
    with open(reading) as said:
        slowest = max(map(float, said), default=math.inf)
    tally.require(slowest < LONGEST_SECONDS, f"a worker takes {slowest:.1f} s to end, more than {LONGEST_SECONDS} s")
    tally.figures["the slowest end of a worker"] = f"{slowest * 1e3:.0f} ms"
    return tally


def _cases(chance: random.Random) -> list[Case]:
    """Every end and every use, with whatever else there is; each with 1 and 4 threads."""
    forks = [_fork(end, use, threads, chance) for end, use, threads in product(ENDS, USES, (1, 4))]
    others = [
        {"method": method, "model": "char_rnn", "threads": threads, "use": use, "before": chance.choice([0, 2])}
        for method, threads, use in product(METHODS, (1, 4), USES)
    ]
    chance.shuffle(forks)
    chance.shuffle(others)
    # One of the others after three forks, so that a reduced run has some of each.
    return [
        case for at, fork in enumerate(forks) for case in ([fork, others.pop()] if at % 3 == 2 and others else [fork])
    ] + others


def _fork(end: str, use: str, threads: int, chance: random.Random) -> Case:
    busy = chance.random() < 0.4
    return {
        "method": "fork",
        # A chunk of the large one takes a while, so that a busy thread is inside ONNX Runtime.
        "model": "char_rnn"
        if use in GOLDEN_ONLY
        else "large"
        if busy
        else chance.choice(["char_rnn", "lstm", "gru", "large"]),
        "threads": threads,
        "use": use,
        "end": end,
        "before": chance.choice([0, 1, 5]),
        "busy": busy,
        "nested": chance.random() < 0.3,
        "close": chance.random() < 0.3,
    }


def _served(case: Case, writing: int) -> None:
    """Prints nothing of its own: what its workers took to end is written there."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.faults.forking", json.dumps(case)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode or done.stderr:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise WrongAnswerError(f"ends with {done.returncode}: {last}")
    os.write(writing, done.stdout.encode())


FAULT: Final = Fault(
    "F11",
    "forks",
    "Workers that are forked, spawned or given a pickled model answer bit for bit as the parent does, and end within 2 s with the "
    "code that they were given, also where a thread of the parent is in the middle of a call; the parent goes on as if it had been alone.",
    full=100,
    reduced=8,
    run=run,
)
