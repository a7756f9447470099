"""The floor of ONNX Runtime: `run_with_iobinding`, everything bound once, two sets of states that alternate.

Each call writes its tokens into the bound buffer, for a step that always reads the same token is none. Nothing is checked and
nothing copied out: what it answers changes with the next call.
"""

import tempfile
from abc import abstractmethod
from pathlib import Path
from typing import Any, final

import numpy as np

from benchmarks.models import Array
from benchmarks.peers.peer import NotApplicableError, Peer, Run, Subject
from benchmarks.peers.session_run import session_of
from rnnx._quiet import quiet


class _Bound(Peer):
    @abstractmethod
    def graph(self, subject: Subject) -> bytes:
        """Tokens and states → logits and states."""

    @property
    @abstractmethod
    def time_major(self) -> bool:
        """Whether the graph's tokens are `(T, B)`."""

    def step(self, subject: Subject, batch: int) -> Run:
        return self._bound(subject, batch, 1, lambda array: array[0] if self.time_major else array[:, 0])

    def chunk(self, subject: Subject, steps: int) -> Run:
        return self._bound(subject, 1, steps, lambda array: array.swapaxes(0, 1) if self.time_major else array)

    def _bound(self, subject: Subject, batch: int, steps: int, as_called: Any) -> Run:
        shape = (steps, batch) if self.time_major else (batch, steps)
        given = np.zeros(shape, np.int64)
        found = np.zeros((*shape, subject.size.vocabulary), np.float32)
        now, then = subject.zeros(batch), subject.zeros(batch)
        session = session_of(self.graph(subject))
        binding, following = _binding(session, [given, *now], [found, *then]), _binding(session, [given, *then], [found, *now])
        tokens, logits, run = as_called(given), as_called(found), session.run_with_iobinding

        def call(x: Array, _held: Any = (given, found, now, then)) -> Array:  # ONNX Runtime has bare pointers to them
            nonlocal binding, following
            tokens[...] = x
            run(binding)
            binding, following = following, binding
            answer: Array = logits
            return answer

        return call


def _binding(session: Any, inputs: list[Array], outputs: list[Array]) -> Any:
    """All ports of a session bound to these arrays, in its order."""
    binding = session.io_binding()
    for port, array in zip(session.get_inputs(), inputs, strict=True):
        binding.bind_input(port.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    for port, array in zip(session.get_outputs(), outputs, strict=True):
        binding.bind_output(port.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    return binding


@final
class BoundMinimal(_Bound):
    """On the smallest graph that can be written by hand."""

    name = "bare binding, minimal graph"
    time_major = True

    def graph(self, subject: Subject) -> bytes:
        return subject.minimal


@final
class BoundExported(_Bound):
    """On the graph that rnnx exports: what its nodes cost beside the minimal graph, and what the runtime adds to it."""

    name = "bare binding, our graph"
    time_major = False

    def graph(self, subject: Subject) -> bytes:
        return subject.exported


@final
class BoundDynamic(_Bound):
    """On what onnxruntime's own `quantize_dynamic` makes of the minimal graph: weights of 8 bits, of LSTM and products only."""

    name = "bare binding, quantize_dynamic"
    time_major = True

    def graph(self, subject: Subject) -> bytes:
        import onnx
        from onnxruntime.quantization import quantize_dynamic

        if subject.size.kind != "LSTM":
            raise NotApplicableError(f"quantize_dynamic leaves {subject.size.kind} in float32")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            with quiet():
                quantize_dynamic(onnx.load_model_from_string(subject.minimal), path)
            return path.read_bytes()
