"""Lint a file: all rules on its graph, and on what running it showed."""

from dataclasses import replace
from typing import Final

from rnnx._lint.axes import RULES as AXES
from rnnx._lint.behaviour import RULES as BEHAVIOUR
from rnnx._lint.cells import RULES as CELLS
from rnnx._lint.files import RULES as FILES
from rnnx._lint.quantisation import RULES as QUANTISATION
from rnnx._lint.report import SEVERITIES, LintReport
from rnnx._lint.rules import Rules
from rnnx._lint.source import LintSource, Source
from rnnx._lint.states import RULES as STATES

THEMES: Final[tuple[Rules, ...]] = (STATES, BEHAVIOUR, AXES, CELLS, QUANTISATION, FILES)


def lint(source: Source, *, static: bool = False) -> LintReport:
    """Look for silent failures in an ONNX file: any, or an artifact, whose manifest is then believed.

    Args:
        source: its path or its bytes.
        static: only look at the graph. Else the model is run at a few small sizes as well: in a process of its own, where the
            runtime's preflight does not let it through.

    Raises:
        ArtifactNotFoundError: there is no file at the path.
        ArtifactError: it is no ONNX file, cannot be read, or is larger than the runtime's limit.
    """
    file = LintSource(source)
    if not static:
        file.run()
    found = [finding for theme in THEMES for rule in theme.rules for finding in rule.findings(file.model)]
    if file.initial is not None:
        inner = [finding for theme in (CELLS, FILES) for rule in theme.rules for finding in rule.findings(file.initial)]
        found += [replace(finding, where=f"{finding.where} of the graph of initial states") for finding in inner]
    found = [replace(finding, where=_printable(finding.where), found=_printable(finding.found)) for finding in found]
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return LintReport(file.label, tuple(found), sum(len(theme.rules) for theme in THEMES), ran=file.model.trials is not None)


def _printable(text: str) -> str:
    """Names come out of files, and may hold what a terminal obeys."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
