"""The shapes that an operator gives, from those of what it reads.

Operators: https://onnx.ai/onnx/operators/
"""

import math
from collections.abc import Mapping
from typing import Final

from rnnx_runtime._errors import ArtifactError
from rnnx_runtime._given import (
    ONE,
    Given,
    Inputs,
    Rule,
    broadcast,
    first_of,
    input_at,
    numbers_in,
    said_axes,
    which_axis,
)
from rnnx_runtime._onnx import Node, Tensor
from rnnx_runtime._packed import GATHER, MATMUL
from rnnx_runtime._values import FEW, Extent, Shape, sliced_size
from rnnx_runtime._windows import blocks, conv, conv_transposed, pool, pool_all, recurrent

BOOLEANS: Final = frozenset("And Equal Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Not Or Xor".split())
_BROADCASTING: Final = """
    Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor
""".split()
_ALIKE: Final = """
    Abs Acos Acosh Asin Asinh Atan Atanh Cast CastLike Ceil Celu Clip Cos Cosh CumSum DequantizeLinear Elu Erf Exp Floor Gelu
    GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LeakyRelu Log LogSoftmax
    LpNormalization MeanVarianceNormalization Mish Neg Not QuantizeLinear Reciprocal Relu Round ScatterElements ScatterND Selu
    Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Trilu LayerNormalization
    BatchNormalization
""".split()
_REDUCING: Final = """
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
""".split()


def shapes(node: Node, inputs: Inputs) -> Given | None:
    """The shape of each output, or its size at most; None where that depends on a value that is computed while the graph runs.

    Raises:
        ArtifactError: an attribute or a shape is none that the operator has.
    """
    try:
        return RULES[node.operator](node, inputs)
    except ArtifactError:
        raise
    except (
        Exception
    ):  # a rule takes what it is given for what the operator needs: where it is something else, anything may fail
        raise ArtifactError(
            f"{node.operator} {node.outputs[0].text!r} reads what it cannot be given, or has an attribute that it cannot have"
        ) from None


def _alike(node: Node, inputs: Inputs) -> Given:
    first = first_of(inputs)
    return [first.most if first.shape is None else first.shape, *[first.most] * (len(node.outputs) - 1)]


def _broadcasting(_: Node, inputs: Inputs) -> Given:
    given = [one for one in inputs if one is not None]
    known = [one.shape for one in given if one.shape is not None]
    return [broadcast(*known) if len(known) == len(given) else math.prod(one.most for one in given)]


def _reducing(node: Node, inputs: Inputs) -> Given:
    first, axes = first_of(inputs), said_axes(node, inputs, 1)
    if first.shape is None or axes is None:
        return [first.most]
    if not axes and node.integer("noop_with_empty_axes", 0):
        return [first.shape]
    return [_reduced(first.shape, axes or list(range(len(first.shape))), node)]


def _reduced(shape: Shape, axes: list[int], node: Node) -> Shape:
    along, keep = {which_axis(axis, len(shape)) for axis in axes}, node.integer("keepdims", 1)
    return tuple(1 if axis in along else size for axis, size in enumerate(shape) if keep or axis not in along)


def _arg(node: Node, inputs: Inputs) -> Given:
    first = first_of(inputs)
    return [first.most if first.shape is None else _reduced(first.shape, [node.integer("axis", 0)], node)]


def _concat(node: Node, inputs: Inputs) -> Given:
    given = [one for one in inputs if one is not None]
    known = [one.shape for one in given if one.shape is not None]
    if len(known) < len(given):
        return [sum(one.most for one in given)]
    axis = which_axis(node.integer("axis", 0), len(known[0]))
    sizes = [max(of) if place != axis else sum(of) for place, of in enumerate(zip(*known, strict=True))]
    return [tuple(sizes)]


def _reshape(node: Node, inputs: Inputs) -> Given:
    first, wanted = first_of(inputs), numbers_in(input_at(inputs, 1))
    if wanted is None or first.shape is None:
        return [first.most]
    if any(size < -1 for size in wanted) or wanted.count(-1) > 1:
        raise ValueError
    sizes = [
        first.shape[place] if size == 0 and not node.integer("allowzero", 0) else size for place, size in enumerate(wanted)
    ]
    if -1 in sizes:
        others = math.prod(size for size in sizes if size >= 0)
        sizes[sizes.index(-1)] = first.most // others if others else 0
    return [tuple(sizes)] if math.prod(sizes) == first.most else [first.most]


def _flatten(node: Node, inputs: Inputs) -> Given:
    first, axis = first_of(inputs), node.integer("axis", 1)
    if first.shape is None:
        return [first.most]
    front = first.shape[:axis]
    return [(math.prod(front), math.prod(first.shape[len(front) :]))]


def _transpose(node: Node, inputs: Inputs) -> Given:
    first, order = first_of(inputs), node.integers("perm")
    if first.shape is None:
        return [first.most]
    if order is not None and sorted(order) != list(range(len(first.shape))):
        raise ValueError
    return [first.shape[::-1] if order is None else tuple(first.shape[axis] for axis in order)]


