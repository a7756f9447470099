"""rnnx itself, as its users call it, every check included."""

from typing import final

from benchmarks.peers.peer import Peer, Run, Subject
from rnnx_runtime import load


@final
class Ours(Peer):
    """`Stream.step` and `Stream.feed`."""

    name = "rnnx"

    def step(self, subject: Subject, batch: int) -> Run:
        return load(subject.path).stream(batch).step

    def chunk(self, subject: Subject, steps: int) -> Run:
        return load(subject.path).stream().feed
