"""F2: graphs that somebody made to do harm, sealed again: the seal fits, so that only the preflight stands before ONNX Runtime."""

import base64
import random
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Final

import numpy as np
from tests.faults.harness import Fault, Limits, Tally, attempt
from tests.faults.hostile import Chance, operator_at_random, stored, unsigned, use, with_nodes
from tests.fuzz.mutations import of_artifact
from tests.runtime import frames, handmade
from tests.runtime import protobuf_writer as pb

from rnnx_runtime._protobuf import Reader
from rnnx_runtime.artifact import MANIFEST_KEY, seal

GOLDEN: Final = Path(__file__).parent.parent / "golden"
LIMITS: Final = Limits(seconds=10)
CAP: Final = 512 << 20  # bytes that a case may take, opening and running
MICROSOFT: Final = pb.opset(20) + pb.opset(1, "com.microsoft")

Make = Callable[[], bytes]


def of_an_operator(chance: Chance) -> bytes:
    """One operator, on inputs of any kind, with any attributes."""
    return operator_at_random(chance)[1]


def of_an_artifact(chance: Chance) -> bytes:
    """An artifact with one to three things changed: fields of its graph at any depth, values of its manifest."""
    data = chance.choice(wholes())[: -handmade.SEAL_SIZE]
    for _ in range(chance.choice((1, 1, 2, 3))):
        data = of_artifact(data, chance)
    return seal(data)


@cache
def wholes() -> list[bytes]:
    """What is changed: artifacts of every kind."""
    made = [path.read_bytes() for path in sorted(GOLDEN.glob("*.onnx"))]
    made += [
        handmade.running_sum(),
        handmade.computed_sum(handmade.doubling()),
        frames.scaled(),
        frames.one_hot(),
        packed(),
        looked_up(),
    ]
    return [*made, *(frames.artifact(name) for name in ("frame", "flattened", "without_rows", "of_three"))]


def packed(columns: int = 2, weights: Mapping[str, bytes] | None = None, **attributes: int) -> bytes:
    """A running sum of `x @ w`, with `w` of four bits in blocks of 16, in the body of a Scan."""
    said = {"K": 2, "N": columns, "bits": 4, "block_size": 16} | attributes
    given = {"q": stored("q", np.full((columns, 1, 8), 0x99), 2), "s": stored("s", np.ones(columns))} | dict(weights or {})
    multiply = pb.node(
        "MatMulNBits", ["now", *given], ["part"], [pb.integer(*one) for one in said.items()], domain="com.microsoft"
    )
    add = [pb.node("Add", ["before", "part"], ["after"]), pb.node("Identity", ["after"], ["answer"])]
    graph = handmade.running_sum_graph(handmade.scan(body=handmade.step_body(multiply, *add)), weights=tuple(given.values()))
    return handmade.running_sum(graph, opsets=MICROSOFT)


def looked_up(**attributes: int) -> bytes:
    """A running sum besides what rows of 16 columns, of four bits, are looked up by `x`."""
    said = {"bits": 4, "block_size": 16, "gather_axis": 0, "quantize_axis": 1} | attributes
    index = [pb.node("Cast", ["x"], ["i"], [pb.integer("to", 7)]), pb.node("Mod", ["i", "three"], ["j"])]
    gather = pb.node(
        "GatherBlockQuantized", ["q", "j", "s"], ["z"], [pb.integer(*one) for one in said.items()], domain="com.microsoft"
    )
    weights = [stored("q", np.full((3, 8), 0x99), 2), stored("s", np.ones((3, 1))), stored("three", 3, 7)]
    return handmade.running_sum(_graph_of(with_nodes(*index, gather, weights=weights)), opsets=MICROSOFT)


def _graph_of(data: bytes) -> bytes:
    """The graph of a file."""
    return next(
        bytes(value) for number, value in Reader().fields(memoryview(data)) if number == 7 and not isinstance(value, int)
    )


def _outside(location: str, *more: tuple[str, str]) -> Make:
    entries = pb.fields(13, [pb.field(1, key) + pb.field(2, text) for key, text in (("location", location), *more)])
    weight = pb.fields(1, [2]) + pb.field(2, 1) + pb.field(8, "w") + entries + pb.field(14, 1)
    return lambda: with_nodes(pb.node("Add", ["x", "w"], ["z"]), weights=[weight])


def _recurrent(
    operator: str, gates: int, *, hidden: int = 2, rows: int | None = None, features: int = 2, **attributes: int
) -> Make:
    w = stored("w", np.ones((1, gates * hidden if rows is None else rows, features)))
    r = stored("r", np.ones((1, gates * hidden, hidden)))
    said = [pb.integer(name, unsigned(value)) for name, value in ({"hidden_size": hidden} | attributes).items()]
    return lambda: with_nodes(pb.node(operator, ["x", "w", "r"], ["z"], said), weights=[w, r])