def _squeeze(node: Node, inputs: Inputs) -> Given:
    first, axes = first_of(inputs), said_axes(node, inputs, 1)
    if first.shape is None or axes is None:
        return [first.most]
    along = {which_axis(axis, len(first.shape)) for axis in axes} or {
        axis for axis, size in enumerate(first.shape) if size == 1
    }
    return [tuple(size for axis, size in enumerate(first.shape) if axis not in along)]


def _unsqueeze(node: Node, inputs: Inputs) -> Given:
    first, axes = first_of(inputs), said_axes(node, inputs, 1)
    if first.shape is None or axes is None:
        return [first.most]
    rank = len(first.shape) + len(axes)
    along, rest = {which_axis(axis, rank) for axis in axes}, iter(first.shape)
    if len(along) < len(axes):
        raise ValueError
    return [tuple(1 if axis in along else next(rest) for axis in range(rank))]


def _slice(_: Node, inputs: Inputs) -> Given:
    first = first_of(inputs)
    starts, ends = numbers_in(input_at(inputs, 1)), numbers_in(input_at(inputs, 2))
    axes, steps = (None if input_at(inputs, place) is None else numbers_in(input_at(inputs, place)) or () for place in (3, 4))
    if first.shape is None or starts is None or ends is None or axes == () or steps == ():
        return [first.most]
    sizes = list(first.shape)
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = which_axis(place if axes is None else axes[place], len(sizes))
        sizes[axis] = sliced_size(sizes[axis], start, end, 1 if steps is None else steps[place])
    return [tuple(sizes)]


