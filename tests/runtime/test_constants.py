import pytest
from tests.runtime import protobuf_writer as pb
from tests.runtime.handmade import running_sum, running_sum_graph, scan, step_body

from rnnx_runtime import ArtifactError
from rnnx_runtime.artifact import open_artifact

GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}


def _weight(name, dtype=pb.FLOAT, gates=0):
    """One number that is 0; with `gates`, the weights of a layer of one value, for two features."""
    dims = [1, gates, 2 if name == "w" else 1] if gates else [1]
    size = dims[0] * dims[-1] * max(1, gates) * (8 if dtype == pb.INT64 else 4)
    return pb.fields(1, dims) + pb.field(2, dtype) + pb.field(8, name) + pb.field(9, bytes(size))


def _gates(*nodes):
    return next((size for name, size in GATES.items() if any(pb.field(4, name) in node for node in nodes)), 0)


def _with_node(*nodes, weights=("w", "r"), integers=(), extra=b""):
    stored = (*(_weight(name, gates=_gates(*nodes)) for name in weights), *(_weight(name, pb.INT64) for name in integers))
    return running_sum(running_sum_graph(scan(), *nodes, weights=stored, extra=extra))


def _in_body(*nodes, inside=(), outside=("w", "r"), integers=()):
    gates = _gates(*nodes)
    body = step_body(*nodes) + pb.fields(5, [_weight(name, gates=gates) for name in inside])
    stored = (*(_weight(name, gates=gates) for name in outside), *(_weight(name, pb.INT64) for name in integers))
    return running_sum(running_sum_graph(scan(body=body), weights=stored))


@pytest.mark.parametrize("operator", ["RNN", "LSTM", "GRU"])
def test_a_recurrent_node_reads_what_is_given_with_weights_that_are_stored(operator):
    open_artifact(_with_node(pb.node(operator, ["x", "w", "r"], ["z"])))
    open_artifact(_with_node(pb.node("Identity", ["x"], ["i"]), pb.node(operator, ["i", "w", "r", "", ""], ["z"])))
    for inside, outside in ((("w", "r"), ()), ((), ("w", "r")), (("w",), ("r",))):
        open_artifact(_in_body(pb.node(operator, ["now", "w", "r"], ["z"]), inside=inside, outside=outside))


@pytest.mark.parametrize("operator", ["RNN", "LSTM", "GRU"])
def test_a_recurrent_node_that_reads_a_constant_is_refused(operator):
    reads = pb.node(operator, ["c", "w", "r"], ["z"])
    constant = pb.node("Constant", [], ["c"], [pb.integer("value_int", 1)])
    for data in (
        _with_node(reads, weights=("w", "r", "c")),
        _with_node(constant, reads),
        _with_node(constant, pb.node("Identity", ["c"], ["d"]), pb.node(operator, ["d", "w", "r"], ["z"])),
        _in_body(reads, inside=("c",)),
        _in_body(reads, outside=("w", "r", "c")),
        _in_body(reads, inside=("w", "r"), outside=("c",)),
    ):
        with pytest.raises(
            ArtifactError, match=f"^{operator} reads '[cd]', which is constant; it must read what the model is"
        ):
            open_artifact(data)


@pytest.mark.parametrize("operator", ["RNN", "LSTM", "GRU"])
def test_weights_that_are_computed_are_refused(operator):
    for inputs in (["x", "x", "r"], ["x", "w", "y"], ["x", "w", "nowhere"]):
        for data in (
            _with_node(pb.node(operator, inputs, ["z"])),
            _in_body(pb.node(operator, inputs, ["z"])),
            _in_body(pb.node(operator, [name.replace("x", "now") for name in inputs], ["z"])),
        ):
            with pytest.raises(
                ArtifactError, match=f"^{operator} computes its weights '.*'; they must be stored in the file$"
            ):
                open_artifact(data)
    for inputs in (["x"], ["x", "w"], ["x", "w", ""], ["x", "", "r"], []):
        with pytest.raises(ArtifactError, match=f"^{operator} has no weights; an artifact's are stored in the file$"):
            open_artifact(_with_node(pb.node(operator, inputs, ["z"])))


def test_a_weight_that_is_also_an_input_is_refused():
    with pytest.raises(ArtifactError, match="^'x' is an input and a weight; an artifact's weights are no inputs$"):
        open_artifact(_with_node(weights=("x",)))