def _node(operator: str, inputs: list[str], *weights: bytes, domain: str = "", extra: tuple[bytes, ...] = ()) -> Make:
    return lambda: with_nodes(pb.node(operator, inputs, ["z"], extra, domain=domain), weights=weights)


def _nested(depth: int) -> bytes:
    inner = handmade.step_body()
    for _ in range(depth):
        inner = handmade.step_body(pb.node("Scan", ["before", "now"], ["after", "answer"], [pb.body("body", inner)]))
    return handmade.running_sum(handmade.running_sum_graph(handmade.scan(body=inner)))


def _integer_division(operator: str, divisor: str) -> Make:
    before = [pb.node("Cast", ["x"], ["i"], [pb.integer("to", 7)]), pb.node("Sub", ["i", "i"], ["nothing"])]
    weights = [stored("zero", [0], 7), stored("minus", [-1], 7)]
    return lambda: with_nodes(*before, pb.node(operator, ["i", divisor], ["z"]), weights=weights)


def _body(*fields: bytes) -> bytes:
    return handmade.running_sum(handmade.running_sum_graph(handmade.scan(body=handmade.step_body() + b"".join(fields))))


def _manifest_of(change: dict[str, object]) -> Make:
    return lambda: handmade.with_manifest((GOLDEN / "lstm.onnx").read_bytes(), lambda said: said.update(change))


def _flatbuffer() -> bytes:
    return seal(b"\x18\x00\x00\x00ORTM" + bytes(64))


