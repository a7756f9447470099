"""Figures as text: Markdown tables."""

from collections.abc import Iterable, Sequence

from benchmarks.heat import Heat


def figure(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "–"
    if abs(value) < 5e-3:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:#.3g}" if abs(value) < 10 else f"{value:.1f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column is text, the others are figures."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def heats_table(heats: dict[str, Heat]) -> str:
    """Contenders by models."""
    names = dict.fromkeys(name for heat in heats.values() for name in heat.entries)
    rows = [[name, *(_cell(heat, name) for heat in heats.values())] for name in names]
    return table(["", *heats], rows)


def largest_difference(heats: Iterable[Heat]) -> str:
    """What the answers were compared for."""
    largest = max(entry.difference for heat in heats for entry in heat.entries.values())
    return f"\nAll answers agree with eager PyTorch's; the largest difference is {largest:.0e}, relative above 1.\n"


def skipped(heats: dict[str, Heat]) -> str:
    """Who took no part, and why."""
    reasons: dict[str, list[str]] = {}
    for of, heat in heats.items():
        for name, why in heat.skipped.items():
            reasons.setdefault(f"{name}: {why}", []).append(of)
    lines = [f"- {reason}" + ("" if len(of) == len(heats) else f" ({', '.join(of)})") for reason, of in reasons.items()]
    return "\nNot in the table:\n\n" + "\n".join(lines) + "\n" if lines else ""


def _cell(heat: Heat, name: str) -> str:
    entry = heat.entries.get(name)
    return "" if entry is None else f"{figure(entry.us)} ({entry.ratio:.2f})"


def percentiles_table(heats: dict[str, Heat]) -> str:
    """The 99th percentiles, contenders by models."""
    names = dict.fromkeys(name for heat in heats.values() for name in heat.entries)
    cells = [[figure(heat.entries[name].p99 if name in heat.entries else None) for heat in heats.values()] for name in names]
    return table(["", *heats], [[name, *row] for name, row in zip(names, cells, strict=True)])


def differences_table(heats: dict[str, Heat]) -> str:
    """How far each contender's answers are off, contenders by models."""
    names = dict.fromkeys(name for heat in heats.values() for name in heat.entries)
    cells = [
        [f"{heat.entries[name].difference:.0e}" if name in heat.entries else "" for heat in heats.values()] for name in names
    ]
    return table(["", *heats], [[name, *row] for name, row in zip(names, cells, strict=True)])
