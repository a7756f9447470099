"""Coverage-guided fuzzing: `python -m tests.fuzz artifact`. Needs atheris; see `make fuzz`.

What breaks a target is kept in the folder `crashers`, which `test_corpus.py` replays for ever after.
"""

import argparse
import random
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import atheris

with atheris.instrument_imports(include=["rnnx_runtime"]):
    from tests.fuzz.mutations import MUTATIONS
    from tests.fuzz.targets import TARGETS

    from rnnx_runtime import RnnxError

HERE: Final = Path(__file__).parent
FOUND: Final = HERE.parent.parent / "build" / "fuzz"
SLOW_SECONDS: Final = 10
MEMORY_MB: Final = 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations; another each time by default")
    given = parser.parse_args()
    target, mutation = TARGETS[given.target], MUTATIONS[given.target]
    found, crashers = FOUND / given.target, HERE / "crashers" / given.target
    for folder in (found, crashers):
        folder.mkdir(parents=True, exist_ok=True)

    def one(data: bytes) -> None:
        with suppress(RnnxError):
            target(data)

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        if seed % 4 == 0:
            return bytes(atheris.Mutate(data, most))
        chance = random.Random(seed)
        for _ in range(1 + seed % 3):
            data = mutation(data, chance)
        return data[:most]

    options = [
        f"-max_total_time={given.seconds}",
        f"-artifact_prefix={crashers}/",
        f"-timeout={SLOW_SECONDS}",
        f"-rss_limit_mb={MEMORY_MB}",
        "-max_len=20000",
        "-print_final_stats=1",
        f"-seed={given.seed}",
    ]
    atheris.Setup([sys.argv[0], *options, str(found), str(HERE / "corpus" / given.target)], one, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
