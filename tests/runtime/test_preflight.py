import numpy as np
import pytest
from tests.runtime import protobuf_writer as pb
from tests.runtime.handmade import (
    SEAL_SIZE,
    running_sum,
    running_sum_graph,
    running_sum_manifest,
    scan,
    sealed_again,
    step_body,
    with_manifest,
)

from rnnx_runtime import ArtifactError, load
from rnnx_runtime import _preflight as preflight
from rnnx_runtime import _protobuf as protobuf
from rnnx_runtime.artifact import MANIFEST_KEY, open_artifact, seal

ZEROS = bytes(8)


@pytest.fixture(scope="module")
def char_rnn_data(golden):
    return (golden / "char_rnn.onnx").read_bytes()


def test_a_refused_file_never_reaches_onnxruntime(monkeypatch, char_rnn_data):
    monkeypatch.setattr("rnnx_runtime._engine.Session", lambda *arguments: pytest.fail("ONNX Runtime was given the file"))
    for data in (
        char_rnn_data[:-1],
        running_sum(running_sum_graph(scan(), pb.node("Loop", ["y"], ["z"]))),
        sealed_again(char_rnn_data, pb.field(7, running_sum_graph())),
    ):
        with pytest.raises(ArtifactError):
            load(data)


def test_the_walk_tells_what_the_graph_holds(char_rnn_data):
    graph = open_artifact(char_rnn_data).graph
    state = ("float32", (1, None, 8))
    inputs = {value.name: (value.dtype, value.shape) for value in graph.inputs}
    outputs = {value.name: (value.dtype, value.shape) for value in graph.outputs}
    assert inputs == {"tokens": ("int64", (None, None)), "rnn.l0.h": state, "rnn.l1.h": state}
    assert outputs == {"output": ("float32", (None, 4)), "rnn.l0.h.next": state, "rnn.l1.h.next": state}
    assert graph.operators["RNN"] == 2
    assert set(graph.metadata) == {"rnnx.manifest", "rnnx.sha256"}
    assert 13 <= graph.opset <= 24


def test_a_plain_file_made_by_hand_passes_and_its_scan_body_is_counted():
    graph = open_artifact(running_sum()).graph
    assert graph.operators == {"Scan": 1, "Add": 1, "Identity": 1}
    assert graph.opset == 20
    assert [(value.name, value.dtype, value.shape) for value in graph.inputs] == [
        ("h", "float32", (None, 2)),
        ("x", "float32", (None, None, 2)),
    ]
    assert [value.name for value in graph.outputs] == ["h.next", "y"]


@pytest.mark.parametrize(
    "operator",
    [*"Loop If SequenceMap RandomNormal StringNormalizer Bernoulli Optional EyeLike Resize LRN lstm".split(), "LSTM "],
)
def test_an_operator_that_is_not_on_the_list_is_refused(operator):
    the_graph = running_sum_graph(scan(), pb.node(operator, ["y"], ["z"]))
    with pytest.raises(ArtifactError, match=f"operator '{operator}' is not allowed in an artifact; see the runtime's list"):
        open_artifact(running_sum(the_graph))


def test_an_operator_that_is_not_on_the_list_is_refused_inside_a_scan_too():
    body = step_body(pb.node("Add", ["before", "now"], ["after"]), pb.node("Loop", ["after"], ["answer"]))
    with pytest.raises(ArtifactError, match="operator 'Loop' is not allowed"):
        open_artifact(running_sum(running_sum_graph(scan(body=body))))


def test_a_node_without_an_operator_is_refused():
    with pytest.raises(ArtifactError, match="operator '' is not allowed"):
        open_artifact(running_sum(running_sum_graph(scan(), pb.node("", ["y"], ["z"]))))


@pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx.ml", "custom", "AI.ONNX"])
def test_a_node_of_another_domain_is_refused(domain):
    the_graph = running_sum_graph(scan(), pb.node("Identity", ["y"], ["z"], domain=domain))
    with pytest.raises(ArtifactError, match=f"operator '{domain}::Identity' is not allowed"):
        open_artifact(running_sum(the_graph))


TWICE = "a field of its declaration stands twice$"


@pytest.mark.parametrize("hidden", [pb.field(4, "Loop"), pb.field(4, "Identity"), pb.field(3, "a") * 2])
def test_a_node_whose_fields_readers_could_take_in_two_ways_is_refused(hidden):
    with pytest.raises(ArtifactError, match=f"^a node: {TWICE}"):
        open_artifact(running_sum(running_sum_graph(scan(), pb.node("Identity", ["y"], ["z"]) + hidden)))


