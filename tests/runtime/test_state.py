import copy
import pickle

import numpy as np
import pytest
from tests.runtime.answers import assert_same_bits, sample

from rnnx_runtime import State, StateError


@pytest.fixture
def state(lstm):
    return lstm.run(sample(lstm, 2, 3))[1]


@pytest.fixture
def arrays(state):
    return copies(state)


def copies(state):
    return {name: array.copy() for name, array in state.items()}


def test_a_state_is_a_mapping_of_arrays_in_the_shapes_of_the_manifest(model):
    for batch in (1, 3):
        state = model.run(sample(model, batch, 2))[1]
        assert list(state) == [spec.name for spec in model.manifest.states]
        assert len(state) == len(model.manifest.states)
        assert (state.batch, state.digest) == (batch, model.digest)
        for spec in model.manifest.states:
            assert (state[spec.name].shape, state[spec.name].dtype) == (spec.sized(batch), np.dtype(spec.dtype))
    with pytest.raises(KeyError, match="h9"):
        state["h9"]


@pytest.mark.parametrize("source", ["initial", "made", "run", "step", "stream", "empty chunk"])
def test_the_values_of_a_state_are_read_only(lstm, arrays, source):
    x = sample(lstm, 2, 1)
    stream = lstm.stream(2)
    stream.step(x[:, 0])
    state = {
        "initial": lambda: lstm.initial_state(2),
        "made": lambda: lstm.make_state(arrays),
        "run": lambda: lstm.run(x)[1],
        "step": lambda: lstm.step(x[:, 0], lstm.initial_state(2))[1],
        "stream": lambda: stream.state,
        "empty chunk": lambda: lstm.run(x[:, :0])[1],
    }[source]()
    for array in state.values():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    with pytest.raises(TypeError, match="does not support item assignment"):
        state["lstm.l0.h"] = arrays["lstm.l0.h"]


def test_a_state_keeps_its_values_though_it_was_pickled_or_copied(state):
    for other in (pickle.loads(pickle.dumps(state)), copy.copy(state), copy.deepcopy(state)):
        assert isinstance(other, State)
        assert other == state
        assert (other.digest, other.batch) == (state.digest, state.batch)
        for array in other.values():
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0


@pytest.mark.parametrize(("name", "value"), [("batch", 7), ("digest", "0" * 64), ("more", 1)])
def test_a_state_cannot_be_changed(state, name, value):
    with pytest.raises(AttributeError):
        setattr(state, name, value)


def test_the_copies_of_a_state_are_the_callers_own(lstm, state):
    before = {name: array.tobytes() for name, array in state.items()}
    for array in copies(state).values():
        array[...] = 5
    assert {name: array.tobytes() for name, array in state.items()} == before


def test_states_are_equal_by_artifact_batch_and_bits(lstm, gru, state, arrays):
    assert state == lstm.make_state(arrays)
    assert state != lstm.initial_state(2)
    assert lstm.initial_state(1) != lstm.initial_state(2)
    assert lstm.initial_state() != gru.initial_state()
    assert state != dict(state)
    assert state != "state"
    arrays["lstm.l0.c"][0, 1, 4] = np.nextafter(arrays["lstm.l0.c"][0, 1, 4], np.float32(9))
    assert state != lstm.make_state(arrays)


def test_zero_and_minus_zero_are_different_bits(lstm):
    zeros = lstm.initial_state()
    assert zeros != lstm.make_state({name: -array for name, array in zeros.items()})


def test_a_state_has_no_hash(state):
    with pytest.raises(TypeError, match="unhashable"):
        hash(state)


def test_a_state_shows_its_shapes_and_not_its_values(state):
    assert repr(state) == "State(batch=2, lstm.l0.h float32[1, 2, 5], lstm.l0.c float32[1, 2, 5])"


def test_a_made_state_is_taken_up_like_any_other(model):
    chunk, state = sample(model, 3, 4), model.run(sample(model, 3, 2, seed=1))[1]
    made = model.make_state(copies(state))
    assert made == state
    assert model.run(chunk, made)[1] == model.run(chunk, state)[1]
    stream = model.stream(3)
    stream.restore(made)
    assert stream.state == state


def test_a_made_state_does_not_follow_the_callers_arrays(lstm, arrays):
    state = lstm.make_state(arrays)
    before = {name: array.copy() for name, array in state.items()}
    for array in arrays.values():
        assert array.flags.writeable
        array[...] = 5
    assert_same_bits(dict(state), before)


def test_a_state_may_be_made_of_arrays_in_any_order(lstm, state, arrays):
    reordered = {name: np.asfortranarray(array) for name, array in reversed(arrays.items())}
    strided = {name: np.repeat(array, 2, axis=2)[:, :, ::2] for name, array in arrays.items()}
    for given in (reordered, strided):
        made = lstm.make_state(given)
        assert made == state
        assert list(made) == list(state)
        assert all(array.flags.c_contiguous for array in made.values())


def _with(**changes):
    names = {"h": "lstm.l0.h", "c": "lstm.l0.c"}
    return {names[key]: value for key, value in changes.items()}


ZEROS = np.zeros((1, 2, 5), np.float32)
NAN = np.full((1, 2, 5), np.nan, np.float32)
ZEROS_64 = ZEROS.astype(float)
INF = np.where(np.arange(10).reshape(1, 2, 5) == 7, np.float32(-np.inf), np.float32(0))


