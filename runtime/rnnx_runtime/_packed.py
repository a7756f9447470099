"""Operators with weights of a few bits, of ONNX Runtime's own domain: their weights are stored, and as many as the attributes say.

When a model is loaded, MatMulNBits packs its weights anew, as many as its attributes say. ONNX Runtime 1.32 looks first whether there
are as many; earlier ones read beyond their end.

Operators: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from collections.abc import Mapping, Sequence
from typing import Final

from rnnx_runtime._errors import ArtifactError
from rnnx_runtime._onnx import FLOAT, UINT8, Name, Node, Tensor

MATMUL: Final = "com.microsoft::MatMulNBits"
GATHER: Final = "com.microsoft::GatherBlockQuantized"
PACKED: Final = frozenset([MATMUL, GATHER])

_Sizes = list[list[tuple[int, ...]]]  # what each input may have; nothing, where it must be left out

_BITS: Final = (4, 8)
_BLOCKS: Final = (16, 32, 64, 128, 256)
_LARGEST: Final = 1 << 20  # of a side of a matrix
_LEVELS: Final = (0, 1, 4)  # of accuracy, on float32


def check_packed(node: Node, stored: Mapping[Name, Tensor]) -> None:
    """Refuse a node whose weights are not stored, or not of the size that its attributes say.

    Args:
        stored: all weights that it sees.
    """
    bits, block = node.integer("bits", 4), node.integer("block_size", 128 if node.operator == GATHER else 0)
    if bits not in _BITS or block not in _BLOCKS:
        raise ArtifactError(
            f"{node.operator} has weights of {bits} bits in blocks of {block}; {_words(_BITS)} bits and blocks of {_words(_BLOCKS)} are read"
        )
    if node.operator == MATMUL:
        _check_matmul(node, stored, bits, block)
    else:
        _check_gather(node, stored, bits, block)


def _check_matmul(node: Node, stored: Mapping[Name, Tensor], bits: int, block: int) -> None:
    k, n = node.integer("K", 0), node.integer("N", 0)
    if not (0 < k <= _LARGEST and 0 < n <= _LARGEST) or node.integer("accuracy_level", 0) not in _LEVELS:
        raise ArtifactError(
            f"{MATMUL} is of {k} by {n} at accuracy level {node.integer('accuracy_level', 0)}; "
            f"1 to {_LARGEST} each and the levels {_words(_LEVELS)} are read"
        )
    blocks = -(-k // block)
    sizes: _Sizes = [[(n, blocks, block * bits // 8)], [(n * blocks,), (n, blocks)], [], [], [(n,)]]
    _check_sizes(MATMUL, node.inputs[1:], sizes, stored)


def _check_gather(node: Node, stored: Mapping[Name, Tensor], bits: int, block: int) -> None:
    data = stored.get(node.inputs[0]) if node.inputs else None
    rows, row = data.dims if data is not None and len(data.dims) == 2 else (0, 0)
    if node.integer("gather_axis", 0) != 0 or node.integer("quantize_axis", 1) != 1:
        raise ArtifactError(f"{GATHER} looks up along other axes than 0, or is packed along others than 1; these are not read")
    if not (0 < rows <= 1 << 31 and 0 < row <= _LARGEST):
        raise ArtifactError(f"{GATHER} has no table of rows; an artifact's is stored in the file")
    sizes: _Sizes = [[(rows, row)], [(rows, -(-row * 8 // bits // block))], []]
    _check_sizes(GATHER, [*node.inputs[:1], *node.inputs[2:]], sizes, stored)


def _check_sizes(operator: str, inputs: Sequence[Name], sizes: _Sizes, stored: Mapping[Name, Tensor]) -> None:
    """Weights first, then scales; what may be left out behind, and where nothing fits, it must be."""
    if len(inputs) > len(sizes):
        raise ArtifactError(f"{operator} reads {len(inputs)} weights, scales and the like; {len(sizes)} are read at most")
    for place, fitting in enumerate(sizes):
        name = inputs[place] if place < len(inputs) else None
        if (name is None or not name.text) and place > 1:
            continue
        found = None if name is None else stored.get(name)
        if found is None:
            raise ArtifactError(f"{operator} computes its weights, or has none; an artifact's are stored in the file")
        if not fitting:
            raise ArtifactError(f"{operator} reads {found.name!r}, zero points or an order of rows, which an artifact has not")
        if found.dims not in fitting or found.dtype != (FLOAT if place else UINT8):
            raise ArtifactError(
                f"{operator} reads {found.name!r} of the type {found.dtype} and the size {list(found.dims)}, its attributes ask for "
                f"{'float32' if place else 'uint8'} {list(fitting[0])}; quantize the float artifact again"
            )


def _words(numbers: Sequence[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}"
