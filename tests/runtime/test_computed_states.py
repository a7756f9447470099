import numpy as np
import pytest
from tests.runtime import handmade
from tests.runtime import protobuf_writer as pb
from tests.runtime.handmade import IMAGE, SCALE, computed_sum, doubling

from rnnx_runtime import ArtifactError, ExecutionError, InputError, load
from rnnx_runtime.artifact import Input, open_artifact


@pytest.fixture(scope="module")
def computed():
    return load(computed_sum(doubling()))


def test_the_state_is_computed_from_the_condition(computed):
    state = computed.initial_state(image=[[1, 2], [3, 4]])
    assert state.batch == 2
    assert state["sum"].dtype == np.float32
    np.testing.assert_array_equal(state["sum"], [[2, 4], [6, 8]])
    assert state == computed.make_state({"sum": [[2, 4], [6, 8]]})


def test_a_stream_starts_at_the_computed_state_and_returns_to_it(computed):
    stream = computed.stream(image=[[1, 2]])
    start = stream.state
    for _ in range(2):
        assert stream.batch == 1
        assert stream.step([[10, 10]]).tolist() == [[12, 14]]
        assert stream.feed([[[1, 1], [1, 1]]]).tolist() == [[[13, 15], [14, 16]]]
        stream.reset()
        assert stream.state == start
    other = computed.stream(image=[[5, 5]])
    other.restore(start)
    assert other.step([[0, 0]]).tolist() == [[2, 4]]
    other.reset()
    assert other.step([[0, 0]]).tolist() == [[10, 10]]


def test_the_condition_gives_the_number_of_rows(computed):
    stream = computed.stream(image=np.ones((3, 2)))
    assert stream.batch == 3
    np.testing.assert_array_equal(stream.step(np.ones((3, 2))), np.full((3, 2), 3))


def test_a_run_goes_on_from_a_computed_state(computed):
    answer, _ = computed.run([[[1, 1]]], computed.initial_state(image=[[1, 2]]))
    assert answer.tolist() == [[[3, 5]]]


def test_the_callers_condition_is_left_alone(computed):
    image = np.ones((1, 2), np.float32)
    stream = computed.stream(image=image)
    image[...] = 9
    assert stream.step([[0, 0]]).tolist() == [[2, 2]]
    assert (image == 9).all()


RULES = [
    ({}, "the initial state of this model is computed from image; got nothing"),
    ({"picture": [[1, 2]]}, "the initial state of this model is computed from image; got picture"),
    ({"image": [[1, 2]], "more": 1}, "the initial state of this model is computed from image; got image, more"),
    ({"image": [1, 2]}, r"image: expected the shape \(B, 2\), got \(2,\)"),
    ({"image": [[1, 2, 3]]}, r"image: expected the shape \(B, 2\), got \(1, 3\)"),
    ({"image": [[[1, 2]]]}, r"image: expected the shape \(B, 2\), got \(1, 1, 2\)"),
    ({"image": np.zeros((0, 2))}, "the batch is empty; give at least one row"),
    ({"image": [[1, np.nan]]}, r"image: nan at \[0, 1\]; every value must be finite in float32"),
    ({"image": [["a", "b"]]}, "image: expected float32, got <U1; convert it first"),
    ({"image": None}, "image: expected float32, got NoneType; convert it first"),
    ({"image": [[1], [1, 2]]}, "image: list is no array of numbers: "),
]


@pytest.mark.parametrize(("conditions", "rule"), RULES)
@pytest.mark.usefixtures("no_onnxruntime")
def test_a_condition_that_breaks_the_contract_is_refused(computed, conditions, rule):
    for ask in (computed.initial_state, computed.stream):
        with pytest.raises(InputError, match=f"^{rule}"):
            ask(**conditions)


def test_a_run_without_a_state_says_that_it_is_computed(computed):
    rule = "^the initial state of this model is computed from image; got nothing$"
    with pytest.raises(InputError, match=rule):
        computed.run([[[1, 1]]])
    with pytest.raises(InputError, match=rule):
        computed.infer([[[1, 1]]])


def test_a_condition_for_a_model_without_any_is_refused(running_sum):
    for ask in (running_sum.initial_state, running_sum.stream):
        with pytest.raises(InputError, match="^the initial state of this model is not computed; got image$"):
            ask(image=[[1, 2]])


