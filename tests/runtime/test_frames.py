"""Graphs of one step, of one batch size and without an axis for rows, in every way that a model can be run."""

import asyncio
import pickle

import numpy as np
import pytest
from tests.runtime import frames
from tests.runtime.frames import STYLES

from rnnx_runtime import ArtifactError, InputError, State, StateError, load
from rnnx_runtime._stepper import Stepper
from rnnx_runtime.artifact import Array, Constant, open_artifact

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def models():
    return {name: load(frames.artifact(name)) for name in STYLES}


@pytest.fixture(params=STYLES)
def name(request):
    return request.param


@pytest.fixture
def style(name):
    return STYLES[name]


@pytest.fixture
def model(models, name):
    return models[name]


def assert_state(state, style, h):
    wanted = style.states(h)
    assert state.keys() == wanted.keys()
    for key, array in wanted.items():
        assert state[key].shape == array.shape
        np.testing.assert_allclose(state[key], array, **CLOSE)


def cases():
    return [pytest.param(name, batch, id=f"{name}-{batch}") for name, style in STYLES.items() for batch in style.batches]


@pytest.mark.parametrize(("name", "batch"), cases())
def test_a_chunk_is_answered_as_plain_numpy_does(models, name, batch):
    style, model = STYLES[name], models[name]
    x, start = style.sample(batch, 6), style.start(batch, seed=3)
    wanted, following = style.answers(x, start)
    answer, state = model.run(x, model.make_state(style.states(start)) if style.h else model.initial_state(batch))
    assert answer.shape == (batch, 6, *style.inner)
    np.testing.assert_allclose(answer, wanted, **CLOSE)
    assert_state(state, style, following)
    assert state.position == 6
    np.testing.assert_allclose(model.run(x)[0], style.answers(x, style.start(batch))[0], **CLOSE)


@pytest.mark.parametrize(("name", "batch"), cases())
def test_steps_and_chunks_of_a_stream_are_the_whole(models, name, batch):
    style, model = STYLES[name], models[name]
    x = style.sample(batch, 9)
    wanted, following = style.answers(x, style.start(batch))
    stream, pure = model.stream(batch), model.initial_state(batch)
    found = [stream.step(x[:, 0]), stream.step(x[:, 1]), *np.moveaxis(stream.feed(x[:, 2:6]), 1, 0), stream.step(x[:, 6])]
    found += [*np.moveaxis(stream.feed(x[:, 7:8]), 1, 0), stream.step(x[:, 8])]
    np.testing.assert_allclose(np.stack(found, axis=1), wanted, **CLOSE)
    assert_state(stream.state, style, following)
    for step in range(9):
        answer, pure = model.step(x[:, step], pure)
        np.testing.assert_allclose(answer, wanted[:, step], **CLOSE)
    assert_state(pure, style, following)
    assert stream.position == pure.position == 9


def test_a_chunk_is_bit_for_bit_its_steps(model, style):
    x = style.sample(style.batches[-1], 5)
    fed, stepped = model.stream(len(x)), model.stream(len(x))
    whole = fed.feed(x)
    steps = np.stack([stepped.step(x[:, step]) for step in range(5)], axis=1)
    if style.one_step:
        assert whole.tobytes() == steps.tobytes()
        assert fed.state == stepped.state
    else:
        np.testing.assert_allclose(whole, steps, **CLOSE)


def test_no_steps_are_answered_without_a_call(model, style, no_onnxruntime):
    batch = style.batches[-1]
    state = model.initial_state(batch)
    answer, following = model.run(style.sample(batch, 0), state)
    assert (answer.shape, answer.dtype) == ((batch, 0, *style.inner), np.float32)
    assert following == state


def test_what_a_chunk_holds_is_checked_before_its_first_step(model, style, no_onnxruntime):
    x = style.sample(style.batches[-1], 3)
    x[0, 2, 0] = np.nan
    with pytest.raises(InputError, match=r"^x: nan at \[0, 2, 0\]; every value must be finite in float32$"):
        model.run(x)


def test_a_stream_has_the_batch_that_the_graph_takes(model, style):
    assert model.stream().batch == model.initial_state().batch == (style.fixed_batch or 1)


def test_snapshots_forks_and_pickles_go_on_bit_for_bit(model, style):
    x = style.sample(style.batches[-1], 8)
    stream = model.stream(len(x))
    stream.feed(x[:, :3])
    saved = stream.state
    others = [stream.fork(), model.stream(state=State.from_bytes(saved.to_bytes())), model.stream(len(x))]
    others[2].restore(pickle.loads(pickle.dumps(saved)))
    wanted = [stream.step(x[:, step]).tobytes() for step in range(3, 8)]
    for other in others:
        assert [other.step(x[:, step]).tobytes() for step in range(3, 8)] == wanted
    stream.reset()
    assert stream.state == model.initial_state(len(x))


