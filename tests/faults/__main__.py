"""The fault suite: `python -m tests.faults` runs all of it and prints the table; see `--help`.

Each family is a module `fNN_*.py` with a `FAULT`, and runs in a process of its own.
"""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # also where a case imports onnxruntime before the runtime

from tests.faults.harness import KINDS, Fault, Tally, percentile

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent.parent
MODULES: Final = {f"F{int(path.stem[1:3])}": path.stem for path in sorted(HERE.glob("f[0-9][0-9]_*.py"))}
HEADINGS: Final = {"error": "clean error", "correct": "correct", "foreign": "foreign exception", "wrong": "silent wrong"}
PAGE: Final = """# Faults

What the runtime and the exporter do when something is wrong: each case runs in a child process with limits on its memory and its time.
A case ends well with one of our own errors or with the right answer. An exception that is not ours, a wrong answer given as if it
were right, a crash and a hang must not happen: their columns are to be zero.

{when}, {machine}; {versions}. `make faults` runs all of it and writes this page; `make test` runs every family in a reduced size.

{table}

{bars}
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("keys", nargs="*", metavar="F1", help="the families to run; all of them by default")
    parser.add_argument("--reduced", action="store_true", help="as many cases as `make test` runs")
    parser.add_argument("--seed", type=int, default=0, help="of the cases (default: 0)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there, as Markdown")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # one family, in this process, as JSON
    given = parser.parse_args()
    if unknown := set(given.keys) - MODULES.keys():
        parser.error(f"there is no family {min(unknown)}; there are {', '.join(MODULES)}")
    if given.alone:
        print(json.dumps(vars(run(given.keys[0], given.reduced, given.seed))))
        return
    tallies = {}
    for key in given.keys or MODULES:
        started = time.perf_counter()
        tallies[key] = run_aside(key, reduced=given.reduced, seed=given.seed)
        print(f"{key} {fault(key).name}, {time.perf_counter() - started:.0f} s: {summary(tallies[key])}", flush=True)
        for line in tallies[key].broken[:20]:
            print(f"    {line}", flush=True)
    if given.write:
        given.write.write_text(page(tallies))
    sys.exit(any(tally.broken for tally in tallies.values()))


def fault(key: str) -> Fault:
    found: Fault = importlib.import_module(f"tests.faults.{MODULES[key]}").FAULT
    return found


def run(key: str, reduced: bool, seed: int) -> Tally:
    """One family, in this process."""
    one = fault(key)
    return one.run(one.reduced if reduced else one.full, seed)


def run_aside(key: str, *, reduced: bool, seed: int = 0) -> Tally:
    """One family, in a process of its own."""
    command = [sys.executable, "-m", "tests.faults", key, "--alone", "--seed", str(seed), *["--reduced"] * reduced]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return Tally(broken=[f"the family itself failed: {done.stderr.strip().splitlines()[-1]}"])
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return Tally(**said)


def summary(tally: Tally) -> str:
    counts = ", ".join(f"{tally.counts[kind]} {HEADINGS.get(kind, kind)}" for kind in KINDS if tally.counts.get(kind))
    return "; ".join([counts, *(f"{name} {figure}" for name, figure in tally.figures.items())])


def page(tallies: dict[str, Tally]) -> str:
    heading = ["", "Fault", "Cases", *(HEADINGS.get(kind, kind) for kind in KINDS), "p99", "Memory", "Measured", "Bar"]
    rows = [heading, ["---"] * len(heading)]
    for key, tally in tallies.items():
        rows.append(
            [
                key,
                fault(key).name,
                f"{sum(tally.counts.values()):,}",
                *(f"{tally.counts.get(kind, 0):,}" for kind in KINDS),
                f"{percentile(tally.seconds, 99) * 1e3:.0f} ms" if tally.seconds else "",
                f"+{tally.peak / 2**20:.0f} MB" if tally.seconds else "",
                "; ".join(f"{name} {figure}" for name, figure in tally.figures.items()),
                "**not met**" if tally.broken else "met",
            ]
        )
    bars = ["## Bars", ""]
    for key, tally in tallies.items():
        bars.append(f"- **{key}** {fault(key).bar}")
        bars += [f"    - not met: {line}" for line in tally.broken[:20]]
    return PAGE.format(
        when=datetime.now(UTC).date().isoformat(),
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        versions=", ".join([f"Python {platform.python_version()}", *map(named, ("numpy", "onnxruntime", "torch", "onnx"))]),
        table="\n".join(f"| {' | '.join(row)} |" for row in rows),
        bars="\n".join(bars),
    )


def named(package: str) -> str:
    return f"{package} {version(package)}"


if __name__ == "__main__":
    main()
