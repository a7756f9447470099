"""The golden trace: a short run of the eager module that every artifact carries, so that a device can test itself."""

import hashlib
import math
import time
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rnnx_runtime._errors import ArtifactError, printable
from rnnx_runtime._graph import Answers, Graph
from rnnx_runtime._inputs import Chunk
from rnnx_runtime._manifest import BATCH, Manifest
from rnnx_runtime._session import Session
from rnnx_runtime._state import State
from rnnx_runtime._stepper import Stepper

TOLERANCE: Final = 1e-4  # of a whole trace on another machine or provider; wrong wiring and bf16 are off by 1e-3 and more
REDUCED_TOLERANCE: Final = 5e-2  # where fewer bits were asked for, or the artifact has float16
QUANTISED_TOLERANCE: Final = (
    2e-1  # of 8 and 4 bits: processors round inputs of a product too, otherwise, or not at all; that is 6e-2
)
_WARM_UP: Final = 3
_TIMED: Final = 15


def tolerance_of(manifest: Manifest, *, reduced: bool) -> float:
    """How far from the golden trace is right, relative above 1. `reduced`: a provider was asked to compute with fewer bits."""
    if manifest.precision in ("int8", "int4"):
        return QUANTISED_TOLERANCE
    return REDUCED_TOLERANCE if reduced or manifest.reduced else TOLERANCE


def golden_chunk(graph: Graph) -> tuple[Chunk, State] | None:
    """What the trace begins with, checked as a caller's input is; None where it holds no step.

    Raises:
        ArtifactError: the trace breaks the artifact's own contract.
    """
    golden = graph.manifest.golden
    if any(0 in array.shape for array in golden.inputs.values()):
        return None
    try:
        batch = _batch(graph)
        states = {name: array.numpy() for name, array in golden.states.items()}
        state = graph.make_state(states) if states or graph.states else graph.initial_state(batch or None)
        batch = batch or state.batch
        chunk = {}
        for name, port in graph.inputs.items():
            array = golden.inputs[name]
            steps = math.prod(array.shape) // (batch * math.prod(port.layout.inner)) if port.layout.has_time else 1
            chunk[name] = port.layout.batch_first(array.numpy(), batch, steps)
        return graph.check_chunk(chunk), state
    except (ValueError, LookupError) as error:
        raise ArtifactError(f"the golden trace does not fit the artifact: {printable(str(error))}") from None


def _batch(graph: Graph) -> int:
    """The rows of the trace, where the graph takes no others or an input has an axis for them alone; else 0."""
    if graph.manifest.fixed_batch is not None:
        return graph.manifest.fixed_batch
    specs = [spec for spec in graph.manifest.inputs if BATCH in spec.shape]
    return graph.manifest.golden.inputs[specs[0].name].shape[specs[0].shape.index(BATCH)] if specs else 0


def golden_answers(graph: Graph, chunk: Chunk) -> tuple[Answers, Answers]:
    """What the trace answers to its chunk, batch-first, and its next states.

    Raises:
        ArtifactError: the trace breaks the artifact's own contract.
    """
    golden = graph.manifest.golden
    try:
        answers = {
            name: layout.batch_first(golden.outputs[name].numpy(), chunk.batch, chunk.steps)
            for name, layout in graph.outputs.items()
        }
        following = {
            name: golden.next_states[name].numpy().reshape(spec.sized(chunk.batch)) for name, spec in graph.states.items()
        }
    except (ValueError, LookupError) as error:
        raise ArtifactError(f"the golden trace does not fit the artifact: {printable(str(error))}") from None
    return answers, following


def compare(found: NDArray[Any], wanted: NDArray[Any]) -> tuple[float, float]:
    """The largest difference, and the largest relative above 1; infinite where a value is not a number, or the types differ.

    Of integers and booleans both are the largest difference: each must be the very same.
    """
    if found.dtype != wanted.dtype:
        return math.inf, math.inf
    if found.dtype.kind != "f":
        if np.array_equal(found, wanted):
            return 0.0, 0.0
        largest = float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max(initial=1))
        return largest, largest
    with np.errstate(invalid="ignore"):
        apart = np.where(found == wanted, 0.0, np.abs(found - wanted.astype(np.float64)))
        apart = np.where(np.isnan(apart), np.inf, apart)
        relative = np.where(np.isinf(apart), np.inf, apart / np.maximum(1, np.abs(wanted)))
    return float(apart.max(initial=0)), float(relative.max(initial=0))


def golden_difference(graph: Graph, session: Session) -> float:
    """The largest difference from the trace, over outputs and states, relative above 1; NaN where it holds no step.

    Raises:
        ArtifactError: the trace breaks the artifact's own contract.
        ExecutionError: the graph cannot be run.
    """
    begin = golden_chunk(graph)
    if begin is None:
        return math.nan
    chunk, state = begin
    found, wanted = graph.call(session, chunk, state), golden_answers(graph, chunk)
    return max(compare(array, wanted[side][name])[1] for side in range(2) for name, array in found[side].items())


def answers_sha256(graph: Graph, answers: Answers, following: Mapping[str, NDArray[Any]]) -> str:
    """The digest that `GoldenTrace.sha256` holds of an answer to the whole trace.

    SHA-256, as hex, over the bytes of each output in the manifest's order and then of each next state: C order,
    little-endian; the outputs batch-first as `Model.run` gives them, the states in the graph's shape.
    """
    digest = hashlib.sha256()
    for array in (*(answers[name] for name in graph.outputs), *(following[name] for name in graph.states)):
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def golden_seconds(graph: Graph, session: Session) -> float:
    """The median time of one run of the trace; NaN where it holds no step."""
    begin = golden_chunk(graph)
    if begin is None:
        return math.nan
    seconds = []
    for _ in range(_WARM_UP + _TIMED):
        started = time.perf_counter()
        graph.call(session, *begin)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[_WARM_UP:]))


def bindings_hold(graph: Graph, session: Session) -> bool:
    """Whether kept bindings see what is written into them: different steps of the trace answer as plain runs do.

    False where the trace cannot show it.
    """
    begin = golden_chunk(graph)
    if begin is None or not graph.manifest.streamable:
        return False
    chunk, state = begin
    stepper = Stepper(graph, session, chunk.batch)
    stepper.load(state)
    seen: set[bytes] = set()
    for step in range(chunk.steps):
        x = graph.step_of(chunk, step)
        answers, state = graph.call(session, graph.check_step(x), state)
        found = stepper.step(x)
        for name, wanted in graph.of_step(answers).items():
            if compare(found[name] if isinstance(found, dict) else found, wanted)[1] > TOLERANCE:
                return False
        seen.add(b"".join(array.tobytes() for array in x.values()))
    return len(seen) > 1
