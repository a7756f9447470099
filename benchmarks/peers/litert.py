"""LiteRT: one graph of elementary operations per step, state in and out; its own XNNPACK kernels run nearly all of it."""

import importlib
from typing import Any, final

from benchmarks.models import Array
from benchmarks.peers.peer import Peer, Run, Subject
from benchmarks.peers.tflite import step_graph


@final
class LiteRt(Peer):
    """A step only: it has no recurrent operator that a chunk could be handed to."""

    name = "LiteRT"
    package = "ai_edge_litert"

    def step(self, subject: Subject, batch: int) -> Run:
        interpreter = importlib.import_module("ai_edge_litert.interpreter").Interpreter(
            model_content=step_graph(subject.size, batch), num_threads=1
        )
        interpreter.allocate_tensors()
        tokens, *states = (interpreter.tensor(one["index"]) for one in interpreter.get_input_details())
        logits, *following = (interpreter.tensor(one["index"]) for one in interpreter.get_output_details())
        carried = list(zip(states, following, strict=True))
        for state in states:
            state()[...] = 0

        # Views of its tensors are made anew each time and dropped before `invoke`, which refuses to run while there are any.
        def run(x: Array) -> Any:
            tokens()[...] = x
            interpreter.invoke()
            for state, then in carried:
                state()[...] = then()
            return logits().copy()

        return run