REFUSED: Final[dict[str, Make]] = {
    # R1: memory corruption
    **{
        f"R1 {operator} with {what}": _recurrent(operator, gates, **change)
        for operator, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1))
        for what, change in {
            "more hidden values than weights": {"hidden_size": 1 << 20},
            "fewer than none": {"hidden_size": -2},
            "rows missing": {"rows": 1},
        }.items()
    },
    "R1 more weights than bytes": lambda: with_nodes(
        pb.node("Add", ["x", "w"], ["z"]), weights=[pb.tensor("w", [1 << 20, 2], bytes(8))]
    ),
    "R1 fewer weights than none": lambda: with_nodes(
        pb.node("Add", ["x", "w"], ["z"]), weights=[pb.tensor("w", [unsigned(-1), 2], bytes(8))]
    ),
    "R1 sizes whose product overflows": lambda: with_nodes(
        pb.node("Add", ["x", "w"], ["z"]), weights=[pb.tensor("w", [1 << 32, 1 << 33], bytes(8))]
    ),
    "R1 an input left out of many": _node("Max", ["x", ""]),
    **{
        f"R1 {operator} of integers by {divisor}": _integer_division(operator, divisor)
        for operator in ("Div", "Mod")
        for divisor in ("zero", "minus", "nothing")
    },
    "R1 sparse weights": lambda: handmade.running_sum(handmade.running_sum_graph(extra=pb.field(15, b""))),
    "R1 a sparse constant": _node("Constant", [], extra=(pb.field(1, "sparse_value") + pb.field(22, b"") + pb.field(20, 11),)),
    "R1 texts": lambda: with_nodes(
        pb.node("Identity", ["w"], ["z"]), weights=[pb.fields(1, [1]) + pb.field(2, 8) + pb.field(8, "w") + pb.field(6, b"a")]
    ),
    "R1 a graph in each other 40 deep": partial(_nested, 40),
    "R1 two graphs": lambda: handmade.sealed_again(handmade.running_sum(), pb.field(7, handmade.running_sum_graph())),
    "R1 training information": lambda: handmade.sealed_again(handmade.running_sum(), pb.field(20, b"")),
    "R1 a number without an end": lambda: handmade.sealed_again(handmade.running_sum(), b"\x08" + b"\xff" * 40),
    "R1 a message longer than the file": lambda: handmade.sealed_again(
        handmade.running_sum(), b"\x3a" + b"\xff" * 9 + b"\x01"
    ),
    # R2: reads another file
    "R2 ../": _outside("../../../etc/passwd"),
    "R2 absolute": _outside("/etc/passwd"),
    "R2 beside it": _outside("weights.bin"),
    "R2 a name with a null character": _outside("weights.bin\0junk"),
    "R2 an address in memory": _outside("*/_ORT_MEM_ADDR_/*", ("offset", "4096"), ("length", "8")),
    "R2 a device": _outside("/dev/zero", ("length", "8")),
    "R2 a folder": _outside("."),
    "R2 nothing": _outside(""),
    "R2 a negative offset": _outside("weights.bin", ("offset", "-8")),
    "R2 a huge offset": _outside("weights.bin", ("offset", str(1 << 62)), ("length", str(1 << 62))),
    "R2 an unknown key": _outside("weights.bin", ("checksum", "0")),
    "R2 said, and not named": lambda: with_nodes(
        pb.node("Add", ["x", "w"], ["z"]), weights=[pb.tensor("w", [2], bytes(8), pb.field(14, 1))]
    ),
    "R2 in a body": lambda: _body(pb.field(5, pb.tensor("w", [2], bytes(8), pb.field(14, 1)))),
    # R3: code
    "R3 EPContext": _node("EPContext", ["x"], domain="com.microsoft"),
    "R3 a local function": lambda: handmade.sealed_again(handmade.running_sum(), pb.field(25, pb.field(1, "Identity"))),
    "R3 an operator of a domain of its own": _node("Run", ["x"], domain="evil"),
    "R3 Attention": _node("Attention", ["x", "w"], stored("w", np.ones((2, 6))), domain="com.microsoft"),
    "R3 ONNX Runtime's own format": _flatbuffer,
    # R4: without an end
    "R4 Loop": _node("Loop", ["x"], extra=(pb.body("body", handmade.step_body()),)),
    "R4 If": _node("If", ["x"], extra=(pb.body("then_branch", handmade.step_body()),)),
    # R6: lies of the manifest
    "R6 an unknown version": _manifest_of({"format_version": 2}),
    "R6 an unknown key": _manifest_of({"path": "/etc/passwd"}),
    "R6 no inputs": _manifest_of({"inputs": []}),
    "R6 a batch of none": _manifest_of({"fixed_batch": 0}),
    "R6 trust in what is not there": _manifest_of({"trusted": ["evil::Run"]}),
    "R6 a second graph that is none": lambda: handmade.computed_sum(base64.b64encode(b"\xff" * 64).decode()),
    "R6 a second graph with another file": lambda: handmade.computed_sum(_unsealed(_outside("../x")())),
    "R6 a manifest that nests": lambda: seal(
        pb.model(handmade.running_sum_graph(), pb.metadata(MANIFEST_KEY, '{"format_version": 1, "name": ' + "[" * 100_000))
    ),
    # R7: text
    "R7 a node whose name is no text": lambda: with_nodes(pb.node("Identity", ["x"], ["z"]) + pb.field(3, b"\xd8\xff")),
    "R7 a name that a terminal obeys": _manifest_of({"name": "\x1b[31mred"}),
    **{
        f"R3 MatMulNBits with {name} {value}": partial(packed, **{name: value})
        for name, value in (("K", 1 << 18), ("N", 1 << 18), ("K", 0), ("bits", 2), ("block_size", 0), ("accuracy_level", 4096))
    },
    "R3 MatMulNBits with few scales": partial(packed, weights={"s": stored("s", np.ones(1))}),
    "R3 MatMulNBits with few codes": partial(packed, weights={"q": stored("q", np.ones((2, 1, 4)), 2)}),
    **{
        f"R3 GatherBlockQuantized with {name} {value}": partial(looked_up, **{name: value})
        for name, value in (("bits", 2), ("block_size", 1 << 20), ("gather_axis", 1), ("quantize_axis", 0))
    },
}


def _unsealed(data: bytes) -> bytes:
    return data[: -handmade.SEAL_SIZE]


def run(count: int, seed: int) -> Tally:
    tally, chance = Tally(), random.Random(seed)
    for whole in wholes():
        tally.add("an artifact as it was", attempt(partial(use, whole), LIMITS), ["correct"])
    for name, make in REFUSED.items():
        tally.add(name, attempt(partial(use, make()), LIMITS), ["error"])
    loaded = tally.counts["correct"]
    while sum(tally.counts.values()) < count:
        how = chance.choice((of_an_operator, of_an_artifact))
        at = chance.getrandbits(32)
        tally.add(f"{how.__name__} {at}", attempt(partial(use, how(random.Random(at))), LIMITS))
    tally.require(tally.peak <= CAP, f"a case takes {tally.peak >> 20} MB, more than {CAP >> 20}")
    tally.figures["opened and run"] = f"{tally.counts['correct'] - loaded:,}"
    return tally


FAULT: Final = Fault(
    "F2",
    "hostile graphs, sealed again",
    f"Each is refused, or opened and run with answers of the declared shapes: no crash, no hang, at most {CAP >> 20} MB.",
    full=10_000,
    reduced=600,
    run=run,
)