def test_an_attribute_in_two_pieces_which_protobuf_would_merge_is_refused():
    twice = [pb.body("body", step_body()) + pb.field(6, pb.fields(5, [pb.tensor("w", [2], ZEROS)]))]
    with pytest.raises(ArtifactError, match=f"^an attribute: {TWICE}"):
        open_artifact(running_sum(running_sum_graph(pb.node("Scan", ["h", "x"], ["h.next", "y"], twice))))
    value = pb.field(1, "value") + pb.field(5, pb.tensor("", [2], ZEROS)) * 2
    with pytest.raises(ArtifactError, match=f"^an attribute: {TWICE}"):
        open_artifact(running_sum(running_sum_graph(scan(), pb.node("Constant", [], ["w"], [value]))))


@pytest.mark.parametrize("extra", [pb.field(2, pb.INT64), pb.field(8, "v"), pb.field(9, ZEROS), pb.field(14, 0) * 2])
def test_a_tensor_whose_fields_readers_could_take_in_two_ways_is_refused(extra):
    with pytest.raises(ArtifactError, match=f"^a tensor: {TWICE}"):
        open_artifact(running_sum(running_sum_graph(weights=(pb.tensor("w", [2], ZEROS, extra),))))


def test_a_name_written_as_a_number_is_none_as_in_protobuf():
    hidden = pb.node("Loop", ["y"], ["z"]).replace(pb.field(4, "Loop"), pb.varint(4 << 3 | 5) + b"Sqrt")
    with pytest.raises(ArtifactError, match="operator '' is not allowed"):
        open_artifact(running_sum(running_sum_graph(scan(), hidden)))


def test_the_standard_domain_may_be_written_out():
    the_graph = running_sum_graph(scan(), pb.node("Identity", ["y"], ["z"], domain="ai.onnx"))
    assert open_artifact(running_sum(the_graph)).graph.operators["Identity"] == 2


@pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx.ml", "custom"])
def test_importing_another_domain_is_refused_even_where_no_node_uses_it(domain):
    with pytest.raises(ArtifactError, match=f"the operator domain '{domain}' is not allowed in an artifact"):
        open_artifact(running_sum(opsets=pb.opset(20) + pb.opset(1, domain)))


@pytest.mark.parametrize("version", [0, 1, 12, 25, 2**63])
def test_an_opset_outside_the_range_is_refused(version):
    with pytest.raises(ArtifactError, match=f"ONNX opset {version} is not read; 13 to 24 are"):
        open_artifact(running_sum(opsets=pb.opset(version)))


def test_a_file_that_names_no_opset_is_refused():
    with pytest.raises(ArtifactError, match="ONNX opset 0 is not read"):
        open_artifact(running_sum(opsets=b""))


@pytest.mark.parametrize("version", [0, 3, 14, 2**64 - 1])
def test_an_ir_version_outside_the_range_is_refused(version):
    with pytest.raises(ArtifactError, match=f"ONNX IR version {version} is not read; 4 to 13 are"):
        open_artifact(running_sum(ir_version=version))


OUTSIDE = [
    pb.field(13, pb.field(1, "location") + pb.field(2, "/etc/passwd")),
    pb.field(14, 1),
    pb.field(13, b""),
]


@pytest.mark.parametrize("outside", OUTSIDE)
def test_weights_in_another_file_are_refused(outside):
    weight = pb.tensor("w", [2], ZEROS, outside)
    with pytest.raises(ArtifactError, match="the weights lie in another file; an artifact is one file"):
        open_artifact(running_sum(running_sum_graph(weights=(weight,))))


@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("number", [5, 10])
def test_weights_in_another_file_are_refused_in_attributes(outside, number):
    attribute = pb.field(1, "value") + pb.field(number, pb.tensor("w", [2], ZEROS, outside))
    with pytest.raises(ArtifactError, match="the weights lie in another file"):
        open_artifact(running_sum(running_sum_graph(scan(), pb.node("Constant", [], ["w"], [attribute]))))


@pytest.mark.parametrize("outside", OUTSIDE)
def test_weights_in_another_file_are_refused_in_the_body_of_a_scan(outside):
    body = step_body() + pb.field(5, pb.tensor("w", [2], ZEROS, outside))
    with pytest.raises(ArtifactError, match="the weights lie in another file"):
        open_artifact(running_sum(running_sum_graph(scan(body=body))))


def test_weights_inside_the_file_pass():
    weight = pb.tensor("w", [2], ZEROS, pb.field(14, 0))
    open_artifact(running_sum(running_sum_graph(weights=(weight,))))


