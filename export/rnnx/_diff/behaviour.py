"""What two artifacts answer to each other's golden traces, step by step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from rnnx._diff.change import Spec, paired
from rnnx._diff.contract import inner_sizes
from rnnx._diff.files import OnnxFile
from rnnx._parity.compare import difference, relative
from rnnx_runtime import InputError, Model, RnnxError, State, load
from rnnx_runtime.artifact import Input, Output, golden_start

# Of each step, relative above 1. Of float32 that of the runtime's own test: other wiring, or fewer bits, are off by more. Both models
# run here, so that fewer bits are no reason to be further apart.
TOLERANCES: Final = {"float32": 1e-4, "float64": 1e-9, "float16": 1e-4, "int8": 1e-4, "int4": 1e-4}
_ROWS: Final = 4  # of conditions drawn at random

Run = Literal["a", "b", "conditions"]
RUNS: Final[dict[Run, str]] = {"a": "a's golden trace", "b": "b's golden trace", "conditions": "random conditions"}
Kind = Literal["output", "state"]
Key = tuple[Kind, str]
Arrays = Mapping[str, NDArray[Any]]
Found = list[dict[Key, NDArray[Any]]]  # per step
S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class TensorDifference:
    """How far an output, or a state, of b is from that of a.

    Attributes:
        name: in a.
        absolute: the largest difference. `relative`: the largest one, relative above 1, which is what the tolerance is for.
        first_step: the first, counted from 1, at which it is above the tolerance; None where there is none.
        other_symbols: of logits, at how many steps, over all rows, another symbol is the most likely; else None.
    """

    name: str
    kind: Kind
    same_bits: bool
    absolute: float
    relative: float
    first_step: int | None
    other_symbols: int | None


@dataclass(frozen=True)
class RunDifference:
    """Both models on one run.

    Attributes:
        run: whose golden trace it was; or "conditions": initial states, computed from the same random conditions.
        own_start: each began with its own initial state, for the trace's does not fit both.
    """

    run: Run
    batch: int
    steps: int
    own_start: bool
    tensors: tuple[TensorDifference, ...]

    @property
    def close(self) -> bool:
        """Whether all is within the tolerance at every step."""
        return all(tensor.first_step is None for tensor in self.tensors)


@dataclass(frozen=True)
class BehaviourDifference:
    """All runs.

    Attributes:
        recorded: how far what each answers to its own golden trace is from what stands there, by side, relative above 1.
        left_out: what was not run or not compared, and why.
    """

    tolerance: float
    runs: tuple[RunDifference, ...]
    recorded: dict[str, float]
    left_out: tuple[str, ...]

    @property
    def untrue(self) -> tuple[str, ...]:
        """The sides that answer their own golden trace otherwise than they say."""
        return tuple(side for side, distance in self.recorded.items() if distance > self.tolerance)

    @property
    def close(self) -> bool:
        return not self.untrue and all(run.close for run in self.runs)

    @property
    def same_bits(self) -> bool:
        return all(tensor.same_bits for run in self.runs for tensor in run.tensors)


def compare_behaviour(a: OnnxFile, b: OnnxFile, *, trust: bool) -> BehaviourDifference:
    """Run both models on both golden traces, where the contracts allow it.

    Args:
        trust: run operators outside the runtime's list too.
    """
    models: list[Model] = []
    left_out: list[str] = []
    for side, file in (("a", a), ("b", b)):
        try:
            if file.artifact is None:
                raise InputError(file.no_artifact_because)
            models.append(load(file.data, trust=trust))
        except RnnxError as error:
            left_out.append(f"{side} was not run: {error}")
    if len(models) < 2:
        return BehaviourDifference(0.0, (), {}, tuple(left_out))
    both, runs = _Both(*models), []
    recorded: dict[str, float] = {}
    for run, title in RUNS.items():
        try:
            found = both.on_conditions() if run == "conditions" else both.on_trace(run)
            if run != "conditions":
                recorded[run] = models[0 if run == "a" else 1].selftest().largest
        except RnnxError as error:
            left_out.append(f"{title}: {error}")
        else:
            runs += [] if found is None else [found]
    for model in models:
        model.close()
    return BehaviourDifference(both.tolerance, tuple(runs), recorded, (*left_out, *both.left_out))


class _Both:
    """Two models that are given the same."""

    def __init__(self, a: Model, b: Model) -> None:
        self.tolerance = max(TOLERANCES[model.manifest.precision] for model in (a, b))
        self._models = (a, b)
        self._manifests = (a.manifest, b.manifest)
        self._streamable = a.manifest.streamable and b.manifest.streamable
        outputs = paired(a.manifest.outputs, b.manifest.outputs)
        self._outputs = [(one, two) for one, two in outputs if one and two and self._fit(one, two)]
        self.left_out = [f"output {p.name}: its sizes differ" for p, q in outputs if p and q and not self._fit(p, q)]
        states = paired(a.manifest.states, b.manifest.states)
        self._states = [(p, q) for p, q in states if p and q and (p.dtype, p.shape) == (q.dtype, q.shape)]
        self._states_fit = len(self._states) == len(states)

    def on_trace(self, run: Run) -> RunDifference:
        """Both on the golden trace of one.

        Raises:
            RnnxError: it holds no step, or the other does not take it.
        """
        owner = 0 if run == "a" else 1
        begin = golden_start(self._models[owner])
        if begin is None:
            raise InputError("it holds no step")
        chunk, state = begin
        inputs = _complete("input", paired(self._manifests[0].inputs, self._manifests[1].inputs))
        other = next((one.name for one, two in inputs if not self._fit(one, two)), None)
        if other is not None:
            raise InputError(f"the sizes of the input {other} differ")
        timed = [self._manifests[owner].has_time(pair[owner]) for pair in inputs]
        batch = next(iter(chunk.values())).shape[0]
        steps = next((chunk[pair[owner].name].shape[1] for pair, over in zip(inputs, timed, strict=True) if over), 1)
        own_start = not (self._streamable and self._states_fit)
        found = []
        for side, model in enumerate(self._models):
            given = {pair[side].name: chunk[pair[owner].name] for pair in inputs}
            if not self._streamable:
                found.append(_whole(model, given, steps))
                continue
            if own_start or not self._states:
                start = model.initial_state(batch)
            else:
                start = model.make_state({pair[side].name: state[pair[owner].name] for pair in self._states})
            over_time = {pair[side].name for pair, over in zip(inputs, timed, strict=True) if over}
            found.append(_stepped(model, given, over_time, steps, start))
        return RunDifference(run, batch, steps, own_start and bool(self._manifests[owner].states), self._apart(*found))

    def on_conditions(self) -> RunDifference | None:
        """The initial states that both compute from the same conditions, drawn at random; None where none are computed.

        Raises:
            RnnxError: the conditions differ.
        """
        if not any(manifest.conditions for manifest in self._manifests):
            return None
        pairs = _complete("condition", paired(self._manifests[0].conditions, self._manifests[1].conditions))
        rows = next((manifest.fixed_batch for manifest in self._manifests if manifest.fixed_batch), _ROWS)
        random = np.random.default_rng(0)
        drawn = [_draw(pair[0], rows, random) for pair in pairs]
        found = []
        for side, model in enumerate(self._models):
            given = {pair[side].name: array for pair, array in zip(pairs, drawn, strict=True)}
            found.append([_keyed({}, model.initial_state(rows, **given))])
        return RunDifference("conditions", rows, 1, False, self._apart(*found))

    def _fit(self, one: Input | Output, two: Input | Output) -> bool:
        """Whether callers see the same sizes."""
        a, b = self._manifests
        return a.has_time(one) == b.has_time(two) and inner_sizes(one.shape) == inner_sizes(two.shape)

    def _apart(self, a: Found, b: Found) -> tuple[TensorDifference, ...]:
        """Of each tensor that both gave."""
        keys: list[tuple[Key, Key, bool]] = [
            (("output", one.name), ("output", two.name), one.role == two.role == "logits") for one, two in self._outputs
        ]
        keys += [(("state", one.name), ("state", two.name), False) for one, two in self._states]
        given = set().union(*a)
        return tuple(self._tensor(one, two, a, b, logits=logits) for one, two, logits in keys if one in given)

    def _tensor(self, in_a: Key, in_b: Key, a: Found, b: Found, *, logits: bool) -> TensorDifference:
        pairs = [(step, one[in_a], two[in_b]) for step, (one, two) in enumerate(zip(a, b, strict=True), 1) if in_a in one]
        values = [(step, two.astype(np.float64), one.astype(np.float64)) for step, one, two in pairs]
        apart = {step: relative({"": two}, {"": one}) for step, two, one in values}
        symbols = sum(int((one.argmax(-1) != two.argmax(-1)).sum()) for _, one, two in pairs) if logits else None
        return TensorDifference(
            name=in_a[1],
            kind=in_a[0],
            same_bits=all(one.dtype == two.dtype and one.tobytes() == two.tobytes() for _, one, two in pairs),
            absolute=max(float(difference(two, one).max(initial=0.0)) for _, two, one in values),
            relative=max(apart.values()),
            first_step=next((step for step, distance in apart.items() if distance > self.tolerance), None),
            other_symbols=symbols,
        )


def _stepped(model: Model, given: Arrays, over_time: set[str], steps: int, state: State) -> Found:
    """What the model answers to each step of a chunk, and the state behind it."""
    found = []
    for step in range(steps):
        x = {name: array[:, step : step + 1] if name in over_time else array for name, array in given.items()}
        answer, state = model.run(x, state)
        found.append(_keyed(_named(model, answer), state))
    return found


def _whole(model: Model, given: Arrays, steps: int) -> Found:
    """What a model that is not streamable answers to a sequence; what has no value per step, at the last one."""
    answer, state = model.run(given)
    named = _named(model, answer)
    over_time = {spec.name for spec in model.manifest.outputs if model.manifest.has_time(spec)}
    found = [_keyed({name: named[name][:, step] for name in over_time}, {}) for step in range(steps)]
    found[-1] |= _keyed({name: array for name, array in named.items() if name not in over_time}, state)
    return found


def _named(model: Model, answer: Any) -> Arrays:
    return answer if isinstance(answer, dict) else {model.manifest.outputs[0].name: answer}


def _keyed(outputs: Arrays, states: Arrays) -> dict[Key, NDArray[Any]]:
    return {**{("output", name): array for name, array in outputs.items()}, **{("state", n): s for n, s in states.items()}}


def _complete(kind: str, pairs: Sequence[tuple[S | None, S | None]]) -> list[tuple[S, S]]:
    """The pairs, if none lacks one of both.

    Raises:
        InputError: one does.
    """
    for one, two in pairs:
        if one is None or two is None:
            spec = one or two
            assert spec is not None
            raise InputError(f"only {'b' if one is None else 'a'} has the {kind} {spec.name}")
    return [(one, two) for one, two in pairs if one is not None and two is not None]


def _draw(spec: Input, rows: int, random: np.random.Generator) -> NDArray[Any]:
    """Values that a condition may have, `(B, ...)`."""
    size = (rows, *inner_sizes(spec.shape))
    if spec.dtype.startswith("float"):
        return random.standard_normal(size).astype(spec.dtype)
    return random.integers(spec.vocabulary_size or 2, size=size).astype(spec.dtype)
