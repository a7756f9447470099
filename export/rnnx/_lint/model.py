"""A model as the lint rules see it: its nodes, its weights, and what depends on what. Nothing is run here."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import onnx

from rnnx._lint.nodes import GATES, LSTM_INT8, Node, Recurrent, node_of
from rnnx._lint.trials import Trials
from rnnx._lint.weights import Weight, bodies
from rnnx_runtime.artifact import BATCH, TIME, Dimension, Manifest

Shape = tuple[Dimension | None, ...]

# Operators that hand on what they read: other shape, other type, a part of it.
_VIEWS: Final = frozenset("Cast Flatten Gather Identity Reshape Slice Split Squeeze Transpose Unsqueeze".split())


@dataclass(frozen=True)
class Value:
    """An input or output of the graph; an axis of it has a size, a symbol, or nothing known of it."""

    name: str
    dtype: int  # as in onnx.TensorProto.DataType; 0 where it is no tensor
    shape: Shape | None


@dataclass
class LintedModel:
    """One model under lint. `proto` lacks the values of large weights: `cut` took them out.

    Attributes:
        label: what it is called: its path.
        manifest: what it says of itself, where it is an artifact.
        refused: why the runtime takes it for no artifact, although it has a manifest.
        missing: other files that weights should lie in, and that are not there.
        trials: what running it showed; None where it was not run, and `not_run_because` says why.
    """

    label: str
    proto: onnx.ModelProto
    weights: Mapping[str, Weight]
    manifest: Manifest | None = None
    refused: str | None = None
    missing: tuple[str, ...] = ()
    trials: Trials | None = None
    not_run_because: str | None = None
    nodes: list[Node] = field(default_factory=list, init=False)
    _makers: dict[str, Node] = field(default_factory=dict, init=False)
    _readers: dict[str, list[Node]] = field(default_factory=lambda: defaultdict(list), init=False)
    _reach: dict[str, frozenset[str]] = field(default_factory=dict, init=False)
    _views: dict[str, list[str]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for name in self.inputs:
            self._reach[name] = frozenset([name])
        self._walk(self.proto.graph, ())

    @cached_property
    def inputs(self) -> dict[str, Value]:
        """What the model is given: no weights."""
        said: dict[str, Shape] = {}
        if self.manifest is not None:
            said = {spec.name: self._sized(spec.shape) for spec in self.manifest.inputs}
            said |= {spec.input: self._sized(spec.shape) for spec in self.manifest.states}
        values = [_value(value) for value in self.proto.graph.input if value.name not in self.weights]
        return {value.name: Value(value.name, value.dtype, said.get(value.name, value.shape)) for value in values}

    @cached_property
    def outputs(self) -> dict[str, Value]:
        said: dict[str, Shape] = {}
        if self.manifest is not None:
            said = {spec.name: self._sized(spec.shape) for spec in self.manifest.outputs}
            said |= {spec.output: self._sized(spec.shape) for spec in self.manifest.states}
        values = [_value(value) for value in self.proto.graph.output]
        return {value.name: Value(value.name, value.dtype, said.get(value.name, value.shape)) for value in values}

    def _sized(self, shape: Sequence[Dimension]) -> Shape:
        """A shape of the manifest, its symbols replaced where they stand for one size."""
        assert self.manifest is not None
        known: dict[str, int | None] = {BATCH: self.manifest.fixed_batch, TIME: 1 if self.manifest.one_step else None}
        sizes: list[Dimension] = []
        for size in shape:
            parts = [known[part] or part for part in size.split("*")] if isinstance(size, str) else [size]
            fixed = math.prod(part for part in parts if isinstance(part, int))
            free = [part for part in parts if isinstance(part, str)]
            sizes.append("*".join(free) if free else fixed)
        return tuple(sizes)

    @cached_property
    def opset(self) -> int:
        return max((entry.version for entry in self.proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)

    @cached_property
    def recurrent(self) -> list[Recurrent]:
        """All recurrent nodes, those of bodies too."""
        found = []
        for node in self.nodes:
            kind = "LSTM" if node.operator == LSTM_INT8 else node.operator
            if kind in GATES:
                found.append(Recurrent(node, GATES[kind], ("h", "c") if kind == "LSTM" else ("h",)))
        return found

    def shape(self, name: str) -> Shape | None:
        """What is known of a value's shape without running anything."""
        if name in self.weights:
            return self.weights[name].shape
        return self._inferred[1].get(name)

    def dtype(self, name: str) -> int:
        """The type of a value, as in `onnx.TensorProto.DataType`; 0 where it is not known."""
        return self.weights[name].dtype if name in self.weights else self._inferred[0].get(name, 0)

    @cached_property
    def _inferred(self) -> tuple[dict[str, int], dict[str, Shape]]:
        named = onnx.ModelProto()
        named.CopyFrom(self.proto)
        for value in named.graph.input:
            for axis, size in enumerate(value.type.tensor_type.shape.dim):
                if size.dim_value <= 0 and not size.dim_param:
                    size.dim_param = unnamed(value.name, axis)
        try:
            inferred = onnx.shape_inference.infer_shapes(named, data_prop=True)
        except Exception:  # a model that contradicts itself: then only what it declares is known
            inferred = named
        values = [_value(info) for info in _infos(inferred.graph)]
        return (
            {value.name: value.dtype for value in values},
            {value.name: value.shape for value in values if value.shape is not None},
        )

    def maker(self, name: str) -> Node | None:
        """The node that computes a value."""
        return self._makers.get(name)

    def readers(self, name: str) -> list[Node]:
        return self._readers.get(name, [])

    def reach(self, name: str) -> frozenset[str]:
        """The inputs whose values a value is computed from. Their sizes do not count."""
        return self._reach.get(name, frozenset())

    def is_constant(self, name: str) -> bool:
        """Whether a value is the same whatever the model is given, but perhaps for its size."""
        return not self.reach(name)

    def views(self, name: str, *, joined: bool = False) -> set[str]:
        """The values that a value is a view of, itself among them; `joined`: or is put together of."""
        found, left = {name}, [name]
        while left:
            one = left.pop()
            node = self.maker(one)
            parts = self._views.get(one, [])
            if node is not None and (joined or node.operator != "Concat"):
                new = [part for part in parts if part and part not in found]
                found.update(new)
                left += new
        return found

    def inputs_seen_as(self, name: str) -> list[str]:
        """The inputs that a value is a view of."""
        return [one for one in self.views(name) if one in self.inputs]

    def outputs_that_show(self, name: str) -> list[str]:
        """The outputs that are a view of a value, or have it as a part."""
        return [output for output, seen in self._shown.items() if name and name in seen]

    @cached_property
    def _shown(self) -> dict[str, set[str]]:
        return {output: self.views(output, joined=True) for output in self.outputs}

    def _walk(self, graph: onnx.GraphProto, around: tuple[str, ...]) -> None:
        for proto in graph.node:
            node = node_of(proto, around)
            self.nodes.append(node)
            inner = [body for attribute in proto.attribute for body in bodies(attribute)]
            for body in inner:
                for value in body.input:  # any of them may come to depend on all that goes in: a loop hands its states on
                    self._reach[value.name] = self._reached(node.inputs)
                self._walk(body, (*around, node.operator))
            for name in filter(None, node.inputs):
                self._readers[name].append(node)
            skipped = 1 if node.operator == "Loop" else 0  # its condition, which the node itself does not give
            for place, name in enumerate(node.outputs):
                if not name:
                    continue
                given = [body.output[place + skipped].name for body in inner if place + skipped < len(body.output)]
                self._makers[name] = node
                self._reach[name] = self._reached(() if node.operator in ("Shape", "Size") else (*node.inputs, *given))
                if node.operator in _VIEWS:
                    self._views[name] = [node.input(0)]
                elif node.operator in ("Concat", "If"):
                    self._views[name] = given if inner else list(node.inputs)

    def _reached(self, names: Iterable[str]) -> frozenset[str]:
        return frozenset[str]().union(*(self._reach.get(name, frozenset()) for name in names))


def unnamed(name: str, axis: int) -> str:
    """The symbol of an axis whose size nobody named."""
    return f"{name}[{axis}]"


def _value(info: onnx.ValueInfoProto) -> Value:
    tensor = info.type.tensor_type
    if not info.type.HasField("tensor_type"):
        return Value(info.name, 0, None)
    if not tensor.HasField("shape"):
        return Value(info.name, tensor.elem_type, None)
    sizes = [
        size.dim_value if size.dim_value > 0 else size.dim_param or unnamed(info.name, axis)  # some write 0 or -1 for any
        for axis, size in enumerate(tensor.shape.dim)
    ]
    return Value(info.name, tensor.elem_type, tuple(sizes))


def _infos(graph: onnx.GraphProto) -> Iterable[onnx.ValueInfoProto]:
    for node in graph.node:
        for attribute in node.attribute:
            for body in bodies(attribute):
                yield from _infos(body)
    yield from (*graph.value_info, *graph.input, *graph.output)