def test_weights_in_another_file_are_refused_in_a_real_artifact(char_rnn_data):
    second = pb.field(7, pb.graph([], [], [], weights=[pb.tensor("w", [2], ZEROS, OUTSIDE[0])]))
    content = second + char_rnn_data[:-SEAL_SIZE]
    with pytest.raises(ArtifactError, match="the weights lie in another file"):
        open_artifact(seal(content))


def test_sparse_weights_are_refused():
    with pytest.raises(ArtifactError, match="sparse weights are not allowed in an artifact"):
        open_artifact(running_sum(running_sum_graph(extra=pb.field(15, b""))))


@pytest.mark.parametrize("number", [22, 23])
def test_sparse_weights_are_refused_in_attributes(number):
    attribute = pb.field(1, "sparse_value") + pb.field(number, b"")
    with pytest.raises(ArtifactError, match="sparse weights are not allowed in an artifact"):
        open_artifact(running_sum(running_sum_graph(scan(), pb.node("Constant", [], ["w"], [attribute]))))


def test_a_scan_inside_a_scan_is_refused():
    inner = pb.node("Scan", ["before", "now"], ["after", "answer"], [pb.body("body", step_body())])
    with pytest.raises(ArtifactError, match="Scan holds a graph of its own; only Scan may, and not inside another Scan"):
        open_artifact(running_sum(running_sum_graph(scan(body=step_body(inner)))))


@pytest.mark.parametrize("number", [6, 11])
def test_a_graph_inside_another_operator_is_refused(number):
    attribute = pb.field(1, "body") + pb.field(number, step_body())
    with pytest.raises(ArtifactError, match="Identity holds a graph of its own; only Scan may"):
        open_artifact(running_sum(running_sum_graph(scan(), pb.node("Identity", ["y"], ["z"], [attribute]))))


def test_a_scan_with_a_list_of_graphs_is_refused():
    attribute = pb.field(1, "bodies") + pb.field(11, step_body())
    with pytest.raises(ArtifactError, match="Scan holds a graph of its own"):
        open_artifact(running_sum(running_sum_graph(pb.node("Scan", ["h", "x"], ["h.next", "y"], [attribute]))))


def test_two_graphs_in_one_file_are_refused(char_rnn_data):
    with pytest.raises(ArtifactError, match="the file holds two graphs; an artifact has one"):
        open_artifact(sealed_again(char_rnn_data, pb.field(7, running_sum_graph())))


@pytest.mark.parametrize("number", [20, 25])
def test_training_information_and_local_functions_are_refused(char_rnn_data, number):
    with pytest.raises(ArtifactError, match="training information and local functions are not allowed"):
        open_artifact(sealed_again(char_rnn_data, pb.field(number, b"")))


def test_a_file_without_a_graph_is_refused():
    with pytest.raises(ArtifactError, match="not an ONNX file: it holds no graph"):
        open_artifact(seal(pb.field(1, 10) + pb.opset(20)))


def test_a_file_without_a_manifest_is_refused():
    with pytest.raises(ArtifactError, match="the file has a seal but no manifest; export the model again"):
        open_artifact(seal(pb.model(running_sum_graph())))


def test_a_file_with_two_manifests_is_refused(char_rnn_data):
    second = pb.metadata(MANIFEST_KEY, running_sum_manifest().encode())
    with pytest.raises(ArtifactError, match=r"metadata 'rnnx\.manifest' stands twice in the file"):
        open_artifact(sealed_again(char_rnn_data, second))


def test_metadata_of_others_is_left_alone(char_rnn_data):
    graph = open_artifact(sealed_again(char_rnn_data, pb.metadata("author", "someone"))).graph
    assert graph.metadata["author"] == "someone"


def test_endless_metadata_is_refused():
    entries = [pb.metadata(str(number), "") for number in range(63)]
    open_artifact(running_sum(None, *entries[:62]))  # with the manifest and the seal, 64
    with pytest.raises(ArtifactError, match="the file has more than 64 metadata entries"):
        open_artifact(running_sum(None, *entries))


