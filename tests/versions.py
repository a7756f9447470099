"""Which versions work: `python -m tests.versions` runs the tests with the oldest and with the newest ones, each in an environment of
its own, and writes the table into docs/supported.md. Run it with each Python: a line of another one stays.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs" / "supported.md"
HEADING: Final = "\n## Versions\n"
TOOLS: Final = ["hypothesis", "pytest"]
RUNTIME: Final = ["numpy", "onnxruntime", "msgspec"]
EXPORT: Final = ["torch", "onnx", "onnxscript", "onnx-ir", "safetensors", "click"]
RUNTIME_TESTS: Final = ["tests/runtime"]
EXPORT_TESTS: Final = ["tests/export/test_corpus.py", "tests/export/test_export.py", "tests/export/test_quantize.py"]
COLUMNS: Final = ["Python", "versions", *RUNTIME, *EXPORT, "runtime", "export", "date"]
TEXT: Final = f"""{HEADING}
`python -m tests.versions` runs the runtime's tests, and those of the export that depend most on versions, with the oldest versions that
the packages' metadata allow and with the newest that there are. Run it with each Python; `make versions` does so with yours.

"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description=__doc__)
    parser.add_argument("which", nargs="*", metavar="oldest|newest", help="both by default")
    parser.add_argument("--runtime", action="store_true", help="the runtime's packages and tests only")
    given = parser.parse_args()
    if unknown := set(given.which) - {"oldest", "newest"}:
        parser.error(f"there are the oldest and the newest versions, not the {min(unknown)}")
    failed = False
    for which in given.which or ["oldest", "newest"]:
        row = run(which, runtime=given.runtime)
        print(" | ".join(f"{name} {value}" for name, value in row.items() if value), flush=True)
        write(row)
        failed |= "failed" in f"{row['runtime']} {row['export']}"
    sys.exit(failed)


def run(which: str, *, runtime: bool) -> dict[str, str]:
    """Make an environment, and run the tests there; a row of the table."""
    row = dict.fromkeys(COLUMNS, "") | {"Python": platform.python_version(), "versions": which}
    with tempfile.TemporaryDirectory(prefix="rnnx-versions-") as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / ("Scripts" if os.name == "nt" else "bin") / "python"
        bounds = Path(folder) / "oldest.txt"
        bounds.write_text("".join(f"{name}=={version}\n" for name, version in lowest()) if which == "oldest" else "")
        packages = ["--editable", "./runtime", *([] if runtime else ["--editable", ".[export]"])]
        pip = [python, "-m", "pip"]
        subprocess.run([*pip, "install", "--quiet", "--constraint", bounds, *packages, *TOOLS], cwd=ROOT, check=True)
        listed = subprocess.run([*pip, "list", "--format", "json"], capture_output=True, text=True, check=True).stdout
        installed = {one["name"].lower(): one["version"] for one in json.loads(listed)}
        row |= {name: installed.get(name, "") for name in (*RUNTIME, *EXPORT)}
        row["runtime"] = tested(python, RUNTIME_TESTS)
        if not runtime:
            row["export"] = tested(python, EXPORT_TESTS)
    return row | {"date": datetime.now(UTC).date().isoformat()}


def tested(python: Path, tests: list[str]) -> str:
    """How many tests passed and failed there."""
    # Warnings of other versions are seen, and are no errors.
    command = [python, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", "-W", "default", "-m", "not slow", *tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr.strip()
    counts = re.findall(r"\d+ (?:passed|failed|errors?)", last)
    if done.returncode:
        print(done.stdout[-4000:], done.stderr[-4000:], sep="\n", file=sys.stderr)
    return ", ".join(counts) if counts and not (done.returncode and "failed" not in last) else f"failed: {last}"


def lowest() -> Iterator[tuple[str, str]]:
    """The lower bounds of what both packages require."""
    for file in (ROOT / "pyproject.toml", ROOT / "runtime" / "pyproject.toml"):
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        for requirement in [*project["dependencies"], *chain(*project.get("optional-dependencies", {}).values())]:
            if bound := re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement):
                yield bound[1], bound[2]


def write(row: dict[str, str]) -> None:
    """Put a line into the table, in place of the one of the same Python and the same versions."""
    styles, _, table = PAGE.read_text(encoding="utf-8").partition(HEADING)
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| 3.")]
    minor = row["Python"].rpartition(".")[0]
    kept = [one for one in rows if (one[0].rpartition(".")[0], one[1]) != (minor, row["versions"])]
    lines = sorted([*kept, list(row.values())], key=lambda one: ([*map(int, one[0].split("."))], one[1] == "newest"))
    made = [f"| {' | '.join(cells)} |" for cells in (COLUMNS, ["---"] * len(COLUMNS), *lines)]
    PAGE.write_text(styles + TEXT + "\n".join(made) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
