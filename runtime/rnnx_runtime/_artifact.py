"""Opening an artifact: read once, check the seal, walk the graph, decode the manifest. Nothing is run here."""

import binascii
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rnnx_runtime._errors import ArtifactError
from rnnx_runtime._files import read_regular
from rnnx_runtime._manifest import BATCH, INITIAL_KEY, MANIFEST_KEY, TIME, Computed, Dimension, Manifest, decode_manifest
from rnnx_runtime._preflight import SIZE_LIMIT, Graph, Value, inspect_graph
from rnnx_runtime._seal import check_seal

Shape = tuple[Dimension, ...]

_NAMED: Final = 8  # operators in one message


@dataclass(frozen=True)
class Artifact:
    """A checked artifact: its bytes, and what they say."""

    data: bytes
    digest: str
    manifest: Manifest
    graph: Graph
    initial: bytes | None  # the second graph, where a state is computed
    half: bool  # whether one of the graphs has float16 in it, or may have


def open_artifact(source: str | os.PathLike[str] | bytes | bytearray | memoryview, *, trust: bool = False) -> Artifact:
    """Open the artifact at a path, or given as bytes.

    Args:
        trust: allow operators outside the runtime's list, where the manifest says that whoever adopted the file did so.

    Raises:
        ArtifactNotFoundError: there is no file at the path.
        ArtifactError: the file is not a whole, valid artifact, or it must be trusted.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return _check(bytes(source), trust)
    data = read_regular(source, SIZE_LIMIT)
    try:
        return _check(data, trust)
    except ArtifactError as error:
        raise ArtifactError(f"{os.fspath(source)!r}: {error}") from None


def _check(data: bytes, trust: bool) -> Artifact:
    digest = check_seal(data)
    graph = inspect_graph(data)
    text = graph.metadata.get(MANIFEST_KEY)
    if text is None:
        raise ArtifactError("the file has a seal but no manifest; export the model again")
    manifest = decode_manifest(text)
    _check_operators(manifest.trusted, graph.foreign, trust)
    _check_contract(manifest, graph)
    _check_handed_through(graph)
    initial, half = _initial(manifest, graph)
    # What operators outside the list give, nobody knows: it may be float16.
    return Artifact(data, digest, manifest, graph, initial, graph.half or half or bool(graph.foreign))


def _initial(manifest: Manifest, graph: Graph) -> tuple[bytes | None, bool]:
    """The second graph, examined as the first is, and whether it has float16 in it."""
    text = graph.metadata.get(INITIAL_KEY)
    if not manifest.conditions:
        if text is not None:
            raise ArtifactError("the file holds a second graph, but no state is computed")
        return None, False
    if text is None:
        raise ArtifactError("the file lacks the second graph, which computes initial states; export the model again")
    conditions = {spec.name: (spec.dtype, spec.shape) for spec in manifest.conditions}
    computed = {spec.name: (spec.dtype, spec.shape) for spec in manifest.states if isinstance(spec.init, Computed)}
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
        found = inspect_graph(data)
        _check_operators((), found.foreign, trust=False)
        _check_values("conditions", conditions, found.inputs, manifest)
        _check_values("computed states", computed, found.outputs, manifest)
    except ValueError as error:  # not base64, or an ArtifactError
        raise ArtifactError(f"the second graph, which computes initial states: {error}") from None
    return data, found.half


def _check_operators(trusted: Sequence[str], foreign: Sequence[str], trust: bool) -> None:
    """Refuse operators outside the runtime's list, but for those that were trusted at the adoption and are now again."""
    unknown = [name for name in foreign if name not in trusted]
    if unknown:
        names = ", ".join(map(repr, unknown[:_NAMED])) + (", ..." if len(unknown) > _NAMED else "")
        these = f"operators {names} are" if len(unknown) > 1 else f"operator {names} is"
        raise ArtifactError(
            f"{these} not allowed in an artifact; see the runtime's list of operators, or adopt the file with --trust"
        )
    needless = [name for name in trusted if name not in foreign]
    if needless:
        raise ArtifactError(f"the manifest asks to trust {needless[0]!r}, which the graph does not need; adopt the file again")
    if trusted and not trust:
        raise ArtifactError(
            f"this artifact holds operators outside the runtime's list, {', '.join(trusted)}, that whoever adopted it trusted; "
            "load it with trust=True (--trust) only if you trust where it comes from"
        )


def _check_contract(manifest: Manifest, graph: Graph) -> None:
    """Refuse a manifest that says something else than the graph: names, types and sizes."""
    inputs = {spec.name: (spec.dtype, spec.shape) for spec in manifest.inputs}
    inputs |= {spec.input: (spec.dtype, spec.shape) for spec in manifest.states}
    outputs = {spec.name: (spec.dtype, spec.shape) for spec in manifest.outputs}
    outputs |= {spec.output: (spec.dtype, spec.shape) for spec in manifest.states}
    _check_values("inputs", inputs, graph.inputs, manifest)
    _check_values("outputs", outputs, graph.outputs, manifest)


def _check_handed_through(graph: Graph) -> None:
    """Refuse outputs that ONNX Runtime leaves unwritten where they are bound to a buffer."""
    through = {value.name for value in graph.inputs} & {value.name for value in graph.outputs}
    if through:
        raise ArtifactError(f"{min(through)!r} is an input and an output of the graph; put an Identity between them")


def _check_values(kind: str, said: Mapping[str, tuple[str, Shape]], found: Sequence[Value], manifest: Manifest) -> None:
    names = sorted(value.name for value in found)
    if names != sorted(said):
        raise ArtifactError(f"the manifest names the {kind} {sorted(said)}, the graph has {names}")
    for value in found:
        dtype, shape = said[value.name]
        if value.dtype != dtype or not _agree(shape, value, manifest):
            raise ArtifactError(
                f"{value.name}: the manifest says {dtype} {list(shape)}, the graph has {value.dtype} {list(value.shape)}"
            )


def _agree(shape: Shape, value: Value, manifest: Manifest) -> bool:
    """Whether the graph declares these sizes; for a symbol that stands for one size, it may declare that."""
    return len(shape) == len(value.shape) and all(
        found == size if isinstance(size, int) else found is None or found == _stands_for(size, manifest)
        for size, found in zip(shape, value.shape, strict=True)
    )


def _stands_for(symbol: str, manifest: Manifest) -> int | None:
    """The one size that the graph takes there, where it takes no other."""
    sizes = {BATCH: manifest.fixed_batch, TIME: 1 if manifest.one_step else None}
    parts = [sizes[name] for name in symbol.split("*")]
    known = [size for size in parts if size is not None]
    return math.prod(known) if len(known) == len(parts) else None
