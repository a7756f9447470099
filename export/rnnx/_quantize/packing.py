"""Weights in few bits: blocks of a row share a scale, as ONNX Runtime's MatMulNBits and GatherBlockQuantized read them.

A weight is (code - 2**(bits - 1)) * scale. The value of a block that is furthest from zero gets the lowest code, so that one code
is not wasted: the scale then has the other sign.
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Four bits are so few that cutting off the furthest value may leave the block nearer to itself; these shares of it are tried.
_CUTS: Final = {8: (1.0,), 4: (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)}


@dataclass(frozen=True)
class Packed:
    """A matrix `(N, K)` in blocks of `block` along K.

    Attributes:
        codes: uint8 `(N, blocks, block * bits / 8)`, of 4 bits two in a byte, the lower half first.
        scales: float32 `(N, blocks)`.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    bits: int
    block: int
    columns: int

    @property
    def bytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes

    def rows(self) -> NDArray[np.uint8]:
        """The codes `(N, K * bits / 8)`, without what fills the last block up."""
        return np.ascontiguousarray(self.codes.reshape(len(self.codes), -1)[:, : self.columns * self.bits // 8])


def pack(weight: NDArray[np.float32], bits: int, block: int) -> Packed:
    """The nearest of what the bits can say. `weight`: `(N, K)`, finite."""
    rows, columns = weight.shape
    blocks = -(-columns // block)
    parts = np.pad(weight, ((0, 0), (0, blocks * block - columns))).reshape(rows, blocks, block)
    half = 1 << (bits - 1)
    furthest = np.take_along_axis(parts, np.abs(parts).argmax(axis=-1)[..., None], axis=-1)[..., 0]
    best: NDArray[Any] | None = None
    codes: NDArray[Any] = np.zeros(parts.shape, np.uint8)
    scales = np.zeros(furthest.shape, np.float32)
    for cut in _CUTS[bits]:
        for sign in (-1, 1) if bits == 4 else (-1,):
            tried = (sign * cut / half * furthest).astype(np.float32)
            found = _codes(parts, tried, half)
            with np.errstate(over="ignore"):  # of blocks whose squares are beyond float32: the first stays
                apart = np.square((found - np.float32(half)) * tried[..., None] - parts).sum(axis=-1)
            if best is None:
                best, codes, scales = apart, found, tried
                continue
            better = apart < best
            best, scales = np.where(better, apart, best), np.where(better, tried, scales)
            codes = np.where(better[..., None], found, codes)
    if bits == 4:
        codes = codes[..., 0::2] | codes[..., 1::2] << 4
    return Packed(np.ascontiguousarray(codes, np.uint8), scales, bits, block, columns)


def unpack(packed: Packed) -> NDArray[np.float32]:
    """The matrix `(N, K)` that the codes stand for."""
    codes = packed.codes
    if packed.bits == 4:
        codes = np.stack([codes & 0xF, codes >> 4], axis=-1).reshape(*codes.shape[:2], packed.block)
    values = (codes.astype(np.float32) - np.float32(1 << (packed.bits - 1))) * packed.scales[..., None]
    return values.reshape(len(values), -1)[:, : packed.columns].astype(np.float32)


def packed_bytes(rows: int, columns: int, bits: int, block: int) -> int:
    """What a matrix of that size takes, packed for a product."""
    blocks = -(-columns // block)
    return rows * blocks * (block * bits // 8 + 4)


def _codes(parts: NDArray[np.float32], scales: NDArray[np.float32], half: int) -> NDArray[np.uint8]:
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(np.isfinite(1 / scales), 1 / scales, 0)[..., None]
    codes: NDArray[np.uint8] = np.clip(np.rint(parts * inverse) + half, 0, 2 * half - 1).astype(np.uint8)
    return codes
