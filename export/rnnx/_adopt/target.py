"""Where the artifact goes, and its bytes."""

import os
from pathlib import Path

from onnx import ModelProto

from rnnx._errors import AdoptError
from rnnx_runtime import ArtifactError
from rnnx_runtime.artifact import MANIFEST_KEY, Manifest, open_artifact, seal


def replaced_model(target: Path, source: str | os.PathLike[str] | bytes) -> str | None:
    """The name of the model whose artifact is there; None where nothing is.

    Raises:
        AdoptError: it is the file that is adopted, or another one that is no artifact.
    """
    if not target.is_file():
        return None
    if not isinstance(source, bytes) and Path(source).exists() and target.samefile(source):
        raise AdoptError(f"{target} is the file that is adopted; give the artifact another name, -o FILE.onnx")
    try:
        return open_artifact(target, trust=True).manifest.name
    except ArtifactError:
        raise AdoptError(
            f"{target} is there already, and is no artifact; give another name, -o FILE.onnx, or move it away"
        ) from None


def sealed(model: ModelProto, manifest: Manifest) -> bytes:
    """The artifact's bytes: the graph with this manifest, sealed."""
    described = ModelProto()
    described.CopyFrom(model)
    described.metadata_props.add(key=MANIFEST_KEY, value=manifest.encode())
    return seal(described.SerializeToString(deterministic=True))
