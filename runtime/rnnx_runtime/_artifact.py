"""Opening an artifact: read once, check the seal, walk the graph, decode the manifest. Nothing is run here."""

import os
from dataclasses import dataclass

from rnnx_runtime._errors import ArtifactError
from rnnx_runtime._files import read_regular
from rnnx_runtime._manifest import MANIFEST_KEY, Manifest, check_names, decode_manifest
from rnnx_runtime._preflight import SIZE_LIMIT, Graph, inspect_graph
from rnnx_runtime._seal import check_seal


@dataclass(frozen=True)
class Artifact:
    """A checked artifact: its bytes, and what they say."""

    data: bytes
    digest: str
    manifest: Manifest
    graph: Graph


def open_artifact(source: str | os.PathLike[str] | bytes) -> Artifact:
    """Open the artifact at a path, or given as bytes.

    Raises:
        ArtifactNotFoundError: there is no file at the path.
        ArtifactError: the file is not a whole, valid artifact.
    """
    if isinstance(source, bytes):
        return _check(source)
    data = read_regular(source, SIZE_LIMIT)
    try:
        return _check(data)
    except ArtifactError as error:
        raise ArtifactError(f"{os.fspath(source)}: {error}") from None


def _check(data: bytes) -> Artifact:
    digest = check_seal(data)
    graph = inspect_graph(data)
    text = graph.metadata.get(MANIFEST_KEY)
    if text is None:
        raise ArtifactError("the file has a seal but no manifest; export the model again")
    manifest = decode_manifest(text)
    check_names(manifest, graph.inputs, graph.outputs)
    return Artifact(data, digest, manifest, graph)