def test_an_endless_graph_is_refused():
    identity = pb.node("Identity", ["y"], ["z"])
    inside = [scan(), *[identity] * 9_997]  # with the two nodes of the body: 10 000
    assert sum(open_artifact(running_sum(running_sum_graph(*inside))).graph.operators.values()) == 10_000
    with pytest.raises(ArtifactError, match="the graph has more than 10000 nodes"):
        open_artifact(running_sum(running_sum_graph(*inside, identity)))


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"hello, I am a text file\n", "not an ONNX file"),
        (b"\x08", "it ends inside a number"),
        (b"\x08\x80", "it ends inside a number"),
        (b"\x08" + b"\xff" * 10, "a number is longer than 64 bits"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "a number is longer than 64 bits"),
        (b"\x00\x01", "a field has the number 0"),
        (b"\x3a\x05abc", "a field of 5 bytes where 3 are left"),
        (b"\x3a" + b"\xff" * 9 + b"\x01", "a field of 18446744073709551615 bytes where 0 are left"),
        (b"\x3b", "wire type 3 does not exist"),
        (b"\x3c", "wire type 4 does not exist"),
        (b"\x3f", "wire type 7 does not exist"),
        (b"\x39abc", "a field of 8 bytes where 3 are left"),
        (b"\x3dabc", "a field of 4 bytes where 3 are left"),
        (b"\x38\x01", "a number stands where a message should"),
        (pb.field(7, pb.field(1, pb.field(4, b"\xff"))), "a name is not valid UTF-8"),
        (pb.field(7, pb.field(1, pb.field(3, b"\xff"))), "a name is not valid UTF-8"),
        (pb.field(7, pb.field(11, pb.field(1, b"\xff"))), "a name is not valid UTF-8"),
        (pb.field(14, pb.field(1, b"\xff")), "a name is not valid UTF-8"),
        (pb.field(8, pb.field(1, b"\xff")), "a name is not valid UTF-8"),
    ],
)
def test_a_message_that_is_not_well_formed_is_refused(content, rule):
    with pytest.raises(ArtifactError, match=rule):
        preflight.inspect_graph(content)
    if content != b"\x08":  # a cut number reads on into the seal
        with pytest.raises(ArtifactError):
            open_artifact(seal(content))


def test_a_field_that_a_later_onnx_may_add_is_passed_over():
    unknown = pb.field(900, 7) + pb.field(901, "text") + pb.varint(902 << 3 | 5) + bytes(4) + pb.varint(903 << 3 | 1) + ZEROS
    open_artifact(running_sum(None, unknown))


def test_the_manifest_and_the_graph_must_name_the_same_inputs(char_rnn_data, char_rnn):
    data = with_manifest(char_rnn_data, lambda said: said["inputs"][0].update(name="token"))
    with pytest.raises(
        ArtifactError, match=r"the manifest names the inputs \['rnn.l0.h', 'rnn.l1.h', 'token'\], the graph has"
    ):
        open_artifact(data)


def test_the_manifest_and_the_graph_must_name_the_same_outputs(char_rnn_data, char_rnn):
    data = with_manifest(char_rnn_data, lambda said: said["states"].pop())
    with pytest.raises(ArtifactError, match="the manifest names the inputs"):
        open_artifact(data)
    data = with_manifest(char_rnn_data, lambda said: said["states"][1].update(output="rnn.l2.h.next"))
    with pytest.raises(ArtifactError, match="the manifest names the outputs .*rnn.l2.h.next.*, the graph has"):
        open_artifact(data)


def test_a_name_that_stands_twice_in_the_graph_is_refused():
    twice = running_sum_graph() + pb.field(11, pb.value_info("x", ["seq_len", "batch", 2]))
    with pytest.raises(ArtifactError, match="the manifest names the inputs"):
        open_artifact(running_sum(twice))


SUM, STEPS = ["batch", 2], ["seq_len", "batch", 2]


def _declaring(inputs, outputs):
    infos = [[info if isinstance(info, bytes) else pb.value_info(*info) for info in side] for side in (inputs, outputs)]
    return running_sum(pb.graph([scan()], *infos))


def test_inputs_and_outputs_may_stand_in_any_order():
    open_artifact(_declaring([("x", STEPS), ("h", SUM)], [("h.next", SUM), ("y", STEPS)]))
    open_artifact(_declaring([("h", SUM), ("x", STEPS)], [("y", STEPS), ("h.next", SUM)]))


@pytest.mark.parametrize(
    ("inputs", "outputs", "rule"),
    [
        (
            [("x", STEPS)],
            [("h.next", SUM), ("y", STEPS)],
            r"the manifest names the inputs \['h', 'x'\], the graph has \['x'\]",
        ),
        ([("x", STEPS), ("h", SUM), ("z", SUM)], [], r"the manifest names the inputs .*, the graph has \['h', 'x', 'z'\]"),
        ([("x", STEPS), ("h", SUM), ("x", STEPS)], [], r"the manifest names the inputs .*, the graph has \['h', 'x', 'x'\]"),
        ([("x", STEPS), ("h", SUM)], [("y", STEPS)], r"the manifest names the outputs .*, the graph has \['y'\]"),
        ([("x", STEPS), ("h", SUM)], [("h.next", SUM), ("y", STEPS), ("", SUM)], "the manifest names the outputs"),
        ([], [], "the manifest names the inputs"),
    ],
)
def test_names_that_differ_between_manifest_and_graph_are_refused(inputs, outputs, rule):
    with pytest.raises(ArtifactError, match=f"^{rule}"):
        open_artifact(_declaring(inputs, outputs))