@pytest.mark.parametrize(
    ("arrays", "rule"),
    [
        ({}, r"the states are \['lstm\.l0\.c', 'lstm\.l0\.h'\], got \[\]"),
        (_with(h=ZEROS), r"the states are \['lstm\.l0\.c', 'lstm\.l0\.h'\], got \['lstm\.l0\.h'\]"),
        (_with(h=ZEROS, c=ZEROS) | {"x": ZEROS}, r"the states are .*, got \['lstm\.l0\.c', 'lstm\.l0\.h', 'x'\]"),
        (_with(h=ZEROS, c=ZEROS) | {3: ZEROS}, "the states are "),
        (
            _with(h=ZEROS, c=ZEROS[:, :1]),
            r"lstm\.l0\.c: expected the shape \(1, 'batch', 5\), got \(1, 1, 5\) in a batch of 2",
        ),
        (
            _with(h=ZEROS[:, :1], c=ZEROS),
            r"lstm\.l0\.c: expected the shape \(1, 'batch', 5\), got \(1, 2, 5\) in a batch of 1",
        ),
        (_with(h=ZEROS[0], c=ZEROS), r"lstm\.l0\.h: expected the shape \(1, 'batch', 5\), got \(2, 5\)"),
        (_with(h=ZEROS[0], c=ZEROS[0]), r"lstm\.l0\.h: expected the shape \(1, 'batch', 5\), got \(2, 5\)"),
        (_with(h=ZEROS[:, :0], c=ZEROS[:, :0]), r"lstm\.l0\.h: expected the shape .*, got \(1, 0, 5\) in a batch of 0"),
        (_with(h=ZEROS[..., :4], c=ZEROS), r"lstm\.l0\.h: expected the shape .*, got \(1, 2, 4\)"),
        (_with(h=ZEROS.swapaxes(0, 1), c=ZEROS), r"lstm\.l0\.h: expected the shape .*, got \(2, 1, 5\)"),
        (_with(h=ZEROS.astype(complex), c=ZEROS), r"lstm\.l0\.h: expected float32, got complex128"),
        (_with(h=ZEROS.astype(bool), c=ZEROS), r"lstm\.l0\.h: expected float32, got bool"),
        (_with(h=ZEROS.astype(str), c=ZEROS), r"lstm\.l0\.h: expected float32, got <U\d+"),
        (_with(h=ZEROS.astype(object), c=ZEROS), r"lstm\.l0\.h: expected float32, got object"),
        (_with(h=None, c=ZEROS), r"lstm\.l0\.h: expected float32, got object"),
        (_with(h="h", c=ZEROS), r"lstm\.l0\.h: expected float32, got <U1"),
        (_with(h=0.0, c=ZEROS), r"lstm\.l0\.h: expected the shape \(1, 'batch', 5\), got \(\)$"),
        (_with(h=ZEROS_64 + 1e39, c=ZEROS), r"lstm\.l0\.h: a value is not finite"),
        (_with(h=np.ma.masked_array(ZEROS, ZEROS == 0), c=ZEROS), r"lstm\.l0\.h: a masked array; fill what is masked first"),
        (_with(h=[[1.0], [1.0, 2.0]], c=ZEROS), r"lstm\.l0\.h: "),
        (_with(h=NAN, c=ZEROS), r"lstm\.l0\.h: a value is not finite"),
        (_with(h=ZEROS, c=INF), r"lstm\.l0\.c: a value is not finite"),
    ],
)
def test_what_does_not_fit_makes_no_state(lstm, arrays, rule):
    with pytest.raises(StateError, match=f"^{rule}"):
        lstm.make_state(arrays)


@pytest.mark.parametrize("arrays", [None, [], [1, 2], 3, "lstm.l0.h", ZEROS])
def test_what_is_no_mapping_makes_no_state(lstm, arrays):
    with pytest.raises(StateError, match=r"^the states are \['lstm\.l0\.c', 'lstm\.l0\.h'\], got \w+$"):
        lstm.make_state(arrays)


@pytest.mark.parametrize("dtype", [">f4", "f8", ">f8", "f2", "i8", "u1"])
def test_numbers_of_another_type_become_those_of_the_state(lstm, dtype):
    values = np.arange(10).reshape(1, 2, 5)
    given = values.astype(dtype)
    for arrays in ({"lstm.l0.h": given, "lstm.l0.c": given}, {"lstm.l0.h": given.tolist(), "lstm.l0.c": given.tolist()}):
        state = lstm.make_state(arrays)
        for array in state.values():
            assert array.dtype == np.float32
            assert array.dtype.isnative
            np.testing.assert_array_equal(array, values)
            assert not np.shares_memory(array, given)


@pytest.mark.parametrize("arguments", [(), ("digest", 1, {}), ({"lstm.l0.h": ZEROS},)])
def test_nobody_constructs_a_state(arguments):
    with pytest.raises(
        TypeError, match=r"^a state is made by Model\.initial_state or Model\.make_state, or taken from a stream$"
    ):
        State(*arguments)


def test_the_learned_start_is_the_same_in_every_row(gru):
    one, three = gru.initial_state(1), gru.initial_state(3)
    for name in one:
        assert one[name].any()
        np.testing.assert_array_equal(three[name], np.concatenate([one[name]] * 3, axis=1))


def test_a_state_that_a_model_overflowed_is_still_a_state(running_sum):
    huge = np.full((1, 2, 2), 3e38, np.float32)
    _, state = running_sum.run(huge)
    assert np.isinf(state["sum"]).all()
    assert running_sum.run(huge, state)[1] == state


def test_a_state_that_a_model_overflowed_is_not_restored(running_sum):
    huge = np.full((1, 2, 2), 3e38, np.float32)
    stream = running_sum.stream()
    stream.step([[1, 2]])
    before = stream.state
    with pytest.raises(StateError, match="^sum: a value is not finite; restore a state from before the model overflowed$"):
        stream.restore(running_sum.run(huge)[1])
    assert stream.state == before
