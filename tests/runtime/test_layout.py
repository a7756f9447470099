import numpy as np
import pytest

from rnnx_runtime._layout import Layout

B, T = 3, 4


def value_at(row, step, *inner):
    return row * 1000 + step * 100 + sum(index * 10**power for power, index in enumerate(inner))


# Where the graph has the value of one row, step and feature.
PLACES = {
    ("batch", "seq_len"): lambda b, t: (b, t),
    ("seq_len", "batch"): lambda b, t: (t, b),
    ("batch*seq_len",): lambda b, t: (b * T + t,),
    ("seq_len*batch",): lambda b, t: (t * B + b,),
    ("batch", "seq_len", 5): lambda b, t, f: (b, t, f),
    ("seq_len", "batch", 5): lambda b, t, f: (t, b, f),
    ("batch*seq_len", 5): lambda b, t, f: (b * T + t, f),
    ("seq_len*batch", 5): lambda b, t, f: (t * B + b, f),
    ("batch", 5, "seq_len"): lambda b, t, f: (b, f, t),
    (5, "batch", "seq_len"): lambda b, t, f: (f, b, t),
    (1, "batch", "seq_len", 5): lambda b, t, f: (0, b, t, f),
    (1, 1, "seq_len", "batch", 5): lambda b, t, f: (0, 0, t, b, f),
    (1, "seq_len*batch", 5): lambda b, t, f: (0, t * B + b, f),
    ("batch", "seq_len", 1): lambda b, t, f: (b, t, f),
    ("batch", 1, "seq_len"): lambda b, t, f: (b, f, t),
    ("batch", "seq_len", 5, 2): lambda b, t, f, g: (b, t, f, g),
    (5, "seq_len", 2, "batch"): lambda b, t, f, g: (f, t, g, b),
}


@pytest.mark.parametrize("shape", PLACES)
def test_every_layout_is_seen_batch_first_and_put_back(shape):
    layout = Layout(shape)
    array = np.empty((B, T, *layout.inner), np.float32)
    for place in np.ndindex(array.shape):
        array[place] = value_at(*place)
    graph = layout.to_graph(array, T)
    assert layout.has_time
    assert graph.shape == layout.graph_shape(B, T)
    assert graph.flags.c_contiguous
    for place in np.ndindex(array.shape):
        assert graph[PLACES[shape](*place)] == value_at(*place)
    np.testing.assert_array_equal(layout.batch_first(graph, B, T), array)


@pytest.mark.parametrize(
    ("shape", "inner"),
    [
        (("batch",), ()),
        (("batch", 5), (5,)),
        ((5, "batch"), (5,)),
        ((1, "batch", 5), (5,)),
        ((2, 1, "batch", 5), (2, 5)),
        (("batch", 1), (1,)),
    ],
)
def test_a_tensor_without_time_has_one_value_per_row(shape, inner):
    layout = Layout(shape)
    array = np.arange(B * np.prod(inner, dtype=int)).reshape(B, *inner)
    assert not layout.has_time
    assert layout.inner == inner
    graph = layout.to_graph(array, T)
    assert graph.shape == tuple(B if size == "batch" else size for size in shape)
    np.testing.assert_array_equal(layout.batch_first(graph, B, T), array)


@pytest.mark.parametrize("shape", [*PLACES, ("batch", 5), (5, "batch")])
def test_the_batch_first_array_is_a_view(shape):
    layout = Layout(shape)
    graph = np.zeros(layout.graph_shape(B, T))
    layout.batch_first(graph, B, T)[...] = 1
    assert graph.all()


@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (1, 7), (7, 1), (2, 2)])
def test_a_size_of_one_is_not_taken_for_another_axis(batch, steps):
    for shape in PLACES:
        layout = Layout(shape)
        array = np.random.default_rng(0).standard_normal((batch, steps, *layout.inner))
        np.testing.assert_array_equal(layout.batch_first(layout.to_graph(array, steps), batch, steps), array)


@pytest.mark.parametrize(
    ("shape", "one_step", "inner"),
    [
        ((), False, ()),
        ((5,), False, (5,)),
        ((1, 5), False, (1, 5)),
        (("seq_len", 5), False, (5,)),
        ((1, "seq_len", 5), False, (5,)),
        ((5, "seq_len"), False, (5,)),
        ((), True, ()),
        ((5,), True, (5,)),
        ((2, 5), True, (2, 5)),
        (("batch",), True, ()),
        (("batch", 5), True, (5,)),
        ((1, "batch", 5), True, (5,)),
        ((2, 1, "batch", 5), True, (2, 5)),
        (("seq_len", 5), True, (5,)),
        (("seq_len", "batch", 5), True, (5,)),
        (("batch*seq_len", 5), True, (5,)),
    ],
)
def test_axes_that_the_graph_lacks_are_supplied(shape, one_step, inner):
    layout = Layout(shape, one_step=one_step)
    batch = B if any("batch" in str(size) for size in shape) else 1
    steps = T if any("seq_len" in str(size) for size in shape) and not one_step else 1
    assert layout.has_time == (one_step or "seq_len" in shape)
    assert layout.inner == inner
    array = np.random.default_rng(0).standard_normal((batch, steps, *inner) if layout.has_time else (batch, *inner))
    graph = layout.to_graph(array, steps)
    sizes = {"batch": batch, "seq_len": steps, "batch*seq_len": batch * steps}
    assert graph.shape == tuple(sizes.get(size, size) for size in shape)
    np.testing.assert_array_equal(layout.batch_first(graph, batch, steps), array)
    if one_step:
        view = layout.step(graph, batch)
        assert view.shape == (batch, *inner)
        view[...] = 1
        assert graph.all()


def test_a_trace_of_a_graph_of_one_step_has_its_steps_behind_batch():
    array = np.arange(B * T * 5).reshape(B, T, 5)
    np.testing.assert_array_equal(Layout(("batch", 5), one_step=True).batch_first(array, B, T), array)
    np.testing.assert_array_equal(Layout((1, "batch", 5), one_step=True).batch_first(array[None], B, T), array)
    np.testing.assert_array_equal(Layout((5,), one_step=True).batch_first(array[0], 1, T), array[:1])
    time_major = Layout(("seq_len", "batch", 5), one_step=True)
    np.testing.assert_array_equal(time_major.batch_first(array.swapaxes(0, 1).copy(), B, T), array)


def test_a_step_is_seen_without_its_time():
    for shape in [*PLACES, ("batch", 5), (5, "batch")]:
        layout = Layout(shape)
        graph = np.zeros(layout.graph_shape(B, 1))
        view = layout.step(graph, B)
        assert view.shape == (B, *layout.inner)
        view[...] = 1
        assert graph.all()