SHAPE = pb.field(2, pb.fields(1, [pb.field(2, "seq_len"), pb.field(2, "batch"), pb.field(1, 2)]))


def _typed(name, tensor_type):
    return pb.field(1, name) + pb.field(2, tensor_type)


@pytest.mark.parametrize(
    ("x", "rule"),
    [
        (
            ("x", ["seq_len", "batch", 3]),
            r"x: the manifest says float32 \['seq_len', 'batch', 2\], the graph has float32 .*3\]",
        ),
        (("x", ["seq_len", "batch"]), "x: the manifest says float32"),
        (("x", ["seq_len", "batch", 2, 1]), "x: the manifest says float32"),
        (("x", ["seq_len", "batch", "features"]), "x: the manifest says float32"),
        (("x", ["seq_len", 1, 2]), "x: the manifest says float32"),
        (("x", [5, "batch", 2]), "x: the manifest says float32"),
        (("x", []), "Scan has a body that takes or gives something else than it says"),
        (_typed("x", pb.field(1, pb.field(1, 11) + SHAPE)), "x: the manifest says float32 .*, the graph has float64"),
        (_typed("x", pb.field(1, pb.field(1, 8) + SHAPE)), "x: the manifest says float32 .*, the graph has type 8"),
        (_typed("x", pb.field(1, SHAPE)), "x: the manifest says float32 .*, the graph has no type"),
        (_typed("x", pb.field(4, b"")), "x is no tensor; an artifact's are"),
        (_typed("x", pb.field(1, pb.field(1, pb.FLOAT))), "x: the graph declares no shape for it"),
        (_typed("x", b""), "x: the graph declares no shape for it"),
        (pb.field(1, "x"), "x: the graph declares no shape for it"),
    ],
)
def test_types_and_sizes_that_differ_between_manifest_and_graph_are_refused(x, rule):
    with pytest.raises(ArtifactError, match=f"^{rule}"):
        open_artifact(_declaring([x, ("h", SUM)], [("h.next", SUM), ("y", STEPS)]))


TENSOR = pb.field(1, pb.FLOAT)
TIME, BATCH = pb.field(2, "seq_len"), pb.field(2, "batch")


def _sizes(*dims):
    return _typed("x", pb.field(1, TENSOR + pb.field(2, pb.fields(1, dims))))


@pytest.mark.parametrize(
    ("x", "rule"),
    [
        (_sizes(TIME, BATCH, pb.field(1, 2) + pb.field(1, 3)), "x: a field of its declaration stands twice"),
        (_sizes(TIME, BATCH, pb.field(1, 2) + pb.field(1, 2)), "x: a field of its declaration stands twice"),
        (_sizes(TIME, BATCH, pb.field(1, 2) + pb.field(2, "features")), "x: an axis has a size and a symbol"),
        (_typed("x", pb.field(1, TENSOR + SHAPE + SHAPE)), "x: a field of its declaration stands twice"),
        (_typed("x", pb.field(1, TENSOR + TENSOR + SHAPE)), "x: a field of its declaration stands twice"),
        (_typed("x", pb.field(1, TENSOR + SHAPE) * 2), "x: a field of its declaration stands twice"),
        (_typed("x", pb.field(1, TENSOR + SHAPE)) + pb.field(1, "h"), "an input or output: a field of its declaration stands"),
        (_typed("x", pb.field(1, TENSOR + SHAPE)) + pb.field(2, b""), "an input or output: a field of its declaration stands"),
        (_typed("x\x1b[31m", pb.field(1, TENSOR + SHAPE)), r"the graph names an input or output 'x\\x1b\[31m'; a name has"),
    ],
)
def test_a_declaration_that_readers_could_take_in_two_ways_is_refused(x, rule):
    with pytest.raises(ArtifactError, match=f"^{rule}"):
        open_artifact(_declaring([x, ("h", SUM)], [("h.next", SUM), ("y", STEPS)]))


def test_an_input_may_have_metadata_of_its_own():
    x = pb.value_info("x", STEPS) + pb.field(4, pb.field(1, "a")) + pb.field(4, pb.field(1, "b"))
    open_artifact(_declaring([x, ("h", SUM)], [("h.next", SUM), ("y", STEPS)]))


