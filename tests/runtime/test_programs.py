"""Random programs of streams and a pool, side by side with plain numpy models of the same networks."""

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
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

from rnnx_runtime import InputError, Model, State, load

# float32 against float64, over some hundred steps of contractive networks; sums of up to a hundred numbers.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
SEEDS = st.integers(0, 1 << 16)
KEYS = st.sampled_from("abcdef")


class Programs(RuleBasedStateMachine):
    """Every stream has a twin: the reference's state, and its position. So has every stream of the pool, by its key."""

    model: Model
    states = Bundle("states")  # what was kept: a State, the reference's, and the position

    def __init__(self) -> None:
        super().__init__()
        self.reference = step_of(self.model)
        self.pool = self.model.pool(max_batch=3)
        self.streams: list[Any] = []
        self.twins: list[dict[str, np.ndarray]] = []
        self.members: dict[str, tuple[dict[str, np.ndarray], int]] = {}

    def fresh(self, batch):
        return {name: np.float64(array) for name, array in self.model.initial_state(batch).items()}

    def follow(self, xs, state):
        """The reference's answers to a chunk `(B, T, ...)`, and where it ends."""
        answers = []
        for t in range(xs.shape[1]):
            answer, state = self.reference(xs[:, t], state)
            answers.append(answer)
        joined = {}
        for name in answers[0] if answers else ():
            rows = [answer[name] for answer in answers]
            joined[name] = np.stack(rows, axis=1) if name in per_step(self.model) else rows[-1]
        return joined, state

    def check(self, found, wanted):
        for name, array in wanted.items():
            np.testing.assert_allclose(named(self.model, found)[name], array, **CLOSE)

    @initialize(batches=st.lists(st.integers(1, 3), min_size=1, max_size=3))
    def begin(self, batches):
        self.streams = [self.model.stream(batch) for batch in batches]
        self.twins = [self.fresh(batch) for batch in batches]
        self.positions = [0 for _ in batches]

    def pick(self, number):
        return number % len(self.streams)

    @rule(number=SEEDS, seed=SEEDS)
    def step(self, number, seed):
        at = self.pick(number)
        xs = sample(self.model, self.streams[at].batch, 1, seed)
        wanted, self.twins[at] = self.follow(xs, self.twins[at])
        found = named(self.model, self.streams[at].step(xs[:, 0]))
        self.check({n: a[:, None] if n in per_step(self.model) else a for n, a in found.items()}, wanted)
        self.positions[at] += 1

    @rule(number=SEEDS, steps=st.integers(1, 6), seed=SEEDS)
    def feed(self, number, steps, seed):
        at = self.pick(number)
        xs = sample(self.model, self.streams[at].batch, steps, seed)
        wanted, self.twins[at] = self.follow(xs, self.twins[at])
        self.check(self.streams[at].feed(xs), wanted)
        self.positions[at] += steps

    @rule(number=SEEDS)
    def feed_nothing(self, number):
        stream = self.streams[self.pick(number)]
        xs = sample(self.model, stream.batch, 1)[:, :0]
        if len(per_step(self.model)) == len(self.model.manifest.outputs):
            assert all(array.shape[1] == 0 for array in named(self.model, stream.feed(xs)).values())
        else:
            with pytest.raises(InputError):
                stream.feed(xs)

    @rule(number=SEEDS, steps=st.booleans())
    def give_something_wrong(self, number, steps):
        stream = self.streams[self.pick(number)]
        xs = sample(self.model, stream.batch + 1, 2)
        with pytest.raises(InputError):
            stream.step(xs[:, 0]) if steps else stream.feed(xs)

    @rule(number=SEEDS)
    def fork(self, number):
        at = self.pick(number)
        self.streams.append(self.streams[at].fork())
        self.twins.append(self.twins[at])
        self.positions.append(self.positions[at])

    @precondition(lambda self: len(self.streams) > 4)
    @rule(number=SEEDS)
    def forget(self, number):
        at = self.pick(number)
        del self.streams[at], self.twins[at], self.positions[at]

    @rule(number=SEEDS)
    def reset(self, number):
        at = self.pick(number)
        self.streams[at].reset()
        self.twins[at], self.positions[at] = self.fresh(self.streams[at].batch), 0

    @rule(target=states, number=SEEDS, as_bytes=st.booleans())
    def keep(self, number, as_bytes):
        at = self.pick(number)
        state = self.streams[at].state
        return State.from_bytes(state.to_bytes()) if as_bytes else state, self.twins[at], self.positions[at]

    @rule(kept=states, number=SEEDS)
    def restore(self, kept, number):
        state, twin, position = kept
        at = next((i for i in range(len(self.streams)) if self.streams[self.pick(number + i)].batch == state.batch), None)
        if at is not None:
            at = self.pick(number + at)
            self.streams[at].restore(state)
            self.twins[at], self.positions[at] = twin, position

    @rule(keys=st.sets(KEYS), seed=SEEDS)
    def step_in_the_pool(self, keys, seed):
        keys = sorted(keys)
        xs = sample(self.model, len(keys) + 1, 1, seed)
        found = self.pool.step({key: xs[row, 0] for row, key in enumerate(keys)})
        for row, key in enumerate(keys):
            self.follow_member(key, xs[row : row + 1], found[key], single=True)

    @rule(lengths=st.dictionaries(KEYS, st.integers(1, 5)), seed=SEEDS)
    def feed_in_the_pool(self, lengths, seed):
        xs = sample(self.model, len(lengths) + 1, 5, seed)
        found = self.pool.feed({key: xs[row, :steps] for row, (key, steps) in enumerate(lengths.items())})
        for row, (key, steps) in enumerate(lengths.items()):
            self.follow_member(key, xs[row : row + 1, :steps], found[key])

    @rule(keys=st.lists(KEYS, max_size=5), seed=SEEDS)
    def submit_to_the_pool(self, keys, seed):
        xs = sample(self.model, len(keys) + 1, 1, seed)
        futures = [self.pool.submit(key, xs[row, 0]) for row, key in enumerate(keys)]
        for row, key in enumerate(keys):  # the same stream may stand there twice: in this order
            self.follow_member(key, xs[row : row + 1], futures[row].result(10), single=True)

    def follow_member(self, key, xs, found, single=False):
        twin, position = self.members.get(key) or (self.fresh(1), 0)
        wanted, twin = self.follow(xs, twin)
        self.members[key] = twin, position + xs.shape[1]
        by_name = named(self.model, found)
        self.check({n: a[None, None] if single and n in per_step(self.model) else a[None] for n, a in by_name.items()}, wanted)

    @rule(kept=consumes(states), key=KEYS)
    def join_the_pool(self, kept, key):
        state, twin, position = kept
        if state.batch == 1:
            if key in self.members:
                self.pool.restore(key, state)
            else:
                self.pool.join(key, state)
            self.members[key] = twin, position

    @precondition(lambda self: self.members)
    @rule(target=states, key=KEYS)
    def leave_the_pool(self, key):
        key = key if key in self.members else next(iter(self.members))
        state = self.pool.leave(key)
        return state, *self.members.pop(key)

    @invariant()
    def everything_is_where_the_reference_is(self):
        for stream, twin, position in zip(self.streams, self.twins, getattr(self, "positions", []), strict=True):
            assert stream.position == stream.state.position == position
            self.check_state(stream.state, twin)
        assert set(self.pool) == set(self.members)
        for key, (twin, position) in self.members.items():
            assert self.pool.state(key).position == position
            self.check_state(self.pool.state(key), twin)

    def check_state(self, state, twin):
        assert state.keys() == twin.keys()
        for name, array in twin.items():
            np.testing.assert_allclose(state[name], array, **CLOSE)


def machine(name):
    model = load(handmade.running_sum()) if name == "running_sum" else load(GOLDEN / f"{name}.onnx")
    return type(f"Programs_{name}", (Programs,), {"model": model})


COMMON = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much],
}


@pytest.mark.parametrize("name", [*NAMES, "running_sum"])
def test_random_programs(name):
    run_state_machine_as_test(machine(name), settings=settings(max_examples=60, stateful_step_count=40, **COMMON))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, "running_sum"])
def test_thousands_of_random_programs(name):
    run_state_machine_as_test(machine(name), settings=settings(max_examples=1000, stateful_step_count=60, **COMMON))
