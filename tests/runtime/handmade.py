"""Artifacts made by hand: golden ones changed and sealed again, and a small one whose answers are known exactly."""

import base64
import json
from collections.abc import Callable
from typing import Any

from tests.runtime import protobuf_writer as pb

from rnnx_runtime.artifact import (
    INITIAL_KEY,
    MANIFEST_KEY,
    Array,
    Computed,
    GoldenTrace,
    Input,
    Manifest,
    Output,
    Provenance,
    StateSpec,
    Zeros,
    open_artifact,
    seal,
)

SEAL_SIZE = 81


def sealed_again(data: bytes, *extra: bytes) -> bytes:
    """An artifact with further fields in its ModelProto."""
    return seal(data[:-SEAL_SIZE] + b"".join(extra))


def with_manifest(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """An artifact that says something else of itself."""
    text = open_artifact(data).graph.metadata[MANIFEST_KEY]
    said = json.loads(text)
    change(said)
    old, new = pb.metadata(MANIFEST_KEY, text), pb.metadata(MANIFEST_KEY, json.dumps(said))
    assert data.count(old) == 1
    return seal(data[:-SEAL_SIZE].replace(old, new))


def running_sum_manifest(*further_inputs: Input, conditions: tuple[Input, ...] = ()) -> Manifest:
    """Values `(T, B, 2)`, time-major; the answer of a step is the sum so far, which is also the state."""
    init = Computed() if conditions else Zeros()
    nothing = {"x": Array(dtype="float32", shape=(0, 1, 2), data=b"")}
    return Manifest(
        format_version=1,
        name="running_sum",
        inputs=(Input(name="x", dtype="float32", shape=("seq_len", "batch", 2), role="values"), *further_inputs),
        outputs=(Output(name="y", dtype="float32", shape=("seq_len", "batch", 2), role="values"),),
        states=(
            StateSpec(name="sum", input="h", output="h.next", dtype="float32", shape=("batch", 2), batch_axis=0, init=init),
        ),
        streamable=True,
        lowering="recurrent",
        precision="float32",
        provenance=Provenance(module="none", weights_sha256="0" * 64, versions={}),
        conditions=conditions,
        golden=GoldenTrace(inputs=nothing, states={}, outputs={}, next_states={}),
    )


def step_body(*nodes: bytes) -> bytes:
    """The body of a Scan: adds the step to the sum, and hands both on."""
    add = [pb.node("Add", ["before", "now"], ["after"]), pb.node("Identity", ["after"], ["answer"])]
    return pb.graph(
        nodes or add,
        [pb.value_info("before", ["batch", 2]), pb.value_info("now", ["batch", 2])],
        [pb.value_info("after", ["batch", 2]), pb.value_info("answer", ["batch", 2])],
    )


def scan(answer: str = "y", body: bytes | None = None) -> bytes:
    attributes = [pb.body("body", body or step_body()), pb.integer("num_scan_inputs", 1)]
    return pb.node("Scan", ["h", "x"], ["h.next", answer], attributes)


def running_sum_graph(*nodes: bytes, extra: bytes = b"", weights: tuple[bytes, ...] = ()) -> bytes:
    # States stand first on both sides: names must tell, not positions.
    return pb.graph(
        nodes or [scan()],
        [pb.value_info("h", ["batch", 2]), pb.value_info("x", ["seq_len", "batch", 2])],
        [pb.value_info("h.next", ["batch", 2]), pb.value_info("y", ["seq_len", "batch", 2])],
        extra,
        weights=weights,
    )


def running_sum(the_graph: bytes | None = None, *extra: bytes, ir_version: int = 10, opsets: bytes | None = None) -> bytes:
    """The artifact of `running_sum_manifest`, with as much wrong with it as the caller likes."""
    entry = pb.metadata(MANIFEST_KEY, running_sum_manifest().encode())
    opsets = pb.opset(20) if opsets is None else opsets
    return seal(pb.model(the_graph or running_sum_graph(), *extra, entry, ir_version=ir_version, opsets=opsets))


def with_second_input(operator: str, name: str, shape: tuple[int | str, ...]) -> bytes:
    """A running sum whose answers are combined with a second input: `operator` is Add, Mul, ..."""
    second = Input(name=name, dtype="float32", shape=shape, role="values")
    the_graph = pb.graph(
        [scan("sums"), pb.node(operator, ["sums", name], ["y"])],
        [
            pb.value_info("h", ["batch", 2]),
            pb.value_info(name, shape),
            pb.value_info("x", ["seq_len", "batch", 2]),
        ],
        [pb.value_info("h.next", ["batch", 2]), pb.value_info("y", ["seq_len", "batch", 2])],
    )
    return seal(pb.model(the_graph, pb.metadata(MANIFEST_KEY, running_sum_manifest(second).encode())))


IMAGE = Input(name="image", dtype="float32", shape=("batch", 2), role="values")
SCALE = Input(name="scale", dtype="float32", shape=("batch", 1), role="values")


def doubling(condition: str = "image", state: str = "sum", *nodes: bytes) -> bytes:
    """A second graph: the initial state is twice the condition."""
    return pb.model(
        pb.graph(
            nodes or [pb.node("Add", [condition, condition], [state])],
            [pb.value_info(condition, ["batch", 2])],
            [pb.value_info(state, ["batch", 2])],
        )
    )


def computed_sum(second: bytes | str | None, *conditions: Input) -> bytes:
    """A running sum that starts where `second` says: an ONNX model, the text that stands for it, or nothing at all."""
    manifest = running_sum_manifest(conditions=conditions or (IMAGE,))
    text = base64.b64encode(second).decode() if isinstance(second, bytes) else second
    entries = [] if text is None else [pb.metadata(INITIAL_KEY, text)]
    return seal(pb.model(running_sum_graph(), *entries, pb.metadata(MANIFEST_KEY, manifest.encode())))