@pytest.mark.parametrize("limit", ["metadata", "nodes", "one tensor", "a body"])
def test_a_file_of_endless_small_fields_is_refused_in_bounded_time(monkeypatch, limit):
    monkeypatch.setattr(protobuf, "FIELD_LIMIT", 1000)
    many, repeated = pb.field(3, 0) * 1001, pb.field(1, "a") * 1001
    data = {
        "metadata": running_sum(None, many),
        "nodes": running_sum(running_sum_graph(scan(), pb.node("Identity", ["y"], ["z"]) + repeated)),
        "one tensor": running_sum(running_sum_graph(weights=(pb.tensor("w", [2], ZEROS) + pb.field(1, 2) * 1001,))),
        "a body": running_sum(running_sum_graph(scan(body=step_body() + many))),
    }[limit]
    with pytest.raises(ArtifactError, match="^the file has more than 1000 fields; an artifact must have fewer$"):
        open_artifact(data)
    open_artifact(running_sum())


def _whole(name, *numbers):
    raw = np.array(numbers, np.int64)
    return pb.fields(1, raw.shape) + pb.field(2, pb.INT64) + pb.field(8, name) + pb.field(9, raw.tobytes())


def _holding(*nodes, weights=()):
    return running_sum(running_sum_graph(scan(), *nodes, weights=weights))


@pytest.mark.parametrize(
    "weight",
    [
        pb.tensor("w", [3], ZEROS),
        pb.tensor("w", [1], ZEROS),
        pb.tensor("w", [], ZEROS),
        pb.tensor("w", [1 << 32, 1 << 33], ZEROS),
        pb.tensor("w", [1 << 32, 0], ZEROS),
        pb.fields(1, [2]) + pb.field(2, pb.FLOAT) + pb.field(8, "w"),
        pb.fields(1, [2]) + pb.field(2, pb.FLOAT) + pb.field(8, "w") + pb.field(4, bytes(12)),
        pb.fields(1, [2]) + pb.field(2, pb.INT64) + pb.field(8, "w") + pb.field(7, b"\x80\x01"),
    ],
)
def test_a_weight_of_another_length_than_it_says_is_refused(weight):
    with pytest.raises(
        ArtifactError, match=r"^the weight 'w' of the type \d and the size .* needs \d+, not \d+, bytes or numbers$"
    ):
        open_artifact(_holding(weights=(weight,)))


@pytest.mark.parametrize(
    "weight",
    [
        pb.fields(1, [2]) + pb.field(2, pb.FLOAT) + pb.field(8, "w") + pb.field(4, ZEROS),
        pb.fields(1, [2]) + pb.field(2, pb.INT64) + pb.field(8, "w") + pb.fields(7, [1, 1 << 63]),
        pb.fields(1, [2]) + pb.field(2, pb.INT64) + pb.field(8, "w") + pb.field(7, b"\x80\x01\x01"),
        pb.field(1, b"\x02") + pb.field(2, pb.FLOAT) + pb.field(8, "w") + pb.field(9, ZEROS),
        pb.fields(1, [0]) + pb.field(2, pb.FLOAT) + pb.field(8, "w"),
    ],
)
def test_a_weight_may_be_written_in_every_way_of_its_type(weight):
    open_artifact(_holding(weights=(weight,)))


@pytest.mark.parametrize(
    ("weight", "rule"),
    [
        (pb.tensor("w", [2], ZEROS, pb.field(4, ZEROS)), "is of the type 1, which is not read, or not written as"),
        (pb.fields(1, [1]) + pb.field(2, 8) + pb.field(8, "w") + pb.field(6, "a"), "holds texts, or is a piece of one"),
        (pb.fields(1, [1]) + pb.field(2, 14) + pb.field(8, "w") + pb.field(9, ZEROS), "is of the type 14, which is not read"),
        (pb.tensor("w", [(1 << 64) - 1], ZEROS), r"has the size \[-1\], which no tensor has"),
        (pb.tensor("w", [1] * 65, bytes(4)), "has the size "),
    ],
)
def test_a_weight_that_is_none_is_refused(weight, rule):
    with pytest.raises(ArtifactError, match=f"^the weight 'w' {rule}"):
        open_artifact(_holding(weights=(weight,)))


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _layer(operator, *, hidden=2, directions=1, w=None, r=None, more=(), weights=()):
    rows = GATES[operator] * 2
    stored = [
        pb.tensor(name, shape, bytes(4 * int(np.prod(shape))))
        for name, shape in (("w", w or (directions, rows, 2)), ("r", r or (directions, rows, 2)))
    ]
    node = pb.node(
        operator, ["x", "w", "r", *(name for name, _ in weights)], ["z"], [pb.integer("hidden_size", hidden), *more]
    )
    return _holding(node, weights=(*stored, *(weight for _, weight in weights)))


