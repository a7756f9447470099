"""Inputs and outputs as graphs declare them: all the contract that a plain ONNX file has."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from rnnx._diff.change import Change, change, differing, paired, sizes
from rnnx._diff.files import OnnxFile
from rnnx_runtime.artifact import Dimension


@dataclass(frozen=True)
class Declared:
    """An input or output of a graph; an axis without a fixed size has its symbol, or "?"."""

    name: str
    dtype: str
    shape: tuple[Dimension, ...]


def inputs_of(file: OnnxFile) -> list[Declared]:
    """What the graph must be given; in older files, weights are among its inputs."""
    stored = {tensor.name for tensor in file.model.graph.initializer}
    return [_declared(value) for value in file.model.graph.input if value.name not in stored]


def outputs_of(file: OnnxFile) -> list[Declared]:
    return [_declared(value) for value in file.model.graph.output]


def declared_changes(a: OnnxFile, b: OnnxFile) -> tuple[Change, ...]:
    """What differs, and whom it breaks."""
    found = [
        *(_change("input", "b must be given it", *pair) for pair in paired(inputs_of(a), inputs_of(b))),
        *(_change("output", "", *pair) for pair in paired(outputs_of(a), outputs_of(b))),
    ]
    return tuple(one for one in found if one is not None)


def _declared(value: onnx.ValueInfoProto) -> Declared:
    tensor = value.type.tensor_type
    shape = [axis.dim_value if axis.HasField("dim_value") else axis.dim_param or "?" for axis in tensor.shape.dim]
    return Declared(value.name, _dtype(tensor.elem_type), tuple(shape))


def _dtype(number: int) -> str:
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(number))
    except KeyError:  # of sequences, and of types that came after this onnx
        return f"type {number}"


def _change(kind: str, added: str, old: Declared | None, new: Declared | None) -> Change | None:
    if old is None or new is None:
        spec = old or new
        assert spec is not None
        because = added if old is None else "b does not have it"
        words = differing(_words(old), _words(new))
        return change(f"{kind} {spec.name}", words, ("plain ONNX callers", because) if because else None)
    return change(
        f"{kind} {old.name}",
        differing(_words(old), _words(new)),
        ("plain ONNX callers", f"it is called {new.name}") if old.name != new.name else None,
        ("plain ONNX callers", f"it is {new.dtype}") if old.dtype != new.dtype else None,
        ("plain ONNX callers", "it has other sizes") if _other_sizes(old.shape, new.shape) else None,
    )


def _other_sizes(old: Sequence[Dimension], new: Sequence[Dimension]) -> bool:
    """Whether b fixes a size that a leaves open, or has another; what b leaves open takes a's."""
    return len(old) != len(new) or any(isinstance(size, int) and size != was for was, size in zip(old, new, strict=True))


def _words(spec: Declared | None) -> list[str]:
    return [] if spec is None else [spec.name, spec.dtype, sizes(spec.shape)]
