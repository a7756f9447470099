"""F20: a small file that asks for much: memory, time, or a look at each of millions of things."""

import json
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Final

import numpy as np
from tests.faults.harness import Fault, Limits, Tally, WrongAnswerError, attempt
from tests.faults.hostile import stored, unsigned, use, with_nodes
from tests.runtime import handmade
from tests.runtime import protobuf_writer as pb

from rnnx_runtime import load
from rnnx_runtime.artifact import MANIFEST_KEY, open_artifact, seal

LIMITS: Final = Limits(seconds=10)
SECONDS: Final = 0.05
SECONDS_PER_MB: Final = 0.1  # of a file: each byte of it may be a field
ROOM: Final = 50 << 20  # bytes
FILES: Final = 4  # times the size of the file, besides

Make = Callable[[], bytes]


def _node(operator: str, inputs: list[str], *weights: bytes, attributes: tuple[bytes, ...] = ()) -> Make:
    return lambda: with_nodes(pb.node(operator, inputs, ["z"], attributes), weights=weights)


def _whole(name: str, *numbers: int) -> bytes:
    return stored(name, np.array([unsigned(number) for number in numbers], np.uint64).view(np.int64), 7)


def _doubling(begin: str, times: int, operator: str = "Concat") -> bytes:
    names = [begin, *(f"v{place}" for place in range(times))]
    attributes = [pb.integer("axis", 0)] * (operator == "Concat")
    nodes = [pb.node(operator, [one, one], [then], attributes) for one, then in pairwise(names)]
    return with_nodes(*nodes, weights=[stored("w", np.ones(64))], answer=names[-1])


def _outer(times: int) -> bytes:
    """Each value is the table of all sums of two of the one before."""
    names, nodes = ["w", *(f"v{place}" for place in range(times))], []
    for place, (one, then) in enumerate(pairwise(names)):
        nodes += [
            pb.node("Reshape", [one, "column"], [f"c{place}"]),
            pb.node("Reshape", [one, "row"], [f"r{place}"]),
            pb.node("Add", [f"c{place}", f"r{place}"], [then]),
        ]
    weights = [stored("w", np.ones(64)), _whole("column", -1, 1), _whole("row", 1, -1)]
    return with_nodes(*nodes, weights=weights, answer=names[-1])


def _grown_by_steps(times: int) -> bytes:
    """As many elements as the number of steps to a power: a few for one, without an end for many."""
    names, nodes = ["x1", *(f"v{place}" for place in range(times))], [pb.node("Reshape", ["x", "all"], ["x1"])]
    for place, (one, then) in enumerate(pairwise(names)):
        nodes += [pb.node("Unsqueeze", [one, "last"], [f"c{place}"]), pb.node("Mul", [f"c{place}", "x1"], [then])]
    return with_nodes(*nodes, weights=[_whole("all", -1), _whole("last", -1)], answer=names[-1])


def _scan_of(*sizes: int) -> bytes:
    """A body that is run as often as the first of these says."""
    body = pb.graph(
        [pb.node("Identity", ["before"], ["after"])],
        [pb.value_info("before", ["batch", 2]), pb.value_info("now", list(sizes[1:]))],
        [pb.value_info("after", ["batch", 2])],
    )
    steps = pb.node("ConstantOfShape", ["size"], ["steps"])
    scan = pb.node("Scan", ["h", "steps"], ["z"], [pb.body("body", body), pb.integer("num_scan_inputs", 1)])
    return with_nodes(steps, scan, weights=[_whole("size", *sizes)])


def _multiplied(side: int, times: int) -> bytes:
    names = ["w", *(f"v{place}" for place in range(times))]
    nodes = [pb.node("MatMul", [one, "w"], [then]) for one, then in pairwise(names)]
    return with_nodes(*nodes, weights=[stored("w", np.ones((side, side)))], answer=names[-1])


def _read_often(side: int, times: int) -> bytes:
    """One matrix, packed anew for each node that reads it."""
    nodes = [pb.node("MatMul", ["v", "w"], [f"v{place}"]) for place in range(times)]
    last = pb.node("Sum", [f"v{place}" for place in range(times)], ["z"])
    wide = pb.node("ReduceMax", ["h"], ["h1"], [pb.integer("keepdims", 1)])
    first = pb.node("Expand", ["h1", "size"], ["v"])
    return with_nodes(wide, first, *nodes, last, weights=[stored("w", np.ones((side, side))), _whole("size", 1, side)])


