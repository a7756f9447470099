"""Adopt: an ONNX file that somebody else made, to an artifact. No torch in this room.

The way of the data: `source` (read, one file) → `defaults`, `opset` → `folding`, `lifting` (the graph) → `dataflow`, `pairs` (which
output hands back which state) → `guards`, `samples`, `calls`, `labels`, `sizes` (axes and contract, by running) → `horizon`, `stepping`,
`frozen` (whether steps are a stream) → `contract` (the manifest) → `proof` (against the original file) → `adoption`, `target` (seals
and writes).
"""

from rnnx._adopt.adopted import Adopted
from rnnx._adopt.adoption import adopt

__all__ = ["Adopted", "adopt"]
