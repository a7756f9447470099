"""The weights of two files: initializers, constants and learned initial states, those inside bodies too."""

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto

from rnnx._diff.files import OnnxFile
from rnnx._parity.compare import difference
from rnnx_runtime.artifact import Constant

# Numbered by an exporter: the same number means nothing in another file.
NUMBERED: Final = re.compile(r"(.*/)?(val_\d+|onnx::\w+_\d+|\w*Constant_?\d*(_output_\d+)?|\w+_output_\d+|\d+)")
_BLOCK: Final = 1 << 20  # values that are compared at a time: a copy of them as float64 is 8 MiB

Kind = Literal["changed", "converted", "reshaped", "renamed", "removed", "added"]


@dataclass(frozen=True)
class Weight:
    """One stored tensor.

    Attributes:
        digest: of its type, its shape and its values.
        reader: the first node that reads it; empty where none does.
    """

    name: str
    reader: str
    dtype: str
    shape: tuple[int, ...]
    digest: str
    array: Callable[[], NDArray[Any]]  # read when it is needed: all at once may not fit


@dataclass(frozen=True)
class WeightChange:
    """One weight that differs.

    Attributes:
        name: in a; in b, where it was added. `other`: in b. `reader`: the first node, of a, that reads it.
        kind: "changed": other values. "converted": another type, the values compared as numbers. "reshaped": the same name,
            another shape. "renamed": the same values under another name.
        values: how many it has; `differing`: how many of them differ, in one bit or more.
        absolute: the largest difference, at the index `where`, or where the first bit differs; None where nothing was compared.
        relative: the largest difference of two values in relation to the larger of both.
    """

    name: str
    other: str
    reader: str
    kind: Kind
    before: str
    after: str
    values: int
    differing: int
    absolute: float | None = None
    relative: float | None = None
    where: tuple[int, ...] | None = None


@dataclass(frozen=True)
class WeightsDifference:
    """All weights of both files; `changes` with what could not be compared first, then by the largest difference."""

    tensors: int
    values: int
    changes: tuple[WeightChange, ...]

    @property
    def changed(self) -> tuple[WeightChange, ...]:
        """Those whose values, type or shape differ, or that only one of both has."""
        return tuple(change for change in self.changes if change.kind != "renamed")

    @property
    def differing(self) -> int:
        """How many values differ."""
        return sum(change.differing for change in self.changes)


Pair = tuple[Weight | None, Weight | None]


def stored_weights(file: OnnxFile) -> dict[str, Weight]:
    """All weights of a file by name; those of bodies and of the second graph stand under a prefix, as in `body_prefix`."""
    tensors: dict[str, onnx.TensorProto] = {}
    readers: dict[str, str] = {}
    for prefix, model in (("", file.model), ("initial/", file.initial)):
        if model is not None:
            _collect(model.graph, prefix, {}, tensors, readers)
    found = {name: _weight(name, readers.get(name, ""), partial(file.array, tensor)) for name, tensor in tensors.items()}
    for state in () if file.manifest is None else file.manifest.states:
        if isinstance(state.init, Constant):
            name = f"{state.name} at the start"
            found[name] = _weight(name, "", state.init.value.numpy)
    return found


def _collect(
    graph: onnx.GraphProto,
    prefix: str,
    around: Mapping[str, str],
    tensors: dict[str, onnx.TensorProto],
    readers: dict[str, str],
) -> None:
    """Add the initializers and constants of a graph and of the bodies in it, and the first node that reads each."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for sparse in graph.sparse_initializer:
        stored |= {sparse.values.name: sparse.values, f"{sparse.values.name}.indices": sparse.indices}
    for node in filter(is_constant, graph.node):
        stored[node.output[0]] = _constant(node)
        if node.attribute[0].type == AttributeProto.SPARSE_TENSOR:
            stored[f"{node.output[0]}.indices"] = node.attribute[0].sparse_tensor.indices
    tensors.update((prefix + name, tensor) for name, tensor in stored.items())
    known = {**around, **{name: prefix + name for name in stored}}
    for node in graph.node:
        for name in node.input:
            if name in known:
                readers.setdefault(known[name], node.name or node.op_type)
        for attribute in node.attribute:
            for place, body in enumerate(bodies(attribute)):
                _collect(body, body_prefix(prefix, node, attribute, place), known, tensors, readers)


def is_constant(node: onnx.NodeProto) -> bool:
    """Whether the node is a stored tensor."""
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx") and len(node.attribute) == len(node.output) == 1


def bodies(attribute: AttributeProto) -> list[onnx.GraphProto]:
    """The graphs that an attribute holds."""
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def body_prefix(prefix: str, node: onnx.NodeProto, attribute: AttributeProto, place: int) -> str:
    """What stands before names in a body: made of the node's first output, for names of nodes need not be unique."""
    return f"{prefix}{next(filter(None, node.output), '')}.{attribute.name}{place or ''}/"