def _recurrent_of_zeros() -> bytes:
    w = pb.node("ConstantOfShape", ["sw"], ["w"])
    r = pb.node("ConstantOfShape", ["sr"], ["r"])
    lstm = pb.node("LSTM", ["x", "w", "r"], ["z"], [pb.integer("hidden_size", 1 << 14)])
    return with_nodes(w, r, lstm, weights=[_whole("sw", 1, 1 << 16, 2), _whole("sr", 1, 1 << 16, 1 << 14)])


def _fields(of: Callable[[bytes], bytes], megabytes: float) -> bytes:
    """A file of fields of two bytes, in one of its messages."""
    return of(pb.field(3, 0) * int(megabytes * 2**19))


def _nested(depth: int) -> bytes:
    body = handmade.step_body()
    for _ in range(depth):
        body = handmade.step_body(pb.node("If", ["before"], ["after", "answer"], [pb.body("then_branch", body)]))
    return handmade.running_sum(handmade.running_sum_graph(handmade.scan(body=body)))


def _with_metadata(text: str) -> bytes:
    return seal(pb.model(handmade.running_sum_graph(), pb.metadata(MANIFEST_KEY, text)))


def _said(**change: object) -> bytes:
    text = open_artifact(handmade.running_sum()).graph.metadata[MANIFEST_KEY]
    return _with_metadata(json.dumps(json.loads(text) | change))


def _symbols(count: int) -> str:
    """So many characters, "~" the last."""
    places = (place for place in range(0x80, 0x80 + count + 0x800) if not 0xD800 <= place < 0xE000)
    return "".join(map(chr, list(places)[: count - 1])) + "~"


REFUSED: Final[dict[str, Make]] = {
    # known to take ONNX Runtime's memory, or never to end
    "ConstantOfShape of 2 GB": _node("ConstantOfShape", ["size"], _whole("size", 1 << 29)),
    "ConstantOfShape of 1 TB": _node("ConstantOfShape", ["size"], _whole("size", 1 << 38)),
    "Concat that doubles": partial(_doubling, "w", 26),
    "Loop of 2^62": _node("Loop", ["n"], _whole("n", 1 << 62), attributes=(pb.body("body", handmade.step_body()),)),
    "Expand of 1 TB": _node("Expand", ["w", "size"], stored("w", np.ones(1)), _whole("size", 1 << 38)),
    "LSTM of weights that are made": _recurrent_of_zeros,
    "a weight of 2^65": lambda: with_nodes(
        pb.node("Add", ["x", "w"], ["z"]), weights=[pb.tensor("w", [1 << 32, 1 << 33], bytes(8))]
    ),
    # the same of what is given, and of other operators
    "Concat of an input that doubles": partial(_doubling, "x", 30),
    "Expand of an input": _node("Expand", ["x", "size"], _whole("size", 1 << 26, 1, 1, 2)),
    "Tile of an input": _node("Tile", ["x", "times"], _whole("times", 1 << 20, 1 << 10, 1)),
    "Range without an end": _node("Range", ["a", "b", "c"], *(stored(name, n, 7) for name, n in zip("abc", (0, 1 << 40, 1), strict=True))),
    "OneHot of 2^34": lambda: with_nodes(
        pb.node("Cast", ["x"], ["i"], [pb.integer("to", 7)]),
        pb.node("OneHot", ["i", "depth", "values"], ["z"]),
        weights=[stored("depth", 1 << 34, 7), stored("values", np.ones(2))],
    ),
    "Pad of an input": _node("Pad", ["x", "pads"], _whole("pads", 0, 0, 0, 1 << 30, 0, 0)),
    "tables of tables": partial(_outer, 4),
    "Einsum of all with all": _node(
        "Einsum", ["w"] * 6, stored("w", np.ones(64)),
        attributes=(pb.field(1, "equation") + pb.field(4, "a,b,c,d,e,f->abcdef") + pb.field(20, 3),),
    ),
    "a window beyond all": lambda: with_nodes(
        pb.node("Reshape", ["x", "of_4"], ["x4"]),
        pb.node(
            "AveragePool",
            ["x4"],
            ["z"],
            [
                pb.field(1, "kernel_shape") + pb.fields(8, [1, 1]) + pb.field(20, 7),
                pb.field(1, "pads") + pb.fields(8, [1 << 14] * 4) + pb.field(20, 7),
            ],
        ),
        weights=[_whole("of_4", 1, 1, -1, 2)],
    ),
    "strides of a transposed convolution": lambda: with_nodes(
        pb.node("Reshape", ["h", "of_4"], ["h4"]),
        pb.node("ConvTranspose", ["h4", "w"], ["z"], [pb.field(1, "strides") + pb.fields(8, [1 << 15] * 2) + pb.field(20, 7)]),
        weights=[_whole("of_4", 1, 1, -1, 2), stored("w", np.ones((1, 1, 2, 2)))],
    ),
    "as large as a value of an input": lambda: with_nodes(
        pb.node("ReduceMax", ["x"], ["largest"], [pb.integer("keepdims", 0)]),
        pb.node("Cast", ["largest"], ["n"], [pb.integer("to", 7)]),
        pb.node("Reshape", ["n", "of_1"], ["size"]),
        pb.node("ConstantOfShape", ["size"], ["z"]),
        weights=[_whole("of_1", 1)],
    ),
    "steps to the fifth": partial(_grown_by_steps, 4),
    "a scan of 2^40 steps of nothing": partial(_scan_of, 1 << 40, 0),
    "a scan of 2^22 steps": partial(_scan_of, 1 << 22, 1),
    "products of weights": partial(_multiplied, 512, 64),
    "a weight that is packed 4,000 times": partial(_read_often, 128, 4000),
    # many small things
    "two million fields in the model": lambda: _fields(lambda many: handmade.running_sum(None, many), 4),
    "two million fields in a node": lambda: _fields(
        lambda many: handmade.running_sum(handmade.running_sum_graph(handmade.scan() + many)), 4
    ),
    "two million sizes of a weight": lambda: with_nodes(
        pb.node("Add", ["x", "w"], ["z"]), weights=[pb.field(1, bytes([1]) * (1 << 21)) + pb.field(2, 1) + pb.field(8, "w")]
    ),
    "a million axes": _node(
        "Transpose", ["x"], attributes=(pb.field(1, "perm") + pb.field(8, bytes(1 << 20)) + pb.field(20, 7),)
    ),
    "twenty thousand nodes": lambda: with_nodes(*[pb.node("Identity", ["x"], [""])] * 20_000, pb.node("Identity", ["x"], ["z"])),
    "graphs in each other, 200 deep": partial(_nested, 200),
    "a hundred thousand entries": lambda: handmade.running_sum(None, *[pb.metadata(str(n), "") for n in range(100_000)]),
    # the manifest
    "a manifest of 8 MB that is none": lambda: _with_metadata('{"format_version": 1, "name": "' + "x" * (8 << 20)),
    "a manifest that nests a million times": lambda: _with_metadata('{"format_version": 1, "name": ' + "[" * (1 << 20)),
    "a manifest of a million inputs": lambda: _said(
        inputs=[{"name": "x", "dtype": "float32", "shape": ["batch", 2], "role": "values"}] * 20_000
    ),
    "a vocabulary of a million, one of it twice": lambda: _said(codec={"kind": "char", "vocabulary": _symbols(1_000_000) + "~"}),
    "an input of 2^31": lambda: _said(inputs=[{"name": "x", "dtype": "float32", "shape": ["seq_len", "batch", 1 << 31], "role": "values"}]),
}  # fmt: skip


