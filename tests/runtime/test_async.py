"""The event loop stays free, and what is cancelled never happened."""

import asyncio
import threading
import time

import numpy as np
import pytest
from tests.runtime.answers import assert_close, named, sample, stacked

from rnnx_runtime import InputError, load


def test_the_twins_answer_as_their_brothers_do(model):
    xs = sample(model, 2, 9)

    async def program():
        stream = model.stream(2)
        steps = [await stream.astep(xs[:, t]) for t in range(4)]
        rest = await stream.afeed(xs[:, 4:])
        return steps, rest, stream

    steps, rest, stream = asyncio.run(program())
    other = model.stream(2)
    assert_close(stacked(model, steps), stacked(model, [other.step(xs[:, t]) for t in range(4)]))
    assert_close(named(model, rest), named(model, other.feed(xs[:, 4:])))
    assert stream.position == other.position == 9


def test_text_comes_in_the_same_pieces(char_rnn):
    async def program():
        return [piece async for piece in char_rnn.stream().agenerate("hell", 50, seed=3, stop="hhh", top_k=3)]

    assert asyncio.run(program()) == list(char_rnn.stream().generate("hell", 50, seed=3, stop="hhh", top_k=3))


def test_a_wrong_argument_is_refused_at_once(char_rnn):
    stream = char_rnn.stream()
    with pytest.raises(InputError, match="^temperature must be 0 or more, got -1$"):
        stream.agenerate("hell", temperature=-1)
    with pytest.raises(InputError, match="^generate has no argument 'temp'; it has temperature, top_k, "):
        stream.agenerate("hell", temp=1)


@pytest.fixture
def slow(golden, monkeypatch):
    """A model whose calls wait until they are let go."""
    model = load(golden / "char_rnn.onnx")
    run, inside, go = model._engine.run, threading.Event(), threading.Event()

    def waiting(*arguments):
        inside.set()
        go.wait(10)
        return run(*arguments)

    monkeypatch.setattr(model._engine, "run", waiting)
    return model, inside, go


@pytest.mark.parametrize("call", ["astep", "afeed"])
def test_a_cancelled_call_never_happened(slow, call):
    model, inside, go = slow
    stream = model.stream()
    stream.step([1])
    before = stream.state

    async def program():
        task = asyncio.create_task(getattr(stream, call)([2] if call == "astep" else [[2, 3]]))
        while not inside.is_set():
            await asyncio.sleep(0.001)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 5
        assert stream.state == before
        go.set()
        return await stream.astep([2])

    answer = asyncio.run(program())
    other = model.stream()
    other.step([1])
    np.testing.assert_allclose(answer, other.step([2]), rtol=1e-5, atol=1e-6)
    assert stream.position == 2


def test_the_loop_runs_on_and_a_second_call_is_refused(slow):
    model, inside, go = slow
    stream = model.stream()

    async def program():
        task = asyncio.create_task(stream.afeed([[1, 2, 3]]))
        turns = 0
        while not inside.is_set() or turns < 20:
            turns += 1
            await asyncio.sleep(0.001)
        assert not task.done()
        with pytest.raises(InputError, match="^this stream is in use by another call"):
            await stream.astep([1])
        with pytest.raises(InputError, match="^this stream is in use by another call"):
            stream.step([1])
        go.set()
        return (await task).shape

    assert asyncio.run(program()) == (1, 3, 4)
    assert stream.position == 3


def test_a_cancelled_text_can_be_gone_on_from(slow):
    model, inside, go = slow
    stream = model.stream()
    go.set()
    pieces = []

    async def write():
        async for piece in stream.agenerate("hell", 30, seed=3):
            pieces.append(piece)
            if len(pieces) == 5:
                go.clear()
                inside.clear()

    async def program():
        task = asyncio.create_task(write())
        while len(pieces) < 5 or not inside.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()

    asyncio.run(program())
    other = model.stream()
    for token in model.encode("hell" + "".join(pieces)):
        other.step([int(token)])
    for name, array in other.state.items():
        np.testing.assert_allclose(stream.state[name], array, rtol=1e-5, atol=1e-6)
    assert stream.position == 9
