"""A benchmark as a page of tables, for a terminal."""

import textwrap
from typing import TYPE_CHECKING, Final

from rnnx._bench.contenders import OURS
from rnnx._bench.figures import CHUNK, TEMPERATURE
from rnnx._bench.timing import Ratio

if TYPE_CHECKING:
    from rnnx._bench.report import Bench

_WIDTH: Final = 36  # of the longest bar
_EIGHTHS: Final = "▏▎▍▌▋▊▉█"
_ENOUGH: Final = 100  # calls: of fewer, no hundredth is slower than the others


def text_of(found: "Bench") -> str:
    """All parts that there are figures for."""
    parts = (_header(found), _contenders(found), _bars(found), _many(found), _threads(found), _advice(found))
    return "\n\n".join("\n".join(part) for part in parts if part)


def _header(found: "Bench") -> list[str]:
    machine = found.machine
    cores = f"{machine.cores} core{'s' if machine.cores > 1 else ''}"
    where = "not pinned to a core" if machine.core is None else f"timed on core {machine.core} alone"
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    lines = [
        f"{found.path}: {found.manifest.name}, {size_of(found.size)} of graph and weights",
        f"  machine    {machine.processor}, {cores}; {where}",
        f"  runs on    {', '.join(found.providers)}, {threads}",
        f"  versions   {', '.join(f'{name} {number}' for name, number in machine.versions.items())}",
    ]
    if found.selftest == "broken":
        lines.append("  golden     BROKEN: it does not compute here what was exported; see `rnnx selftest`")
    if not found.manifest.streamable:
        lines.append(f"  steps      whole sequences only: {found.manifest.not_streamable_because}")
    if found.noisy:
        lines += _wrapped(
            "NOISY",
            f"the same step took times {100 * found.ours.spread:.0f} % apart from round to round, and other programs had "
            f"{100 * found.taken:.0f} % of the core: do not trust these figures; close other programs and measure again",
        )
    return lines


def _contenders(found: "Bench") -> list[str]:
    width = max(24, *(len(one.name) + 4 for one in found.contests))
    lines = [f"{found.what:<{width}}{'median':>12}{'p99':>12}   times rnnx"]
    for one in found.contests:
        ratio = "1" if one.name == OURS else _ratio(one.timing.over(found.ours))
        remark = f"  {one.remark}" if one.remark else ""
        p99 = us(one.timing.p99) if one.timing.calls >= _ENOUGH else "–"
        lines.append(f"  {one.name:<{width - 2}}{us(one.timing.median):>12}{p99:>12}   {ratio}{remark}")
    lines += [f"  {one.name:<{width - 2}}not timed: {one.because}" for one in found.skipped]
    if found.steps > 1:
        lines.append(f"{'that is':<{width}}{us(found.ours.median / found.steps):>12} a step")
    if found.chunk is not None:
        times = found.ours.over(found.chunk).median
        how = f"{times:.1f} times as fast as step by step" if times >= 1 else "no faster than step by step"
        lines.append(f"{f'chunk of {CHUNK}':<{width}}{us(found.chunk.median):>12} a step, {how}")
    if found.generation is not None:
        rate = 1 / found.generation.median
        lines.append(
            f"{'generation':<{width}}{us(found.generation.median):>12} a character, {rate:,.0f} a second, "
            f"temperature {TEMPERATURE}"
        )
    return lines


def _bars(found: "Bench") -> list[str]:
    histogram = found.histogram
    total = sum(histogram.counts) + histogram.slower
    most = max(*histogram.counts, histogram.slower)
    lines = [f"latency of {found.what}, {total:,} calls"]
    lines += [
        f"  {us(edge):>12}  {_bar(count / most)}" for edge, count in zip(histogram.edges, histogram.counts, strict=False)
    ]
    lines.append(
        f"  {'above':>12}  {_bar(histogram.slower / most)} {100 * histogram.slower / total:.1f} %, the longest "
        f"{us(histogram.longest)}"
    )
    return lines


def _many(found: "Bench") -> list[str]:
    if not found.streams:
        return [f"many streams: not timed: {found.no_streams_because}"] if found.no_streams_because else []
    first = found.streams[0].stream
    lines = [f"{'many streams':<16}{'in lockstep':>20}{'times one':>12}{'in a pool':>20}{'times one':>12}"]
    for row in found.streams:
        cells = [f"{1 / row.stream.median:,.0f} steps/s", f"{1 / row.stream.over(first).median:.1f}"]
        if row.pool is not None:
            cells += [f"{1 / row.pool.median:,.0f} steps/s", f"{1 / row.pool.over(first).median:.1f}"]
        mark = "  best" if row.batch == found.best_batch else ""
        lines.append(
            f"  {row.batch:>6}        " + "".join(f"{c:>{w}}" for c, w in zip(cells, (20, 12, 20, 12), strict=False)) + mark
        )
    return [*lines, f"  {found.no_streams_because}"] if found.no_streams_because else lines


def _threads(found: "Bench") -> list[str]:
    if not found.thread_counts:
        return []
    first = found.thread_counts[0]
    heads = [found.what if first.chunk is not None else "a sequence"]
    heads += [] if first.chunk is None else [f"chunk of {CHUNK}, a step"]
    heads += [] if first.streams is None else [f"{first.batch} streams, a step"]
    lines = [f"{'threads':<12}" + "".join(f"{head:>28}" for head in heads)]
    for row in found.thread_counts:
        pairs = ((row.one, first.one), (row.chunk, first.chunk), (row.streams, first.streams))
        cells = [
            us(timing.median) + ("" if row is first else f" ({timing.over(base).median:.2f})")
            for timing, base in pairs
            if timing is not None and base is not None
        ]
        lines.append(f"  {row.threads:<10}" + "".join(f"{cell:>28}" for cell in cells))
    return lines


def _advice(found: "Bench") -> list[str]:
    lines = ["advice"]
    for one in found.advice:
        lines += _wrapped(one.rule, f"{one.because}: {one.do}")
    return lines if found.advice else ["advice: none; nothing that was measured promises more than a tenth"]


def size_of(count: int) -> str:
    """A number of bytes."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


def us(seconds: float) -> str:
    """A duration with three digits."""
    value = seconds * 1e6
    return f"{value:.2f} µs" if value < 10 else f"{value:.1f} µs" if value < 100 else f"{value:,.0f} µs"


def _ratio(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def _bar(share: float) -> str:
    eighths = round(share * _WIDTH * 8) or (1 if share > 0 else 0)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest - 1] if rest else "")


def _wrapped(title: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, 110, initial_indent=f"  {title:<10} ", subsequent_indent=" " * 13, break_long_words=False, break_on_hyphens=False
    )