def _split(node: Node, inputs: Inputs) -> Given:
    first, parts = first_of(inputs), len(node.outputs)
    given = input_at(inputs, 1)
    said = numbers_in(given) or node.integers("split")
    if first.shape is None or (given is not None and given.values is None):
        return [first.most] * parts
    axis = which_axis(node.integer("axis", 0), len(first.shape))
    size = first.shape[axis]
    each = -(-size // parts)
    sizes = said or [max(0, min(each, size - each * place)) for place in range(parts)]
    if len(sizes) != parts or sum(sizes) != size or min(sizes) < 0:
        raise ValueError
    return [(*first.shape[:axis], part, *first.shape[axis + 1 :]) for part in sizes]


def _gather(node: Node, inputs: Inputs) -> Given:
    data, indices = first_of(inputs), input_at(inputs, 1) or ONE
    if data.shape is None:
        return [data.most * indices.most]
    axis = which_axis(node.integer("axis", 0), len(data.shape))
    rest = data.shape[axis + 1 :]
    if indices.shape is None:
        return [math.prod(data.shape[:axis]) * indices.most * math.prod(rest)]
    return [(*data.shape[:axis], *indices.shape, *rest)]


def _of_the_second(_: Node, inputs: Inputs) -> Given:
    second = inputs[1]
    if second is None:
        raise ValueError
    return [second.most if second.shape is None else second.shape]


def _gather_nd(node: Node, inputs: Inputs) -> Given:
    data, indices = first_of(inputs), input_at(inputs, 1) or ONE
    if data.shape is None or indices.shape is None:
        return [data.most * indices.most]
    return [(*indices.shape[:-1], *data.shape[node.integer("batch_dims", 0) + indices.shape[-1] :])]


def _expand(_: Node, inputs: Inputs) -> Given | None:
    first, wanted = first_of(inputs), numbers_in(input_at(inputs, 1))
    if wanted is None:
        return None
    if any(size < 0 for size in wanted):
        raise ValueError
    return [first.most * math.prod(wanted) if first.shape is None else broadcast(first.shape, tuple(wanted))]


def _tile(_: Node, inputs: Inputs) -> Given | None:
    first, times = first_of(inputs), numbers_in(input_at(inputs, 1))
    if times is None:
        return None
    if any(time < 0 for time in times):
        raise ValueError
    if first.shape is None:
        return [first.most * math.prod(times)]
    return [tuple(size * time for size, time in zip(first.shape, times, strict=True))]


def _of_shape(_: Node, inputs: Inputs) -> Given | None:
    wanted = numbers_in(input_at(inputs, 0))
    if wanted is not None and any(size < 0 for size in wanted):
        raise ValueError
    return None if wanted is None else [tuple(wanted)]


def _range(_: Node, inputs: Inputs) -> Given | None:
    given = [one.values.item() for one in inputs[:3] if one is not None and one.values is not None]
    if len(given) < 3:
        return None
    start, limit, step = given
    return [(max(0, math.ceil((limit - start) / step)),)]


def _one_hot(node: Node, inputs: Inputs) -> Given | None:
    indices, depth = first_of(inputs), numbers_in(input_at(inputs, 1))
    if depth is None:
        return None
    if indices.shape is None:
        return [indices.most * depth[0]]
    axis = which_axis(node.integer("axis", -1), len(indices.shape) + 1)
    return [(*indices.shape[:axis], max(0, depth[0]), *indices.shape[axis:])]


def _pad(node: Node, inputs: Inputs) -> Given | None:
    first, pads, said = first_of(inputs), numbers_in(input_at(inputs, 1)), input_at(inputs, 3)
    if pads is None or first.shape is None or (said is not None and said.values is None):
        return None
    along, sizes = numbers_in(said) or list(range(len(first.shape))), list(first.shape)
    for place, axis in enumerate(along):
        sizes[which_axis(axis, len(sizes))] += pads[place] + pads[place + len(along)]
    return [tuple(max(0, size) for size in sizes)]


def _top_k(node: Node, inputs: Inputs) -> Given:
    first, k = first_of(inputs), numbers_in(input_at(inputs, 1))
    if first.shape is None or k is None:
        return [first.most] * len(node.outputs)
    axis = which_axis(node.integer("axis", -1), len(first.shape))
    return [(*first.shape[:axis], max(0, min(k[0], first.shape[axis])), *first.shape[axis + 1 :])] * len(node.outputs)


def _multiplied(left: Extent | None, right: Extent | None) -> Given:
    left, right = left or ONE, right or ONE
    if left.shape is not None and right.shape is not None:
        a = left.shape if len(left.shape) > 1 else (1, *left.shape)
        b = right.shape if len(right.shape) > 1 else (*right.shape, 1)
        front = broadcast(a[:-2], b[:-2])
        return [(*front, *a[-2:-1][: len(left.shape) - 1], *b[-1:][: len(right.shape) - 1])]
    if right.shape is not None and len(right.shape) == 2:
        return [left.most * right.shape[1] // max(1, right.shape[0])]
    return [left.most * right.most]


def _gemm(node: Node, inputs: Inputs) -> Given:
    a, b = first_of(inputs), input_at(inputs, 1) or ONE
    if a.shape is None or b.shape is None:
        return _multiplied(a, b)
    return [(a.shape[1 if node.integer("transA", 0) else 0], b.shape[0 if node.integer("transB", 0) else 1])]


def _packed_matmul(node: Node, inputs: Inputs) -> Given:
    first, n = first_of(inputs), node.integer("N", 0)
    return [first.most * n // max(1, node.integer("K", 0)) if first.shape is None else (*first.shape[:-1], n)]


def _packed_gather(node: Node, inputs: Inputs) -> Given:
    table, indices = first_of(inputs), input_at(inputs, 1) or ONE
    row = 0 if table.shape is None else table.shape[-1] * 8 // node.integer("bits", 4)
    return [indices.most * row if indices.shape is None else (*indices.shape, row)]


def _einsum(node: Node, inputs: Inputs) -> Given:
    text = bytes(node.attributes["equation"]).decode().replace(" ", "")
    given = [one for one in inputs if one is not None]
    left, arrow, right = text.partition("->")
    sizes: dict[str, int] = {}
    widest: list[str] = []
    for term, one in zip(left.split(","), given, strict=True):
        if one.shape is None:
            return [math.prod(one.most for one in given)]
        front, dots, back = term.partition("...")
        rest = len(one.shape) - len(front) - len(back)
        inner = [f"...{place}" for place in range(rest - 1, -1, -1)] if dots else []
        widest = max(widest, inner, key=len)
        for label, size in zip([*front, *inner, *back], one.shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 0))
    if not arrow:
        once = sorted(label for label in sizes if len(label) == 1 and left.count(label) == 1)
        return [tuple(sizes[label] for label in (*widest, *once))]
    front, dots, back = right.partition("...")
    return [tuple(sizes[label] for label in [*front, *(widest if dots else ()), *back])]


def _shape(node: Node, inputs: Inputs) -> Given:
    first = first_of(inputs)
    if first.shape is None:
        return [FEW]
    return [(len(range(*slice(node.integer("start", 0), node.integer("end", len(first.shape))).indices(len(first.shape)))),)]


def _constant(node: Node, _: Inputs) -> Given:
    value, many = node.attributes.get("value"), node.integers("value_ints")
    if isinstance(value, Tensor):
        return [value.dims]
    return [(len(many),)] if many is not None else [FEW if "value_floats" in node.attributes else ()]


RULES: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(_ALIKE, _alike),
    **dict.fromkeys(_BROADCASTING, _broadcasting),
    **dict.fromkeys(_REDUCING, _reducing),
    **dict.fromkeys(["ArgMax", "ArgMin"], _arg),
    **dict.fromkeys(["LSTM", "GRU", "RNN"], recurrent),
    **dict.fromkeys(["AveragePool", "MaxPool"], pool),
    **dict.fromkeys(["GlobalAveragePool", "GlobalMaxPool"], pool_all),
    **dict.fromkeys(["DepthToSpace", "SpaceToDepth"], blocks),
    **dict.fromkeys(["MatMul", "MatMulInteger"], lambda _, inputs: _multiplied(inputs[0], inputs[1])),
    "QLinearMatMul": lambda _, inputs: _multiplied(inputs[0], inputs[3]),
    MATMUL: _packed_matmul,
    GATHER: _packed_gather,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _of_shape,
    "Conv": conv,
    "ConvTranspose": conv_transposed,
    "Einsum": _einsum,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _of_the_second,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": lambda *_: [()],
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "TopK": _top_k,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
