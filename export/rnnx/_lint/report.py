"""What the linter says of one file."""

import textwrap
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any, Final

import msgspec

from rnnx._lint.rules import Finding, Severity

SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "note")

_WIDTH: Final = 80
_SHOWN: Final = 3  # places that a group names
_LONG: Final = 320  # characters of what was found, where ONNX Runtime has much to say


@dataclass(frozen=True)
class LintReport:
    """What was found in one file, the worst first.

    Attributes:
        label: its path; "bytes" where it has none.
        rules: how many looked at it.
        ran: whether it was run, and not only looked at.
    """

    label: str
    findings: tuple[Finding, ...]
    rules: int
    ran: bool

    def count(self, severity: Severity) -> int:
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def passed(self) -> bool:
        """Whether there is no error."""
        return not self.count("error")

    def summary(self) -> str:
        """One line."""
        counts = [(self.count(severity), severity) for severity in SEVERITIES]
        found = ", ".join(f"{count} {severity}{'s' if count > 1 else ''}" for count, severity in counts if count)
        how = "" if self.ran else " (not run)"
        return f"{self.label}: {found or f'nothing found by {self.rules} rules'}{how}"

    def groups(self) -> list[list[Finding]]:
        """The findings, those together that say the same of several places."""
        groups: dict[tuple[str, Severity, str], list[Finding]] = defaultdict(list)
        for finding in self.findings:
            groups[finding.rule, finding.severity, finding.found].append(finding)
        return list(groups.values())

    def table(self) -> str:
        """The summary and all groups, as text of 80 columns."""
        return "\n\n".join([self.summary(), *("\n".join([heading(group), *details(group)]) for group in self.groups())])

    def __str__(self) -> str:
        return self.table()

    def to_dict(self) -> dict[str, Any]:
        """Each finding for itself, for `to_json`, and for a list of reports."""
        counts = {f"{severity}s": self.count(severity) for severity in SEVERITIES}
        return {"file": self.label, "ran": self.ran, **counts, "findings": [asdict(finding) for finding in self.findings]}

    def to_json(self) -> bytes:
        """For machines."""
        return msgspec.json.format(msgspec.json.encode(self.to_dict()))


def heading(group: list[Finding]) -> str:
    """The first line of a group."""
    return f"{group[0].severity}: {group[0].rule}"


def details(group: list[Finding]) -> list[str]:
    """The further lines of a group."""
    first = group[0]
    more = f" and {len(group) - _SHOWN} more" if len(group) > _SHOWN else ""
    lines = []
    for title, text in (
        ("at", ", ".join(finding.where for finding in group[:_SHOWN]) + more),
        ("found", textwrap.shorten(first.found, _LONG, placeholder=" …")),
        ("means", first.consequence),
        ("do", first.remedy),
    ):
        lines += textwrap.wrap(
            text, _WIDTH, initial_indent=f"  {title:<6} ", subsequent_indent=" " * 9, break_on_hyphens=False
        )
    return lines
