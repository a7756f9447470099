"""How near float32 comes: what may be off by more than a fixed tolerance, because rounding takes the eager module as far."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Final, final

import torch

from rnnx._lift import Lift
from rnnx._parity.compare import Arrays, difference
from rnnx._parity.eager import Convert, Eager
from rnnx._parity.float64 import doubled, float64_by_default, in_float64, nudged
from rnnx._parity.subjects import as_arrays

_TIMES: Final = 4.0  # as far as rounding takes the eager module
_NUDGED_RUNS: Final = 4

Found = tuple[Arrays, Arrays]  # outputs and next states


@final
class Rounding:
    """The rounding of one module, found by its twin in float64, which is made when it is first needed."""

    def __init__(self, lift: Lift) -> None:
        self._lift = lift

    def explains(self, found: Found, wanted: Found, eager: Eager, doubtful: tuple[Sequence[str], Sequence[str]]) -> bool:
        """Whether each doubtful output and state is as near as rounding lets it be: large values and chaos leave it no nearer.

        That is: as the eager module is to float64, or as float64 is to itself where what it is given is nudged by a few roundings.
        """
        if not any(doubtful):
            return True
        exact = self._exactly(eager, doubled)
        if exact is None:
            return False
        generator = torch.Generator().manual_seed(10)
        others = [wanted]
        for _ in range(_NUDGED_RUNS):
            others += filter(None, [self._exactly(eager, lambda tree: nudged(doubled(tree), generator, torch.float32))])
        for side, names in enumerate(doubtful):
            for name in names:
                want = wanted[side][name]
                true = exact[side][name].astype(want.dtype)
                rounding = max(difference(other[side][name].astype(want.dtype), true).max(initial=0.0) for other in others)
                apart = difference(found[side][name], want).max(initial=0.0)
                if want.dtype.kind != "f" or not apart <= _TIMES * rounding < math.inf:
                    return False
        return True

    def _exactly(self, eager: Eager, convert: Convert) -> Found | None:
        """What the module answers in float64; None where it does not run in it."""
        try:
            with float64_by_default():
                found = eager(self._twin, convert)
        except Exception:
            return None
        return None if found is None else (found[0], as_arrays(found[1]))

    @cached_property
    def _twin(self) -> Lift:
        return in_float64(self._lift)
