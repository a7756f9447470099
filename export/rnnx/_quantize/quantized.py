"""What a quantisation made, and what it found."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from rnnx._bench.timing import Ratio, Timing
from rnnx._describe import loss_in_words
from rnnx._quantize.comparison import Comparison
from rnnx_runtime.artifact import Manifest, Quantisation

CHUNK: Final = 64  # steps
_WIDTH: Final = 110
_SLOWER: Final = 1.05  # times as long, and more is said


@dataclass(frozen=True)
class Speed:
    """What one call of both took on this machine, by turns on one core: `steps` steps of one row."""

    steps: int
    before: Timing
    after: Timing

    @property
    def gain(self) -> Ratio:
        """How many times faster it is: below 1, it is slower."""
        return self.before.over(self.after)


@dataclass(frozen=True)
class Quantized:
    """What a quantisation made, and what was found on the way.

    Attributes:
        path: of the new artifact.
        source: of the one that it was made of.
        manifest: of the new one; its `quantisation` has what was done to each weight, and all losses.
        comparison: both on the same data.
        speed: a step, and where the model can be stepped, a chunk; or a whole sequence.
        size: bytes of the artifact.
        operators: nodes of the graph, in order.
        replaced: the name of another model whose artifact stood at `path` before; None where none did.
    """

    path: Path
    source: str
    manifest: Manifest
    comparison: Comparison
    speed: tuple[Speed, ...]
    digest: str
    size: int
    operators: tuple[str, ...]
    replaced: str | None

    @property
    def quantisation(self) -> Quantisation:
        assert self.manifest.quantisation is not None
        return self.manifest.quantisation

    @property
    def slower(self) -> bool:
        """Whether a single step, or a sequence where it cannot be stepped, takes longer than before."""
        return self.speed[0].gain.median * _SLOWER < 1

    def __str__(self) -> str:
        """What was done and found, line by line."""
        done, found = self.quantisation, self.comparison
        kind = f"{self.manifest.precision}{'' if done.block is None else f', blocks of {done.block}'}"
        groups = {
            "weights": [
                f"{one.name} {list(one.shape)}, {one.role}: {one.bytes_before:,} → {one.bytes_after:,} bytes"
                for one in done.weights
            ],
            "left": [f"{one.name}, {one.bytes:,} bytes: {one.because}" for one in done.left],
            "size": [self._size()],
            "speed": [self._speed(one) for one in self.speed] + self._advice(),
            "data": [done.data],
            "loss": [loss_in_words(done)],
            "one step": [f"off by {done.one_step:.1e} at most, from random states and from visited ones"],
            "drift": [f"{done.drift:.2%} of the spread of the outputs after {done.drift_steps} steps"],
            "agreement": []
            if done.agreement is None
            else [f"the same most likely symbol at {done.agreement:.2%} of the steps"],
            "rows": [_equal(found.rows, "a row among others", "alone")],
            "ways": [_equal(found.ways, "chunks and steps", "whole")] if self.manifest.streamable else [],
            "file": [f"sha256 {self.digest}"],
        }
        lines = [f"{self.path}: {self.manifest.name}, {kind}, made of {self.source}"]
        for label, texts in groups.items():
            parts = [part for text in texts for part in textwrap.wrap(text, _WIDTH, break_on_hyphens=False)]
            lines += [f"  {label if place == 0 else '':<11}{part}" for place, part in enumerate(parts)]
        return "\n".join(lines)

    def to_json(self) -> str:
        """The same for machines, with the manifest as it stands in the file."""
        found = {
            "path": str(self.path),
            "source": self.source,
            "replaced": self.replaced,
            "sha256": self.digest,
            "bytes": self.size,
            "rows_apart": self.comparison.rows,
            "ways_apart": self.comparison.ways,
            "slower": self.slower,
            "speed": [
                {
                    "steps": one.steps,
                    "seconds_before": one.before.median,
                    "seconds_after": one.after.median,
                    "times_faster": one.gain.median,
                    "between": [one.gain.low, one.gain.high],
                }
                for one in self.speed
            ],
            "manifest": msgspec.Raw(self.manifest.encode().encode()),
        }
        return msgspec.json.format(msgspec.json.encode(found)).decode()

    def _size(self) -> str:
        before, after = self.quantisation.source_bytes, self.size
        times = f"{before / after:.1f} times smaller" if after < before else f"LARGER, {after / before:.2f} times as large"
        return f"{before:,} → {after:,} bytes, {times}"

    def _speed(self, one: Speed) -> str:
        what = (
            "a step"
            if one.steps == 1
            else f"a chunk of {one.steps}"
            if self.manifest.streamable
            else f"a sequence of {one.steps}"
        )
        gain = one.gain.median
        times = f"{gain:.2f} times faster" if gain >= 1 else f"SLOWER, {1 / gain:.2f} times as long"
        return f"{what}: {one.before.median * 1e6:,.1f} → {one.after.median * 1e6:,.1f} µs, {times}"

    def _advice(self) -> list[str]:
        if not self.slower:
            return []
        if self.quantisation.block is None:
            return [
                "ONNX Runtime computes float16 in float32 on the CPU, with conversions in between; it is for providers that have it"
            ]
        if self.size >= self.quantisation.source_bytes:
            return ["layers as small as these gain nothing from fewer bits; keep the float artifact"]
        return [
            "layers as small as these gain nothing from fewer bits but their size; keep the float artifact where speed counts"
        ]


def _equal(apart: float, one: str, other: str) -> str:
    return f"{one} and {other} give the same bits" if apart == 0 else f"{one} and {other} differ by {apart:.1e}"
