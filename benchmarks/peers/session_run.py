"""Plain ONNX Runtime, as people write it: `session.run` with a dict, the next states taken from what it returns."""

from typing import Any, final

from benchmarks.peers.peer import Peer, Run, Subject


def session_of(graph: bytes | str) -> Any:
    """A session of ONNX Runtime with one thread that does not spin."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@final
class SessionRun(Peer):
    """On the graph that rnnx exports."""

    name = "session.run"

    def step(self, subject: Subject, batch: int) -> Run:
        run = self._of_graph(subject, batch)
        return lambda tokens: run(tokens[:, None])[:, 0]

    def chunk(self, subject: Subject, steps: int) -> Run:
        return self._of_graph(subject, 1)

    def _of_graph(self, subject: Subject, batch: int) -> Run:
        session = session_of(subject.exported)
        tokens, *carried = [port.name for port in session.get_inputs()]
        states = dict(zip(carried, subject.zeros(batch), strict=True))

        def run(given: Any) -> Any:
            nonlocal states
            logits, *following = session.run(None, {tokens: given, **states})
            states = dict(zip(carried, following, strict=True))
            return logits

        return run
