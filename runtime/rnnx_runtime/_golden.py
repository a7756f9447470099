"""The golden trace: a short run of the eager module that every artifact carries, so that a device can test itself."""

import math
import time
from typing import Final

import numpy as np

from rnnx_runtime._errors import ArtifactError, printable
from rnnx_runtime._graph import Graph
from rnnx_runtime._inputs import Chunk
from rnnx_runtime._manifest import BATCH
from rnnx_runtime._session import Session
from rnnx_runtime._state import State
from rnnx_runtime._stepper import Stepper

TOLERANCE: Final = 1e-4  # of a whole trace on another machine or provider; wrong wiring and bf16 are off by 1e-3 and more
REDUCED_TOLERANCE: Final = 5e-2  # where fewer bits were asked for
_WARM_UP: Final = 3
_TIMED: Final = 15


def golden_chunk(graph: Graph) -> tuple[Chunk, State] | None:
    """What the trace begins with, checked as a caller's input is; None where it holds no step.

    Raises:
        ArtifactError: the trace breaks the artifact's own contract.
    """
    golden = graph.manifest.golden
    try:
        state = graph.make_state({name: array.numpy() for name, array in golden.states.items()})
        batch = _batch(graph) or state.batch
        chunk = {}
        for name, port in graph.inputs.items():
            array = golden.inputs[name]
            steps = math.prod(array.shape) // (batch * math.prod(port.layout.inner)) if port.layout.has_time else 1
            if steps == 0:
                return None
            chunk[name] = port.layout.batch_first(array.numpy(), batch, steps)
        return graph.check_chunk(chunk), state
    except (ValueError, KeyError) as error:
        raise ArtifactError(f"the golden trace does not fit the artifact: {printable(str(error))}") from None


def _batch(graph: Graph) -> int:
    """The rows of the trace, where an input has an axis for them alone; else 0."""
    specs = [spec for spec in graph.manifest.inputs if BATCH in spec.shape]
    return graph.manifest.golden.inputs[specs[0].name].shape[specs[0].shape.index(BATCH)] if specs else 0


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
    answers, following = graph.call(session, chunk, state)
    golden = graph.manifest.golden
    try:
        pairs = [
            (answers[name], layout.batch_first(golden.outputs[name].numpy(), chunk.batch, chunk.steps))
            for name, layout in graph.outputs.items()
        ]
        pairs += [(array, golden.next_states[name].numpy()) for name, array in following.items()]
        largest = [
            float((np.abs(found - wanted.astype(np.float64)) / np.maximum(1, np.abs(wanted))).max(initial=0))
            for found, wanted in pairs
        ]
    except (ValueError, KeyError) as error:
        raise ArtifactError(f"the golden trace does not fit the artifact: {printable(str(error))}") from None
    return math.inf if any(map(math.isnan, largest)) else max(largest)


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
        x = {name: array[:, step] if graph.inputs[name].layout.has_time else array for name, array in chunk.arrays.items()}
        answers, state = graph.call(session, graph.check_step(x), state)
        found = stepper.step(x)
        for name, wanted in graph.of_step(answers).items():
            if not np.allclose(found[name] if isinstance(found, dict) else found, wanted, rtol=TOLERANCE, atol=TOLERANCE):
                return False
        seen.add(b"".join(array.tobytes() for array in x.values()))
    return len(seen) > 1
