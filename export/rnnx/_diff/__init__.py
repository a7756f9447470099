"""Diff: what another artifact, or any other ONNX file, changes for those who use this one. No torch in this room.

`files` reads both; `contract`, `declared`, `weights`, `graph` and `behaviour` find `change`s; `difference` weighs them, `words` says them.
"""

from rnnx._diff.difference import Difference, diff

__all__ = ["Difference", "diff"]
