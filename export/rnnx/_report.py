"""The report of the parity gate."""

from dataclasses import asdict, dataclass
from typing import Final

import msgspec

from rnnx_runtime.artifact import ParitySummary

TOLERANCES: Final = {"float32": (1e-5, 1e-4), "float64": (1e-9, 3e-8)}  # on the scale of the answers, and relative


@dataclass(frozen=True)
class Case:
    """One comparison: the largest absolute differences, and whether all are within the tolerance."""

    check: str
    batch: int
    steps: int
    start: str
    outputs: float
    states: float
    passed: bool


@dataclass(frozen=True)
class ParityReport:
    """All comparisons of one export."""

    cases: tuple[Case, ...]
    precision: str = "float32"

    def also(self, other: "ParityReport") -> "ParityReport":
        """Both reports in one."""
        return ParityReport((*self.cases, *other.cases), self.precision)

    @property
    def passed(self) -> bool:
        return all(case.passed for case in self.cases)

    def summary(self) -> ParitySummary:
        """What goes into the manifest."""
        stepping = [max(case.outputs, case.states) for case in self.cases if case.check in ("chunks", "steps")]
        return ParitySummary(
            passed=self.passed,
            cases=len(self.cases),
            outputs=max(case.outputs for case in self.cases),
            states=max(case.states for case in self.cases),
            stepping=max(stepping, default=0.0),
            tolerance=TOLERANCES[self.precision][0],
        )

    def rows(self) -> list[tuple[str, int, int, float, float]]:
        """Per check: its name, cases, cases that failed, and the largest differences of outputs and of states."""
        checks = dict.fromkeys(case.check for case in self.cases)
        groups = {check: [case for case in self.cases if case.check == check] for check in checks}
        return [
            (check, len(cases), sum(not c.passed for c in cases), max(c.outputs for c in cases), max(c.states for c in cases))
            for check, cases in groups.items()
        ]

    def table(self) -> str:
        """The rows, and the first case that failed, as text."""
        lines = [f"  {'check':<12}{'cases':>6}{'failed':>8}{'outputs':>12}{'states':>12}"]
        lines += [
            f"  {check:<12}{n:>6}{bad:>8}{outputs:>12.1e}{states:>12.1e}" for check, n, bad, outputs, states in self.rows()
        ]
        wrong = next((case for case in self.cases if not case.passed), None)
        if wrong is not None:
            lines.append(f"  first at: {wrong.check}, batch {wrong.batch}, {wrong.steps} steps, {wrong.start} state")
        return "\n".join(lines)

    def to_json(self) -> bytes:
        """The whole report."""
        return msgspec.json.format(msgspec.json.encode({"passed": self.passed, "cases": [asdict(c) for c in self.cases]}))