@pytest.mark.parametrize("operator", GATES)
def test_weights_of_a_recurrent_node_have_the_size_of_its_attributes(operator):
    rows = GATES[operator] * 2
    both = pb.field(1, "direction") + pb.field(4, "bidirectional") + pb.field(20, 3)
    bias = ("b", pb.tensor("b", [1, 2 * rows], bytes(8 * rows)))
    open_artifact(_layer(operator))
    open_artifact(_layer(operator, weights=[bias]))
    open_artifact(_layer(operator, directions=2, more=[both]))
    for wrong in (
        _layer(operator, hidden=1 << 20),
        _layer(operator, hidden=1),
        _layer(operator, hidden=(1 << 64) - 2),
        _layer(operator, w=(1, rows - 1, 2)),
        _layer(operator, r=(1, rows, 3)),
        _layer(operator, w=(rows, 2)),
        _layer(operator, more=[both]),
        _layer(operator, directions=2),
        _layer(operator, weights=[("b", pb.tensor("b", [1, rows], bytes(4 * rows)))]),
        _layer(operator, weights=[("b", _whole("b", *range(2 * rows)))]),
    ):
        with pytest.raises(
            ArtifactError, match=f"^{operator} reads '[wrb]' of the type . and the size .*, its attributes ask for"
        ):
            open_artifact(wrong)
    aside = pb.field(1, "direction") + pb.field(4, "sideways") + pb.field(20, 3)
    with pytest.raises(ArtifactError, match=f"^{operator} runs in the direction b'sideways'; it is forward, reverse or"):
        open_artifact(_layer(operator, more=[aside]))


@pytest.mark.parametrize("operator", ["Max", "Min", "Sum", "Mean", "Concat", "LayerNormalization", "Add"])
def test_an_input_that_is_left_out_is_refused_where_onnx_runtime_may_not_survive_it(operator):
    with pytest.raises(ArtifactError, match=f"^{operator} leaves an input out; in an artifact only Clip, "):
        open_artifact(_holding(pb.node(operator, ["x", ""], ["z"])))
    open_artifact(_holding(pb.node("Clip", ["x", ""], ["z"])))


def test_an_attribute_that_can_be_read_in_two_ways_is_refused():
    for wrong in (
        pb.integer("axis", 0) + pb.fields(8, [1]),
        pb.field(1, "axis") + pb.field(3, 0) + pb.field(20, 7),
    ):
        with pytest.raises(
            ArtifactError, match="^'Softmax': the attribute 'axis' has a value of another type than it says, or two"
        ):
            open_artifact(_holding(pb.node("Softmax", ["x"], ["z"], [wrong])))
    with pytest.raises(ArtifactError, match="^a node has the attribute 'axis' twice$"):
        open_artifact(_holding(pb.node("Softmax", ["x"], ["z"], [pb.integer("axis", 0), pb.integer("axis", 1)])))


INTEGER = pb.node("Cast", ["x"], ["i"], [pb.integer("to", pb.INT64)])


@pytest.mark.parametrize("operator", ["Div", "Mod"])
def test_integers_are_divided_by_stored_numbers_other_than_0_and_minus_1(operator):
    open_artifact(_holding(INTEGER, pb.node(operator, ["i", "n"], ["z"]), weights=(_whole("n", 2, 3),)))
    for divisor in ((0,), (2, 0), (-1,)):
        with pytest.raises(
            ArtifactError, match=f"^{operator} of integers by what may be 0 or -1 is not allowed in an artifact"
        ):
            open_artifact(_holding(INTEGER, pb.node(operator, ["i", "n"], ["z"]), weights=(_whole("n", *divisor),)))
    for divisor in ("i", "size"):
        with pytest.raises(ArtifactError, match=f"^{operator} of integers by what may be 0"):
            open_artifact(_holding(INTEGER, pb.node("Shape", ["x"], ["size"]), pb.node(operator, ["i", divisor], ["z"])))
    open_artifact(_holding(pb.node(operator, ["x", "x"], ["z"])))


MUCH = "and what is made before it, have more than 67108864 elements for so few steps"


