"""The two sides of a comparison: artifacts, or any ONNX files. Read once, and nothing is run here."""

import base64
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.external_data_helper import uses_external_data

from rnnx_runtime import ArtifactError
from rnnx_runtime.artifact import (
    INITIAL_KEY,
    MANIFEST_KEY,
    SIZE_LIMIT,
    Artifact,
    Manifest,
    open_artifact,
    read_regular,
)

Source = str | os.PathLike[str] | bytes


@dataclass(frozen=True)
class OnnxFile:
    """One file that is compared.

    Attributes:
        label: what it is called: its path.
        artifact: None where it is not one, and `no_artifact_because` says why.
        initial: the second graph, which computes initial states; None where there is none.
        folder: where weights lie that are not in the file.
    """

    label: str
    data: bytes
    artifact: Artifact | None
    no_artifact_because: str
    model: onnx.ModelProto
    initial: onnx.ModelProto | None
    folder: str

    @property
    def manifest(self) -> Manifest | None:
        return None if self.artifact is None else self.artifact.manifest

    @property
    def sha256(self) -> str:
        """Of an artifact its digest, which leaves the seal out; else of the file."""
        return hashlib.sha256(self.data).hexdigest() if self.artifact is None else self.artifact.digest

    def array(self, tensor: onnx.TensorProto) -> NDArray[Any]:
        """The values of one of its tensors.

        Raises:
            ArtifactError: it has none that can be read.
        """
        try:
            return np.asarray(onnx.numpy_helper.to_array(tensor, self.folder))
        except Exception as error:  # whatever onnx stumbles over
            where = f" in another file beside it, {_location(tensor)!r}" if uses_external_data(tensor) else ""
            raise ArtifactError(
                f"{self.label!r}: the values of {tensor.name!r}{where} cannot be read: {_words(error)}"
            ) from None


def read_file(source: Source) -> OnnxFile:
    """An artifact or any ONNX file, at a path or as bytes.

    Raises:
        ArtifactNotFoundError: there is no file at the path.
        ArtifactError: it is no ONNX file, or it cannot be read.
    """
    if isinstance(source, bytes):
        label, folder, data = "bytes", "", source
    else:
        label, folder = os.fspath(source), str(Path(source).parent)
        data = read_regular(source, SIZE_LIMIT)
    model = _parsed(label, data)
    artifact, because = _opened(data, model)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    initial = None
    if artifact is not None and INITIAL_KEY in metadata:
        initial = _parsed(label, base64.b64decode(metadata[INITIAL_KEY]))
    return OnnxFile(label, data, artifact, because, model, initial, folder)


def _opened(data: bytes, model: onnx.ModelProto) -> tuple[Artifact | None, str]:
    """The artifact, or why it is none. Operators that were trusted at its making are read, not run."""
    try:
        return open_artifact(data, trust=True), ""
    except ArtifactError as error:
        described = any(entry.key == MANIFEST_KEY for entry in model.metadata_props)
        return None, f"it has a manifest, but is no artifact: {error}" if described else "it is plain ONNX, no artifact"


def _parsed(label: str, data: bytes) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except Exception:  # protobuf's own, one per implementation of it
        raise ArtifactError(f"{label!r} is not an ONNX file: it cannot be parsed") from None
    if not model.HasField("graph") or not model.graph.output:
        raise ArtifactError(f"{label!r} is not an ONNX file: it holds no graph with an output")
    return model


def _location(tensor: onnx.TensorProto) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
