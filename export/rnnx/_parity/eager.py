"""What the eager module answers: each way to ask it, in its own precision or in another one.

`partial(in_one_call, inputs, states)` is an `Eager`: a question that can be put to the module and to its twin in float64.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from rnnx._lift import Lift
from rnnx._parity.compare import Arrays
from rnnx._parity.subjects import as_answers, eager_answers, joined

Expected = tuple[Arrays, Mapping[str, Tensor]]  # outputs, batch-first, and next states
Convert = Callable[[Any], Any]  # of the tensors that a module is given, to the precision that it computes in
Eager = Callable[[Lift, Convert], Expected | None]


def same(tensors: Any) -> Any:
    """The conversion to the precision that the module has."""
    return tensors


def in_one_call(inputs: Mapping[str, Tensor], states: Mapping[str, Tensor], lift: Lift, convert: Convert) -> Expected:
    return eager_answers(lift, convert(dict(inputs)), convert(dict(states)))


def in_calls(
    inputs: Mapping[str, Tensor], states: Mapping[str, Tensor], bounds: Sequence[int], lift: Lift, convert: Convert
) -> Expected:
    """In several calls: the joined outputs, and where it ends."""
    parts, given, ended = [], convert(dict(inputs)), convert(dict(states))
    for start, stop in itertools.pairwise(bounds):
        found, ended = eager_answers(lift, lift.chunk(given, start, stop), ended)
        parts.append(found)
    return joined(lift, parts), ended


def as_it_starts(inputs: Mapping[str, Tensor], lift: Lift, convert: Convert) -> Expected:
    """As its own `forward` starts it."""
    given = convert(dict(inputs))
    return as_answers(lift, lift.run_untouched(given), given), {}


def outputs_only(inputs: Mapping[str, Tensor], lift: Lift, convert: Convert) -> Expected:
    return eager_answers(lift, convert(dict(inputs)), {})[0], {}


def by_hand(inputs: Mapping[str, Tensor], states: Mapping[str, Tensor], lift: Lift, convert: Convert) -> Expected | None:
    """With the states handed over by the caller; None where that cannot be done."""
    given = convert(dict(inputs))
    found = lift.run_protocol(given, convert(dict(states)))
    return None if found is None else (as_answers(lift, found[0], given), found[1])
