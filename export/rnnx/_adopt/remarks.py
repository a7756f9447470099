"""What to say of a file: sizes that its export froze, and steps that it forgets."""

from collections.abc import Sequence
from typing import Final

from rnnx._adopt.borders import Border
from rnnx._adopt.calls import Contract
from rnnx._adopt.dataflow import Dataflow
from rnnx._adopt.horizon import padded
from rnnx._adopt.labels import Letters

_SHOWN: Final = 2  # nodes of one kind in a message


def frozen_sizes(contract: Contract, inputs: Sequence[Border], letters: Letters) -> list[str]:
    """What the file was made for with examples of one size, in words."""
    notes, given = [], {border.name for border in contract.inputs}
    if (contract.fixed_batch or 1) > 1 and not any(border.free for border in inputs):
        notes.append(
            f"every size is fixed in the file, a batch of {contract.fixed_batch} too; dynamic axes at its export leave it open"
        )
    for border in inputs:
        said = letters.get(border.name, ())
        size = border.sizes[said.index("T")] if border.sizes is not None and "T" in said else ""
        sizes = border.sizes or ()
        if border.name in given and not said and len(sizes) > 2 and 1 not in sizes and not border.free:
            notes.append(
                f"every size is fixed in the file, so that all of {border} is taken for one step; where rows or steps are among it, say "
                f"which, such as --axes {border.name}=BT{'F' * (len(sizes) - 2)}"
            )
        if isinstance(size, int) and size > 1:
            notes.append(
                f"{border.name} is fixed at {size} along its time, so that a step takes {size} of its values at once; dynamic axes at its "
                "export leave it open"
            )
    return notes


def kept_by_none(flow: Dataflow) -> list[str]:
    """Convolutions that put zeros where a cache would be, in words."""
    return [
        f"{name} pads each call with zeros, where the steps before it would be, and no state keeps those; export the file with a cache "
        "for them"
        for name in padded(flow)[:_SHOWN]
    ]