def test_several_conditions_are_told_apart_by_name_and_agree_in_batch():
    second = pb.model(
        pb.graph(
            [pb.node("Mul", ["image", "scale"], ["sum"])],
            [pb.value_info("scale", ["batch", 1]), pb.value_info("image", ["batch", 2])],
            [pb.value_info("sum", ["batch", 2])],
        )
    )
    model = load(computed_sum(second, IMAGE, SCALE))
    assert model.initial_state(scale=[[3]], image=[[1, 2]])["sum"].tolist() == [[3, 6]]
    with pytest.raises(InputError, match="^the initial state of this model is computed from image, scale; got image$"):
        model.initial_state(image=[[1, 2]])
    with pytest.raises(InputError, match="^scale: B is 2, but 1 in another input$"):
        model.initial_state(image=[[1, 2]], scale=[[1], [2]])


def test_a_condition_has_the_type_that_the_second_graph_has():
    label = Input(name="label", dtype="float32", shape=("batch", 2), role="values")
    assert open_artifact(computed_sum(doubling("label"), label)).manifest.conditions == (label,)
    wrong = Input(name="label", dtype="int64", shape=("batch",), role="tokens", vocabulary_size=4)
    with pytest.raises(ArtifactError, match="label: the manifest says int64 .*, the graph has float32"):
        open_artifact(computed_sum(doubling("label"), wrong))


def test_a_computed_state_that_is_not_finite_is_refused(computed):
    with pytest.raises(ExecutionError, match="^sum: the initial state computed from the conditions is not finite$"):
        computed.stream(image=[[3e38, 0]])


def test_a_computed_state_of_another_shape_is_refused(capfd):
    nodes = [pb.node("Concat", ["image", "image"], ["sum"], [pb.integer("axis", 0)])]
    model = load(computed_sum(doubling("image", "sum", *nodes)))
    with pytest.raises(
        ExecutionError, match=r"^sum: the artifact declares float32 \(1, 2\), its graph gave float32 \(2, 2\)$"
    ):
        model.initial_state(image=[[1, 2]])


SECOND = "^the second graph, which computes initial states: "
HOSTILE = {
    "empty": ("", SECOND + "not an ONNX file: it holds no graph"),
    "not base64": ("not base64!", SECOND),
    "not ascii": ("häß", SECOND),
    "cut": (handmade.base64.b64encode(doubling()).decode()[:-5], SECOND),
    "text": (b"hello, I am a text file", SECOND + "not an ONNX file"),
    "another condition": (doubling("picture"), SECOND + r"the manifest names the conditions \['image'\], the graph has"),
    "another state": (doubling("image", "h"), SECOND + r"the manifest names the computed states \['sum'\], the graph has"),
    "a loop": (doubling("image", "sum", pb.node("Loop", ["image"], ["sum"])), SECOND + "operator 'Loop' is not allowed"),
    "another domain": (pb.model(pb.graph([], [], []), pb.opset(1, "custom")), SECOND + "the operator domain 'custom'"),
    "outside weights": (
        pb.model(pb.graph([], [], [], weights=[pb.tensor("w", [2], bytes(8), pb.field(14, 1))])),
        SECOND + "the weights lie in another file",
    ),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_second_graph_is_examined_as_the_first(how, monkeypatch):
    monkeypatch.setattr("rnnx_runtime._engine.Session", lambda *arguments: pytest.fail("ONNX Runtime was given the file"))
    second, rule = HOSTILE[how]
    with pytest.raises(ArtifactError, match=rule):
        load(computed_sum(second))


def test_a_missing_second_graph_is_refused():
    with pytest.raises(ArtifactError, match="^the file lacks the second graph, which computes initial states; export the"):
        load(computed_sum(None))


def test_a_second_graph_that_nothing_needs_is_refused():
    data = handmade.sealed_again(handmade.running_sum(), pb.metadata("rnnx.initial", "aGVsbG8="))
    with pytest.raises(ArtifactError, match="^the file holds a second graph, but no state is computed$"):
        load(data)


def test_a_second_graph_that_onnxruntime_cannot_load_is_an_execution_error(capfd):
    nonsense = doubling("image", "sum", pb.node("Not", ["image"], ["sum"]))
    with pytest.raises(ExecutionError, match="^ONNX Runtime cannot load the model: "):
        load(computed_sum(nonsense))
