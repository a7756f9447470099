"""What an export writes beside the artifact: TorchScript, and the report of all comparisons. Imports no torch.

The three are written together, the artifact last. It stands for all: each of the others says which artifact it belongs to, the
TorchScript by the manifest inside it, the report by the artifact's SHA-256. An export that was killed between two renamings, two
exports at once, or another artifact at the same path can leave files of two makings; `strangers` names them.
"""

import os
import zipfile
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from rnnx_runtime.artifact import MANIFEST_KEY, SIZE_LIMIT, Artifact, Manifest, write_together

_EXTRA: Final = f"/extra/{MANIFEST_KEY}"


class _Report(msgspec.Struct):
    artifact: str = ""


def beside(target: Path) -> tuple[Path, Path]:
    """Where the TorchScript and the report go."""
    return target.with_suffix(".pt"), target.with_suffix(".parity.json")


def write_export(target: Path, artifact: bytes, script: bytes | None, report: bytes) -> None:
    """The artifact and what stands beside it; TorchScript of an export before goes where there is none now.

    Raises:
        OSError: one of them cannot be written.
    """
    script_path, report_path = beside(target)
    write_together({script_path: script, report_path: report, target: artifact})


def strangers(path: str | os.PathLike[str], artifact: Artifact) -> list[Path]:
    """The files beside an artifact that belong to another one."""
    script, report = beside(Path(path))
    found = []
    inside = manifest_inside(script)
    if inside is not None and not is_of(inside, artifact.manifest):
        found.append(script)
    if report.is_file() and _named_in(report) != artifact.digest:
        found.append(report)
    return found


def manifest_inside(script: Path | IO[bytes]) -> bytes | None:
    """The manifest in TorchScript that rnnx wrote; None where it is no such file."""
    if isinstance(script, Path) and not script.is_file():  # a pipe would be waited for
        return None
    try:
        with zipfile.ZipFile(script) as archive:
            entry = next(one for one in archive.infolist() if one.filename.endswith(_EXTRA))
            return archive.read(entry) if entry.file_size <= SIZE_LIMIT and not entry.compress_type else None
    except Exception:  # whatever zipfile stumbles over
        return None


def is_of(manifest: bytes, other: Manifest) -> bool:
    """Whether an encoded manifest is this one."""
    try:
        return msgspec.json.decode(manifest, type=Manifest) == other
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False


def _named_in(report: Path) -> Any:
    """The SHA-256 of the artifact that a report is of."""
    try:
        return msgspec.json.decode(report.read_bytes(), type=_Report).artifact
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        return None
