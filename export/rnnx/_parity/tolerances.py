"""How far an exported model may be from the eager module: stated per precision, and per place where it runs.

Measured floors, of right exports: 2.6e-7 for one step in float32, 2.4e-7 for short sequences. What grows with time is not bounded
by a number but by what the eager module's own rounding makes of it, see `_parity/trajectory.py`.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

Precision = Literal["float32", "float64", "reduced", "float16", "int8", "int4"]


@dataclass(frozen=True)
class Tolerance:
    """The largest differences that are allowed.

    Attributes:
        one_step: after one step from a given state, relative above 1; states.
        absolute: over a sequence, on the scale of each tensor up to 1; outputs and states.
        relative: over a sequence, beside `absolute`.
        envelope: over thousands of steps, in multiples of the eager module's own distance from float64.
        floor: of that distance: below it, rounding is not counted.
        agreement: the least share of steps at which the most likely symbol is the same; of few steps, one may differ.
        bits: of the mean surprise per symbol, as long as both are the same run.
        rmse: root of the mean squared difference of real values, in multiples of their spread, as long as both are the same run.
        together: whether the differences of a tensor are judged by their mean square, instead of each: weights that are rounded
            themselves leave a few values far off.
    """

    one_step: float
    absolute: float
    relative: float
    envelope: float
    floor: float
    agreement: float
    bits: float
    rmse: float
    together: bool = False


_FLOAT32: Final = Tolerance(2e-6, 1e-5, 1e-4, 10, 1e-6, 0.999, 1e-3, 1e-3)
TOLERANCES: Final[dict[Precision, Tolerance]] = {
    "float32": _FLOAT32,
    "float64": Tolerance(1e-13, 1e-9, 3e-8, 10, 1e-12, 0.999, 1e-3, 1e-3),
    # float32 that a provider was asked to compute with fewer bits: float16, bfloat16, TF32.
    "reduced": Tolerance(2e-3, 2e-2, 2e-2, 100, 2e-3, 0.98, 5e-2, 5e-2),
    # What `rnnx quantize` wrote: other weights than the module's, so that over thousands of steps it may be another run. Measured, of
    # trained character models over random symbols: 0.4, 1.5 and 17 % of the size of outputs; what is wired wrongly is off by 50 and more.
    "float16": Tolerance(5e-3, 1e-2, 1e-2, 1000, 2e-3, 0.98, 5e-2, 5e-2, together=True),
    "int8": Tolerance(5e-2, 5e-2, 5e-2, 1000, 2e-3, 0.95, 5e-2, 5e-2, together=True),
    "int4": Tolerance(3e-1, 3e-1, 3e-1, 1000, 2e-3, 0.8, 5e-1, 5e-1, together=True),
}
_ELSEWHERE: Final = 5.0  # times `one_step`: other providers' kernels add up in another order


def tolerance_of(precision: Precision, *, on_cpu: bool) -> Tolerance:
    """The tolerance of a precision, on ONNX Runtime's own CPU kernels or on another provider's."""
    stated = TOLERANCES[precision]
    return stated if on_cpu else replace(stated, one_step=stated.one_step * _ELSEWHERE)
