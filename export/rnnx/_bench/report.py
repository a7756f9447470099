"""What a benchmark of an artifact found."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final

import msgspec
import numpy as np

from rnnx._bench.advice import Advice, advise
from rnnx._bench.figures import CHUNK, TEMPERATURE, Contest, Histogram, Skipped, Streams, Threads
from rnnx._bench.machine import Machine
from rnnx._bench.page import text_of
from rnnx._bench.timing import Timing
from rnnx_runtime.artifact import Manifest

NOISY: Final = 0.2  # spread of the rounds above which the figures are not to be trusted
TAKEN: Final = 0.05  # of the core's time by other programs, from which on the same goes
NEARLY: Final = 0.95  # of the best throughput: the smallest batch that reaches it is the best one
_BARS: Final = 8


@dataclass(frozen=True)
class Bench:
    """How fast an artifact is on this machine. Get one from `rnnx.bench`; as text, it is a page of tables.

    Attributes:
        path: of the artifact; `size`: its bytes without the manifest, which are nearly all weights.
        operators: the graph's nodes by type.
        providers: the execution providers that ran it; `threads`: inside one call.
        steps: of one call of the contenders: 1, or those of a whole sequence where the model cannot be stepped. Their figures
            are for `batch` rows and all of these steps.
        contests: the runtime first, then whoever answered the same.
        chunk: feeding known steps, for one of them; None where the model cannot be stepped.
        generation: writing text, for one character; None where the artifact does not answer in text.
        streams: many streams at once; `no_streams_because` says why there are none.
        thread_counts: without pinning; empty where there is one core.
        selftest: the verdict on the golden trace; empty where that holds no step.
        taken: the share of the core's time that other programs had meanwhile; 0 where nothing was kept on one core.
    """

    path: str
    digest: str
    manifest: Manifest
    size: int
    operators: dict[str, int]
    machine: Machine
    providers: tuple[str, ...]
    threads: int
    batch: int
    steps: int
    contests: tuple[Contest, ...]
    skipped: tuple[Skipped, ...]
    chunk: Timing | None
    generation: Timing | None
    streams: tuple[Streams, ...]
    no_streams_because: str
    thread_counts: tuple[Threads, ...]
    selftest: str
    taken: float

    @property
    def ours(self) -> Timing:
        """The runtime's own."""
        return self.contests[0].timing

    @property
    def noisy(self) -> bool:
        """Whether the machine did other things: rounds of the same work differ by a fifth, or the core was shared."""
        return self.ours.spread > NOISY or self.taken > TAKEN

    @property
    def best_batch(self) -> int | None:
        """The fewest streams with nearly the best throughput; None where none were timed."""
        least = min((row.best.median for row in self.streams), default=0.0)
        return next((row.batch for row in self.streams if row.best.median * NEARLY <= least), None)

    @cached_property
    def histogram(self) -> Histogram:
        """Of the runtime's calls."""
        calls = np.array([call for spell in self.ours.seconds for call in spell])
        limit = max(self.ours.percentile(0.99) * self.ours.units, float(calls.min()) * 1.01)
        bounds = np.geomspace(float(calls.min()), limit, _BARS + 1)
        bounds[0], bounds[-1] = calls.min(), limit  # not a rounding beside them
        counts, edges = np.histogram(calls[calls <= limit], bounds)
        return Histogram(tuple(edges.tolist()), tuple(counts.tolist()), int((calls > limit).sum()), float(calls.max()))

    @cached_property
    def advice(self) -> tuple[Advice, ...]:
        """What to do, each with the figure that it rests on."""
        return advise(self)

    def __str__(self) -> str:
        return text_of(self)

    def to_json(self) -> str:
        """The same for machines: times in microseconds."""
        histogram = self.histogram
        found = {
            "path": self.path,
            "sha256": self.digest,
            "name": self.manifest.name,
            "bytes": self.size,
            "machine": asdict(self.machine),
            "providers": self.providers,
            "threads": self.threads,
            "selftest": self.selftest or None,
            "spread": self.ours.spread,
            "taken": self.taken,
            "noisy": self.noisy,
            "batch": self.batch,
            "steps": self.steps,
            "contenders": [{"name": one.name, **_times(one.timing, self.ours), "remark": one.remark} for one in self.contests],
            "skipped": [asdict(one) for one in self.skipped],
            "chunk": self.chunk and {"steps": CHUNK, **_times(self.chunk, self.ours)},
            "generation": self.generation
            and {**_times(self.generation, self.ours), "per_second": 1 / self.generation.median, "temperature": TEMPERATURE},
            "streams": [
                {
                    "batch": row.batch,
                    "stream": {**_times(row.stream, self.streams[0].stream), "per_second": 1 / row.stream.median},
                    "pool": row.pool and {**_times(row.pool, self.streams[0].stream), "per_second": 1 / row.pool.median},
                }
                for row in self.streams
            ],
            "no_streams_because": self.no_streams_because or None,
            "best_batch": self.best_batch,
            "thread_counts": [
                {
                    "threads": row.threads,
                    "one": _times(row.one, self.thread_counts[0].one),
                    "chunk": row.chunk and _times(row.chunk, self.thread_counts[0].chunk),
                    "streams": row.streams and {"batch": row.batch, **_times(row.streams, self.thread_counts[0].streams)},
                }
                for row in self.thread_counts
            ],
            "histogram": {
                "edges_us": [edge * 1e6 for edge in histogram.edges],
                "counts": histogram.counts,
                "slower": histogram.slower,
                "longest_us": histogram.longest * 1e6,
            },
            "advice": [asdict(one) for one in self.advice],
        }
        return msgspec.json.format(msgspec.json.encode(found)).decode()

    @property
    def what(self) -> str:
        """What one call of the contenders does, in words."""
        rows = "" if self.batch == 1 else f", {self.batch} rows"
        return f"one step{rows}" if self.manifest.streamable else f"a sequence of {self.steps} steps{rows}"


def _times(timing: Timing, base: Timing | None) -> dict[str, Any]:
    found: dict[str, Any] = {"median_us": timing.median * 1e6, "p99_us": timing.p99 * 1e6, "calls": timing.calls}
    if base is not None:
        found["ratio"] = asdict(timing.over(base))
    return found
