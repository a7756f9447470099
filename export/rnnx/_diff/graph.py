"""The graphs of two files: operators, what is set on them, and how they are wired."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import onnx
from onnx import AttributeProto

from rnnx._diff.files import OnnxFile
from rnnx._diff.weights import Pair, bodies, body_prefix, is_constant

_SHOWN: Final = 5


@dataclass(frozen=True)
class GraphDifference:
    """What differs between two graphs, the second graph and the bodies included.

    Attributes:
        added, removed: operators, and how many more of them b, or a, has.
        opsets: by domain, those of a and of b, where they differ.
        settings: attributes that differ, where both have the same operators in the same order.
        rewired: the first node that reads something else, where all else is the same; None where there is none.
    """

    nodes: tuple[int, int]
    added: Mapping[str, int]
    removed: Mapping[str, int]
    opsets: Mapping[str, tuple[int | None, int | None]]
    settings: tuple[str, ...]
    rewired: str | None

    @property
    def same(self) -> bool:
        return not (self.added or self.removed or self.opsets or self.settings or self.rewired)


@dataclass(frozen=True)
class _Node:
    label: str
    operator: str
    settings: Mapping[str, str]
    identity: str  # the same for nodes that compute the same from the same


@dataclass
class _Walk:
    """Walks one graph. Each value has an identity: what it is computed by, from which inputs and weights."""

    file: OnnxFile
    weights: Mapping[str, str]
    nodes: list[_Node] = field(default_factory=list)
    depth: int = 0  # of the body that is being walked

    def graph(self, graph: onnx.GraphProto, around: Mapping[str, str], prefix: str) -> list[str]:
        """The identities of the graph's outputs."""
        known = dict(around)
        stored = [*(tensor.name for tensor in graph.initializer), *(t.values.name for t in graph.sparse_initializer)]
        known |= {name: self.weights[prefix + name] for name in stored}
        for node in graph.node:
            self.node(node, known, prefix)
        return [known.get(output.name, output.name) for output in graph.output]

    def node(self, node: onnx.NodeProto, known: dict[str, str], prefix: str) -> None:
        operator = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
        if is_constant(node):
            known[node.output[0]] = self.weights[prefix + node.output[0]]
            return
        place = len(self.nodes)
        settings = {attribute.name: _setting(self.file, attribute) for attribute in node.attribute if not bodies(attribute)}
        inner = []
        for attribute in sorted(node.attribute, key=lambda attribute: attribute.name):
            for number, body in enumerate(bodies(attribute)):
                self.depth += 1
                given = {value.name: f"{attribute.name} {self.depth} {i}" for i, value in enumerate(body.input)}
                inner.append(self.graph(body, known | given, body_prefix(prefix, node, attribute, number)))
                self.depth -= 1
        reads = [known.get(name, name) for name in node.input]
        identity = _digest(operator, sorted(settings.items()), reads, inner)
        self.nodes.insert(place, _Node(node.name or next(iter(node.output), operator), operator, settings, identity))
        known.update((name, f"{identity} {i}") for i, name in enumerate(node.output) if name)


def compare_graphs(
    a: OnnxFile, b: OnnxFile, pairs: Iterable[Pair], inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> GraphDifference:
    """What differs; `inputs` and `outputs` say what those of b are called in a."""
    of_a, of_b = _identities(pairs)
    nodes_a, ends_a = _walk(a, of_a, {}, {})
    nodes_b, ends_b = _walk(b, of_b, inputs, outputs)
    count_a, count_b = Counter(node.operator for node in nodes_a), Counter(node.operator for node in nodes_b)
    settings: list[str] = []
    rewired = None
    if [node.operator for node in nodes_a] == [node.operator for node in nodes_b]:
        settings = [
            f"{one.label} {name} {one.settings.get(name, 'not set')} → {two.settings.get(name, 'not set')}"
            for one, two in zip(nodes_a, nodes_b, strict=True)
            for name in sorted({*one.settings, *two.settings})
            if one.settings.get(name) != two.settings.get(name)
        ]
    if not settings and count_a == count_b and ends_a != ends_b:
        others = {node.identity for node in nodes_a}
        rewired = next((node.label for node in nodes_b if node.identity not in others), "an output of the graph")
    elif _functions(a) != _functions(b):
        rewired = "a function of the file's own"
    return GraphDifference(
        nodes=(len(nodes_a), len(nodes_b)),
        added=dict(count_b - count_a),
        removed=dict(count_a - count_b),
        opsets={
            domain or "ai.onnx": (one, two)
            for domain in sorted({*_opsets(a), *_opsets(b)})
            if (one := _opsets(a).get(domain)) != (two := _opsets(b).get(domain))
        },
        settings=tuple(settings),
        rewired=rewired,
    )


def _identities(pairs: Iterable[Pair]) -> tuple[dict[str, str], dict[str, str]]:
    """What the weights of each side are for the other: the same where they are a pair, whatever their values."""
    of_a, of_b = {}, {}
    for number, (one, two) in enumerate(pairs):
        # By values where they are the same: which of several equal constants is meant does not matter.
        identity = one.digest if one is not None and two is not None and one.digest == two.digest else f"weight {number}"
        if one is not None:
            of_a[one.name] = identity if two is not None else f"a {number}"
        if two is not None:
            of_b[two.name] = identity
    return of_a, of_b


def _walk(
    file: OnnxFile, weights: Mapping[str, str], inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> tuple[list[_Node], dict[str, str]]:
    walk = _Walk(file, weights)
    ends: dict[str, str] = {}
    for prefix, model in (("", file.model), ("initial/", file.initial)):
        if model is not None:
            known = {value.name: f"input {prefix}{inputs.get(value.name, value.name)}" for value in model.graph.input}
            found = walk.graph(model.graph, known, prefix)
            names = [prefix + outputs.get(value.name, value.name) for value in model.graph.output]
            ends |= dict(zip(names, found, strict=True))
    return walk.nodes, ends


def _setting(file: OnnxFile, attribute: AttributeProto) -> str:
    """The value of an attribute, short."""
    if attribute.type == AttributeProto.TENSOR:
        array = file.array(attribute.t)
        shown = array.tolist() if array.size <= _SHOWN else f"{list(array.shape)} sha256 {_digest(array.tobytes())[:12]}"
        return f"{array.dtype} {shown}"
    value = onnx.helper.get_attribute_value(attribute)
    values = value if isinstance(value, list) else [value]
    if attribute.type in (AttributeProto.FLOAT, AttributeProto.FLOATS):
        words = [str(np.float32(number)) for number in values]  # the shortest that gives these bits
    elif attribute.type in (AttributeProto.STRING, AttributeProto.STRINGS):
        words = [text.decode(errors="replace") for text in values]
    elif attribute.type in (AttributeProto.INT, AttributeProto.INTS):
        words = [str(number) for number in values]
    else:
        words = [f"sha256 {_digest(one.SerializeToString(deterministic=True))[:12]}" for one in values]
    return f"[{', '.join(words)}]" if isinstance(value, list) else words[0]


def _functions(file: OnnxFile) -> list[bytes]:
    """Functions of the file's own, which are not looked into."""
    return [function.SerializeToString(deterministic=True) for function in file.model.functions]


def _opsets(file: OnnxFile) -> dict[str, int]:
    return {"" if opset.domain == "ai.onnx" else opset.domain: opset.version for opset in file.model.opset_import}


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
