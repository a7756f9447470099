"""A graph while its weights are replaced: what is stored, who reads it, and names that nobody has."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper, numpy_helper

from rnnx._lint.nodes import GATES
from rnnx._quantize.packing import Packed, pack, packed_bytes
from rnnx_runtime.artifact import LeftWeight, QuantisedWeight

DOMAIN: Final = "com.microsoft"
SMALLEST_BLOCK: Final = 16  # that ONNX Runtime takes
_ACCURACY: Final = 4  # activations are rounded to 8 bits, each row and block by itself
_LARGEST: Final = 1 << 20  # of a side of a matrix, as the runtime reads it


@dataclass(frozen=True)
class Grain:
    """How fine the weights are: `bits` each, `block` of them share a scale."""

    bits: int
    block: int

    def of(self, columns: int) -> int:
        """The block of a matrix with so many columns: no larger than it needs."""
        return min(self.block, max(SMALLEST_BLOCK, 1 << (columns - 1).bit_length()))

    def bytes(self, matrix: NDArray[np.float32]) -> int:
        """What a matrix takes, packed for a product."""
        rows, columns = matrix.shape
        return packed_bytes(rows, columns, self.bits, self.of(columns))


@final
class Editor:
    """The outermost graph's weights, as they are taken out and put in."""

    def __init__(self, model: ModelProto, grain: Grain) -> None:
        self.grain = grain
        self.quantised: list[QuantisedWeight] = []
        self.reasons: dict[str, str] = {}  # why a weight stays, by its name
        self._graph = model.graph
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._names = {name for graph in graphs_of(model.graph) for name in _names(graph)}
        self._packed: dict[bytes, tuple[str, str, Packed]] = {}

    def weight(self, name: str) -> NDArray[np.float32] | None:
        """The float32 matrix, or what else has this name, that is stored in the outermost graph."""
        tensor = self._stored.get(name)
        if tensor is None or tensor.data_type != 1:
            return None
        array: NDArray[np.float32] = numpy_helper.to_array(tensor)
        return array

    def fresh(self, base: str) -> str:
        """A name like `base` that nothing has yet."""
        name, number = base, 1
        while name in self._names:
            number += 1
            name = f"{base}.{number}"
        self._names.add(name)
        return name

    def store(self, base: str, array: NDArray[Any]) -> str:
        """Put a constant into the file; its name."""
        name = self.fresh(base)
        self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def product(self, base: str, x: str, matrix: NDArray[np.float32], bias: NDArray[np.float32] | None = None) -> NodeProto:
        """The product of x `(.., K)` and a transposed matrix `(N, K)`, plus a bias `(N,)`. Equal matrices are stored once."""
        codes, scales, packed = self._pack(base, matrix)
        inputs = [x, codes, scales]
        if bias is not None:
            inputs += ["", "", self.store(f"{base}.bias", bias)]
        rows, columns = matrix.shape
        return helper.make_node(
            "MatMulNBits",
            inputs,
            [self.fresh(f"{base}.product")],
            name=self.fresh(f"{base}.MatMulNBits"),
            domain=DOMAIN,
            K=columns,
            N=rows,
            bits=packed.bits,
            block_size=packed.block,
            accuracy_level=_ACCURACY,
        )

    def lookup(self, base: str, table: NDArray[np.float32], indices: str, output: str) -> NodeProto:
        """Rows of a table `(V, E)`."""
        packed = pack(table, self.grain.bits, self.grain.of(table.shape[1]))
        codes, scales = self.store(f"{base}.codes", packed.rows()), self.store(f"{base}.scales", packed.scales)
        return helper.make_node(
            "GatherBlockQuantized",
            [codes, indices, scales],
            [output],
            name=self.fresh(f"{base}.GatherBlockQuantized"),
            domain=DOMAIN,
            bits=packed.bits,
            block_size=packed.block,
            gather_axis=0,
            quantize_axis=1,
        )

    def unfit(self, *matrices: NDArray[np.float32]) -> str:
        """Why matrices `(N, K)` are not worth it, or cannot be packed; empty where they are and can."""
        if any(matrix.ndim != 2 or 0 in matrix.shape or max(matrix.shape) > _LARGEST for matrix in matrices):
            return "it is no matrix, or too large a one"
        if not all(np.isfinite(matrix).all() for matrix in matrices):
            return "it has values that are not finite"
        if sum(map(self.grain.bytes, matrices)) >= sum(matrix.nbytes for matrix in matrices):
            return "it is so small that blocks would make it larger"
        return ""

    def note(self, name: str, node: NodeProto, role: str, *matrices: NDArray[np.float32], table: bool = False) -> None:
        """Keep in mind that a weight is in few bits now; `matrices`, what was made of it."""
        after = sum(map(self.grain.bytes, matrices))
        if table:  # whose last block need not be filled up
            rows, columns = matrices[0].shape
            after = rows * (columns * self.grain.bits // 8 + 4 * -(-columns // self.grain.of(columns)))
        if all(one.name != name for one in self.quantised):
            shape = tuple(self._stored[name].dims)
            before = sum(matrix.nbytes for matrix in matrices)
            self.quantised.append(
                QuantisedWeight(name=name, node=node.name, role=role, shape=shape, bytes_before=before, bytes_after=after)
            )

    def finish(self) -> list[LeftWeight]:
        """Take out what nothing reads any more; the float32 weights of two axes and more that are left, and why."""
        read = Counter(name for graph in graphs_of(self._graph) for node in graph.node for name in node.input)
        read.update(value.name for graph in graphs_of(self._graph) for value in graph.output)
        kept = [tensor for tensor in self._graph.initializer if read[tensor.name]]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)
        # A recurrent node's biases have an axis for its directions, but are no matrices.
        readers = {
            name: node
            for graph in graphs_of(self._graph)
            for node in graph.node
            for place, name in enumerate(node.input)
            if node.op_type not in GATES or place in (1, 2)
        }
        inside = [
            LeftWeight(name=tensor.name, bytes=4 * int(np.prod(tensor.dims)), because="it is stored in the body of a Scan")
            for body in list(graphs_of(self._graph))[1:]
            for tensor in body.initializer
            if tensor.data_type == 1 and len(tensor.dims) > 1
        ]
        return inside + [
            LeftWeight(
                name=tensor.name,
                bytes=4 * int(np.prod(tensor.dims)),
                because=self.reasons.get(tensor.name) or f"{readers[tensor.name].op_type} has no form with fewer bits",
            )
            for tensor in kept
            if tensor.name in self._stored and tensor.data_type == 1 and len(tensor.dims) > 1 and tensor.name in readers
        ]

    def _pack(self, base: str, matrix: NDArray[np.float32]) -> tuple[str, str, Packed]:
        key = hashlib.sha256(repr(matrix.shape).encode() + matrix.tobytes()).digest()
        if key not in self._packed:
            packed = pack(matrix, self.grain.bits, self.grain.of(matrix.shape[1]))
            self._packed[key] = self.store(f"{base}.codes", packed.codes), self.store(f"{base}.scales", packed.scales), packed
        return self._packed[key]


def graphs_of(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and all that its nodes hold, the outermost first."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from graphs_of(attribute.g)


def copied(node: NodeProto) -> NodeProto:
    made = NodeProto()
    made.CopyFrom(node)
    return made


def attributes_of(node: NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def given(names: Sequence[str], place: int) -> str:
    """The name at a place; empty where the node leaves it out."""
    return names[place] if place < len(names) else ""


def _names(graph: GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield node.name
        yield from node.input
        yield from node.output
    for value in (*graph.input, *graph.output, *graph.initializer):
        yield value.name
