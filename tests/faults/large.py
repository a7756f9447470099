"""An artifact whose calls take long, made by hand: one LSTM, as wide as a family needs."""

import numpy as np
from tests.runtime import protobuf_writer as pb

from rnnx_runtime.artifact import (
    MANIFEST_KEY,
    Array,
    GoldenTrace,
    Input,
    Manifest,
    Output,
    Provenance,
    StateSpec,
    Zeros,
    seal,
)

FEATURES = 8


def lstm(hidden: int, seed: int = 0) -> bytes:
    """`(T, B, 8)` values, time-major, to the hidden values of each step, `(T, 1, B, H)`; random weights."""
    chance, scale = np.random.default_rng(seed), hidden**-0.5
    shapes = {"w": (1, 4 * hidden, FEATURES), "r": (1, 4 * hidden, hidden)}
    weights = {name: chance.uniform(-scale, scale, shape).astype(np.float32) for name, shape in shapes.items()}
    inputs = {"x": ("seq_len", "batch", FEATURES), "h": (1, "batch", hidden), "c": (1, "batch", hidden)}
    outputs = {"y": ("seq_len", "batch", hidden), "h.next": inputs["h"], "c.next": inputs["c"]}
    node = pb.node("LSTM", ["x", "w", "r", "", "", "h", "c"], ["all", "h.next", "c.next"], [pb.integer("hidden_size", hidden)])
    axes = pb.fields(1, [1]) + pb.field(2, pb.INT64) + pb.field(8, "one") + pb.field(9, (1).to_bytes(8, "little"))
    graph = pb.graph(
        [node, pb.node("Squeeze", ["all", "one"], ["y"])],
        [pb.value_info(name, shape) for name, shape in inputs.items()],
        [pb.value_info(name, shape) for name, shape in outputs.items()],
        weights=[*(pb.tensor(name, array.shape, array.tobytes()) for name, array in weights.items()), axes],
    )
    state = {"dtype": "float32", "shape": inputs["h"], "batch_axis": 1, "init": Zeros()}
    manifest = Manifest(
        format_version=1,
        name="large",
        inputs=(Input(name="x", dtype="float32", shape=inputs["x"], role="values"),),
        outputs=(Output(name="y", dtype="float32", shape=outputs["y"], role="values"),),
        states=tuple(StateSpec(name=name, input=name, output=f"{name}.next", **state) for name in ("h", "c")),
        streamable=True,
        lowering="recurrent",
        precision="float32",
        provenance=Provenance(module="none", weights_sha256="0" * 64, versions={}),
        golden=GoldenTrace(
            inputs={"x": Array(dtype="float32", shape=(0, 1, FEATURES), data=b"")}, states={}, outputs={}, next_states={}
        ),
    )
    return seal(pb.model(graph, pb.metadata(MANIFEST_KEY, manifest.encode())))
