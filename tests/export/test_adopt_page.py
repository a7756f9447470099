"""docs/adopt.md: its commands print what it shows, and its code runs."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.export import foreign

from rnnx._cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "adopt.md").read_text(encoding="utf-8")
FILES = {
    "enhancer": foreign.enhancer,
    "suppressor": lambda: foreign.unnamed(decomposed=True),
    "detector": foreign.detector,
    "tagger": foreign.forgetful,
    "lm": lambda: foreign.language_model(4),
    "int8": foreign.quantised,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that the page speaks of."""
    folder = tmp_path_factory.mktemp("page")
    for name, model in FILES.items():
        (folder / f"{name}.onnx").write_bytes(model().SerializeToString())
    return folder


def sessions() -> list[tuple[str, list[str]]]:
    """Every command of the page, and the lines that it shows under it."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ rnnx "), []))
            else:
                found[-1][1].append(line)
    return found


@pytest.mark.parametrize(("command", "shown"), sessions(), ids=[command for command, _ in sessions()])
def test_the_commands_print_what_is_shown(command, shown, folder, monkeypatch):
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(main, shlex.split(command))
    printed = (result.stdout + result.stderr).splitlines()
    assert (result.exit_code == 0) == (not shown[0].startswith("Error: "))
    at = 0
    for line in shown:
        if line == "  ...":
            continue
        pattern = re.compile(".*".join(map(re.escape, line.split("…"))))
        matches = [number for number in range(at, len(printed)) if pattern.fullmatch(printed[number])]
        assert matches, f"{line!r} is not among\n" + "\n".join(printed[at:])
        at = matches[0] + 1


def test_its_code_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "page"}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    CliRunner().invoke(main, ["adopt", "enhancer.onnx", "-o", "artifacts/enhancer.onnx"])
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"docs/adopt.md, block {number}", "exec"), names)
