"""Lint: the silent failures of an ONNX file, whoever made it. No torch in this room.

`source` (read; `cut`, `weights`, `nodes`, `model`: what the rules see) → `plan` (axes, states, inputs) → `trials` (by `bench`, here or in a
process `apart`) → the `rules`, by theme: `states`, `behaviour`, `axes`, `cells`, `quantisation`, `files` → `linter` → `report`.
"""

from rnnx._lint.linter import lint
from rnnx._lint.report import LintReport

__all__ = ["LintReport", "lint"]