@pytest.mark.parametrize(
    ("nodes", "weights", "rule"),
    [
        ([pb.node("ConstantOfShape", ["n"], ["z"])], [_whole("n", 1 << 27)], f"ConstantOfShape 'z', {MUCH}"),
        ([pb.node("Expand", ["x", "n"], ["z"])], [_whole("n", 1 << 26, 1, 2)], f"Expand 'z', {MUCH}"),
        ([pb.node("Tile", ["x", "n"], ["z"])], [_whole("n", 1 << 26, 1, 1)], f"Tile 'z', {MUCH}"),
        ([pb.node("Pad", ["x", "n"], ["z"])], [_whole("n", 1 << 26, 0, 0, 0, 0, 0)], f"Pad 'z', {MUCH}"),
        ([INTEGER, pb.node("Tile", ["x", "i"], ["z"])], [], "Tile makes something as large as a value says that is computed"),
        (
            [pb.node("ConstantOfShape", ["n"], ["z"])],
            [_whole("n", 1 << 25)],
            "ConstantOfShape and the nodes before it make too much of",
        ),
        ([pb.node("Transpose", ["x"], ["z"], [pb.integer("perm", 1)])], [], None),
        (
            [pb.node("Unsqueeze", ["x", "n"], ["z"])],
            [_whole("n", 0, 0)],
            "Unsqueeze 'z' reads what it cannot be given, or has an",
        ),
        (
            [pb.node("Einsum", ["x"], ["z"])],
            [],
            "Einsum 'z' reads what it cannot be given, or has an attribute that it cannot have",
        ),
    ],
)
def test_what_makes_much_out_of_little_is_refused(nodes, weights, rule):
    data = _holding(*nodes, weights=tuple(weights))
    if rule is None:
        open_artifact(data)
        return
    with pytest.raises(ArtifactError, match=f"^{rule}"):
        open_artifact(data)


def test_what_grows_faster_than_the_steps_is_refused():
    def powers(times):
        names = ["x", *(f"v{place}" for place in range(times))]
        flat = pb.node("Reshape", ["x", "all"], ["x1"])
        nodes = [flat]
        for one, then in zip(["x1", *names[1:]], names[1:], strict=False):
            nodes += [pb.node("Unsqueeze", [one, "last"], [f"{then}.c"]), pb.node("Mul", [f"{then}.c", "x1"], [then])]
        return _holding(*nodes, weights=(_whole("all", -1), _whole("last", -1)))

    open_artifact(powers(1))  # attention over all steps
    with pytest.raises(ArtifactError, match="elements for so few steps"):
        open_artifact(powers(3))


def test_a_body_that_is_run_without_end_is_refused():
    body = pb.graph(
        [pb.node("Identity", ["before"], ["after"])],
        [pb.value_info("before", ["batch", 2]), pb.value_info("now", [0])],
        [pb.value_info("after", ["batch", 2])],
    )
    endless = pb.node("Scan", ["h", "steps"], ["z"], [pb.body("body", body), pb.integer("num_scan_inputs", 1)])
    data = _holding(pb.node("ConstantOfShape", ["n"], ["steps"]), endless, weights=(_whole("n", 1 << 40, 0),))
    with pytest.raises(ArtifactError, match="^a body of 1 nodes is run 1099511627776 times for so few steps"):
        open_artifact(data)


def test_one_weight_read_by_many_nodes_is_packed_for_each():
    wide = pb.node("Expand", ["x1", "n"], ["v"])
    first = pb.node("ReduceMax", ["x"], ["x1"])
    nodes = [pb.node("MatMul", ["v", "w"], [f"v{place}"]) for place in range(500)]
    weights = (pb.tensor("w", [128, 128], bytes(4 << 14)), _whole("n", 1, 1, 128))
    open_artifact(_holding(first, wide, *nodes[:100], weights=weights))
    with pytest.raises(
        ArtifactError, match="^MatMul and the nodes before it make too much of the weights when the file is loaded"
    ):
        open_artifact(_holding(first, wide, *nodes, weights=weights))


def test_an_axis_has_no_endless_symbol():
    x = pb.value_info("x", ["seq_len" + "*" * 300, "batch", 2])
    with pytest.raises(ArtifactError, match="^x: an axis has a symbol of 307 bytes; 256 are the most$"):
        open_artifact(_declaring([x, ("h", SUM)], [("h.next", SUM), ("y", STEPS)]))


def test_the_file_made_by_hand_runs_when_nothing_is_wrong_with_it():
    answer, state = load(running_sum()).run(np.ones((1, 3, 2), np.float32))
    np.testing.assert_array_equal(answer, [[[1, 1], [2, 2], [3, 3]]])
    np.testing.assert_array_equal(state["sum"], [[3, 3]])
