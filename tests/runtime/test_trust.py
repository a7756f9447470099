"""Operators outside the runtime's list: refused, or trusted twice: by whoever adopted the file, and by whoever loads it."""

import pickle
import struct

import numpy as np
import pytest
from tests.runtime import frames
from tests.runtime import protobuf_writer as pb
from tests.runtime.handmade import IMAGE, computed_sum, doubling, running_sum, running_sum_graph, scan, step_body

from rnnx_runtime import ArtifactError, list_providers, load, selftest
from rnnx_runtime.artifact import MANIFEST_KEY, inspect_graph, open_artifact, seal

GELU = "com.microsoft::QuickGelu"
LOCAL = pb.opset(20) + pb.opset(1, "com.microsoft")


def body(*nodes, outputs=("out",), weights=(), extra=b""):
    """A branch: no inputs, one number per row."""
    return pb.graph(nodes, [], [pb.value_info(name, ["batch", 2]) for name in outputs], extra, weights=weights)


def branch(operator="Neg", **content):
    """A branch that reads `y0` from around it."""
    return body(pb.node(operator, ["y0"], ["out"]), **content)


def condition(then, other, output="y"):
    """The last node of a frame graph, where `x[0, 0] > 0` chooses."""
    return pb.node("If", ["positive"], [output], [pb.body("then_branch", then), pb.body("else_branch", other)])


def framed(*nodes, trusted=(), opsets=None, weights=(), extra=()):
    """The network of "stateless", whose answer `y0` goes through these nodes to `y`."""
    wx, wy = (pb.tensor(name, array.shape, array.tobytes()) for name, array in (("wx", frames.WX), ("wy", frames.WY)))
    zero = pb.fields(1, []) + pb.field(2, pb.INT64) + pb.field(8, "zero") + pb.field(9, struct.pack("<q", 0))
    before = [
        pb.node("MatMul", ["x", "wx"], ["a"]),
        pb.node("Tanh", ["a"], ["b"]),
        pb.node("MatMul", ["b", "wy"], ["y0"]),
        pb.node("ReduceMax", ["x"], ["largest"], [pb.integer("keepdims", 0)]),
        pb.node("Cast", ["zero"], ["nothing"], [pb.integer("to", pb.FLOAT)]),
        pb.node("Greater", ["largest", "nothing"], ["positive"]),
    ]
    inputs, outputs = [pb.value_info("x", ["batch", 3])], [pb.value_info("y", ["batch", 2])]
    graph = pb.graph([*before, *nodes], inputs, outputs, weights=[wx, wy, zero, *weights])
    said = frames.manifest("stateless", trusted=trusted).encode()
    entry = pb.metadata(MANIFEST_KEY, said)
    return seal(pb.model(graph, *extra, entry, opsets=pb.opset(20) if opsets is None else opsets))


def gelu(**content):
    return framed(pb.node("QuickGelu", ["y0"], ["y"], domain="com.microsoft"), opsets=LOCAL, **content)


def choosing(**content):
    return framed(condition(branch(), branch("Identity")), **content)


ASKED = (
    r"^this artifact holds operators outside the runtime's list, {}, that whoever adopted it trusted; "
    r"load it with trust=True \(--trust\) only if you trust where it comes from$"
)


@pytest.mark.parametrize(("make", "name"), [(gelu, GELU), (choosing, "If")])
def test_a_foreign_operator_must_be_trusted_in_the_manifest_and_again(make, name):
    for trust in (False, True):
        with pytest.raises(
            ArtifactError, match=f"^operator '{name}' is not allowed in an artifact; see the runtime's list of"
        ):
            open_artifact(make(), trust=trust)
    with pytest.raises(ArtifactError, match=ASKED.format(name)):
        open_artifact(make(trusted=(name,)))
    assert open_artifact(make(trusted=(name,)), trust=True).graph.foreign == (name,)


def test_all_operators_that_nobody_trusted_are_named_with_the_remedy():
    data = framed(condition(branch("Loop"), branch("Bernoulli")), trusted=("If",))
    with pytest.raises(
        ArtifactError,
        match=r"^operators 'Bernoulli', 'Loop' are not allowed in an artifact; see the runtime's list of operators, "
        r"or adopt the file with --trust$",
    ):
        open_artifact(data, trust=True)


def test_a_message_names_so_many_operators_only():
    nodes = [pb.node(f"Made{number}", ["y0"], ["y"]) for number in range(100)]
    with pytest.raises(ArtifactError, match="^operators ('Made[0-9]+', ){8}... are not allowed in an artifact; "):
        open_artifact(framed(*nodes))


