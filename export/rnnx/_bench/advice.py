"""What the figures say to do. Each rule states its threshold; docs/bench.md lists them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from rnnx._bench.timing import Ratio, Timing

if TYPE_CHECKING:
    from rnnx._bench.figures import Threads
    from rnnx._bench.report import Bench

WORTH_IT: Final = 1.5  # times as fast: what is worth another way to call
FASTER: Final = 0.9  # of the time: what is worth a setting, in three quarters of the rounds
SLOWER: Final = 1.05  # of the best batch's time: from here on, a larger batch is said to be slower
WIDE: Final = 256  # values of a recurrent state
HEAVY: Final = 2_000_000  # bytes of weights: more than a core has to itself
LONG: Final = 50e-6  # seconds of a step: a shorter one cannot have read so much
_RECURRENT: Final = frozenset(["GRU", "LSTM", "RNN"])
_QUANTISED: Final = frozenset(["DequantizeLinear", "DynamicQuantizeLSTM", "MatMulInteger", "MatMulNBits", "QLinearMatMul"])

Rule = Literal["chunk", "pool", "quantise", "provider", "threads"]


@dataclass(frozen=True)
class Advice:
    """One thing to do.

    Attributes:
        because: the figure that it rests on.
        do: the call or the command.
    """

    rule: Rule
    because: str
    do: str


def advise(found: "Bench") -> tuple[Advice, ...]:
    """At most one line of each rule."""
    return (*_chunk(found), *_pool(found), *_quantise(found), *_provider(found), *_threads(found))


def _chunk(found: "Bench") -> Iterator[Advice]:
    if found.chunk is None or found.manifest.chunks_matter_because is not None:
        return
    times = found.ours.over(found.chunk).median
    if times >= WORTH_IT:
        yield Advice(
            "chunk",
            f"a step of a chunk takes {_us(found.chunk)}, one alone {_us(found.ours)}, {times:.1f} times as long",
            "give what is known in advance to stream.feed(chunk), and step only where an answer decides the next input",
        )


def _pool(found: "Bench") -> Iterator[Advice]:
    best = next((row for row in found.streams if row.batch == found.best_batch), None)
    if best is None or best.batch == 1:
        return
    times = 1 / best.best.over(found.streams[0].stream).median
    if times < WORTH_IT:
        return
    slower = [
        f"{row.batch} take {100 * (over - 1):.0f} % longer a step"
        for row in found.streams
        if row.batch > best.batch and (over := row.best.over(best.best).median) >= SLOWER
    ]
    more = f" ({slower[0]})" if slower else ""
    do = f"model.pool(max_batch={best.batch})" if best.pool is not None else f"model.stream(batch={best.batch})"
    yield Advice("pool", f"{best.batch} streams at once do {times:.1f} times the steps of one{more}", f"for many streams {do}")


def _quantise(found: "Bench") -> Iterator[Advice]:
    operators = set(found.operators)
    if not operators & _RECURRENT or operators & _QUANTISED or found.manifest.precision != "float32":
        return
    sizes = [spec.shape[-1] for spec in found.manifest.states]
    width = max((size for size in sizes if isinstance(size, int)), default=0)
    seconds = found.ours.median / found.steps
    if seconds >= LONG and (width >= WIDE or found.size > HEAVY):
        states = f" and states of {width}" if width else ""  # none where the model cannot be stepped
        yield Advice(
            "quantise",
            f"a step takes {seconds * 1e6:,.0f} µs with {found.size / 1e6:.1f} MB of weights{states}: reading the weights is "
            "probably most of it",
            f"try fewer bits: rnnx quantize {found.path} --bits 8",
        )


def _provider(found: "Bench") -> Iterator[Advice]:
    others = [one for one in found.contests[1:] if one.provider]
    best = min(others, key=lambda one: one.timing.median, default=None)
    if best is not None and _is_faster(ratio := best.timing.over(found.ours)):
        yield Advice(
            "provider",
            f"provider {best.provider} takes {ratio.median:.2f} of the time of {', '.join(found.providers)}",
            f'load(..., providers="{best.provider}"), --provider {best.provider}',
        )


def _threads(found: "Bench") -> Iterator[Advice]:
    if len(found.thread_counts) < 2:
        return
    first = found.thread_counts[0]
    more = [(row.threads, _ratios(row, first)) for row in found.thread_counts[1:]]
    faster = [one for one in more if any(_is_faster(ratio) for ratio in one[1].values())]
    count, ratios = min(faster or more, key=lambda one: min(ratio.median for ratio in one[1].values()))
    said = ", ".join(f"{ratio.median:.2f} for {what}" for what, ratio in ratios.items())
    do = f"where cores are free, load(..., threads={count})" if faster else "leave threads=1"
    yield Advice("threads", f"{count} threads take this part of the time of one: {said}", do)


def _ratios(row: "Threads", first: "Threads") -> dict[str, Ratio]:
    kinds = (
        ("one call", row.one, first.one),
        ("a chunk", row.chunk, first.chunk),
        (f"{row.batch} streams", row.streams, first.streams),
    )
    return {what: mine.over(its) for what, mine, its in kinds if mine is not None and its is not None}


def _is_faster(ratio: Ratio) -> bool:
    """Whether it is so by a tenth, and not only in some rounds."""
    return ratio.median <= FASTER and ratio.high < 1


def _us(timing: Timing) -> str:
    return f"{timing.median * 1e6:.3g} µs" if timing.median < 1e-4 else f"{timing.median * 1e6:,.0f} µs"
