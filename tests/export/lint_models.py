"""ONNX models with one thing wrong each, as others make them, for the linter to find."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
FLOAT = TensorProto.FLOAT
F, H = 3, 4


def weight(name: str, *shape: int, dtype: Any = np.float32) -> TensorProto:
    draw = np.random.default_rng(len(name) + sum(shape))
    return numpy_helper.from_array((draw.standard_normal(shape) / 2).astype(dtype), name)


def sizes(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def value(name: str, shape: Sequence[int | str | None], dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[TensorProto] = (),
    *,
    opset: int = 18,
    domains: Sequence[str] = (),
) -> ModelProto:
    graph = helper.make_graph(nodes, "net", inputs, outputs, weights)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, producer_name="by hand")


def layer(kind: str = "LSTM", directions: int = 1, dtype: Any = np.float32) -> list[TensorProto]:
    gates = GATES[kind] * H
    return [
        weight("W", directions, gates, F, dtype=dtype),
        weight("R", directions, gates, H, dtype=dtype),
        weight("B", directions, 2 * gates, dtype=dtype),
    ]


def streamed(
    kind: str = "LSTM",
    *,
    batch: int | str = "batch",
    time: int | str = "seq",
    dtype: Any = np.float32,
    directions: int = 1,
    **attributes: Any,
) -> ModelProto:
    """x `(T, B, F)`, states `(D, B, H)` → y `(T, D, B, H)`, next states: nothing is wrong with it as it stands."""
    onnx_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    kinds = ["h", "c"] if kind == "LSTM" else ["h"]
    given = {"hidden_size": H, **({"linear_before_reset": 1} if kind == "GRU" else {}), **attributes}
    node = helper.make_node(
        kind, ["x", "W", "R", "B", "", *(f"{k}0" for k in kinds)], ["y", *(f"{k}n" for k in kinds)], "layer", **given
    )
    return model(
        [node],
        [value("x", [time, batch, F], onnx_type), *(value(f"{k}0", [directions, batch, H], onnx_type) for k in kinds)],
        [
            value("y", [time, directions, batch, H], onnx_type),
            *(value(f"{k}n", [directions, batch, H], onnx_type) for k in kinds),
        ],
        layer(kind, directions, dtype),
    )


def without(made: ModelProto, *names: str) -> ModelProto:
    """Without these inputs and outputs, and what nodes read and give of that name."""
    for values in (made.graph.input, made.graph.output):
        kept = [one for one in values if one.name not in names]
        del values[:]
        values.extend(kept)
    for node in made.graph.node:
        for side in (node.input, node.output):
            kept = ["" if name in names else name for name in side]
            del side[:]
            side.extend(kept)
    return made


def attribute(made: ModelProto, **attributes: Any) -> ModelProto:
    """The first node with these attributes; None takes one away."""
    node = made.graph.node[0]
    kept = [one for one in node.attribute if one.name not in attributes]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(n, v) for n, v in attributes.items() if v is not None)])
    return made


def stored(made: ModelProto, *weights: TensorProto) -> ModelProto:
    """With these weights, which stand in the place of inputs and weights of that name."""
    names = {one.name for one in weights}
    for values in (made.graph.input, made.graph.initializer):
        kept = [one for one in values if one.name not in names]
        del values[:]
        values.extend(kept)
    made.graph.initializer.extend(weights)
    return made


def node_before(made: ModelProto, node: NodeProto) -> ModelProto:
    nodes = [node, *made.graph.node]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def pointwise(*nodes: NodeProto, weights: Sequence[TensorProto] = (), **options: Any) -> ModelProto:
    """x `(B, F)` → y `(B, F)` by nodes that begin at x and end at y."""
    return model(nodes, [value("x", ["batch", F])], [value("y", ["batch", F])], weights, **options)


def layer_then(node: NodeProto, output: onnx.ValueInfoProto, *, instead_of: str = "y") -> ModelProto:
    """A GRU with a node behind it, which may read `all` that the GRU answered, and gives an output in the place of another."""
    made = streamed("GRU")
    if output.name == "y":
        made = without(made, "y")
        made.graph.node[0].output[0] = "all"
    elif instead_of != "y":
        made = without(made, instead_of)
    made.graph.node.append(node)
    made.graph.output.append(output)
    return made


def loop() -> ModelProto:
    """As many turns as x has steps, each adding a step to the state."""
    body = helper.make_graph(
        [
            helper.make_node("Gather", ["x", "turn"], ["now"], axis=0),
            helper.make_node("Add", ["before", "now"], ["after"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [value("turn", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("before", ["batch", F])],
        [value("go_on", [], TensorProto.BOOL), value("after", ["batch", F])],
    )
    nodes = [
        helper.make_node("Shape", ["x"], ["many"], start=0, end=1),
        helper.make_node("Squeeze", ["many"], ["turns"]),
        helper.make_node("Loop", ["turns", "", "h"], ["h.next"], "loop", body=body),
    ]
    return model(nodes, [value("x", ["seq", "batch", F]), value("h", ["batch", F])], [value("h.next", ["batch", F])])


def scan() -> ModelProto:
    body = helper.make_graph(
        [helper.make_node("Add", ["before", "now"], ["after"]), helper.make_node("Identity", ["after"], ["answer"])],
        "body",
        [value("before", ["batch", F]), value("now", ["batch", F])],
        [value("after", ["batch", F]), value("answer", ["batch", F])],
    )
    node = helper.make_node("Scan", ["h", "x"], ["h.next", "y"], "scan", body=body, num_scan_inputs=1)
    inputs = [value("h", ["batch", F]), value("x", ["seq", "batch", F])]
    return model([node], inputs, [value("h.next", ["batch", F]), value("y", ["seq", "batch", F])])


def endless() -> ModelProto:
    """A Loop that does not come to an end."""
    made = loop()
    made.graph.node[2].input[0] = "ever"
    made.graph.initializer.append(numpy_helper.from_array(np.array(1 << 62), "ever"))
    body = made.graph.node[2].attribute[0].g
    body.node[0].CopyFrom(helper.make_node("ReduceSum", ["x"], ["now"], keepdims=0))
    return made


def unrolled(steps: int, time: int | str) -> ModelProto:
    """A cell, taken over time by Python's `for`."""
    nodes = [helper.make_node("MatMul", ["start", "U"], ["u0"])]
    for step in range(steps):
        nodes += [
            helper.make_node("Gather", ["x", f"at{step}"], [f"x{step}"], axis=0),
            helper.make_node("Add", [f"x{step}", f"u{step}"], [f"a{step}"]),
            helper.make_node("Tanh", [f"a{step}"], [f"h{step}"]),
            helper.make_node("MatMul", [f"h{step}", "U"], [f"u{step + 1}"], f"times_{step}"),
        ]
    weights = [numpy_helper.from_array(np.array(step), f"at{step}") for step in range(steps)]
    weights += [weight("U", F, F), numpy_helper.from_array(np.zeros((1, F), np.float32), "start")]
    nodes.append(helper.make_node("Identity", [f"u{steps}"], ["y"]))
    return model(nodes, [value("x", [time, "batch", F])], [value("y", ["batch", F])], weights)


