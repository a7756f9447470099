"""One comparison, and many in a table."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One comparison: the largest absolute difference of each tensor, and whether all values are within the tolerance.

    Attributes:
        check: of those that `_parity/gate.py` lists.
        form: what was compared with the eager module: "onnx" or "torchscript".
        start: the states that it began with.
        explained: whether something is off by more than the tolerance, and by no more than rounding takes the eager module itself.
        note: why there is nothing to compare, where the exported model does not run.
    """

    check: str
    form: str
    batch: int
    steps: int
    start: str
    outputs: Mapping[str, float]
    states: Mapping[str, float]
    passed: bool
    explained: bool = False
    note: str = ""

    @property
    def label(self) -> str:
        return self.check if self.form == "onnx" else f"{self.form} {self.check}"


@dataclass(frozen=True)
class Row:
    """All cases of one check: how many there are, how many failed, and the largest differences."""

    check: str
    cases: int
    failed: int
    outputs: float
    states: float


def rows_of(cases: Iterable[Case]) -> list[Row]:
    """Per check, in the order in which they were made."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.label, []).append(case)
    return [
        Row(
            label,
            len(group),
            sum(not case.passed for case in group),
            max((max(case.outputs.values(), default=0.0) for case in group), default=0.0),
            max((max(case.states.values(), default=0.0) for case in group), default=0.0),
        )
        for label, group in groups.items()
    ]


def table_of(rows: Iterable[Row]) -> list[str]:
    """The rows as lines of text, with a heading."""
    lines = [f"{'check':<20}{'cases':>6}{'failed':>8}{'outputs':>12}{'states':>12}"]
    return lines + [f"{r.check:<20}{r.cases:>6}{r.failed:>8}{r.outputs:>12.1e}{r.states:>12.1e}" for r in rows]
