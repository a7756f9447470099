"""The shapes that operators give which move a window along axes: convolutions, pools, and recurrent layers along time."""

from collections.abc import Sequence

from rnnx_runtime._errors import ArtifactError
from rnnx_runtime._given import Given, Inputs, first_of
from rnnx_runtime._onnx import Node
from rnnx_runtime._values import Shape


def _windows(node: Node, spatial: Shape, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations and what is padded along each axis.

    Raises:
        ArtifactError: one of them is none.
    """
    rank = len(spatial)
    strides, dilations, pads = (
        node.integers(name) or [least] * count
        for name, least, count in (("strides", 1, rank), ("dilations", 1, rank), ("pads", 0, 2 * rank))
    )
    if (
        (len(strides), len(dilations), len(pads), len(kernel)) != (rank, rank, 2 * rank, rank)
        or min(*strides, *dilations, *kernel, 1) < 1
        or min(*pads, 0) < 0
    ):
        raise ArtifactError(
            f"{node.operator} {node.outputs[0].text!r} moves by {strides} with pads of {pads}, which it cannot"
        )
    return strides, dilations, [pads[axis] + pads[axis + rank] for axis in range(rank)]


def _windowed(node: Node, spatial: Shape, kernel: Sequence[int]) -> Shape:
    strides, dilations, pads = _windows(node, spatial, kernel)
    if node.attributes.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER"):
        return tuple(-(-size // stride) for size, stride in zip(spatial, strides, strict=True))
    reach = [dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True)]
    up = 1 if node.integer("ceil_mode", 0) else 0
    return tuple(
        max(0, (size + pad - wide) // stride + 1 + up)
        for size, pad, wide, stride in zip(spatial, pads, reach, strides, strict=True)
    )


def conv(node: Node, inputs: Inputs) -> Given:
    x, w = first_of(inputs), inputs[1]
    if w is None or w.shape is None:
        raise ValueError
    kernel = w.shape[2:]
    if x.shape is None:
        _windows(node, kernel, kernel)
        raise ValueError
    return [(x.shape[0], w.shape[0], *_windowed(node, x.shape[2:], kernel))]


def conv_transposed(node: Node, inputs: Inputs) -> Given:
    x, w = first_of(inputs), inputs[1]
    if w is None or w.shape is None or x.shape is None:
        raise ValueError
    kernel, spatial = w.shape[2:], x.shape[2:]
    strides, dilations, pads = _windows(node, spatial, kernel)
    more, wanted = node.integers("output_padding") or [0] * len(spatial), node.integers("output_shape")
    found = [
        max(0, strides[axis] * (size - 1) + more[axis] + dilations[axis] * (kernel[axis] - 1) + 1 - pads[axis])
        for axis, size in enumerate(spatial)
    ]
    return [(x.shape[0], w.shape[1] * node.integer("group", 1), *(wanted or found))]


def pool(node: Node, inputs: Inputs) -> Given:
    x, kernel = first_of(inputs), node.integers("kernel_shape") or []
    if x.shape is None:
        raise ValueError
    found = (*x.shape[:2], *_windowed(node, x.shape[2:], kernel))
    return [found] * len(node.outputs)


def pool_all(_: Node, inputs: Inputs) -> Given:
    x = first_of(inputs)
    return [x.most if x.shape is None else (*x.shape[:2], *(1 for _ in x.shape[2:]))]


def blocks(node: Node, inputs: Inputs) -> Given:
    x, block = first_of(inputs), node.integer("blocksize", 0)
    if block < 1:
        raise ValueError
    return [x.most]


def recurrent(node: Node, inputs: Inputs) -> Given:
    x, w, r = first_of(inputs), inputs[1], inputs[2]
    if w is None or w.shape is None or r is None or r.shape is None:
        raise ValueError
    directions, hidden = w.shape[0], r.shape[-1]
    if x.shape is None or len(x.shape) != 3:  # in which ONNX Runtime has the last word
        return [x.most * directions * hidden] * len(node.outputs)
    steps, rows, _ = x.shape
    if node.integer("layout", 0):
        rows, steps = steps, rows
        return [(rows, steps, directions, hidden), (rows, directions, hidden), (rows, directions, hidden)]
    return [(steps, directions, rows, hidden), (directions, rows, hidden), (directions, rows, hidden)]
