"""The file that is adopted: read once, and brought into one piece. Nothing is run here."""

import errno
import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper
from onnx.external_data_helper import load_external_data_for_model, uses_external_data
from onnx.inliner import inline_local_functions

from rnnx._errors import AdoptError
from rnnx_runtime import ArtifactError, ArtifactNotFoundError
from rnnx_runtime.artifact import MANIFEST_KEY, SEAL_KEY, SIZE_LIMIT, read_regular

OLDEST_OPSET: Final = 11  # where Clip, Pad and Slice took today's inputs; what came after is rewritten, see `_adopt/opset.py`
NEWEST_OPSET: Final = 24  # that the runtime reads
_NEWEST_IR: Final = 13


@dataclass(frozen=True)
class OriginalFile:
    """A file as somebody else made it.

    Attributes:
        name: its own, without folders and ending.
        sha256: of its bytes; those of weights in files beside it are not among them.
        model: with all weights inside and without functions of its own.
        notes: what was done to it.
    """

    name: str
    sha256: str
    model: ModelProto
    notes: tuple[str, ...]


def read_original(source: str | os.PathLike[str] | bytes) -> OriginalFile:
    """Read an ONNX file, given by its path or as bytes.

    Raises:
        AdoptError: it is no ONNX model, an artifact already, too large, too new or too old, or its weights cannot be read.
        FileNotFoundError: there is no file at the path.
    """
    if isinstance(source, bytes):
        name, folder, data = "model", None, source
        if len(data) > SIZE_LIMIT:
            raise AdoptError(f"the file has {len(data)} bytes; at most {SIZE_LIMIT} are read")
    else:
        name, folder, data = Path(source).stem, Path(source).parent, _read(source)
    model = _parse(data, name)
    _check_versions(model, name)
    notes = []
    if _load_weights(model, name, folder, len(data)):
        notes.append("the weights, which lay in files beside it, are in the artifact")
    if model.functions:
        names = ", ".join(sorted({function.name for function in model.functions}))
        model = inline_local_functions(model)
        notes.append(f"its own functions are written out: {names}")
    del model.training_info[:]
    _forget_sizes_of_nought(model)
    return OriginalFile(name, hashlib.sha256(data).hexdigest(), model, tuple(notes))


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph, and all graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.type == AttributeProto.GRAPH else ()), *attribute.graphs):
                yield from graphs(body)


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return read_regular(path, SIZE_LIMIT)
    except ArtifactNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no file here; give the path of an .onnx file", os.fspath(path)) from None
    except ArtifactError as error:
        raise AdoptError(str(error)) from None


def _parse(data: bytes, name: str) -> ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except Exception:  # protobuf's own, one per implementation of it
        raise AdoptError(f"{name!r} is not an ONNX file: it cannot be parsed") from None
    if not model.graph.node or not model.graph.output:
        raise AdoptError(f"{name!r} is not an ONNX file: it holds no graph with nodes and outputs")
    if {MANIFEST_KEY, SEAL_KEY} & {entry.key for entry in model.metadata_props}:
        raise AdoptError(f"{name!r} is an artifact of rnnx already; `rnnx inspect` shows what it says of itself")
    if not all(isinstance(text, str) for text in _texts(model)):  # protobuf hands on as bytes what it cannot decode
        raise AdoptError(f"{name!r} is not an ONNX file: a name in it is not valid UTF-8")
    if any(graph.sparse_initializer for graph in graphs(model.graph)):
        raise AdoptError(f"{name!r} has sparse weights; store them dense")
    return model


def _texts(model: ModelProto) -> Iterator[object]:
    """All names of a model."""
    yield from (model.producer_name, *(text for entry in model.metadata_props for text in (entry.key, entry.value)))
    for graph in graphs(model.graph):
        yield from (one.name for one in (*graph.input, *graph.output, *graph.initializer))
        for node in graph.node:
            yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
            yield from (attribute.name for attribute in node.attribute)


def _check_versions(model: ModelProto, name: str) -> None:
    opsets = {entry.domain if entry.domain != "ai.onnx" else "": entry.version for entry in model.opset_import}
    opset = opsets.get("", 0)
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise AdoptError(
            f"{name!r} has ONNX opset {opset}; {OLDEST_OPSET} to {NEWEST_OPSET} are read: convert the file, or export it again "
            "with opset 18"
        )
    if model.ir_version > _NEWEST_IR:
        raise AdoptError(f"{name!r} has ONNX IR version {model.ir_version}; up to {_NEWEST_IR} are read: export it again")


def _load_weights(model: ModelProto, name: str, folder: Path | None, size: int) -> bool:
    """Take weights that lie in other files into the model; whether there were any."""
    outside = [tensor for tensor in _tensors(model.graph) if uses_external_data(tensor)]
    if not outside:
        return False
    if folder is None:
        raise AdoptError("the weights lie in another file; give the path of the file instead of its bytes")
    files = {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"}
    total = size + sum(map(_bytes_of, outside))
    try:
        total = max(total, *((folder / file).stat().st_size for file in files))
        if total > SIZE_LIMIT:
            raise AdoptError(f"{name!r} has {total} bytes with its weights; at most {SIZE_LIMIT} are read")
        load_external_data_for_model(model, str(folder))  # it refuses what does not lie in this folder
    except AdoptError:
        raise
    except Exception as error:
        reason = (
            error.strerror
            if isinstance(error, OSError) and error.strerror
            else " ".join(str(error).split()) or type(error).__name__
        )
        raise AdoptError(
            f"the weights of {name!r} in {', '.join(map(repr, sorted(files)))} cannot be read: {reason}"
        ) from None
    return True


def _bytes_of(tensor: TensorProto) -> int:
    try:
        size: int = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        count: int = math.prod(tensor.dims)
        return count * size
    except KeyError:
        raise AdoptError(f"{tensor.name!r} has a type that is not known: {tensor.data_type}") from None


def _forget_sizes_of_nought(model: ModelProto) -> None:
    """Some exporters write 0 or -1 for a size that is not known; ONNX Runtime takes it at its word."""
    for value in (*model.graph.input, *model.graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.HasField("dim_value") and axis.dim_value < 1:
                axis.ClearField("dim_value")


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    for one in graphs(graph):
        yield from one.initializer
        for node in one.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
