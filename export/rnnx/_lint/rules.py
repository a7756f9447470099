"""What a lint rule is: a function that looks at one model and yields what it found, with words for people around it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, final

if TYPE_CHECKING:
    from rnnx._lint.model import LintedModel

Severity = Literal["error", "warning", "note"]


class Found(NamedTuple):
    """One thing that a rule found. `severity`: None for the rule's first."""

    where: str
    what: str
    severity: Severity | None = None


@dataclass(frozen=True)
class Finding:
    """One thing that a rule found, in full.

    Attributes:
        severity: "error": wrong answers, or it cannot run. "warning": it will bite. "note": good to know.
        where: the node, input, output or weight.
    """

    rule: str
    severity: Severity
    where: str
    found: str
    consequence: str
    remedy: str


Check = Callable[["LintedModel"], Iterator[Found]]


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: stable, in kebab-case.
        severities: of its findings, the worst first.
        finds: what it looks for, in a few words.
    """

    name: str
    severities: tuple[Severity, ...]
    finds: str
    consequence: str
    remedy: str
    check: Check

    def findings(self, model: "LintedModel") -> list[Finding]:
        """What it finds in a model, each thing once."""
        found = dict.fromkeys(self.check(model))
        return [
            Finding(self.name, severity or self.severities[0], where, what, self.consequence, self.remedy)
            for where, what, severity in found
        ]


@final
@dataclass
class Rules:
    """The rules of one theme, in the order of their definition; `add` decorates the function of a new one."""

    theme: str
    rules: list[Rule] = field(default_factory=list)

    def add(self, name: str, *severities: Severity, finds: str, consequence: str, remedy: str) -> Callable[[Check], Check]:
        def register(check: Check) -> Check:
            self.rules.append(Rule(name, severities, finds, consequence, remedy, check))
            return check

        return register
