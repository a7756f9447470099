"""Quantize: an artifact with weights of fewer bits, of another artifact. No torch in this room.

The way of the data: `packing` (a matrix in few bits) → `editor`, `recurrent`, `rewriting` (the graph), or `halves` (float16) → `data`
(what both are run on) → `comparison` (what became worse) → `quantisation` (times, seals and writes) → `quantized` (says what was found).
"""

from rnnx._quantize.quantisation import quantize
from rnnx._quantize.quantized import Quantized

__all__ = ["Quantized", "quantize"]
