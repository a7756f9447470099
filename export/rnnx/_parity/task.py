"""What differences do to what a model is for: the symbol that it chooses, how surprised it is, the value that it gives."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rnnx._axes import batch_first, has_time
from rnnx._lift import Lift
from rnnx._parity.compare import Arrays
from rnnx._parity.tolerances import Tolerance
from rnnx_runtime.artifact import Manifest


@dataclass(frozen=True)
class Task:
    """What a run came to.

    Attributes:
        agreement: the share of steps at which both choose the same symbol or class; None where nothing is chosen.
        bits: how far apart their mean surprises at the next token are; None where none is predicted.
        rmse: of real values, in multiples of their spread; None where all outputs are scores.
    """

    agreement: float | None
    bits: float | None
    rmse: float | None
    passed: bool


@final
class TaskMeter:
    """Sums over a run.

    Scores are what the codec calls logits, and outputs with as many values per step as there are tokens: the largest is the
    choice. The other outputs of floats are values.
    """

    def __init__(self, lift: Lift, manifest: Manifest) -> None:
        tokens = {spec.vocabulary_size: spec for spec in lift.inputs if spec.vocabulary_size is not None}
        floats = {spec.name: spec for spec in manifest.outputs if spec.dtype.startswith("float")}
        scores = [
            name
            for name, spec in floats.items()
            if spec.role == "logits" or (has_time(spec.shape) and spec.shape[-1] in tokens and spec.shape[-1] != 1)
        ]
        self._scores = scores
        self._timed = {name for name, spec in floats.items() if has_time(spec.shape)}
        self._read = next(
            (tokens[size] for name in scores[:1] if isinstance(size := floats[name].shape[-1], int) and size in tokens), None
        )
        self._chosen = self._alike = self._predicted = 0
        self._surprise = np.zeros(2)  # bits: found, expected
        self._moments = {name: np.zeros(4) for name in floats if name not in scores}  # count, Σy, Σy², Σ(difference²)

    def add(self, found: Arrays, expected: Arrays, inputs: Mapping[str, Tensor], steps: int) -> None:
        """The first `steps` of one call: answers `(B, T, ...)` or `(B, ...)`."""
        if steps <= 0:
            return
        for name in self._scores:
            self._add_choices(found[name][:, :steps], expected[name][:, :steps])
        if self._read is not None and steps > 1:
            name, (batch, taken) = self._scores[0], found[self._scores[0]].shape[:2]
            tokens = batch_first(inputs[self._read.name], self._read.shape, batch, taken).numpy()
            self._add_surprise(found[name][:, : steps - 1], expected[name][:, : steps - 1], tokens[:, 1:steps])
        for name, moments in self._moments.items():
            part = (slice(None), slice(steps)) if name in self._timed else ()
            have, want = (array[part].astype(np.float64) for array in (found[name], expected[name]))
            moments[:] += (want.size, want.sum(), (want**2).sum(), ((have - want) ** 2).sum())

    def result(self, tolerance: Tolerance) -> Task:
        agreement = self._alike / self._chosen if self._chosen else None
        bits = float(abs(self._surprise[0] - self._surprise[1]) / self._predicted) if self._predicted else None
        rmse = max((_on_spread(*moments) for moments in self._moments.values() if moments[0]), default=None)
        passed = (
            self._chosen - self._alike <= max(1, (1 - tolerance.agreement) * self._chosen)
            and (bits is None or bits <= tolerance.bits)
            and (rmse is None or rmse <= tolerance.rmse)
        )
        return Task(agreement, bits, rmse, passed)

    def _add_choices(self, found: NDArray[Any], expected: NDArray[Any]) -> None:
        """Where the eager module's best are within rounding of each other, either choice is right."""
        have, best = found.argmax(axis=-1), expected.max(axis=-1)
        chosen = np.take_along_axis(expected, have[..., None], axis=-1)[..., 0]
        self._chosen += have.size
        self._alike += int((best - chosen <= 1e-5 * np.maximum(1, np.abs(best))).sum())

    def _add_surprise(self, found: NDArray[Any], expected: NDArray[Any], following: NDArray[Any]) -> None:
        for place, scores in enumerate((found, expected)):
            logits = scores.reshape(*following.shape, -1).astype(np.float64)
            logits -= logits.max(axis=-1, keepdims=True)
            logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            self._surprise[place] -= np.take_along_axis(logs, following[..., None], axis=-1).sum() / math.log(2)
        self._predicted += following.size


def _on_spread(count: float, total: float, squares: float, apart: float) -> float:
    """The root mean square of differences, in multiples of the values' standard deviation; of their size where they do not vary."""
    spread = math.sqrt(max(squares / count - (total / count) ** 2, 0.0))
    size = math.sqrt(squares / count)
    return math.sqrt(apart / count) / (spread if spread > 1e-6 * size else size or 1.0)
