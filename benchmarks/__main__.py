"""All questions, each in a process of its own: `python -m benchmarks`, ten minutes; `--quick`, two.

A full run writes docs/benchmarks.md, its charts and benchmarks/results.json; a quick one writes them to build/benchmarks/.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.report import PAGE, RESULTS, ROOT, write_report
from benchmarks.results import QUESTIONS, gathered, write

_LONGEST_SECONDS: Final = 300  # of one question


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "questions", nargs="*", metavar="QUESTION", help=f"only these, to build/benchmarks/: {', '.join(QUESTIONS)}"
    )
    parser.add_argument("--quick", action="store_true", help="a look, in a fifth of the time")
    given = parser.parse_args()
    if unknown := set(given.questions) - set(QUESTIONS):
        parser.error(f"there is no question {min(unknown)!r}; there are {', '.join(QUESTIONS)}")
    names = [name for name in QUESTIONS if not given.questions or name in given.questions]
    raw: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    failed: dict[str, str] = {}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        for number, name in enumerate(names, 1):
            sys.stderr.write(f"[{number}/{len(names)}] {name} ")
            sys.stderr.flush()
            started = time.monotonic()
            try:
                raw[name] = _asked(name, Path(temporary), given.quick)
            except (subprocess.SubprocessError, OSError, msgspec.DecodeError) as error:
                failed[name] = _why(error)
            seconds[name] = round(time.monotonic() - started, 1)
            sys.stderr.write(f"{failed.get(name, 'done')}, {seconds[name]:.0f} s\n")
    results = gathered("quick" if given.quick else "full", raw, seconds, failed)
    page, kept = PAGE, RESULTS
    if given.quick or given.questions:
        page = ROOT / "build" / "benchmarks" / "benchmarks.md"
        kept = page.with_name("results.json")
        page.parent.mkdir(parents=True, exist_ok=True)
    write(results, kept)
    write_report(results, page)
    sys.stderr.write(f"{page.relative_to(ROOT)}, after {time.monotonic() - begin:.0f} s\n")
    if failed:
        raise SystemExit(1)


def _asked(name: str, folder: Path, quick: bool) -> Any:
    """The figures of one question, from a process of its own: one that crashes takes no other with it."""
    answer = folder / f"{name}.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(answer), "--artifacts", str(folder)]
    subprocess.run(  # noqa: S603
        [*command, *(["--quick"] if quick else [])],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=_LONGEST_SECONDS,
    )
    return msgspec.json.decode(answer.read_bytes())


def _why(error: Exception) -> str:
    said = getattr(error, "stderr", None) or ""
    said = said if isinstance(said, str) else said.decode(errors="replace")
    return ([line for line in said.splitlines() if line.strip()] or [type(error).__name__])[-1]


if __name__ == "__main__":
    main()
