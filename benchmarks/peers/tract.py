"""tract: shapes made static, the states handed on as its own tensors."""

import importlib
import tempfile
from pathlib import Path
from typing import Any, final

from benchmarks.peers.peer import Peer, Run, Subject


@final
class Tract(Peer):
    """On the minimal graph."""

    name = "tract"
    package = "tract"

    def step(self, subject: Subject, batch: int) -> Run:
        run = self._state(subject, batch, 1)
        return lambda tokens: run(tokens[None])[0]

    def chunk(self, subject: Subject, steps: int) -> Run:
        run = self._state(subject, 1, steps)
        return lambda tokens: run(tokens.T).swapaxes(0, 1)

    def _state(self, subject: Subject, batch: int, steps: int) -> Run:
        tract = importlib.import_module("tract")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            path.write_bytes(subject.minimal)
            model = tract.onnx().load(path)
        states = subject.zeros(batch)
        model.set_input_fact(0, f"{steps},{batch},i64")
        for at in range(len(states)):
            model.set_input_fact(at + 1, f"1,{batch},{subject.size.hidden},f32")
        state = model.into_model().into_runnable().spawn_state()
        from_numpy = tract.Tensor.from_numpy
        carried = [from_numpy(array) for array in states]

        def run(tokens: Any) -> Any:
            nonlocal carried
            logits, *carried = state.run([from_numpy(tokens), *carried])
            return logits.to_numpy()

        return run
