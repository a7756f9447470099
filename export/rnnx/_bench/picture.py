"""A benchmark as a picture. matplotlib is an extra, imported only when a picture is asked for."""

import importlib.util
import io
from pathlib import Path
from typing import Final

from rnnx._bench.page import us
from rnnx._bench.report import Bench
from rnnx._errors import ExportError
from rnnx_runtime.artifact import check_writable, write_atomic

_ENDINGS: Final = (".png", ".svg")
_BINS: Final = 60


def check_picture(path: Path) -> None:
    """Find out, before anything is measured, that no picture can be made after it.

    Raises:
        ExportError: matplotlib is missing, or the name ends in something else than .png and .svg.
        OSError: nothing can be written there.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ExportError("a plot needs matplotlib, which is not installed: pip install 'rnnx[plot]'")
    if path.suffix.lower() not in _ENDINGS:
        raise ExportError(f"a plot is a PNG or an SVG: its name must end in .png or .svg, got {path.name!r}")
    check_writable(path)


def write_picture(path: Path, found: Bench) -> None:
    """Latency of each contender, and throughput against streams where there are any.

    Raises:
        OSError: it cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure  # without pyplot: no window, no global state
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(11 if found.streams else 7, 5.5), layout="constrained")
    left, *right = figure.subplots(1, 2 if found.streams else 1, squeeze=False)[0]
    slowest = max(one.timing.p99 for one in found.contests) * 1e6
    fastest = min(one.timing.percentile(0.0) for one in found.contests) * 1e6
    edges = [fastest * (1.02 * slowest / fastest) ** (place / _BINS) for place in range(_BINS + 1)]
    for number, one in enumerate(found.contests):
        colour = f"C{number}"  # of matplotlib's cycle, over and over
        calls = [call * 1e6 for spell in one.timing.seconds for call in spell]
        left.hist(calls, edges, weights=[100 / len(calls)] * len(calls), histtype="stepfilled", color=colour, alpha=0.35)
        left.hist(calls, edges, weights=[100 / len(calls)] * len(calls), histtype="step", color=colour)
        left.plot([], color=colour, label=f"{one.name}, median {us(one.timing.median)}")
    left.set(xscale="log", xlabel="µs", ylabel="% of the calls", title=f"latency of {found.what}")
    left.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.xaxis.set_major_formatter("{x:g}")
    left.xaxis.set_minor_formatter(NullFormatter())
    left.set_xlim(edges[0], edges[-1])
    left.set_ylim(bottom=0)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, frameon=False)
    for panel in right:
        sizes = [row.batch for row in found.streams]
        panel.plot(
            sizes, [1 / row.stream.median for row in found.streams], marker="o", label="in lockstep, model.stream(batch)"
        )
        pooled = [row for row in found.streams if row.pool is not None]
        panel.plot(
            [row.batch for row in pooled], [1 / row.best.median for row in pooled], marker="o", label="in a pool, pool.step"
        )
        panel.set(xscale="log", xlabel="streams at once", ylabel="steps per second", title="throughput")
        panel.set_xticks(sizes, labels=[str(size) for size in sizes])
        panel.minorticks_off()
        panel.grid(visible=True, alpha=0.3)
        panel.yaxis.set_major_formatter(EngFormatter())
        panel.set_ylim(bottom=0)
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), frameon=False)
    figure.suptitle(f"{found.manifest.name} on {', '.join(found.providers)}, {found.machine.processor}", fontsize="medium")
    data = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "rnnx"}):
        figure.savefig(data, format=path.suffix.lower()[1:], dpi=120)
    write_atomic(path, data.getvalue())
