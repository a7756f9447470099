"""What an adoption made, and what it found on the way."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rnnx._describe import Description
from rnnx_runtime.artifact import Manifest

_WIDTH: Final = 67  # of a note, which stands in a line of 80 behind its title


@dataclass(frozen=True)
class Adopted:
    """What an adoption made, and what was found on the way.

    Attributes:
        path: the artifact.
        comparisons: runs of the artifact that were compared with the original file.
        difference: the largest difference of all their values; 0 where every bit is equal.
        notes: what was done to the graph, and why, in words.
        size: bytes of the artifact.
        operators: nodes of the graph, in order.
        replaced: the name of another model whose artifact stood at `path` before; None where none did.
    """

    path: Path
    manifest: Manifest
    comparisons: int
    difference: float
    notes: tuple[str, ...]
    digest: str
    size: int
    operators: tuple[str, ...]
    replaced: str | None

    def __str__(self) -> str:
        """What was found and made, line by line."""
        count = len(self.manifest.states)
        kept = "no state" if count == 0 else "1 state" if count == 1 else f"{count} states"
        times = f"{self.comparisons} comparison{'s' * (self.comparisons > 1)}"
        title = f"{self.path}: {self.manifest.name}, adopted with {kept}, proven equal to the file in {times}"
        lines = Description(self.manifest, self.operators, self.size, self.digest).lines()
        parts = [
            part for note in self.notes for part in textwrap.wrap(note, _WIDTH, break_long_words=False, break_on_hyphens=False)
        ]
        notes = [f"  {'notes' if place == 0 else '':<11}{part}" for place, part in enumerate(parts)]
        return "\n".join([title, *lines, *notes])

    def to_json(self) -> str:
        """The same for machines, with the manifest as it stands in the file."""
        beside = {
            "path": str(self.path),
            "replaced": self.replaced,
            "comparisons": self.comparisons,
            "difference": self.difference,
            "notes": self.notes,
        }
        return Description(self.manifest, self.operators, self.size, self.digest).to_json(beside)
