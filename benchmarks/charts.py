"""The charts. Each is a card with a ground of its own, legible on light and dark pages; colours that colour-blind readers tell apart, and words."""

from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any, Final

from benchmarks.heat import Heat
from benchmarks.peers import BoundMinimal, Ours
from benchmarks.results import Results
from benchmarks.streams import per_second

_GROUND: Final = "#fbfaf7"
_INK: Final = "#26282b"
_OURS: Final = "#d55e00"  # this and the next from Okabe and Ito's palette
_FLOOR: Final = "#0072b2"
_OTHERS: Final = "#7a7f87"
_LINES: Final = ("#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#7a7f87")
_MARKERS: Final = "sD^vP"


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Draw what there are figures of; the name of each picture, by question."""
    ways = {"step": _step, "streams": _streams, "growth": _growth, "generation": _generation, "quantised": _quantised}
    found = {}
    for name, way in ways.items():
        if name in results.figures:
            found[name] = f"{name}.svg"
            _save(way(results.figures[name]), folder / found[name])
    return found


def _figure(width: float, height: float, title: str) -> Any:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "rnnx", "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor=_GROUND)
        figure.suptitle(title, color=_INK, fontsize=13, fontweight="bold", x=0.01, ha="left")
        return figure


def _save(figure: Any, path: Path) -> None:
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "rnnx", "svg.fonttype": "path"}):  # the same figures give the same file
        figure.savefig(path, format="svg", facecolor=_GROUND, metadata={"Date": None, "Creator": None})


def _styled(axes: Any) -> None:
    axes.set_facecolor(_GROUND)
    axes.tick_params(colors=_INK, labelsize=9, length=0, which="both")
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.grid(visible=True, which="major", axis="both", color="#dcd9d2", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)


def _plain(axis: Any, values: Sequence[float] | None = None) -> None:
    """Ticks of a logarithmic axis as plain numbers: at the values, or at 1, 2, 5, 10, ..."""
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6) if values is None else FixedLocator(list(values)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(
        lambda value, _: f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value >= 1e4 else f"{value:g}"
    )


def _dots(heats: dict[str, Heat], title: str, unit: str, columns: int) -> Any:
    """A panel per model, a row per contender, the fastest at the top; a logarithmic axis."""
    names = list(dict.fromkeys(name for heat in heats.values() for name in heat.entries))

    def middle(name: str) -> float:
        return geometric_mean([heat.entries[name].ratio for heat in heats.values() if name in heat.entries])

    names.sort(key=middle, reverse=True)
    lines = -(-len(heats) // columns)
    figure = _figure(4.1 * columns + 0.6, (0.26 * len(names) + 0.75) * lines + 0.6, title)
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axes in panels[len(heats) :]:
        axes.set_visible(False)
    for axes, (model, heat) in zip(panels, heats.items(), strict=False):
        _styled(axes)
        times = {name: entry.us for name, entry in heat.entries.items()}
        lowest, highest = min(times.values()) / 2, max(times.values())
        axes.set(xscale="log", xlim=(lowest, highest * (highest / lowest) ** 0.2))  # room for the last number
        _plain(axes.xaxis)
        axes.set_title(model, color=_INK, fontsize=11, loc="left")
        for at, name in enumerate(names):
            if name not in times:
                axes.text(lowest * 1.05, at, "–", color=_OTHERS, va="center", fontsize=8)
                continue
            colour = {Ours.name: _OURS, BoundMinimal.name: _FLOOR}.get(name, _OTHERS)
            if name.startswith(f"{Ours.name},"):
                colour = _OURS
            axes.hlines(at, lowest, times[name], color=colour, linewidth=2.2 if colour != _OTHERS else 1.2, alpha=0.8)
            axes.plot(times[name], at, marker="o", markersize=7 if colour != _OTHERS else 5, color=colour)
            weight = "bold" if colour == _OURS else "normal"
            axes.annotate(
                f"{times[name]:.3g}" if times[name] < 1000 else f"{times[name]:.0f}",
                (times[name], at),
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                color=_INK,
                fontweight=weight,
                bbox={"facecolor": _GROUND, "edgecolor": "none", "pad": 0.6},
            )
        axes.set_yticks(range(len(names)), names)
        for label, name in zip(axes.get_yticklabels(), names, strict=False):  # none but in the first column
            if name == Ours.name or name.startswith(f"{Ours.name},"):
                label.set(color=_OURS, fontweight="bold")
        axes.grid(visible=False, axis="y")
    figure.supxlabel(f"{unit}, logarithmic; to the left is faster", fontsize=9, color=_INK)
    return figure


def _step(figures: Any) -> Any:
    return _dots(figures.heats, "How long does one step take? One stream, one thread, one core", "microseconds per step", 3)


def _generation(figures: Any) -> Any:
    title = "How long does a sampled character take? Temperature 0.8, sampling included"
    return _dots(figures.heats, title, "microseconds per character", len(figures.heats))


def _quantised(figures: Any) -> Any:
    title = "How long does a step take with weights of 8 and 4 bits?"
    return _dots(figures.heats, title, "microseconds per step", min(2, len(figures.heats)))


def _lines(axes: Any, series: dict[str, dict[int, float]], highlighted: Sequence[str]) -> None:
    others = iter(zip(_LINES, _MARKERS, strict=True))
    for name, values in series.items():
        ours = name in highlighted
        colour, marker = (_OURS, "o") if ours else next(others)
        style = ("-", "--", ":")[highlighted.index(name)] if ours else "-"
        axes.plot(
            list(values),
            list(values.values()),
            style,
            color=colour,
            marker=marker,
            markersize=5,
            label=name,
            linewidth=2 if ours else 1.3,
        )
    axes.set(xscale="log", yscale="log")


def _streams(figures: Any) -> Any:
    shown = (
        "rnnx",
        "rnnx pool",
        "rnnx, one stream at a time",
        "bare binding, minimal graph",
        "LiteRT",
        "OpenVINO",
        "PyTorch cells",
        "PyTorch nn.*",
    )
    chart = _figure(
        12, 3.6 * -(-len(figures.heats) // 3) + 0.9, "How many steps per second do many streams take together, on one core?"
    )
    panels = chart.subplots(-(-len(figures.heats) // 3), 3, squeeze=False).ravel()
    for axes in panels[len(figures.heats) :]:
        axes.set_visible(False)
    for axes, (model, heats) in zip(panels, figures.heats.items(), strict=False):
        series = {
            name: {streams: rate for streams, heat in heats.items() if (rate := per_second(heat, name, streams)) is not None}
            for name in shown
        }
        _styled(axes)
        _lines(axes, {name: values for name, values in series.items() if values}, shown[:3])
        axes.set_title(model, color=_INK, fontsize=11, loc="left")
        _plain(axes.xaxis, list(heats))
        _plain(axes.yaxis)
        axes.set_xlabel("streams", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    chart.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False, labelcolor=_INK)
    chart.supylabel("steps per second, all streams", fontsize=9, color=_INK)
    return chart


def _growth(figures: Any) -> Any:
    chart = _figure(12, 3.4, "How does the time of a call grow?")
    panels = chart.subplots(1, 4)
    for axes, (what, values) in zip(
        panels,
        {
            "with the steps of a chunk, T": figures.chunk,
            "with the hidden units, H": figures.hidden,
            "with the layers, L": figures.layers,
            "with the rows, B": figures.rows,
        }.items(),
        strict=True,
    ):
        _styled(axes)
        axes.plot(list(values), list(values.values()), "-o", color=_OURS, markersize=5, linewidth=2)
        last, first = max(values), max(min(values), max(values) / 8)
        axes.plot([first, last], [values[last] * first / last, values[last]], ":", color=_OTHERS, label="in proportion")
        axes.set(xscale="log", yscale="log")
        _plain(axes.xaxis, list(values) if len(values) <= 4 else list(values)[::2])
        _plain(axes.yaxis)
        axes.set_title(what, color=_INK, fontsize=10, loc="left")
    panels[0].legend(fontsize=8, frameon=False, labelcolor=_INK)
    chart.supylabel("microseconds of a call", fontsize=9, color=_INK)
    return chart