def _constant(node: onnx.NodeProto) -> onnx.TensorProto:
    """Its values, which may be written in several ways."""
    attribute = node.attribute[0]
    if attribute.type in (AttributeProto.TENSOR, AttributeProto.SPARSE_TENSOR):
        stored: onnx.TensorProto = attribute.t if attribute.type == AttributeProto.TENSOR else attribute.sparse_tensor.values
        return stored
    kinds = {AttributeProto.INT: np.int64, AttributeProto.INTS: np.int64, AttributeProto.FLOAT: np.float32}
    kinds |= {AttributeProto.FLOATS: np.float32}
    values = np.asarray(onnx.helper.get_attribute_value(attribute), kinds.get(attribute.type, object))
    return onnx.numpy_helper.from_array(values, attribute.name)


def _weight(name: str, reader: str, array: Callable[[], NDArray[Any]]) -> Weight:
    values = array()
    digest = hashlib.sha256(f"{values.dtype} {values.shape}\n".encode())
    digest.update(repr(values.tolist()).encode() if values.dtype.hasobject else values.tobytes())
    return Weight(name, reader, str(values.dtype), values.shape, digest.hexdigest(), array)


def pair_weights(a: Mapping[str, Weight], b: Mapping[str, Weight]) -> list[Pair]:
    """Which weight of b stands for which of a: by name; where names differ or mean nothing, by values, then by type and shape."""
    left, right, pairs = dict(a), dict(b), []
    keys: tuple[Callable[[Weight], object], ...] = (
        lambda w: (w.name, w.digest),
        lambda w: (w.name, w.dtype, w.shape) if not NUMBERED.fullmatch(w.name) else None,
        lambda w: w.digest,
        lambda w: (w.name, w.shape),  # of another type
        lambda w: (w.dtype, w.shape),
        lambda w: w.name,  # of another shape
    )
    for key in keys:
        places = defaultdict(list)
        for weight in right.values():
            places[key(weight)].append(weight)
        for weight in list(left.values()):
            same = places.get(key(weight)) if key(weight) is not None else None
            if same:
                pairs.append((weight, right.pop(same.pop(0).name)))
                del left[weight.name]
    return [*pairs, *((weight, None) for weight in left.values()), *((None, weight) for weight in right.values())]


def compare_weights(pairs: Iterable[Pair]) -> WeightsDifference:
    """Every pair that differs, value by value."""
    pairs = list(pairs)
    changes = [change for change in (_change(a, b) for a, b in pairs) if change is not None]
    changes.sort(key=lambda change: -math.inf if change.absolute is None else -change.absolute)
    sizes = [math.prod((a or b).shape) for a, b in pairs]  # type: ignore[union-attr]
    return WeightsDifference(len(pairs), sum(sizes), tuple(changes))


def _change(a: Weight | None, b: Weight | None) -> WeightChange | None:
    if a is None or b is None:
        only = a or b
        assert only is not None
        size = math.prod(only.shape)
        return WeightChange(only.name, only.name, only.reader, "removed" if b is None else "added", _of(a), _of(b), size, size)
    size = math.prod(a.shape)
    if a.digest == b.digest:
        meant = a.name != b.name and not (NUMBERED.fullmatch(a.name) and NUMBERED.fullmatch(b.name))
        return WeightChange(a.name, b.name, a.reader, "renamed", _of(a), _of(b), size, 0) if meant else None
    if a.shape != b.shape:
        return WeightChange(a.name, b.name, a.reader, "reshaped", _of(a), _of(b), size, size)
    kind: Kind = "changed" if a.dtype == b.dtype else "converted"
    return WeightChange(a.name, b.name, a.reader, kind, _of(a), _of(b), size, *_apart(a.array(), b.array()))


def _apart(a: NDArray[Any], b: NDArray[Any]) -> tuple[int, float | None, float | None, tuple[int, ...] | None]:
    """How many values differ, the largest difference, the largest relative one, and where the largest stands."""
    if a.dtype.hasobject or b.dtype.hasobject or not a.size:  # texts
        return int((a.astype(object) != b.astype(object)).sum()), None, None, None
    differing, absolute, relative, place = 0, 0.0, 0.0, -1
    flat, other = a.reshape(-1), b.reshape(-1)
    for begin in range(0, a.size, _BLOCK):
        one, two = flat[begin : begin + _BLOCK], other[begin : begin + _BLOCK]
        x, y = one.astype(np.float64), two.astype(np.float64)
        apart = difference(x, y)
        other_bits = _bits(one) != _bits(two) if a.dtype == b.dtype else apart != 0
        differing += int(other_bits.sum())
        if place < 0 and other_bits.any():
            place = begin + int(other_bits.argmax())
        if (largest := float(apart.max())) > absolute:
            absolute, place = largest, begin + int(apart.argmax())
        size = np.nan_to_num(np.maximum(np.abs(x), np.abs(y)), posinf=math.inf)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(apart == 0, 0.0, np.where(np.isinf(apart), math.inf, apart / size))
        relative = max(relative, float(ratio.max()))
    return differing, absolute, relative, tuple(map(int, np.unravel_index(max(place, 0), a.shape)))


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    """The values as rows of bytes' numbers, so that -0.0 is not 0.0 and NaN is NaN."""
    whole = {1: "u1", 2: "u2", 4: "u4", 8: "u8"}.get(array.dtype.itemsize)
    return array if whole is None else np.ascontiguousarray(array).view(whole)


def _of(weight: Weight | None) -> str:
    return "none" if weight is None else f"{weight.dtype} {list(weight.shape)}"
