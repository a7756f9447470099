"""What is measured, each kind of figure for itself."""

from dataclasses import dataclass
from typing import Final

from rnnx._bench.timing import Timing

CHUNK: Final = 64  # steps
TOKENS: Final = 64  # characters written in one call
TEMPERATURE: Final = 0.8


@dataclass(frozen=True)
class Skipped:
    """A contender, or a number of streams, that was not timed, and why."""

    name: str
    because: str


@dataclass(frozen=True)
class Contest:
    """One contender.

    Attributes:
        remark: what is to be known of its figures.
        provider: where it is the runtime on another execution provider, that one's name.
    """

    name: str
    timing: Timing
    remark: str = ""
    provider: str = ""


@dataclass(frozen=True)
class Streams:
    """So many streams at once; both for one step of one of them.

    Attributes:
        stream: rows of one stream, in lockstep.
        pool: streams of a pool; None where a pool cannot have them.
    """

    batch: int
    stream: Timing
    pool: Timing | None

    @property
    def best(self) -> Timing:
        """As streams are served: by the pool, where there can be one."""
        return self.stream if self.pool is None else self.pool


@dataclass(frozen=True)
class Threads:
    """The same work with so many threads.

    Attributes:
        one: a step, or a whole sequence.
        chunk, streams: for one step of a chunk, and of `batch` streams at once; None where the model cannot be stepped so.
    """

    threads: int
    one: Timing
    chunk: Timing | None
    batch: int
    streams: Timing | None


@dataclass(frozen=True)
class Histogram:
    """Durations of calls: `counts[i]` lie from `edges[i]` to `edges[i + 1]`, `slower` beyond the last edge. In seconds."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    slower: int
    longest: float
