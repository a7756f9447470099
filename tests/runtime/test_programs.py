"""Random programs of streams and a pool, side by side with plain numpy models of the same networks; thousands of them are F4."""

import copy
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.runtime import handmade
from tests.runtime.answers import named, per_step, sample
from tests.runtime.conftest import GOLDEN, NAMES
from tests.runtime.reference import step_of

from rnnx_runtime import InputError, Model, State, StateError, Stream, load

# float32 against float64, over some hundred steps of contractive networks; sums of up to a hundred numbers.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
SEEDS = st.integers(0, 1 << 16)
KEYS = st.sampled_from("abcdef")
CROWD = range(17)  # more streams than a pool has rows for at first: they must move
CLOSED = "^this model is closed; load it again$"


@dataclass(frozen=True)
class Twin:
    """Where the reference is; never changed in place, so that it can be kept and shared."""

    arrays: dict[str, np.ndarray]
    position: int


@dataclass
class Pair:
    stream: Stream
    twin: Twin
    start: Twin  # what reset goes back to


class Programs(RuleBasedStateMachine):
    """Every stream has a twin, and so has every stream of the pool, by its key."""

    model: Model
    states = Bundle("states")  # what was kept: a State, and its twin

    def __init__(self) -> None:
        super().__init__()
        self.reference = step_of(self.model)
        self.pool = self.model.pool(max_batch=3)
        self.pairs: list[Pair] = []
        self.members: dict[Any, Twin] = {}
        self.stepped: list[Any] = []  # by the latest step of the pool
        self.latest: list[tuple[np.ndarray, np.ndarray]] = []  # answers, and what they were when they came
        self.per_step = per_step(self.model)
        self.answers_no_steps = len(self.per_step) == len(self.model.manifest.outputs)

    def fresh(self, batch):
        return Twin({name: np.float64(array) for name, array in self.model.initial_state(batch).items()}, 0)

    def follow(self, xs, twin, answer):
        """Compare the answer to a chunk `(B, T, ...)`; where the reference ends."""
        arrays, wanted = twin.arrays, []
        for t in range(xs.shape[1]):
            outputs, arrays = self.reference(xs[:, t], arrays)
            wanted.append(outputs)
        found = named(self.model, answer)
        assert list(found) == [spec.name for spec in self.model.manifest.outputs]
        for name, array in found.items():
            if not wanted:
                assert array.shape[:2] == xs.shape[:2]
            elif name in self.per_step:
                np.testing.assert_allclose(array, np.stack([outputs[name] for outputs in wanted], axis=1), **CLOSE)
            else:
                np.testing.assert_allclose(array, wanted[-1][name], **CLOSE)
        self.latest = [*self.latest[-5:], *((array, array.copy()) for array in found.values())]
        return Twin(arrays, twin.position + xs.shape[1])

    def follow_member(self, key, xs, answer):
        rows = {name: array[None] for name, array in named(self.model, answer).items()}
        self.members[key] = self.follow(xs[None], self.members.get(key) or self.fresh(1), rows)

    def as_chunk(self, answer, axis):
        """The answer to a step as that to a chunk of one: `axis` is where its time goes."""
        found = named(self.model, answer)
        return {name: np.expand_dims(a, axis) if name in self.per_step else a for name, a in found.items()}

    def read(self, text, twin):
        """Where the reference is after a text."""
        arrays = twin.arrays
        for token in self.model.encode(text) if text else ():
            _, arrays = self.reference(np.array([token]), arrays)
        return Twin(arrays, twin.position + len(text))

    def spoiled(self, xs):
        """The same, but for a last value that no model takes: outside the vocabulary, or not finite."""
        xs = xs.copy()
        xs.flat[-1] = 99 if xs.dtype == np.int64 else np.nan
        return xs

    def pick(self, number):
        return self.pairs[number % len(self.pairs)]

    @initialize(batches=st.lists(st.integers(1, 3), min_size=1, max_size=3))
    def begin(self, batches):
        self.pairs = [Pair(self.model.stream(batch), self.fresh(batch), self.fresh(batch)) for batch in batches]

    @rule(number=SEEDS, seed=SEEDS)
    def step(self, number, seed):
        pair = self.pick(number)
        xs = sample(self.model, pair.stream.batch, 1, seed)
        pair.twin = self.follow(xs, pair.twin, self.as_chunk(pair.stream.step(xs[:, 0]), axis=1))

    @rule(number=SEEDS, steps=st.integers(0, 6), seed=SEEDS)
    def feed(self, number, steps, seed):
        pair = self.pick(number)
        xs = sample(self.model, pair.stream.batch, steps, seed)
        if steps or self.answers_no_steps:
            pair.twin = self.follow(xs, pair.twin, pair.stream.feed(xs))
        else:
            with pytest.raises(InputError):
                pair.stream.feed(xs)

    @rule(number=SEEDS, steps=st.booleans(), wide=st.booleans())
    def give_something_wrong(self, number, steps, wide):
        stream = self.pick(number).stream
        xs = sample(self.model, stream.batch + 1, 2) if wide else self.spoiled(sample(self.model, stream.batch, 2))
        with pytest.raises(InputError):
            stream.step(xs[:, -1]) if steps else stream.feed(xs)

    @precondition(lambda self: len(self.pairs) < 6)
    @rule(number=SEEDS)
    def fork(self, number):
        pair = self.pick(number)
        self.pairs.append(replace(pair, stream=pair.stream.fork()))

    @precondition(lambda self: len(self.pairs) < 6)
    @rule(kept=states)
    def start_from(self, kept):
        state, twin = kept
        self.pairs.append(Pair(self.model.stream(state=state), twin, twin))

    @precondition(lambda self: len(self.pairs) > 4)
    @rule(number=SEEDS)
    def forget(self, number):
        self.pairs.remove(self.pick(number))

    @rule(number=SEEDS)
    def reset(self, number):
        pair = self.pick(number)
        pair.stream.reset()
        pair.twin = pair.start

    @rule(target=states, number=SEEDS, way=st.sampled_from(["as it is", "copied", "pickled", "as bytes"]))
    def keep(self, number, way):
        pair = self.pick(number)
        state = pair.stream.state
        if way == "copied":
            assert copy.copy(state) is copy.deepcopy(state) is state
        elif way != "as it is":
            kept = state
            state = pickle.loads(pickle.dumps(kept)) if way == "pickled" else State.from_bytes(kept.to_bytes())
            assert (state, state.position) == (kept, kept.position)
        return state, pair.twin

    @rule(number=SEEDS, way=st.sampled_from([copy.copy, copy.deepcopy, pickle.dumps]))
    def try_to_copy(self, number, way):
        for whole in (self.pick(number).stream, self.pool):
            with pytest.raises(TypeError, match="cannot be copied or pickled"):
                way(whole)

    @rule(kept=states, number=SEEDS)
    def restore(self, kept, number):
        (state, twin), pair = kept, self.pick(number)
        if pair.stream.batch == state.batch:
            pair.stream.restore(state)
            pair.twin = twin
        else:
            with pytest.raises(StateError):
                pair.stream.restore(state)

    @rule(target=states, kept=states, steps=st.integers(1, 4), seed=SEEDS)
    def run(self, kept, steps, seed):
        """A pure function: neither the state nor a stream moves."""
        (state, twin), bits = kept, kept[0].to_bytes()
        xs = sample(self.model, state.batch, steps, seed)
        answer, following = self.model.run(xs, state)
        assert state.to_bytes() == bits
        return following, self.follow(xs, twin, answer)

    @rule(number=SEEDS, keys=st.lists(KEYS, unique=True), seed=SEEDS)
    def go_on_in_another_thread(self, number, keys, seed):
        with ThreadPoolExecutor(1) as thread:
            for use, given in ((self.step, number), (self.step_in_the_pool, keys)):
                thread.submit(use, given, seed).result()

    @rule()
    def take_the_model_along(self):
        """As into another process. Streams go on with theirs; what begins from now on does with this one."""
        self.model = pickle.loads(pickle.dumps(self.model))

    @rule(target=states, kept=states, seed=SEEDS)
    def close_a_model(self, kept, seed):
        (state, twin), model = kept, pickle.loads(pickle.dumps(self.model))
        stream, pool, xs = model.stream(state=state), model.pool(), sample(model, state.batch, 2, seed)
        after = self.follow(xs, twin, stream.feed(xs))
        pool.step({"a": xs[0, 0]})
        model.close()
        for use in (
            lambda: stream.step(xs[:, 0]),
            lambda: stream.feed(xs),
            lambda: stream.fork().step(xs[:, 0]),
            lambda: model.run(xs),
            lambda: model.stream().feed(xs[:1]),
            lambda: pool.step({"a": xs[0, 0]}),
            lambda: pool.feed({"b": xs[0]}),
        ):
            with pytest.raises(InputError, match=CLOSED):
                use()
        assert set(pool) == {"a"}
        assert pool.state("a").position == 1
        found = stream.state
        self.check_state(found, after)
        stream.reset()
        self.check_state(stream.state, twin)
        return found, after

    @precondition(lambda self: self.model.manifest.codec is not None)
    @rule(
        number=SEEDS,
        prompt=st.text("ehlo", min_size=1, max_size=4),
        pieces=st.integers(0, 4),
        key=st.none() | KEYS,
        seed=SEEDS,
    )
    def write(self, number, prompt, pieces, key, seed):
        """A text, and a checkpoint in the middle of it that another stream goes on from, or one of the pool."""
        pair = self.pick(number)
        if pair.stream.batch > 1:
            with pytest.raises(InputError):
                pair.stream.generate(prompt)
            return
        writing = pair.stream.generate(prompt, 6, temperature=2.0, repetition_penalty=1.2, seed=seed)
        begun = "".join(itertools.islice(writing, pieces))
        pair.twin = self.read(prompt + begun, pair.twin)
        checkpoint, stream = writing.to_bytes(), pair.stream.fork()
        resumed = stream.resume(checkpoint) if key is None else self.pool.resume(key, checkpoint)
        assert resumed.text == writing.text == begun
        rest = "".join(writing)
        assert "".join(resumed) == rest
        assert resumed.to_bytes() == writing.to_bytes()
        pair.twin = self.read(rest, pair.twin)
        if key is None:
            self.check_state(stream.state, pair.twin)
        else:
            self.members[key] = pair.twin

    @rule(keys=st.lists(KEYS, unique=True), seed=SEEDS)
    def step_in_the_pool(self, keys, seed):
        xs = sample(self.model, len(keys) + 1, 1, seed)
        found = self.pool.step({key: x[0] for key, x in zip(keys, xs, strict=False)})
        for key, x in zip(keys, xs, strict=False):
            self.follow_member(key, x, self.as_chunk(found[key], axis=0))
        self.stepped = keys

    @rule(seed=SEEDS, backwards=st.booleans())
    def step_the_same_in_the_pool(self, seed, backwards):
        self.step_in_the_pool(self.stepped[::-1] if backwards else self.stepped, seed)

    @rule(seed=SEEDS)
    def step_a_crowd_in_the_pool(self, seed):
        self.step_in_the_pool(list(CROWD), seed)
        for key in CROWD:
            self.check_state(self.pool.leave(key), self.members.pop(key))
        self.stepped = []

    @rule(lengths=st.dictionaries(KEYS, st.integers(0, 5)), seed=SEEDS)
    def feed_in_the_pool(self, lengths, seed):
        xs = sample(self.model, len(lengths) + 1, 5, seed)
        chunks = {key: x[:steps] for (key, steps), x in zip(lengths.items(), xs, strict=False)}
        if 0 in lengths.values() and not self.answers_no_steps:
            with pytest.raises(InputError):
                self.pool.feed(chunks)
            return
        found = self.pool.feed(chunks)
        for key, chunk in chunks.items():
            self.follow_member(key, chunk, found[key])

    @rule(keys=st.lists(KEYS, max_size=5), seed=SEEDS)
    def submit_to_the_pool(self, keys, seed):
        xs = sample(self.model, len(keys) + 1, 1, seed)
        futures = [self.pool.submit(key, x[0]) for key, x in zip(keys, xs, strict=False)]
        for key, x, future in zip(keys, xs, futures, strict=False):  # the same stream may stand there twice: in this order
            self.follow_member(key, x, self.as_chunk(future.result(10), axis=0))

    @rule(keys=st.sets(KEYS, min_size=1), steps=st.booleans())
    def give_the_pool_something_wrong(self, keys, steps):
        xs = self.spoiled(sample(self.model, len(keys), 2))
        call, given = (self.pool.step, xs[:, -1]) if steps else (self.pool.feed, xs)
        with pytest.raises(InputError, match="stream"):
            call(dict(zip(sorted(keys), given, strict=True)))

    @rule(kept=states, key=KEYS)
    def join_the_pool(self, kept, key):
        state, twin = kept
        enter = self.pool.restore if key in self.members else self.pool.join
        if state.batch == 1:
            enter(key, state)
            self.members[key] = twin
        else:
            with pytest.raises(StateError):
                enter(key, state)

    @precondition(lambda self: self.members.keys() & self.stepped)
    @rule()
    def begin_anew_what_the_pool_has_just_stepped(self):
        key = next(key for key in self.stepped if key in self.members)
        self.pool.restore(key, self.model.initial_state())
        self.members[key] = self.fresh(1)

    @precondition(lambda self: self.members)
    @rule(target=states, number=SEEDS)
    def leave_the_pool(self, number):
        key = list(self.members)[number % len(self.members)]
        state, twin = self.pool.leave(key), self.members.pop(key)
        self.check_state(state, twin)
        return state, twin

    @rule(key=KEYS, seed=SEEDS)
    def close_the_pool(self, key, seed):
        """It can still be stepped, and its streams go to another one."""
        self.pool.close()
        with pytest.raises(InputError, match="^this pool is closed"):
            self.pool.submit(key, sample(self.model, 1, 1)[0, 0])
        self.step_in_the_pool([*self.members], seed)
        closed, self.pool, self.stepped = self.pool, self.model.pool(max_batch=3), []
        for member in self.members:
            self.pool.join(member, closed.leave(member))
        assert len(closed) == 0

    # No invariant: reading a state ends the pool's hold of the streams it steps, and what it holds is to be tested too.
    @rule()
    def look_into_the_pool(self):
        for key, twin in self.members.items():
            self.check_state(self.pool.state(key), twin)

    @invariant()
    def everything_is_where_the_reference_is(self):
        assert set(self.pool) == set(self.members)
        for pair in self.pairs:
            assert pair.stream.position == pair.twin.position
            self.check_state(pair.stream.state, pair.twin)
        for array, when_it_came in self.latest:
            np.testing.assert_array_equal(array, when_it_came)

    def check_state(self, state, twin):
        assert state.position == twin.position
        assert state.keys() == twin.arrays.keys()
        for name, array in twin.arrays.items():
            np.testing.assert_allclose(state[name], array, **CLOSE)

    def teardown(self):
        self.look_into_the_pool()
        self.pool.close()


def run_programs(name, seed=None, **more):
    """Random programs of one model; `seed` makes them the same each time."""
    model = load(handmade.running_sum()) if name == "running_sum" else load(GOLDEN / f"{name}.onnx")
    machine = type(f"Programs_{name}", (Programs,), {"model": model})
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    common = settings(deadline=None, database=None, suppress_health_check=checks)
    run_state_machine_as_test(machine if seed is None else hypothesis.seed(seed)(machine), settings=settings(common, **more))


@pytest.mark.parametrize("name", [*NAMES, "running_sum"])
def test_random_programs(name):
    run_programs(name, max_examples=30, stateful_step_count=40, derandomize=True)
