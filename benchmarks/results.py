"""All figures of one run, as they are kept: `benchmarks/results.json`."""

import importlib
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, final

import msgspec

from benchmarks.question import Effort, Question
from rnnx._bench.machine import this_machine, usable_cores

QUESTIONS: Final = (
    "step",
    "chunk",
    "generation",
    "streams",
    "quantised",
    "cold_start",
    "memory",
    "growth",
    "silence",
    "threads",
    "disk",
    "export_time",
)
_PACKAGES: Final = (
    "numpy onnx onnxruntime torch openvino ai-edge-litert tract ncnn transformers msgspec onnxscript rnnx rnnx-runtime".split()
)


@final
class Results(msgspec.Struct, frozen=True, dict=True):
    """What one run found.

    Attributes:
        date: of its end, UTC.
        raw: the figures by question, as its own type is encoded.
        seconds: how long each question took.
        failed: why others have no figures.
    """

    date: str
    effort: Effort
    processor: str
    cores: int
    versions: dict[str, str]
    raw: dict[str, Any]
    seconds: dict[str, float]
    failed: dict[str, str]

    @cached_property
    def figures(self) -> dict[str, Any]:
        """By question, decoded."""
        return {name: msgspec.convert(raw, question(name).figures, strict=False) for name, raw in self.raw.items()}


def question(name: str) -> Question:
    """The question of a file."""
    found: Question = importlib.import_module(f"benchmarks.{name}").QUESTION
    return found


def gathered(effort: Effort, raw: dict[str, Any], seconds: dict[str, float], failed: dict[str, str]) -> Results:
    """The results of a run that ends now, on this machine."""
    machine = this_machine(usable_cores(), None, _PACKAGES)
    return Results(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        effort=effort,
        processor=machine.processor,
        cores=machine.cores,
        versions=machine.versions,
        raw=raw,
        seconds=seconds,
        failed=failed,
    )


def read(path: Path) -> Results:
    return msgspec.json.decode(path.read_bytes(), type=Results, strict=False)


def write(results: Results, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
