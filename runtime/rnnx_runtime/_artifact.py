"""Opening an artifact: read once, check the seal, walk the graph, decode the manifest. Nothing is run here."""

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rnnx_runtime._errors import ArtifactError
from rnnx_runtime._files import read_regular
from rnnx_runtime._manifest import INITIAL_KEY, MANIFEST_KEY, Computed, Dimension, Manifest, decode_manifest
from rnnx_runtime._preflight import SIZE_LIMIT, Graph, Value, inspect_graph
from rnnx_runtime._seal import check_seal

Shape = tuple[Dimension, ...]


@dataclass(frozen=True)
class Artifact:
    """A checked artifact: its bytes, and what they say."""

    data: bytes
    digest: str
    manifest: Manifest
    graph: Graph
    initial: bytes | None  # the second graph, where a state is computed


def open_artifact(source: str | os.PathLike[str] | bytes | bytearray | memoryview) -> Artifact:
    """Open the artifact at a path, or given as bytes.

    Raises:
        ArtifactNotFoundError: there is no file at the path.
        ArtifactError: the file is not a whole, valid artifact.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return _check(bytes(source))
    data = read_regular(source, SIZE_LIMIT)
    try:
        return _check(data)
    except ArtifactError as error:
        raise ArtifactError(f"{os.fspath(source)!r}: {error}") from None


def _check(data: bytes) -> Artifact:
    digest = check_seal(data)
    graph = inspect_graph(data)
    text = graph.metadata.get(MANIFEST_KEY)
    if text is None:
        raise ArtifactError("the file has a seal but no manifest; export the model again")
    manifest = decode_manifest(text)
    _check_contract(manifest, graph)
    return Artifact(data, digest, manifest, graph, _initial(manifest, graph))


def _initial(manifest: Manifest, graph: Graph) -> bytes | None:
    """The second graph, examined as the first is."""
    text = graph.metadata.get(INITIAL_KEY)
    if not manifest.conditions:
        if text is not None:
            raise ArtifactError("the file holds a second graph, but no state is computed")
        return None
    if text is None:
        raise ArtifactError("the file lacks the second graph, which computes initial states; export the model again")
    conditions = {spec.name: (spec.dtype, spec.shape) for spec in manifest.conditions}
    computed = {spec.name: (spec.dtype, spec.shape) for spec in manifest.states if isinstance(spec.init, Computed)}
    try:
        data = base64.b64decode(text, validate=True)
        found = inspect_graph(data)
        _check_values("conditions", conditions, found.inputs)
        _check_values("computed states", computed, found.outputs)
    except ValueError as error:  # not base64, or an ArtifactError
        raise ArtifactError(f"the second graph, which computes initial states: {error}") from None
    return data


def _check_contract(manifest: Manifest, graph: Graph) -> None:
    """Refuse a manifest that says something else than the graph: names, types and sizes."""
    inputs = {spec.name: (spec.dtype, spec.shape) for spec in manifest.inputs}
    inputs |= {spec.input: (spec.dtype, spec.shape) for spec in manifest.states}
    outputs = {spec.name: (spec.dtype, spec.shape) for spec in manifest.outputs}
    outputs |= {spec.output: (spec.dtype, spec.shape) for spec in manifest.states}
    _check_values("inputs", inputs, graph.inputs)
    _check_values("outputs", outputs, graph.outputs)


def _check_values(kind: str, said: Mapping[str, tuple[str, Shape]], found: Sequence[Value]) -> None:
    names = sorted(value.name for value in found)
    if names != sorted(said):
        raise ArtifactError(f"the manifest names the {kind} {sorted(said)}, the graph has {names}")
    for value in found:
        dtype, shape = said[value.name]
        if value.dtype != dtype or not _agree(shape, value):
            raise ArtifactError(
                f"{value.name}: the manifest says {dtype} {list(shape)}, the graph has {value.dtype} {list(value.shape)}"
            )


def _agree(shape: Shape, value: Value) -> bool:
    fixed = tuple(size if isinstance(size, int) else None for size in shape)
    return fixed == value.shape
