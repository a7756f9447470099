import numpy as np
import pytest

from rnnx_runtime import InputError, RnnxError, load
from tests.runtime.handmade import with_manifest


def lies(**changes):
    """One lie about a tensor: `inputs`, `outputs` or `states`, and what is said of each."""
    (group, said_of_each), *_ = changes.items()
    return pytest.param(group, said_of_each, id=f"{group}-{said_of_each}")


@pytest.fixture(scope="module")
def data(golden):
    return (golden / "char_rnn.onnx").read_bytes()


@pytest.mark.parametrize(
    ("group", "said_of_each"),
    [
        lies(inputs={"dtype": "int32"}),
        lies(outputs={"shape": ["batch*seq_len", 1]}),
        lies(outputs={"shape": ["batch*seq_len", 4000]}),
        lies(outputs={"shape": ["batch", 4]}),
        lies(outputs={"shape": ["seq_len", "batch", 8]}),
        lies(outputs={"dtype": "float64"}),
        lies(outputs={"dtype": "bool"}),
        lies(states={"shape": [1, "batch", 4]}),
        lies(states={"shape": [1, "batch", 4000]}),
        lies(states={"shape": ["batch", 8], "batch_axis": 0}),
        lies(states={"dtype": "float64"}),
        lies(states={"dtype": "int32"}),
    ],
)
@pytest.mark.parametrize("ask", ["run", "step", "stream"])
def test_a_manifest_that_says_other_shapes_or_types_than_the_graph_gets_no_answer(data, char_rnn, group, said_of_each, ask):
    lying = with_manifest(data, char_rnn.manifest, lambda said: [tensor.update(said_of_each) for tensor in said[group]])
    asks = {
        "run": lambda model: model.run([[0, 1]]),
        "step": lambda model: model.step([0], model.initial_state()),
        "stream": lambda model: model.stream().step([0]),
    }
    with pytest.raises(RnnxError):
        asks[ask](load(lying))


@pytest.mark.parametrize("token", [-1, -4])
def test_tokens_below_zero_are_refused_though_the_manifest_gives_no_vocabulary_size(data, char_rnn, token):
    lying = with_manifest(data, char_rnn.manifest, lambda said: said["inputs"][0].update(vocabulary_size=None))
    with pytest.raises(RnnxError):
        load(lying).stream().step([token])


def test_an_artifact_that_cannot_be_stepped_says_why_and_still_answers_whole_sequences(data, char_rnn):
    change = {"streamable": False, "not_streamable_because": "it looks ahead"}
    model = load(with_manifest(data, char_rnn.manifest, lambda said: said.update(change)))
    with pytest.raises(InputError, match=r"this model cannot be stepped: it looks ahead; use Model\.run"):
        model.stream()
    np.testing.assert_array_equal(model.run([[0, 1, 2]])[0], char_rnn.run([[0, 1, 2]])[0])