def test_an_event_loop_gets_the_same(model, style):
    x = style.sample(style.batches[-1], 4)
    stream, other = model.stream(len(x)), model.stream(len(x))

    async def ask():
        return [await stream.astep(x[:, 0]), await stream.afeed(x[:, 1:])]

    first, rest = asyncio.run(ask())
    np.testing.assert_allclose(first, other.step(x[:, 0]), **CLOSE)
    np.testing.assert_allclose(rest, other.feed(x[:, 1:]), **CLOSE)


@pytest.mark.parametrize("name", [name for name, style in STYLES.items() if style.fixed_batch in (None, 1)])
def test_a_pool_answers_each_row_as_if_it_were_alone(models, name):
    style, model = STYLES[name], models[name]
    xs = {key: style.sample(1, 6, seed)[0] for seed, key in enumerate(("ann", "bob", "eve"))}
    wanted = {key: style.answers(x[None], style.start(1)) for key, x in xs.items()}
    pool = model.pool()
    found = {key: [] for key in xs}
    for step in range(2):
        for key, answer in pool.step({key: x[step] for key, x in xs.items()}).items():
            found[key].append(answer)
    found["ann"].append(pool.step({"ann": xs["ann"][2]})["ann"])
    fed = pool.feed({"ann": xs["ann"][3:5], "bob": xs["bob"][2:6], "eve": xs["eve"][:0]})
    found["ann"] += [*fed["ann"], pool.submit("ann", xs["ann"][5]).result()]
    found["bob"] += [*fed["bob"]]
    found["eve"] += [*fed["eve"], *(pool.step({"eve": xs["eve"][step]})["eve"] for step in range(2, 6))]
    for key, (answers, h) in wanted.items():
        np.testing.assert_allclose(np.stack(found[key]), answers[0], **CLOSE)
        assert_state(pool.state(key), style, h)
        assert pool.state(key).position == 6
    left = pool.leave("bob")
    pool.join("dan", left)
    assert pool.state("dan") == left
    for key in range(40):  # rows grow, and are used again
        pool.join(key, left)
    pool.restore("ann", left)
    assert all(pool.state(key) == left for key in ("ann", "dan", 39))
    pool.close()


def test_a_pool_steps_the_rows_of_a_graph_of_one_row_in_calls_of_their_own(models, monkeypatch):
    model, x = models["frozen"], STYLES["frozen"].sample(1, 1)[0, 0]
    pool = model.pool()
    rows, look_ahead = [], Stepper.look_ahead
    monkeypatch.setattr(
        Stepper, "look_ahead", lambda self, chunk, *rest: rows.append(chunk.batch) or look_ahead(self, chunk, *rest)
    )
    pool.step({"ann": x, "bob": x, "eve": x})
    assert rows == [1, 1, 1]


def test_a_pool_of_a_graph_that_takes_several_rows_is_refused(models):
    for name in ("of_three", "of_three_frames"):
        with pytest.raises(
            InputError, match=r"^a pool's streams are a row each, but this graph takes a batch of 3; use Model"
        ):
            models[name].pool()


@pytest.mark.parametrize("name", [name for name, style in STYLES.items() if style.fixed_batch])
@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_another_batch_is_refused_wherever_one_is_given(models, name, rows, no_onnxruntime):
    style, model = STYLES[name], models[name]
    fixed = style.fixed_batch
    if rows == fixed:
        return
    remedy = "give each row a stream of its own" if fixed == 1 else "give 3 rows in each call"
    rule = f"^this graph takes a batch of {fixed}, got {rows}; {remedy}$"
    x, state, stream = style.sample(rows, 2), model.initial_state(), model.stream()
    for ask in (
        lambda: model.run(x),
        lambda: model.infer(x),
        lambda: model.run(x, state),
        lambda: model.step(x[:, 0], state),
        lambda: model.initial_state(rows),
        lambda: model.stream(rows),
        lambda: stream.step(x[:, 0]),
        lambda: stream.feed(x),
        lambda: asyncio.run(stream.astep(x[:, 0])),
    ):
        with pytest.raises(InputError, match=rule):
            ask()
    if name != "without_rows":
        with pytest.raises(StateError, match=rule):
            model.make_state(style.states(style.start(rows)))


def test_a_state_of_another_batch_than_the_graph_takes_is_refused_where_it_is_given(models):
    stranger = models["frozen"].initial_state()
    stranger = State._of(stranger.digest, 2, {"h": np.zeros((1, 2, 4), np.float32)}, 0)
    model, rule = models["frozen"], "^this graph takes a batch of 1, got 2; give each row a stream of its own$"
    for ask in (lambda: model.stream(state=stranger), lambda: model.stream().restore(stranger)):
        with pytest.raises(StateError, match=rule):
            ask()


def test_a_state_without_rows_has_its_one_shape(models):
    for wrong in (np.zeros((1, 4)), np.zeros(3), np.zeros(())):
        with pytest.raises(StateError, match=r"^h: expected the shape \(4,\), got \("):
            models["without_rows"].make_state({"h": wrong})