@pytest.mark.parametrize("name", ["Loop", "MatMul", "com.microsoft::If", GELU])
def test_a_manifest_that_asks_for_more_trust_than_it_needs_is_refused(name):
    with pytest.raises(ArtifactError, match=f"^the manifest asks to trust '{name}', which the graph does not need; adopt"):
        open_artifact(choosing(trusted=("If", name)), trust=True)


def test_trust_changes_nothing_where_nothing_is_foreign(golden):
    for trust in (False, True):
        assert open_artifact(golden / "lstm.onnx", trust=trust).graph.foreign == ()
    assert load(golden / "char_rnn.onnx", trust=True).infer("hello")


def test_a_trusted_artifact_runs_streams_and_travels(tmp_path):
    path = tmp_path / "gelu.onnx"
    path.write_bytes(gelu(trusted=(GELU,)))
    x = frames.STYLES["stateless"].sample(2, 4)
    plain = np.tanh(x @ frames.WX) @ frames.WY
    wanted = plain / (1 + np.exp(-1.702 * plain))
    model = load(path, trust=True)
    for one in (model, pickle.loads(pickle.dumps(model)), load(path.read_bytes(), trust=True)):
        np.testing.assert_allclose(one.run(x)[0], wanted, rtol=1e-5, atol=1e-6)
        stream = one.stream(2)
        np.testing.assert_allclose(stream.step(x[:, 0]), wanted[:, 0], rtol=1e-5, atol=1e-6)
    for ask in (load, list_providers, selftest):
        with pytest.raises(ArtifactError, match=ASKED.format(GELU).replace("^", f"^'{path}': ")):
            ask(path)
    assert list_providers(path, trust=True)[0].name == "cpu"
    assert not selftest(path, trust=True).passed  # the trace is that of the plain network


def test_both_branches_of_a_condition_are_taken():
    model = load(choosing(trusted=("If",)), trust=True)
    x = np.abs(frames.STYLES["stateless"].sample(1, 1)[:, 0])
    stream = model.stream()
    np.testing.assert_allclose(stream.step(x), -(np.tanh(x @ frames.WX) @ frames.WY), rtol=1e-5)
    np.testing.assert_allclose(stream.step(-x), np.tanh(-x @ frames.WX) @ frames.WY, rtol=1e-5)


OUTSIDE = pb.field(13, pb.field(1, "location") + pb.field(2, "/etc/passwd"))


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (choosing(trusted=("If",), weights=[pb.tensor("w", [2], bytes(8), OUTSIDE)]), "the weights lie in another file"),
        (
            framed(condition(branch(weights=[pb.tensor("w", [2], bytes(8), OUTSIDE)]), branch()), trusted=("If",)),
            "the weights lie in another file",
        ),
        (framed(condition(branch(extra=pb.field(15, b"")), branch()), trusted=("If",)), "sparse weights are not allowed"),
        (choosing(trusted=("If",), extra=[pb.field(25, b"")]), "training information and local functions are not allowed"),
        (choosing(trusted=("If",), extra=[pb.field(20, b"")]), "training information and local functions are not allowed"),
        (
            choosing(trusted=("If",), opsets=pb.opset(20) + pb.opset(1, "custom")),
            "the operator domain 'custom' is not allowed",
        ),
        (
            framed(
                pb.node("EPContext", ["y0"], ["y"], domain="com.microsoft"),
                opsets=LOCAL,
                trusted=("com.microsoft::EPContext",),
            ),
            "operator 'com.microsoft::EPContext' reads another file; an artifact is one file",
        ),
    ],
)
def test_no_trust_lets_these_through(data, rule):
    with pytest.raises(ArtifactError, match=f"^{rule}"):
        open_artifact(data, trust=True)


def test_a_graph_in_an_operator_that_is_not_foreign_stays_refused():
    node = pb.node("Identity", ["y0"], ["y"], [pb.body("body", branch())])
    with pytest.raises(ArtifactError, match="^Identity holds a graph of its own; only Scan may, and not inside another Scan$"):
        open_artifact(framed(node, trusted=("If",)), trust=True)
    inner = pb.node("Scan", ["before", "now"], ["after", "answer"], [pb.body("body", step_body())])
    hidden = step_body(pb.node("If", ["c"], ["after"], [pb.body("then_branch", pb.graph([inner], [], []))]))
    with pytest.raises(ArtifactError, match="^Scan holds a graph of its own; only Scan may, and not inside another Scan$"):
        inspect_graph(pb.model(running_sum_graph(scan(body=hidden))))


def nested(depth, innermost="Neg"):
    graph = branch(innermost)
    for _ in range(depth - 1):
        graph = body(condition(graph, branch(), output="out"))
    return condition(graph, branch())


