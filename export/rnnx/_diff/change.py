"""One promise of a contract that another file does not make in the same way, and whom that breaks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeVar

# Whoever feeds and reads the file through the runtime; whoever runs its graph himself; states that somebody kept.
Audience = Literal["callers", "plain ONNX callers", "stored states"]
AUDIENCES: Final[tuple[Audience, ...]] = ("callers", "plain ONNX callers", "stored states")
Break = tuple[Audience, str] | None

NONE: Final = "none"


@dataclass(frozen=True)
class Change:
    """`what` is `before` in a and `after` in b. `breaks`: who relied on a's, and why b's fails them; empty where b's does not."""

    what: str
    before: str
    after: str
    breaks: dict[Audience, str]


def change(what: str, words: Sequence[str], *breaks: Break) -> Change | None:
    """A change, `words` of a and of b, with the reasons of one audience joined; None where nothing differs."""
    before, after = words
    reasons: dict[Audience, str] = {}
    for audience, because in filter(None, breaks):
        reasons[audience] = f"{reasons[audience]}; {because}" if audience in reasons else because
    return Change(what, before, after, reasons) if reasons or before != after else None


class Spec(Protocol):
    """A tensor that a contract names."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[Any, ...]: ...


S = TypeVar("S", bound=Spec)


def paired(a: Sequence[S], b: Sequence[S]) -> list[tuple[S | None, S | None]]:
    """Which of b stands for which of a: by name, and of the others those of equal type and shape, in order."""
    named, names = {spec.name: spec for spec in b}, {spec.name for spec in a}
    left = [spec for spec in b if spec.name not in names]
    pairs: list[tuple[S | None, S | None]] = []
    for spec in a:
        other = named.get(spec.name) or next((one for one in left if (one.dtype, one.shape) == (spec.dtype, spec.shape)), None)
        left = [one for one in left if one is not other]
        pairs.append((spec, other))
    return [*pairs, *((None, spec) for spec in left)]


def differing(a: Sequence[str], b: Sequence[str]) -> tuple[str, str]:
    """What two descriptions do not share, in words; their parts are name, type, shape, and more. One may be empty."""
    if not a or not b:
        return " ".join(a[1:3]) or NONE, " ".join(b[1:3]) or NONE
    parts = [(one, two) for one, two in zip(a, b, strict=True) if one != two]
    return ", ".join(one for one, _ in parts), ", ".join(two for _, two in parts)


def sizes(shape: Sequence[object]) -> str:
    return f"[{', '.join(map(str, shape))}]"
