"""What differences do to what a model is for: the symbol that it chooses, how surprised it is, the value that it gives."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rnnx._axes import batch_first, has_time
from rnnx._lift import Lift
from rnnx._parity.compare import Arrays
from rnnx._parity.tolerances import Tolerance
from rnnx_runtime.artifact import Dimension, Manifest

_SMALL: Final = 1e-6  # of the largest feature's size: features below are held to that


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
        tokens = {
            spec.vocabulary_size: spec for spec in lift.inputs if spec.vocabulary_size is not None and spec.example.ndim == 2
        }
        floats = {spec.name: spec for spec in manifest.outputs if spec.dtype.startswith("float")}
        scores = [
            name
            for name, spec in floats.items()
            if spec.role == "logits" or (_is_of_steps(spec.shape) and spec.shape[-1] in tokens and spec.shape[-1] != 1)
        ]
        self._scores = scores
        self._timed = {name for name, spec in floats.items() if has_time(spec.shape)}
        self._read = next(
            (
                tokens[size]
                for name in scores[:1]
                if _is_of_steps(floats[name].shape) and isinstance(size := floats[name].shape[-1], int) and size in tokens
            ),
            None,
        )
        self._chosen = self._alike = self._predicted = 0
        self._surprise = np.zeros(2)  # bits: found, expected
        self._moments: dict[str, Any] = {name: 0.0 for name in floats if name not in scores}  # of each feature

    def add(self, found: Arrays, expected: Arrays, inputs: Mapping[str, Tensor], steps: int, taken: int) -> None:
        """The first `steps` of a call of `taken` steps: answers `(B, T, ...)` or, once per call, `(B, ...)`."""
        if steps <= 0:
            return
        for name in self._scores:
            self._add_choices(found[name][:, :steps], expected[name][:, :steps])
        if self._read is not None and steps > 1:
            name = self._scores[0]
            tokens = batch_first(inputs[self._read.name], self._read.shape, len(found[name]), taken).numpy()
            self._add_surprise(found[name][:, : steps - 1], expected[name][:, : steps - 1], tokens[:, 1:steps])
        for name in self._moments:
            if name in self._timed:
                self._add_values(name, found[name][:, :steps], expected[name][:, :steps], (0, 1))
            elif steps == taken:
                self._add_values(name, found[name], expected[name], (0,))

    def result(self, tolerance: Tolerance) -> Task:
        agreement = self._alike / self._chosen if self._chosen else None
        bits = float(abs(self._surprise[0] - self._surprise[1]) / self._predicted) if self._predicted else None
        rmse = max((_on_spread(moments) for moments in self._moments.values() if np.ndim(moments)), default=None)
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
        bits = [_surprise(scores.astype(np.float64), following) for scores in (found, expected)]
        finite = np.isfinite(bits[0]) & np.isfinite(bits[1])  # a symbol that is ruled out is no surprise that can be averaged
        self._surprise += [float(one[finite].sum()) for one in bits]
        self._predicted += int(finite.sum())

    def _add_values(self, name: str, found: NDArray[Any], expected: NDArray[Any], axes: tuple[int, ...]) -> None:
        """Count, Σy, Σy² and Σ(difference²) of each feature, over what is finite in both."""
        finite = np.isfinite(found) & np.isfinite(expected)
        have, want = (np.where(finite, array, 0).astype(np.float64) for array in (found, expected))
        sums = [part.sum(axis=axes) for part in (finite.astype(np.float64), want, want**2, (have - want) ** 2)]
        self._moments[name] = self._moments[name] + np.stack(sums)


def _surprise(scores: NDArray[np.float64], following: NDArray[Any]) -> NDArray[np.float64]:
    """-log2 p of each next token, from scores `(B, T, V)`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        logits = scores - scores.max(axis=-1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    bits: NDArray[np.float64] = -np.take_along_axis(logs, following[..., None], axis=-1)[..., 0] / math.log(2)
    return bits


def _on_spread(moments: NDArray[np.float64]) -> float:
    """The largest root mean square of differences of any feature, in multiples of its standard deviation; of its size where it
    does not vary.
    """
    count, total, squares, apart = moments.reshape(4, -1)
    count = np.maximum(count, 1)
    size = np.sqrt(squares / count)
    spread = np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0))
    scale = np.where(spread > _SMALL * size, spread, size)
    floor = _SMALL * float(size.max(initial=0.0)) or 1.0
    return float((np.sqrt(apart / count) / np.maximum(scale, floor)).max(initial=0.0))


def _is_of_steps(shape: tuple[Dimension, ...]) -> bool:
    """Whether a shape is scores of each step: batch and time, and one axis behind."""
    return has_time(shape) and sum(isinstance(size, int) for size in shape) == 1
