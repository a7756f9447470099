import struct

import numpy as np
import pytest
from tests.runtime import frames, handmade
from tests.runtime import protobuf_writer as pb
from tests.runtime.handmade import with_manifest

from rnnx_runtime import ArtifactError, ExecutionError, InputError, RnnxError, load
from rnnx_runtime.artifact import MANIFEST_KEY, Array, GoldenTrace, Output, seal


@pytest.fixture(scope="module")
def data(golden):
    return (golden / "char_rnn.onnx").read_bytes()


LIES = {
    "input of another type": ("inputs", {"dtype": "int32"}),
    "output too narrow": ("outputs", {"shape": ["batch*seq_len", 1]}),
    "output too wide": ("outputs", {"shape": ["batch*seq_len", 4000]}),
    "output in another layout": ("outputs", {"shape": ["seq_len", "batch", 8]}),
    "output of another type": ("outputs", {"dtype": "float64"}),
    "output of another kind": ("outputs", {"dtype": "bool"}),
    "state too narrow": ("states", {"shape": [1, "batch", 4]}),
    "state too wide": ("states", {"shape": [1, "batch", 4000]}),
    "state of another rank": ("states", {"shape": ["batch", 8], "batch_axis": 0}),
    "state of another type": ("states", {"dtype": "float64"}),
    "state of another kind": ("states", {"dtype": "int32"}),
}
ASKS = {
    "run": lambda model: model.run([[0, 1]]),
    "step": lambda model: model.step([0], model.initial_state()),
    "stream step": lambda model: model.stream().step([0]),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("ask", ASKS)
def test_a_manifest_that_says_other_shapes_or_types_than_the_graph_gets_no_answer(data, lie, ask):
    group, said_of_each = LIES[lie]
    lying = with_manifest(data, lambda said: [tensor.update(said_of_each) for tensor in said[group]])
    with pytest.raises(RnnxError):
        ASKS[ask](load(lying))


@pytest.mark.parametrize("through", ["x", "h"])
def test_an_output_that_is_an_input_is_refused_for_onnx_runtime_does_not_write_it_into_a_buffer(through):
    """By an Identity it answers rightly in every way; a bound buffer would keep what it held."""
    graph = {
        between: pb.graph(
            [pb.node("Identity", ["h"], ["h.next"]), pb.node("Neg", ["x"], ["y"]), *between],
            [pb.value_info("h", ["batch", 4]), pb.value_info("x", ["batch", 3])],
            [
                pb.value_info("h.next", ["batch", 4]),
                pb.value_info("y", ["batch", 3]),
                pb.value_info("same" if between else through, ["batch", 3 if through == "x" else 4]),
            ],
        )
        for between in ((), (pb.node("Identity", [through], ["same"]),))
    }

    def artifact(between):
        name, size = ("same" if between else through), (3 if through == "x" else 4)
        outputs = [("y", 3), (name, size)]
        said = frames.manifest(
            "frame",
            outputs=tuple(Output(name=n, dtype="float32", shape=("batch", s), role="values") for n, s in outputs),
            golden=GoldenTrace(
                inputs={"x": Array.of(np.ones((1, 2, 3), np.float32))},
                states={"h": Array.of(np.ones((1, 4), np.float32))},
                outputs={n: Array.of(np.full((1, 2, s), -1 if n == "y" else 1, np.float32)) for n, s in outputs},
                next_states={"h": Array.of(np.ones((1, 4), np.float32))},
            ),
        )
        return seal(pb.model(graph[between], pb.metadata(MANIFEST_KEY, said.encode())))

    with pytest.raises(ArtifactError, match=f"^'{through}' is an input and an output of the graph; put an Identity between"):
        load(artifact(()))
    model = load(artifact((pb.node("Identity", [through], ["same"]),)))
    assert model.selftest().passed
    start = model.make_state({"h": np.full((1, 4), 2)})
    x = np.full((1, 3), 2)
    answers = [model.step(x, start)[0], model.stream(state=start).step(x), model.stream(state=start).feed(x[:, None])]
    assert [set(answer["same"].ravel().tolist()) for answer in answers] == [{2.0}] * 3


@pytest.mark.parametrize("token", [-1, -4])
def test_tokens_below_zero_are_refused_though_the_manifest_gives_no_vocabulary_size(data, token):
    lying = with_manifest(data, lambda said: said["inputs"][0].update(vocabulary_size=None))
    with pytest.raises(RnnxError):
        load(lying).stream().step([token])


def test_an_artifact_that_cannot_be_stepped_says_why_and_still_answers_whole_sequences(data, char_rnn):
    change = {"streamable": False, "not_streamable_because": "it looks ahead"}
    model = load(with_manifest(data, lambda said: said.update(change)))
    with pytest.raises(InputError, match=r"this model cannot be stepped: it looks ahead; run whole sequences"):
        model.stream()
    np.testing.assert_array_equal(model.run([[0, 1, 2]])[0], char_rnn.run([[0, 1, 2]])[0])


@pytest.fixture(scope="module")
def narrowing():
    """An artifact whose answer is as wide as its largest input says, whatever it declares: y = sum[:, :, : 3 - max(x)]."""
    numbers = {"none": 0, "one": 1, "last": 2, "three": 3}
    stored = [
        pb.field(1, 1) + pb.field(2, pb.INT64) + pb.field(8, name) + pb.field(9, struct.pack("<q", value))
        for name, value in numbers.items()
    ]
    nodes = [
        handmade.scan("sums"),
        pb.node("ReduceMax", ["x"], ["largest"], [pb.integer("keepdims", 0)]),
        pb.node("Cast", ["largest"], ["times"], [pb.integer("to", pb.INT64)]),
        pb.node("Reshape", ["times", "one"], ["less"]),
        pb.node("Sub", ["three", "less"], ["end"]),
        pb.node("Slice", ["sums", "none", "end", "last"], ["y"]),
    ]
    return load(handmade.running_sum(handmade.running_sum_graph(*nodes, weights=tuple(stored))))


@pytest.mark.parametrize("ask", ["run", "step", "stream step", "stream feed"])
def test_an_answer_of_another_shape_than_declared_is_an_error_of_ours(narrowing, ask, capfd):
    asks = {
        "run": lambda x: narrowing.run(x[:, None]),
        "step": lambda x: narrowing.step(x, narrowing.initial_state()),
        "stream step": lambda x: narrowing.stream().step(x),
        "stream feed": lambda x: narrowing.stream().feed(x[:, None]),
    }
    asks[ask](np.array([[1, 1]], np.float32))
    with pytest.raises(ExecutionError):
        asks[ask](np.array([[1, 2]], np.float32))


def test_a_codec_with_more_symbols_than_the_graph_answers_never_gets_beyond_its_tokens(data):
    longer = {"kind": "char", "vocabulary": "ehlopqrst"}
    lying = with_manifest(data, lambda said: said.update(codec=longer))
    with pytest.raises(RnnxError):
        load(lying).infer("pqrst")


def test_a_codec_with_fewer_symbols_than_the_graph_answers_never_gives_half_an_answer(data):
    shorter = {"kind": "char", "vocabulary": "eh"}
    lying = with_manifest(data, lambda said: said.update(codec=shorter))
    with pytest.raises(RnnxError):
        load(lying).infer("hehehe")
