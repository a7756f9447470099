"""F15: a million steps against the same network in float64.

No number bounds the difference: a network that does not forget makes a rounding grow. So the rule is that of the gate, in
export/rnnx/_parity/trajectory.py, with numpy in float32 in the module's place: at step t, each feature may be ten times as far from float64
as numpy's is up to step 2t, or as a floor of 1e-6 of its scale.
"""

import itertools
import json
import math
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime  # noqa: F401  # here and not in each child
from numpy.typing import NDArray
from tests.faults.harness import Fault, Limits, Tally, WrongAnswerError, attempt
from tests.faults.networks import KINDS, Network, Reference, values

from rnnx_runtime import load

HIDDEN: Final = 32
ROWS: Final = 2
STEPS: Final = {
    1.0: 1_000_000,
    3.0: 100_000,
    8.0: 10_000,
}  # at most, by gain: such as forget, such as hardly do, such as do not
CHUNK: Final = 500  # steps of one call at most
SINGLE: Final = 300  # steps that another stream takes one by one
RNN_CLOSE: Final = 1e-6  # where steps are compared with chunks; of all else the bits are the same
ENVELOPE: Final = 10
FLOOR: Final = 1e-6
FEWEST: Final = 100  # steps that the measure is taken of at least
PER_DECADE: Final = 8
APART: Final = 1e-3  # of the scale: from here on it is another run
LIMITS: Final = Limits(seconds=600)


def run(count: int, seed: int) -> Tally:
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        for (gain, most), kind in itertools.product(STEPS.items(), KINDS):
            network, told = Network(kind, HIDDEN, gain, seed=seed), Path(folder) / "figures.json"
            tally.add(network.name, attempt(partial(_follow, network, min(count, most), told), LIMITS), ["correct"])
            if told.exists():
                tally.figures[network.name] = json.loads(told.read_text())
                told.unlink()
    return tally


def _follow(network: Network, steps: int, told: Path) -> None:
    stream, single = load(network.artifact()).stream(ROWS), load(network.artifact()).stream(ROWS)
    exact, rounded = (Reference(network, dtype, ROWS) for dtype in (np.float64, np.float32))
    errors = {name: Errors() for name in ("y", *network.states)}
    taken, marks = 0, list(_marks(steps))
    for mark in marks:
        while taken < mark:
            count = min(CHUNK, mark - taken)
            xs = values(ROWS, count, taken)
            found = stream.feed(xs)
            if taken < SINGLE:
                _compare(network, found, np.stack([single.step(xs[:, step]) for step in range(count)], axis=1))
            errors["y"].add(found, exact.feed(xs), rounded.feed(xs), taken)
            for name, true in exact.states.items():  # (1, B, H): rows, one step
                shown = (array.swapaxes(0, 1) for array in (stream.state[name], true, rounded.states[name]))
                errors[name].add(*shown, taken + count - 1)
            taken += count
        for one in errors.values():
            one.mark()
    horizon = min((one.horizon for one in errors.values() if one.horizon), default=None)
    said = f"{errors['y'].found.max():.0e} (numpy {errors['y'].measure.max():.0e}) at {steps:.0e} steps"
    told.write_text(json.dumps(said if horizon is None else f"{said}, another run from step {horizon:,} on"))
    for name, one in errors.items():
        if (beyond := one.beyond(marks)) is not None:
            raise WrongAnswerError(f"{name} is {beyond[1]:.1f} times as far from float64 as it may be at step {beyond[0]:,}")


class Errors:
    """Of one tensor: by feature, the largest so far, at each mark.

    Attributes:
        found, measure: of the runtime, and of numpy in float32.
        horizon: the first step at which the runtime's is another run than float64's.
    """

    def __init__(self) -> None:
        self.found: Any = np.zeros(1)
        self.measure: Any = np.zeros(1)
        self.horizon: int | None = None
        self._scale: Any = 0.0
        self._marks: list[tuple[NDArray[Any], NDArray[Any]]] = []

    def add(self, found: NDArray[Any], true: NDArray[Any], rounded: NDArray[Any], first: int) -> None:
        """Those of some steps `(B, T, H)`, from `first` on."""
        self._scale = np.maximum(self._scale, np.abs(true).max((0, 1)))
        apart = np.abs(found - true)
        self.found = np.maximum(self.found, apart.max((0, 1)))
        self.measure = np.maximum(self.measure, np.abs(rounded - true).max((0, 1)))
        beyond = np.flatnonzero(apart.max((0, 2)) > APART * self._scale.max())
        if self.horizon is None and beyond.size:
            self.horizon = first + int(beyond[0]) + 1

    def mark(self) -> None:
        self._marks.append((self.found, self.measure))

    def beyond(self, marks: list[int]) -> tuple[int, float] | None:
        """The first mark at which a feature is further off than it may be, and how many times."""
        for place, mark in enumerate(marks):
            until = max(i for i, other in enumerate(marks) if other <= max(2 * mark, FEWEST) or i == place)
            allowed = ENVELOPE * np.maximum(FLOOR * self._scale, self._marks[until][1])
            share = float((self._marks[place][0] / allowed).max())
            if not share <= 1:
                return mark, share
        return None


def _compare(network: Network, chunk: NDArray[Any], steps: NDArray[Any]) -> None:
    if network.kind != "RNN":
        same = chunk.tobytes() == steps.tobytes()
    else:  # in one that does not forget, the last bits of another order of additions grow
        same = network.gain > 1 or bool(np.abs(chunk - steps).max() <= RNN_CLOSE)
    if not same:
        raise WrongAnswerError(f"single steps are {np.abs(chunk - steps).max():.0e} off the chunk that they make up")


def _marks(steps: int) -> Iterator[int]:
    """Evenly spaced in their logarithm, up to the last."""
    places = range(math.ceil(PER_DECADE * math.log10(steps)) + 1)
    return iter(sorted({min(steps, round(10 ** (place / PER_DECADE))) for place in places}))


FAULT: Final = Fault(
    "F15",
    "drift over a million steps",
    "No feature is further from float64 than 10 times what numpy in float32 is, or 1e-6 of its scale; 300 steps are, one by one, the same "
    "bits as in chunks, of RNNs that forget to 1e-6.",
    full=1_000_000,
    reduced=10_000,
    run=run,
)