@pytest.mark.parametrize("operator", ["Div", "Mod"])
def test_a_division_of_constant_integers_is_refused_since_it_may_end_the_process(operator):
    node = pb.node(operator, ["a", "b"], ["z"])
    for data in (_with_node(node, integers=("a", "b")), _in_body(node, integers=("a", "b"))):
        with pytest.raises(
            ArtifactError, match=f"^{operator} of integers by what may be 0 or -1 is not allowed in an artifact"
        ):
            open_artifact(data)
    open_artifact(_with_node(node, weights=("a", "b")))
    open_artifact(_with_node(pb.node(operator, ["x", "b"], ["z"]), integers=("b",)))
    open_artifact(_in_body(pb.node(operator, ["now", "b"], ["z"]), integers=("b",)))


def _constant(name, dtype=pb.INT64):
    return pb.node("Constant", [], [name], [pb.field(1, "value") + pb.field(5, _weight("", dtype)) + pb.field(20, 4)])


@pytest.mark.parametrize("operator", ["Div", "Mod"])
def test_integers_that_are_computed_from_constants_count_as_constant(operator):
    node = pb.node(operator, ["a", "b"], ["z"])
    cast = pb.node("Cast", ["w"], ["a"], [pb.integer("to", pb.INT64)])
    chains = (
        (_constant("a"), pb.node("Identity", ["i"], ["b"])),
        (pb.node("Add", ["i", "i"], ["a"]), pb.node("Neg", ["i"], ["b"])),
        (pb.node("Constant", [], ["a"], [pb.integer("value_int", 1)]), _constant("b")),
        (cast, pb.node("ArgMax", ["w"], ["b"])),
    )
    for made in chains:
        for data in (
            _with_node(*made, node, integers=("i",)),
            _in_body(*made, node, integers=("i",)),
            running_sum(running_sum_graph(*made, scan(body=step_body(node)), weights=(_weight("i", pb.INT64), _weight("w")))),
        ):
            with pytest.raises(
                ArtifactError, match=f"^{operator} of integers by what may be 0 or -1 is not allowed in an artifact"
            ):
                open_artifact(data)


def test_a_division_of_constants_that_are_floats_passes():
    cast, to_b = (pb.node("Cast", ["i"], [name], [pb.integer("to", pb.FLOAT)]) for name in "ab")
    rounded = pb.node("Cast", ["i"], ["a"], [pb.integer("to", pb.FLOAT), pb.integer("saturate", 1)])
    for made in (
        (_constant("a", pb.FLOAT), pb.node("Sqrt", ["w"], ["b"])),
        (rounded, pb.node("Softplus", ["w"], ["b"])),
        (pb.node("Where", ["i", "w", "w"], ["a"]), pb.node("Identity", ["i"], ["b"])),
        (cast, pb.node("Identity", ["w"], ["b"])),
        (pb.node("Constant", [], ["a"], [pb.field(1, "value_float") + pb.field(20, 1)]), to_b),
    ):
        open_artifact(_with_node(*made, pb.node("Div", ["a", "b"], ["z"]), integers=("i",)))


def test_a_name_means_what_the_graph_that_reads_it_means_by_it():
    first = pb.node(
        "Scan",
        ["h", "x"],
        ["p", "q"],
        [pb.body("body", step_body(_constant("c", pb.FLOAT))), pb.integer("num_scan_inputs", 1)],
    )
    node = pb.node("Div", ["c", "c"], ["z"])
    with pytest.raises(ArtifactError, match="^Div of integers by what may be 0 or -1 is not allowed"):
        open_artifact(running_sum(running_sum_graph(first, scan(body=step_body(_constant("c"), node)))))
    open_artifact(running_sum(running_sum_graph(first, scan(body=step_body(_constant("c", pb.FLOAT), node)))))


def test_a_node_that_reads_what_a_later_one_gives_is_refused():
    late = (pb.node("Neg", ["z"], ["v"]), pb.node("Identity", ["x"], ["z"]))
    for data in (_with_node(*late), _in_body(*late)):
        with pytest.raises(ArtifactError, match="^Neg reads 'z', which a later node gives; an artifact's are in order$"):
            open_artifact(data)


def test_a_division_of_nothing_is_left_to_onnx_runtime_to_refuse():
    """The linter looks at graphs of bare operators."""
    open_artifact(_with_node(pb.node("Div", [], ["z"])))
