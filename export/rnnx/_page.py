"""A verification as one self-contained page: tables, and plots of error against time. No script, nothing from elsewhere.

matplotlib draws; it is an extra, imported only when a page is asked for.
"""

import html
import importlib.util
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rnnx._errors import ExportError
from rnnx._parity.report import versions
from rnnx._verify import Verification
from rnnx_runtime.artifact import check_writable, write_atomic

if TYPE_CHECKING:
    from rnnx._parity.trajectory import Curve, Trajectory

_MOST_PANELS: Final = 12
_DECADES: Final = 10  # columns of a table over time

# matplotlib writes colours as numbers; these are replaced by names, so that the page follows the reader's light or dark.
_COLOURS: Final = {
    "#010101": "--ink",
    "#020202": "--faint",
    "#030303": "--exported",
    "#040404": "--eager",
    "#050505": "--allowed",
}

_STYLE: Final = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --faint: #d8dde3; --exported: #c2410c; --eager: #1d4ed8;
  --allowed: #8a94a0; --good: #15803d; --bad: #b91c1c; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --ink: #e6e9ec; --faint: #333a42; --exported: #fb923c;
  --eager: #7aa2ff; --allowed: #8a94a0; --good: #4ade80; --bad: #f87171; } }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2.5rem; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--faint); white-space: nowrap; }
td + td.number, th.number { text-align: right; } td.text { white-space: normal; }
svg { width: 100%; height: auto; } p.legend b { font-weight: 600; }
.exported { color: var(--exported); } .eager { color: var(--eager); } .allowed { color: var(--allowed); }
"""


def check_page(path: Path) -> None:
    """Find out, before minutes of work, that no page can be made after it.

    Raises:
        ExportError: matplotlib is missing, or the name does not end in .html.
        OSError: nothing can be written there.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ExportError("a report with plots needs matplotlib, which is not installed: pip install 'rnnx[plot]'")
    if path.suffix.lower() != ".html":
        raise ExportError(f"a report is a page: its name must end in .html, got {path.name!r}")
    check_writable(path)


def write_page(path: Path, found: Verification) -> None:
    """Write the page, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    write_atomic(path, page(found).encode())


def page(found: Verification) -> str:
    """The page's HTML."""
    name = html.escape(found.manifest.name)
    with_what = "its golden trace and itself only" if found.module is None else f"eager {found.module}"
    verdict = '<span class="good">holds</span>' if found.passed else '<span class="bad">does not hold</span>'
    run = found.parity.trajectory
    parts = [
        f"<h1>{name} {verdict}</h1>",
        f"<p>{html.escape(found.path)}, compared with {html.escape(with_what)}.</p>",
        _facts(found),
        "<h2>Checks</h2>",
        "<p>Largest absolute differences of all cases of each check.</p>",
        _checks(found),
        "" if run is None else _trajectory(run),
        "<h2>Tensors</h2>",
        "<p>The largest absolute difference of each output and state, in each check.</p>",
        _tensors(found),
        "<h2>Golden trace</h2>",
        _golden(found),
        "<h2>Made and verified with</h2>",
        _versions(found),
    ]
    body = "\n".join(filter(None, parts))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{name}: parity</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _facts(found: Verification) -> str:
    tolerance = ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in asdict(found.parity.tolerance).items())
    facts = [
        ("artifact", f"sha256 {found.digest}"),
        ("golden trace", str(found.selftest).split("\n", 1)[0]),
        (
            "weights",
            {None: "", True: "those that were exported", False: "other than those that were exported"}[found.same_weights],
        ),
        ("ran on", ", ".join(found.parity.providers)),
        ("tolerances", tolerance),
        ("no second opinion", found.parity.no_second_opinion_because),
        *(("over time", line) for line in found.parity.trajectory_lines()),
    ]
    rows = [[f"<td>{html.escape(label)}</td>", f'<td class="text">{html.escape(text)}</td>'] for label, text in facts if text]
    return _table([], rows)


def _checks(found: Verification) -> str:
    rows = []
    for row in found.parity.rows():
        failed = f'<span class="bad">{row.failed}</span>' if row.failed else "0"
        rows.append(
            [
                f"<td>{html.escape(row.check)}</td>",
                *_numbers([str(row.cases), failed, _figure(row.outputs), _figure(row.states)]),
            ]
        )
    return _table(["check", "cases", "failed", "outputs", "states"], rows)