def test_a_graph_of_dynamic_batch_takes_any_and_keeps_what_it_said(models):
    with pytest.raises(InputError, match="; a chunk goes to feed, another batch size to a stream of its own$"):
        models["frame"].stream().step(STYLES["frame"].sample(2, 1)[:, 0])
    with pytest.raises(StateError, match="^the state has a batch of 2, the input one of 1$"):
        models["frame"].stream(1, state=models["frame"].initial_state(2))


def test_a_start_that_is_not_zero_is_that_of_the_one_row():
    value = np.array([1, 2, 3, 4], np.float32)
    (spec,) = frames.manifest("without_rows").states
    init = Constant(value=Array.of(value))
    spec = type(spec)(**{key: getattr(spec, key) for key in spec.__struct_fields__} | {"init": init})
    model = load(frames.artifact("without_rows", states=(spec,)))
    assert model.initial_state()["h"].tolist() == [1, 2, 3, 4]
    pool = model.pool()
    pool.join("ann")
    assert pool.state("ann")["h"].tolist() == [1, 2, 3, 4]


def test_several_inputs_and_a_number_of_no_axis_are_a_steps_each():
    x = np.array([[[1.0, 2, 3], [4, 5, 6]]], np.float32)
    scale = np.array([[2.0, 10]], np.float32)  # (B, T): the graph has a number only
    model = load(frames.scaled())
    np.testing.assert_array_equal(model.run({"x": x, "scale": scale})[0], [[[2, 4, 6], [40, 50, 60]]])
    stream = model.stream()
    np.testing.assert_array_equal(stream.step({"x": x[:, 1], "scale": scale[:, 1]}), [[40, 50, 60]])
    np.testing.assert_array_equal(stream.state["total"], 10)
    assert stream.state["total"].shape == ()
    assert State.from_bytes(stream.state.to_bytes()) == stream.state
    pool = model.pool()
    pool.step({key: {"x": x[0, 0], "scale": key} for key in (1, 3)})
    assert [float(pool.state(key)["total"]) for key in (1, 3)] == [1, 3]
    with pytest.raises(InputError, match=r"^scale: T is 1, but 2 in another input$"):
        model.run({"x": x, "scale": scale[:, :1]})


def test_text_is_written_one_step_at_a_time():
    model = load(frames.one_hot())
    assert model.infer("abba") == "abba"
    assert "".join(model.stream().generate("ab", 3, temperature=0)) == "bbb"
    assert "".join(model.pool().generate("one", "ab", 3, temperature=0)) == "bbb"
    assert model.score("abba") > 0
    assert model.stream().beam_search("ab", 3, num_beams=1)[0].text == "bbb"
    with pytest.raises(
        InputError, match="^beams are the rows of one call, but this graph takes a batch of 1; set num_beams=1"
    ):
        model.stream().beam_search("ab", 3, num_beams=2)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("frozen", {"fixed_batch": None}),
        ("frozen", {"fixed_batch": 2}),
        ("frozen", {"one_step": False}),
        ("of_three", {"fixed_batch": 2}),
        ("of_three_frames", {"fixed_batch": None}),
    ],
)
def test_a_size_that_the_graph_declares_must_be_what_the_symbol_stands_for(name, changes):
    golden = frames.golden_trace(STYLES["stateless"])
    with pytest.raises(ArtifactError, match=r"the manifest says float32 \[.*\], the graph has float32 \[.*\]$"):
        open_artifact(frames.artifact(name, golden=golden, **changes))


def test_a_graph_may_leave_open_what_the_manifest_fixes():
    """A declaration with symbols, of a graph that was only ever run at one size."""
    data = frames.artifact("frame", fixed_batch=2)
    model = load(data)
    x = STYLES["frame"].sample(2, 3)
    np.testing.assert_allclose(model.run(x)[0], STYLES["frame"].answers(x, STYLES["frame"].start(2))[0], **CLOSE)
    with pytest.raises(InputError, match="^this graph takes a batch of 2, got 1; give 2 rows in each call$"):
        model.stream(1)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"fixed_batch": 0}, "fixed_batch must be from 1 to 65536, got 0"),
        ({"fixed_batch": 65_537}, "fixed_batch must be from 1 to 65536, got 65537"),
        ({"streamable": False, "not_streamable_because": "no"}, "a graph of one step must be streamable"),
        ({"trusted": ("a\nb",)}, "a name is empty or has characters that cannot be printed"),
    ],
)
def test_what_a_manifest_cannot_say_of_sizes(changes, rule):
    with pytest.raises(ValueError, match=f"^{rule}"):
        frames.manifest("frame", **changes)


def test_only_a_graph_of_one_row_lacks_an_axis_for_it():
    for fixed in (None, 2):
        with pytest.raises(ValueError, match="^x has no axis batch, which only a graph of one row may lack$"):
            frames.manifest("without_rows", fixed_batch=fixed)
