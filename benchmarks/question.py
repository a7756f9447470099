"""What a question is, and how its file runs alone: `python -m benchmarks.step [--quick]`."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, final

import msgspec
import torch

import rnnx
from benchmarks.models import Size
from benchmarks.peers import Subject
from benchmarks.tables import figure
from rnnx._bench.timing import on_one_core
from rnnx_runtime.artifact import CharCodec

Effort = Literal["full", "quick", "smoke"]
T = TypeVar("T")


@final
@dataclass(frozen=True)
class Setting:
    """How much is measured, and where the artifacts are kept.

    Attributes:
        effort: "full" for figures to report; "quick" for a look, in a fifth of the time; "smoke" to see that it works.
    """

    effort: Effort
    folder: Path

    def of(self, full: T, quick: T, smoke: T) -> T:
        """One of three values."""
        return {"full": full, "quick": quick, "smoke": smoke}[self.effort]

    def subject(self, size: Size) -> Subject:
        """A model, exported where it was not yet."""
        path = self.folder / f"{size.file}.onnx"
        if not path.exists():
            example = (torch.zeros(2, 6, dtype=torch.long),)
            rnnx.export(size.module(), example, path, codec=CharCodec(vocabulary=size.alphabet), proof="quick")
        return Subject(size, path)

    def quantised(self, size: Size, bits: int) -> Subject:
        """The same with weights of fewer bits, quantised where it was not yet. Random weights have no loss that could get worse."""
        path = self.folder / f"{size.file}.int{bits}.onnx"
        if not path.exists():
            text = self.folder / "text.txt"
            text.write_text(size.alphabet, encoding="utf-8")
            rnnx.quantize(self.subject(size).path, path, bits=bits, data=text, allow_loss=True)
        return Subject(size, path)


@final
class Target(msgspec.Struct, frozen=True):
    """What was to be reached.

    Attributes:
        what: in words.
        limit: the ratio, or another figure.
        at_least: whether it is to be above the limit; else below.
        found: what was measured; None where it could not be.
        floor: what the engine alone comes to, bare bindings on the minimal graph in rnnx's place: more cannot be had of it.
    """

    what: str
    limit: float
    at_least: bool
    found: float | None
    floor: float | None = None

    @property
    def met(self) -> bool | None:
        if self.found is None:
            return None
        return self.found >= self.limit if self.at_least else self.found <= self.limit


@final
@dataclass(frozen=True)
class Question:
    """One question, and the way to its answer.

    Attributes:
        name: of its module.
        text: the question.
        measure: the figures, a `msgspec.Struct` of the type `figures`.
        page: what the report says of them, Markdown.
        targets: what was to be reached.
        pinned: whether it is measured on one core.
    """

    name: str
    text: str
    figures: type[Any]
    measure: Callable[[Setting], Any]
    page: Callable[[Any], str]
    targets: Callable[[Any], Sequence[Target]] = lambda _: ()
    pinned: bool = True

    def main(self) -> None:
        """Measure, and print the answer."""
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{self.name}", description=self.text)
        parser.add_argument("--quick", action="store_true", help="in a fifth of the time")
        parser.add_argument("--smoke", action="store_true", help="in seconds, only to see that it works")
        parser.add_argument("--json", type=Path, help="write the figures here instead of printing them")
        parser.add_argument("--artifacts", type=Path, help="keep the exported models here")
        given = parser.parse_args()
        effort: Effort = "smoke" if given.smoke else "quick" if given.quick else "full"
        with tempfile.TemporaryDirectory() as temporary:
            setting = Setting(effort, given.artifacts or Path(temporary))
            setting.folder.mkdir(parents=True, exist_ok=True)
            if self.pinned:
                with on_one_core():
                    figures = self.measure(setting)
            else:
                figures = self.measure(setting)
        if given.json is not None:
            given.json.write_bytes(msgspec.json.encode(figures))
            return
        sys.stdout.write(f"{self.text}\n\n{self.page(figures)}\n")
        for target in self.targets(figures):
            sys.stdout.write(f"{_MET[target.met]}: {target.what}: {figure(target.found)} (to reach: {figure(target.limit)})\n")


_MET: Final = {True: "met", False: "NOT met", None: "not measured"}