def dropout(training: bool) -> ModelProto:
    made = layer_then(
        helper.make_node("Dropout", ["all", "ratio", "training"], ["y"], "dropout"), value("y", ["seq", 1, "batch", H])
    )
    made.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "ratio"))
    made.graph.initializer.append(numpy_helper.from_array(np.array(training), "training"))
    return made


def quantised_around(kind: str = "GRU") -> ModelProto:
    """A head in eight bits behind a recurrent node in floating point, as ONNX Runtime's quantiser leaves it."""
    made = without(streamed(kind), "y")
    made.graph.node[0].output[0] = "all"
    made.graph.node.extend(
        [
            helper.make_node("DynamicQuantizeLinear", ["all"], ["q", "scale", "zero"], "to_int8"),
            helper.make_node("MatMulInteger", ["q", "head", "zero"], ["sums"]),
            helper.make_node("Cast", ["sums"], ["floats"], to=FLOAT),
            helper.make_node("Mul", ["floats", "scale"], ["y"]),
        ]
    )
    made.graph.initializer.append(numpy_helper.from_array(np.arange(H * 2, dtype=np.uint8).reshape(H, 2), "head"))
    made.graph.output.append(value("y", ["seq", 1, "batch", 2]))
    return made


def convolution_caches(growing: bool = False) -> ModelProto:
    """A frame and the frames before it → an answer and the cache for the next call."""
    size: int | str = "past" if growing else 2
    after: int | str = "total" if growing else 2
    nodes = [
        helper.make_node("Concat", ["conv_cache", "frame"], ["window"], axis=2),
        helper.make_node("ReduceSum", ["window", "axes"], ["out"], keepdims=1),
        helper.make_node("Slice", ["window", "one", "end", "axes"], ["conv_cache_out"])
        if not growing
        else helper.make_node("Identity", ["window"], ["conv_cache_out"]),
    ]
    weights = [sizes("axes", 2)] if growing else [sizes("axes", 2), sizes("one", 1), sizes("end", 1 << 40)]
    return model(
        nodes,
        [value("frame", ["batch", F, 1]), value("conv_cache", ["batch", F, size])],
        [value("out", ["batch", F, 1]), value("conv_cache_out", ["batch", F, after])],
        weights,
    )