def _large(nodes: int) -> bytes:
    names = ["x", *(f"v{place}" for place in range(nodes))]
    chain = [pb.node("Tanh", [one], [then]) for one, then in pairwise(names)]
    return with_nodes(*chain, answer=names[-1])


def run(count: int, seed: int) -> Tally:
    del seed
    tally, most = Tally(), 0
    tally.add("a thousand nodes, which are no bomb", attempt(partial(use, _large(1000)), LIMITS), ["correct"])
    for name, make in list(REFUSED.items())[: count - 1]:
        data = make()
        outcome = attempt(partial(_open, data), LIMITS)
        tally.add(name, outcome, ["error"])
        most = max(most, outcome.peak - FILES * len(data))
        tally.require(outcome.peak <= ROOM + FILES * len(data), f"{name}: +{outcome.peak >> 20} MB for {len(data)} bytes")
    tally.figures["memory besides four times the file's"] = f"+{max(0, most) >> 20} MB"
    return tally


def _open(data: bytes) -> None:
    """Raises WrongAnswerError where it takes too much time: of the processor, for others may be at work."""
    allowed, began = SECONDS + SECONDS_PER_MB * len(data) / 2**20, time.process_time()
    try:
        load(data)
    finally:
        taken = time.process_time() - began
        if taken > allowed:
            raise WrongAnswerError(f"it takes {taken * 1e3:.0f} ms, more than {allowed * 1e3:.0f} ms")


FAULT: Final = Fault(
    "F20",
    "resource bombs",
    f"Each is refused within {SECONDS * 1e3:.0f} ms and {SECONDS_PER_MB * 1e3:.0f} ms per MB of the file of a processor's time, and takes less than {ROOM >> 20} MB "
    f"besides {FILES} times the file's size.",
    full=len(REFUSED) + 1,
    reduced=len(REFUSED) + 1,
    run=run,
)
