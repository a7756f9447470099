"""What an export made, and what it found on the way."""

from dataclasses import asdict, dataclass
from pathlib import Path

from rnnx._describe import Description
from rnnx._lint import LintReport
from rnnx._parity.report import ParityReport
from rnnx_runtime.artifact import Manifest


@dataclass(frozen=True)
class Exported:
    """What an export made: the files, and what was found on the way.

    Attributes:
        path: the artifact.
        lint: what `rnnx.lint` found in the artifact; no errors, for those stop an export.
        torchscript: the TorchScript file; None where torch refused, or made another module of it: `torchscript_refused`.
        size: bytes of the artifact.
        operators: nodes of the graph, in order.
        replaced: the name of another model whose artifact stood at `path` before; None where none did.
    """

    path: Path
    torchscript: Path | None
    torchscript_refused: str | None
    parity_path: Path
    manifest: Manifest
    parity: ParityReport
    lint: LintReport
    digest: str
    size: int
    operators: tuple[str, ...]
    replaced: str | None

    def __str__(self) -> str:
        """What was found and made, line by line."""
        proven = (
            f"proven equal to eager PyTorch in {self.parity.summary().cases} comparisons"
            if self.parity.passed
            else "NOT proven"
        )
        title = f"{self.path}: {self.manifest.name}, {proven}"
        lines = Description(self.manifest, self.operators, self.size, self.digest).lines()
        beside = [str(self.parity_path)] if self.torchscript is None else [str(self.torchscript), str(self.parity_path)]
        lint = f"  {'lint':<11}{self.lint.summary().split(': ', 1)[-1]}"
        return "\n".join([title, *lines, lint, f"  {'also':<11}{', '.join(beside)}"])

    def to_json(self) -> str:
        """The same for machines, with the manifest as it stands in the file."""
        beside = {
            "path": str(self.path),
            "replaced": self.replaced,
            "torchscript": None if self.torchscript is None else str(self.torchscript),
            "torchscript_refused": self.torchscript_refused,
            "lint": self.lint.to_dict()["findings"],
            "parity": [asdict(row) for row in self.parity.rows()],
        }
        return Description(self.manifest, self.operators, self.size, self.digest).to_json(beside)
