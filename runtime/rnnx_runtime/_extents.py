"""How large a graph's values become: found out before ONNX Runtime makes them, for a few bytes of a file can ask for terabytes.

Every size is computed for one row of one step, and for many along each axis that may differ. Numbers are followed where
shapes are made of them. What cannot be followed is bounded from above; what grows and cannot be bounded is refused.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from rnnx_runtime._errors import ArtifactError
from rnnx_runtime._given import Inputs
from rnnx_runtime._onnx import FLOAT, FLOATS, INTEGERS, MOST_AXES, Body, Name, Node, Tensor
from rnnx_runtime._packed import GATHER, MATMUL
from rnnx_runtime._recurrent import RECURRENT
from rnnx_runtime._shapes import BOOLEANS, RULES, shapes
from rnnx_runtime._values import FEW, Extent, evaluate

Sizes = Mapping[str, Sequence[int | str]]

_MOST: Final = 1 << 26  # elements that one step of one row may make, over all nodes
_FOLDED: Final = 1 << 22  # elements that weights alone may make, besides four times as many as the file has bytes
_PACKED: Final = 1 << 22  # elements of weights that are packed anew, besides sixteen times as many as the file has bytes
_PRODUCTS: Final = 1 << 28  # of weights with weights
_RUNS: Final = 1 << 20  # nodes that one step runs, those of a body once for each of its own steps
_MANY: Final = 512  # rows or steps
_SYMBOLS: Final = 4  # axes that may differ, and are tried
_GROWTH: Final = 8  # times that the values of many may be larger than those of one, for each of them
_SQUARE: Final = 1 << 25  # elements that the values of many may have whatever those of one have: attention over all steps

_MULTIPLYING: Final = frozenset(["MatMul", "Gemm", "Einsum", "Conv", "ConvTranspose", "MatMulInteger", "QLinearMatMul"])
_PACKING: Final = RECURRENT | _MULTIPLYING | {MATMUL, GATHER}

# TensorProto.DataType of what an operator gives; and the input that has it, where that is not the first.
_GIVES: Final = dict.fromkeys(BOOLEANS, 9) | dict.fromkeys(["Shape", "Size", "ArgMax", "ArgMin"], 7) | {"MatMulInteger": 6}
_GIVES_THAT_OF: Final = {
    "Where": 1,
    "DequantizeLinear": 1,
    "CastLike": 1,
    "OneHot": 2,
    "QuantizeLinear": 2,
    "QLinearMatMul": 7,
}


def check_extents(graph: Body, sizes: Sizes, stored: Mapping[Name, Tensor], size: int, *, surely: bool) -> None:
    """Refuse a graph that makes much out of little, divides integers by what may be 0, or runs a body without end.

    Args:
        sizes: of the inputs by name; texts for axes that may differ.
        stored: the weights of all graphs.
        size: bytes of the file.
        surely: all operators are known. What others give is not, and is let through.
    """
    weights = {
        name: Extent(tensor.dtype, tensor.dims, math.prod(tensor.dims), tensor.values, fixed=True)
        for name, tensor in stored.items()
    }
    one = _Pass(weights, size, surely, _MOST, _RUNS)
    one.outermost(graph, sizes, {})
    symbols = [part for shape in sizes.values() for axis in shape if isinstance(axis, str) for part in axis.split("*")]
    for symbol in list(dict.fromkeys(symbols))[:_SYMBOLS]:
        most = max(_SQUARE, _GROWTH * _MANY * one.made)
        _Pass(weights, size, surely, most, _RUNS * _MANY).outermost(graph, sizes, {symbol: _MANY})


class _Pass:
    """One walk through a graph, with a size for each axis. `made`: the elements of all its values."""

    def __init__(self, weights: Mapping[Name, Extent], size: int, surely: bool, most: int, runs: int) -> None:
        self._values: dict[Name, Extent] = dict(weights)
        self._surely, self._most, self._runs = surely, most, runs
        self._folded, self._packed, self._products = _FOLDED + 4 * size, _PACKED + 16 * size, _PRODUCTS
        self.made = 0

    def outermost(self, graph: Body, sizes: Sizes, many: Mapping[str, int]) -> None:
        """`many`: the size of an axis that is not 1."""
        for name, dtype in graph.inputs:
            shape = tuple(
                axis if isinstance(axis, int) else math.prod(many.get(part, 1) for part in axis.split("*"))
                for axis in sizes[name.text]
            )
            self._keep(name, Extent(dtype, shape, math.prod(shape)), "the input")
        self._body(graph, 1)

    def _body(self, graph: Body, times: int) -> None:
        self._runs -= times * len(graph.nodes)
        if self._runs < 0:
            raise ArtifactError(
                f"a body of {len(graph.nodes)} nodes is run {times} times for so few steps; an artifact's is run once for each"
            )
        for node in graph.nodes:
            if not node.outputs:  # it computes nothing
                continue
            inputs = [self._values.get(name, Extent()) if name.text else None for name in node.inputs]
            self._check_division(node, inputs)
            found = self._scan(node, inputs) if node.operator == "Scan" else self._node(node, inputs)
            for name, extent in zip(node.outputs, found, strict=False):
                self._keep(name, extent, node.operator)
            self._count_weights(node, inputs, found)

    def _keep(self, name: Name, extent: Extent, what: str) -> None:
        self.made += extent.most
        if self.made > self._most or len(extent.shape or ()) > MOST_AXES:
            raise ArtifactError(
                f"{what} {name.text!r}, and what is made before it, have more than {self._most} elements for so few steps, or more "
                f"than {MOST_AXES} axes; an artifact's have fewer"
            )
        if name.text:
            self._values[name] = extent

    def _node(self, node: Node, inputs: Inputs) -> list[Extent]:
        for body in node.bodies:  # of an operator that is not known
            for name, dtype in body.inputs:
                self._values[name] = Extent(dtype)
            self._body(body, 1)
        fixed = not node.bodies and all(one.fixed for one in inputs if one is not None)
        dtype = _type(node, inputs)
        found = shapes(node, inputs) if node.operator in RULES else None
        if found is None and self._surely:
            raise ArtifactError(
                f"{node.operator} makes something as large as a value says that is computed while it runs; an artifact's sizes "
                "follow from those of its inputs"
            )
        if found is None:
            return [Extent(dtype, fixed=fixed) for _ in node.outputs]
        if not self._surely:  # what is said of the size of an unknown shape follows from values that are not known
            found = [1 if isinstance(one, int) else one for one in found]
        extents = [
            Extent(dtype, None, one, fixed=fixed) if isinstance(one, int) else Extent(dtype, one, math.prod(one), fixed=fixed)
            for one in found
        ]
        if len(extents) == 1 and extents[0].shape is not None and extents[0].most <= FEW:
            extents[0] = extents[0]._replace(values=evaluate(node, inputs, extents[0].shape))
        return extents

    def _scan(self, node: Node, inputs: Inputs) -> list[Extent]:
        """A Scan: its body is walked once, and counted as often as it runs."""
        try:
            return self._scanned(node, inputs)
        except ArtifactError:
            raise
        except (IndexError, ValueError):  # an axis that is none, or of more inputs and outputs than there are
            raise ArtifactError("Scan has a body that takes or gives something else than it says") from None

    def _scanned(self, node: Node, inputs: Inputs) -> list[Extent]:
        scanned = node.integer("num_scan_inputs", 0)
        body, states = node.bodies[0] if node.bodies else Body([], [], []), len(inputs) - scanned
        if not 0 < scanned <= len(inputs) == len(body.inputs) or len(body.outputs) < states or None in inputs:
            raise ValueError
        axes, times = [0] * states + (node.integers("scan_input_axes") or [0] * scanned), 0
        for place, (extent, (name, _)) in enumerate(zip(inputs, body.inputs, strict=True)):
            found = extent or Extent()
            if place >= states:
                shape = None if found.shape is None else list(found.shape)
                times = max(times, found.most if shape is None else shape.pop(axes[place]))
                found = found._replace(
                    shape=None if shape is None else tuple(shape), most=found.most if shape is None else math.prod(shape)
                )
            self._values[name] = found._replace(values=None, fixed=False)
        self._body(body, times)
        gives = [self._values.get(name, Extent())._replace(values=None, fixed=False) for name in body.outputs]
        axes = node.integers("scan_output_axes") or [0] * len(gives[states:])
        return gives[:states] + [_stacked(one, axis, times) for one, axis in zip(gives[states:], axes, strict=True)]

    def _check_division(self, node: Node, inputs: Inputs) -> None:
        """Refuse a division of integers by what may be 0 or -1, which can end the process."""
        if node.operator not in ("Div", "Mod"):
            return
        types = {one.dtype for one in inputs if one is not None}
        if not types or types & FLOATS or not (self._surely or types & INTEGERS):
            return
        divisor = inputs[1] if len(inputs) > 1 else None
        values = divisor.values if divisor is not None and divisor.fixed else None
        if values is None or not values.all() or (values == -1).any():
            raise ArtifactError(
                f"{node.operator} of integers by what may be 0 or -1 is not allowed in an artifact; divide by a stored number"
            )

    def _count_weights(self, node: Node, inputs: Inputs, found: Sequence[Extent]) -> None:
        """What ONNX Runtime makes of weights when it loads them."""
        fixed = [one.most for one in inputs if one is not None and one.fixed]
        if node.operator in _PACKING:
            self._packed -= sum(fixed)
        if found and found[0].fixed:
            self._folded -= sum(one.most for one in found)
            self._products -= found[0].most * max(fixed) if node.operator in _MULTIPLYING and fixed else 0
        if min(self._packed, self._folded, self._products) < 0:
            raise ArtifactError(
                f"{node.operator} and the nodes before it make too much of the weights when the file is loaded; store the result"
            )


def _stacked(one: Extent, axis: int, times: int) -> Extent:
    """As many values of one extent, along a new axis."""
    if one.shape is None:
        return one._replace(most=times * one.most)
    at = range(len(one.shape) + 1)[axis]
    return one._replace(shape=(*one.shape[:at], times, *one.shape[at:]), most=times * one.most)


def _type(node: Node, inputs: Inputs) -> int:
    """The type of what a node gives first; 0 where that is not known."""
    operator, value = node.operator, node.attributes.get("value")
    said = node.integer("to", 0) or node.integer("output_dtype", 0) or _GIVES.get(operator, 0)
    if said or operator not in RULES:
        return said
    if operator in ("Constant", "ConstantOfShape"):
        whole = "value_int" in node.attributes or "value_ints" in node.attributes
        return value.dtype if isinstance(value, Tensor) else 7 if whole else FLOAT
    place = _GIVES_THAT_OF.get(operator, 1 if operator == GATHER else 0)
    given = inputs[place] if place < len(inputs) else None
    return 0 if given is None else given.dtype