def test_what_lies_in_bodies_is_counted_and_named_to_a_bounded_depth():
    graph = inspect_graph(framed(nested(16, "Hardmin")))
    assert graph.foreign == ("Hardmin", "If")
    assert graph.operators["If"] == 16
    with pytest.raises(ArtifactError, match="^graphs lie more than 16 deep in each other; an artifact's do not$"):
        inspect_graph(framed(nested(17)))
    for depth in (200, 2_000):
        with pytest.raises(ArtifactError, match="^graphs lie more than 16 deep in each other"):
            inspect_graph(framed(nested(depth)))


def test_nodes_of_bodies_count_towards_the_limit():
    many = body(*[pb.node("Identity", ["y0"], ["out"])] * 5_000)
    with pytest.raises(ArtifactError, match="^the graph has more than 10000 nodes"):
        inspect_graph(framed(condition(many, many)))


def test_a_branch_may_be_given_as_a_list_of_graphs():
    several = pb.field(1, "branches") + pb.field(11, branch("Loop")) + pb.field(11, branch("Bernoulli"))
    graph = inspect_graph(framed(pb.node("If", ["positive"], ["y"], [several])))
    assert graph.foreign == ("Bernoulli", "If", "Loop")


@pytest.mark.parametrize("operator", ["RNN", "LSTM", "GRU"])
def test_what_is_constant_is_looked_at_in_branches_too(operator):
    gates = {"RNN": 1, "LSTM": 4, "GRU": 3}[operator]
    stored = [pb.tensor(name, [1, gates, size], bytes(4 * gates * size)) for name, size in (("w", 3), ("r", 1))]

    def within(*inputs, inside=(), around=stored):
        inner = body(pb.node(operator, inputs, ["out"]), weights=inside)
        return framed(condition(body(condition(inner, branch(), output="out")), branch()), trusted=("If",), weights=around)

    open_artifact(within("x", "w", "r"), trust=True)
    open_artifact(within("x", "w", "r", inside=stored, around=()), trust=True)
    with pytest.raises(
        ArtifactError, match=f"^{operator} reads 'w', which is constant; it must read what the model is given$"
    ):
        open_artifact(within("w", "w", "r"), trust=True)
    with pytest.raises(ArtifactError, match=f"^{operator} computes its weights 'a'; they must be stored in the file$"):
        open_artifact(within("x", "a", "r"), trust=True)
    with pytest.raises(ArtifactError, match=f"^{operator} has no weights; an artifact's are stored in the file$"):
        open_artifact(within("x", "w"), trust=True)


def test_an_integer_division_of_constants_is_refused_in_branches_too():
    integer = pb.fields(1, [1]) + pb.field(2, pb.INT64) + pb.field(9, bytes(8))
    weights = [integer + pb.field(8, name) for name in ("p", "q")]
    data = framed(condition(body(pb.node("Div", ["p", "q"], ["out"])), branch()), trusted=("If",), weights=weights)
    with pytest.raises(
        ArtifactError, match="^Div of integers by what may be 0 or -1 is not allowed in an artifact; divide by a"
    ):
        open_artifact(data, trust=True)


def test_what_a_condition_answers_is_not_constant_though_it_reads_its_choice_only():
    """A branch reads names from around the node, which are not among its inputs."""
    true = pb.fields(1, []) + pb.field(2, 9) + pb.field(8, "true") + pb.field(9, b"\x01")
    stored = [true, pb.tensor("w", [1, 4, 2], bytes(32)), pb.tensor("r", [1, 4, 1], bytes(16))]
    choice = pb.node("If", ["true"], ["c"], [pb.body("then_branch", branch()), pb.body("else_branch", branch())])
    open_artifact(framed(choice, pb.node("LSTM", ["c", "w", "r"], ["y"]), trusted=("If",), weights=stored), trust=True)


def test_a_foreign_operator_of_a_listed_name_is_foreign():
    graph = inspect_graph(framed(pb.node("LSTM", ["y0"], ["y"], domain="custom"), opsets=pb.opset(20) + pb.opset(1, "custom")))
    assert graph.foreign == ("custom::LSTM",)
    assert graph.operators["custom::LSTM"] == 1
    with pytest.raises(ArtifactError, match="^operator 'custom::LSTM' is not allowed in an artifact"):
        open_artifact(running_sum(running_sum_graph(scan(), pb.node("LSTM", ["y"], ["z"], domain="custom"))))


def test_the_graph_of_computed_states_is_never_trusted():
    second = doubling("image", "sum", pb.node("Bernoulli", ["image"], ["sum"]))
    with pytest.raises(
        ArtifactError, match="^the second graph, which computes initial states: operator 'Bernoulli' is not all"
    ):
        open_artifact(computed_sum(second, IMAGE), trust=True)


def test_what_an_operator_outside_the_list_gives_may_be_float16():
    assert open_artifact(gelu(trusted=(GELU,)), trust=True).half
    assert not open_artifact(framed(pb.node("Gelu", ["y0"], ["y"]))).half
