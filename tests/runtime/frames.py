"""Artifacts as others publish graphs: a frame per call, frozen sizes, no axis for rows. Made by hand, with their answers.

All but one hold the same small network, `h.next = tanh(x @ Wx + h @ Wh)` and `y = h.next @ Wy`, with 3 features, 4 hidden
values and 2 answers; `without_rows` answers with one number, and `of_three` is a running sum over dynamic time.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.runtime import handmade
from tests.runtime import protobuf_writer as pb

from rnnx_runtime.artifact import (
    MANIFEST_KEY,
    Array,
    Dimension,
    GoldenTrace,
    Input,
    Manifest,
    OneHotCodec,
    Output,
    Provenance,
    StateSpec,
    Zeros,
    seal,
)

Values = NDArray[Any]
Shape = tuple[Dimension, ...]

STEPS = 4  # of a golden trace

_random = np.random.default_rng(7)
WX, WH, WY = (_random.standard_normal(shape).astype(np.float32) for shape in ((3, 4), (4, 4), (4, 2)))
_NODES = [
    pb.node("MatMul", ["x", "wx"], ["a"]),
    pb.node("MatMul", ["h", "wh"], ["b"]),
    pb.node("Add", ["a", "b"], ["c"]),
    pb.node("Tanh", ["c"], ["h.next"]),
    pb.node("MatMul", ["h.next", "wy"], ["y"]),
]


@dataclass(frozen=True)
class Style:
    """One way to lay a graph out, as its manifest says and as it declares itself where `sizes` stand for symbols."""

    x: Shape
    h: Shape | None
    y: Shape
    batch_axis: int | None = 0
    fixed_batch: int | None = None
    one_step: bool = True
    inner: tuple[int, ...] = (2,)

    @property
    def batches(self) -> tuple[int, ...]:
        return (1, 2, 5) if self.fixed_batch is None else (self.fixed_batch,)

    def declared(self, shape: Shape) -> list[int | str]:
        """The graph's own declaration: every size fixed that can only be one."""
        sizes: dict[Dimension, Dimension] = {"seq_len": 1} if self.one_step else {}
        if self.fixed_batch is not None:
            sizes |= {"batch": self.fixed_batch, "batch*seq_len": self.fixed_batch}
        return [sizes.get(size, size) for size in shape]

    def answers(self, x: Values, h: Values) -> tuple[Values, Values]:
        """The network in plain numpy: `(B, T, F)` and a state `(B, H)` → `(B, T, ...)` and the next state."""
        ys = []
        for step in range(x.shape[1]):
            if self is STYLES["of_three"]:
                h = h + x[:, step]
                ys.append(h)
                continue
            h = np.tanh(x[:, step] @ WX + (0 if self.h is None else h @ WH))
            ys.append(h @ (WY[:, 0] if self.inner == () else WY))
        return np.stack(ys, axis=1), h

    def start(self, batch: int, seed: int | None = None) -> Values:
        """A state as `answers` takes it: zeros, or random."""
        shape = (batch, 2 if self is STYLES["of_three"] else 4)
        return (
            np.zeros(shape, np.float32) if seed is None else np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        )

    def states(self, h: Values) -> dict[str, Values]:
        """The same state as the graph has it."""
        if self.h is None:
            return {}
        return {"h": h.reshape([len(h) if size == "batch" else size for size in self.h])}  # a 1 in front, or no axis at all

    def sample(self, batch: int, steps: int, seed: int = 0) -> Values:
        """A chunk `(B, T, F)`."""
        features = 2 if self is STYLES["of_three"] else 3
        return np.random.default_rng(seed).standard_normal((batch, steps, features)).astype(np.float32)


STYLES = {
    "frame": Style(("batch", 3), ("batch", 4), ("batch", 2)),
    "flattened": Style(("batch*seq_len", 3), ("batch", 4), ("batch*seq_len", 2)),
    "frozen": Style(("batch", "seq_len", 3), (1, "batch", 4), ("batch", "seq_len", 2), batch_axis=1, fixed_batch=1),
    "time_major": Style(("seq_len", "batch", 3), (1, "batch", 4), ("seq_len", "batch", 2), batch_axis=1, fixed_batch=1),
    "without_rows": Style((3,), (4,), (), batch_axis=None, fixed_batch=1, inner=()),
    "stateless": Style(("batch", 3), None, ("batch", 2)),
    "of_three_frames": Style(("batch", 3), ("batch", 4), ("batch", 2), fixed_batch=3),
    "of_three": Style(("seq_len", "batch", 2), ("batch", 2), ("seq_len", "batch", 2), fixed_batch=3, one_step=False),
}


def golden_trace(style: Style, steps: int = STEPS) -> GoldenTrace:
    """Random steps from a random state, as plain numpy answers them."""
    batch = style.fixed_batch or 2
    x, h = style.sample(batch, steps, seed=1), style.start(batch, seed=2)
    y, following = style.answers(x, h)
    time_major = style.x[0] == "seq_len"
    inputs, outputs = (array.swapaxes(0, 1) if time_major else array for array in (x, y))
    return GoldenTrace(
        inputs={"x": Array.of(inputs)},
        states={name: Array.of(array) for name, array in style.states(h).items()},
        outputs={"y": Array.of(outputs)},
        next_states={name: Array.of(array) for name, array in style.states(following).items()},
    )


