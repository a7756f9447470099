"""`docs/supported.md`: every style of the corpus and what its export was, made from the exports themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.export.corpus._style import Style

import rnnx

PAGE: Final = Path(__file__).parents[3] / "docs" / "supported.md"

_HEAD: Final = """# What can be exported

Modules in the styles that people write them, each unmodified. `tests/export/test_corpus.py` exports every one of them, proves it
against the eager module (whole, in chunks, step by step, as TorchScript), and fails where this page says something else.
`make supported` writes it anew.

**steps**: can be stepped, and steps, chunks and the whole sequence give the same · **calls**: can be stepped, and each call
gives what one call of the module gives, which depends on where the calls begin · **whole**: takes whole sequences only.
**recurrent**: one ONNX RNN, LSTM or GRU node per layer · **scan**: one traced step, taken over time by an ONNX Scan.
"""

_GROUPS: Final = {
    "state": "State, however it is written",
    "structure": "Structure",
    "loops": "Loops over time",
    "cells": "Cells and recurrences of one's own",
    "sequence only": "Whole sequences only",
    "refused": "Refused, with the reason",
}


def row(style: Style, outcome: rnnx.Exported | rnnx.ExportError) -> str:
    """A line of the table."""
    if isinstance(outcome, Exception):
        return f"| `{style.name}` | {style.says} | {_escaped(str(outcome))} |"
    manifest = outcome.manifest
    how = "whole" if not manifest.streamable else "steps" if manifest.chunks_matter_because is None else "calls"
    states = ", ".join(f"`{spec.name}`" for spec in manifest.states) if manifest.streamable else ""
    script = "yes" if outcome.torchscript is not None else "no"
    return f"| `{style.name}` | {style.says} | {how} | {manifest.lowering} | {states} | {script} |"


def page(styles: Sequence[Style], rows: Mapping[str, str]) -> str:
    """The whole page."""
    lines = [_HEAD]
    for group, title in _GROUPS.items():
        titles = (
            ["style", "what it does", "message"]
            if group == "refused"
            else ["style", "what it does", "", "lowering", "states", "TorchScript"]
        )
        lines += [f"## {title}", "", f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
        lines += [*(rows[style.name] for style in styles if style.group == group), ""]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
