"""What the rules of shapes are given, and what they read it with."""

from collections.abc import Callable, Sequence
from typing import Final

from rnnx_runtime._onnx import Node
from rnnx_runtime._values import Extent, Shape

Inputs = Sequence[Extent | None]
Given = list[Shape | int]  # for each output its shape; how many elements it has at most, where the shape is not known
Rule = Callable[[Node, Inputs], Given | None]

ONE: Final = Extent(shape=(), most=1)


def first_of(inputs: Inputs) -> Extent:
    found = inputs[0]
    if found is None:
        raise ValueError
    return found


def input_at(inputs: Inputs, place: int) -> Extent | None:
    return inputs[place] if place < len(inputs) else None


def numbers_in(extent: Extent | None) -> list[int] | None:
    """The integers in a value; None where they are not known."""
    return None if extent is None or extent.values is None else [int(value) for value in extent.values.ravel()]


def said_axes(node: Node, inputs: Inputs, place: int) -> list[int] | None:
    """Axes that an attribute says, or an input; [] where there are none, None where they are not known."""
    said = node.integers("axes")
    if said is not None:
        return said
    given = input_at(inputs, place)
    return [] if given is None else numbers_in(given)


def which_axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise IndexError
    return axis % rank


def broadcast(*found: Shape) -> Shape:
    """The shape of values of these shapes together; where they do not fit, one that is not smaller."""
    rank = max(map(len, found), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in found]
    return tuple(0 if 0 in sizes else max(sizes) for sizes in zip(*padded, strict=True))
