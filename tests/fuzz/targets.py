"""What is fuzzed: the readers of files that travelled. Each target takes any bytes, and raises nothing but one of our errors.

ONNX Runtime is in none of them. What a checksum guards is sealed here, after the mutation: else it would be refused at once.
"""

import hashlib
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

from rnnx_runtime import State, StateError
from rnnx_runtime._generation import Writing
from rnnx_runtime._golden import golden_answers, golden_chunk
from rnnx_runtime._graph import Graph
from rnnx_runtime._manifest import decode_manifest
from rnnx_runtime._protobuf import as_text
from rnnx_runtime.artifact import open_artifact, seal

GOLDEN: Final = Path(__file__).parent.parent / "golden"
LARGEST: Final = 1 << 16  # elements of an initial state that a fuzzer need not make


def artifact(data: bytes) -> None:
    """A ModelProto without its seal: opened, and seen as `load` sees it before it makes a session."""
    opened = open_artifact(seal(data))
    graph = Graph(opened.manifest, opened.digest)
    rows = graph.manifest.fixed_batch or 1
    if graph.conditions or any(math.prod(spec.sized(rows)) > LARGEST for spec in graph.states.values()):
        return
    graph.initial_state(None)
    begin = golden_chunk(graph)
    if begin is not None:
        golden_answers(graph, begin[0])


def manifest(data: bytes) -> None:
    """The text of a manifest: what is read is written and read again as the same."""
    said = decode_manifest(as_text(memoryview(data)))
    again = decode_manifest(said.encode())
    # Not `==`: a number that is none is never equal.
    assert again.encode() == said.encode()


def snapshot(data: bytes) -> None:
    """A state or a checkpoint without its checksum: read, and tried on a model."""
    whole = data + hashlib.sha256(data).digest()
    graph = writing_graph()
    try:
        state = State.from_bytes(whole)
    except StateError:
        writing, state = Writing.from_bytes(graph, whole, None)
        graph.check_state(state, 1)
        writing.draw()
        assert State.from_bytes(state.to_bytes()) == state
        return
    assert State.from_bytes(state.to_bytes()) == state
    graph.check_state(state)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {"artifact": artifact, "manifest": manifest, "snapshot": snapshot}


@cache
def writing_graph() -> Graph:
    """Of the golden artifact that answers in text."""
    opened = open_artifact(GOLDEN / "char_rnn.onnx")
    return Graph(opened.manifest, opened.digest)