def _trajectory(run: "Trajectory") -> str:
    source = "float64" if run.reference == "float64" else "eager PyTorch"
    eager = "rounding of the module"
    places = [i for i, mark in enumerate(run.marks) if mark in {10**n for n in range(_DECADES)} or mark == run.marks[-1]]
    rows = []
    for curve in run.curves:
        for label, errors in (("artifact", curve.exported), (eager, curve.eager), ("allowed", curve.allowed)):
            name = f"<td>{html.escape(curve.name)}</td>" if label == "artifact" else "<td></td>"
            wrong = [label == "artifact" and errors[i] > curve.allowed[i] for i in places]
            figures = [
                f'<span class="bad">{_figure(errors[i])}</span>' if bad else _figure(errors[i])
                for i, bad in zip(places, wrong, strict=True)
            ]
            rows.append([name, f"<td>{html.escape(label)}</td>", *_numbers(figures)])
    shown = sorted(run.curves, key=_tightness)[:_MOST_PANELS]
    left_out = f" The {_MOST_PANELS} nearest to what is allowed are drawn." if len(run.curves) > _MOST_PANELS else ""
    return "\n".join(
        [
            "<h2>Error over time</h2>",
            f'<p class="legend">Distance from {source}, on the scale of the feature where it is largest, up to each step: <b class="exported">artifact'
            f'</b>, <b class="eager">{eager}</b>, <b class="allowed">allowed</b>.{left_out}</p>',
            _plot(run.marks, [curve for curve in run.curves if curve in shown]) if run.marks else "",
            _table(["tensor", "", *(f"step {run.marks[i]}" for i in places)], rows),
        ]
    )


def _tightness(curve: "Curve") -> float:
    return min((bound / max(error, 1e-300) for error, bound in zip(curve.exported, curve.allowed, strict=True)), default=0.0)


def _tensors(found: Verification) -> str:
    checks = list(dict.fromkeys(case.label for case in found.parity.cases))
    largest: dict[tuple[str, str], dict[str, float]] = {}
    for case in found.parity.cases:
        for kind, side in (("output", case.outputs), ("state", case.states)):
            for name, value in side.items():
                cells = largest.setdefault((kind, name), {})
                cells[case.label] = max(value, cells.get(case.label, 0.0))
    rows = [
        [
            f"<td>{html.escape(name)}</td>",
            f"<td>{kind}</td>",
            *_numbers([_figure(cells[check]) if check in cells else "" for check in checks]),
        ]
        for (kind, name), cells in sorted(largest.items(), key=lambda item: item[0][0])
    ]
    return _table(["tensor", "", *checks], rows)


def _golden(found: Verification) -> str:
    ways = list(dict.fromkeys(one.way for one in found.selftest.differences))
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for one in found.selftest.differences:
        cells.setdefault((one.name, one.kind), {})[one.way] = one.absolute
    rows = [
        [f"<td>{html.escape(name)}</td>", f"<td>{kind}</td>", *_numbers([_figure(row[way]) for way in ways])]
        for (name, kind), row in cells.items()
    ]
    return _table(["tensor", "", *ways], rows)


def _versions(found: Verification) -> str:
    made, now = found.manifest.provenance.versions, versions()
    rows = [
        [
            f"<td>{html.escape(name)}</td>",
            f"<td>{html.escape(made.get(name, ''))}</td>",
            f"<td>{html.escape(now.get(name, ''))}</td>",
        ]
        for name in dict.fromkeys([*made, *now])
    ]
    return _table(["", "made with", "verified with"], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    heading = "".join(f"<th{' class=number' if place else ''}>{html.escape(text)}</th>" for place, text in enumerate(head))
    lines = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>{f"<tr>{heading}</tr>" if heading else ""}\n{lines}\n</table></div>'


def _numbers(texts: Iterable[str]) -> list[str]:
    return [f'<td class="number">{text}</td>' for text in texts]


def _figure(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def _plot(marks: Sequence[int], curves: Sequence["Curve"]) -> str:
    """A panel for each tensor, both axes logarithmic, as SVG for the page."""
    import matplotlib as mpl
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    ink, faint, exported, eager, allowed = _COLOURS
    columns = min(2, len(curves))
    lines = -(-len(curves) // columns)
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "rnnx", "font.family": "sans-serif", "font.size": 9}
    data = io.StringIO()
    with mpl.rc_context(settings):
        figure = Figure(figsize=(4.8 * columns, 2.7 * lines + 0.3), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
        floor = 1e-17
        for place, panel in enumerate(grid.flat):
            if place >= len(curves):
                panel.set_visible(False)
                continue
            curve = curves[place]
            for errors, colour, style, width in (
                (curve.allowed, allowed, ":", 1.2),
                (curve.eager, eager, "--", 1.2),
                (curve.exported, exported, "-", 1.6),
            ):
                panel.plot(
                    marks, [min(max(error, floor), 1e9) for error in errors], color=colour, linestyle=style, linewidth=width
                )
            panel.set(xscale="log", yscale="log")
            panel.set_title(f"{curve.kind} {curve.name}", color=ink, fontsize=9, loc="left")
            panel.tick_params(colors=ink, which="both")
            panel.grid(visible=True, color=faint, linewidth=0.6)
            panel.set_axisbelow(True)
            for spine in panel.spines.values():
                spine.set_color(faint)
        figure.supxlabel("step", color=ink, fontsize=9)
        figure.savefig(data, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = data.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, name in _COLOURS.items():
        svg = svg.replace(colour, f"var({name})")
    return svg