def manifest(name: str, **changes: Any) -> Manifest:
    """What the artifact of a style says of itself."""
    style = STYLES[name]
    spec = StateSpec(
        name="h",
        input="h",
        output="h.next",
        dtype="float32",
        shape=style.h or (),
        batch_axis=style.batch_axis if style.h else None,
        init=Zeros(),
    )
    said: dict[str, Any] = {
        "format_version": 1,
        "name": name,
        "inputs": (Input(name="x", dtype="float32", shape=style.x, role="values"),),
        "outputs": (Output(name="y", dtype="float32", shape=style.y, role="values"),),
        "states": (spec,) if style.h else (),
        "streamable": True,
        "lowering": "adopted",
        "precision": "float32",
        "provenance": Provenance(module="none", weights_sha256="0" * 64, versions={}),
        "golden": golden_trace(style),
        "fixed_batch": style.fixed_batch,
        "one_step": style.one_step,
    }
    return Manifest(**said | changes)


def graph(name: str) -> bytes:
    """The graph of a style."""
    style = STYLES[name]
    inputs = [pb.value_info("x", style.declared(style.x))]
    outputs = [pb.value_info("y", style.declared(style.y))]
    if style.h is not None:
        inputs.insert(0, pb.value_info("h", style.declared(style.h)))  # names must tell, not positions
        outputs.insert(0, pb.value_info("h.next", style.declared(style.h)))
    if name == "of_three":
        body = pb.graph(
            [pb.node("Add", ["before", "now"], ["after"]), pb.node("Identity", ["after"], ["answer"])],
            [pb.value_info("before", [3, 2]), pb.value_info("now", [3, 2])],
            [pb.value_info("after", [3, 2]), pb.value_info("answer", [3, 2])],
        )
        return pb.graph([handmade.scan(body=body)], inputs, outputs)
    nodes = _NODES
    if style.h is None:
        nodes = [_NODES[0], pb.node("Tanh", ["a"], ["b"]), pb.node("MatMul", ["b", "wy"], ["y"])]
    wy = WY[:, 0] if style.inner == () else WY
    weights = [pb.tensor(key, array.shape, array.tobytes()) for key, array in (("wx", WX), ("wh", WH), ("wy", wy))]
    return pb.graph(nodes, inputs, outputs, weights=weights)


def artifact(name: str, **changes: Any) -> bytes:
    """The artifact of a style, with a manifest that says something else where the caller likes."""
    return seal(pb.model(graph(name), pb.metadata(MANIFEST_KEY, manifest(name, **changes).encode())))


def with_golden(name: str, **changes: Any) -> bytes:
    """The artifact of a style with something else in its golden trace."""
    trace = golden_trace(STYLES[name])
    return artifact(name, golden=GoldenTrace(**{key: getattr(trace, key) for key in trace.__struct_fields__} | changes))


def _number(name: str) -> StateSpec:
    return StateSpec(name=name, input=name, output=f"{name}.next", dtype="float32", shape=(), batch_axis=None, init=Zeros())


def scaled() -> bytes:
    """Two inputs, a frame `(3,)` and a number, whose sum so far is the state; the answer is their product."""
    x = Input(name="x", dtype="float32", shape=(3,), role="values")
    scale = Input(name="scale", dtype="float32", shape=(), role="values")
    said = manifest(
        "without_rows",
        inputs=(x, scale),
        outputs=(Output(name="y", dtype="float32", shape=(3,), role="values"),),
        states=(_number("total"),),
    )
    nodes = [pb.node("Mul", ["x", "scale"], ["y"]), pb.node("Add", ["total", "scale"], ["total.next"])]
    inputs = [pb.value_info("scale", []), pb.value_info("x", [3]), pb.value_info("total", [])]
    outputs = [pb.value_info("y", [3]), pb.value_info("total.next", [])]
    return seal(pb.model(pb.graph(nodes, inputs, outputs), pb.metadata(MANIFEST_KEY, said.encode())))


def one_hot() -> bytes:
    """One row and one step of one-hot text over "ab": the answer is what came last; the state counts."""
    x = Input(name="x", dtype="float32", shape=("batch", "seq_len", 2), role="values")
    said = manifest(
        "frozen",
        inputs=(x,),
        outputs=(Output(name="y", dtype="float32", shape=("batch", "seq_len", 2), role="logits"),),
        states=(_number("count"),),
        codec=OneHotCodec(vocabulary="ab"),
    )
    nodes = [pb.node("Identity", ["x"], ["y"]), pb.node("ReduceSum", ["x"], ["s"], [pb.integer("keepdims", 0)])]
    nodes += [pb.node("Add", ["count", "s"], ["count.next"])]
    inputs = [pb.value_info("x", [1, 1, 2]), pb.value_info("count", [])]
    outputs = [pb.value_info("y", [1, 1, 2]), pb.value_info("count.next", [])]
    return seal(pb.model(pb.graph(nodes, inputs, outputs), pb.metadata(MANIFEST_KEY, said.encode())))
