"""What a peer is."""

import importlib.util
from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from benchmarks.models import Array, Size

Run = Callable[[Any], Any]


class NotApplicableError(Exception):
    """A peer cannot do this; the message says why."""


@final
@dataclass(frozen=True)
class Subject:
    """One of the models, exported.

    Attributes:
        path: the artifact.
    """

    size: Size
    path: Path

    @cached_property
    def exported(self) -> bytes:
        """The artifact: the graph as rnnx exports it."""
        return self.path.read_bytes()

    @cached_property
    def minimal(self) -> bytes:
        """The smallest ONNX graph that does the same, time-major; see `graph`."""
        from benchmarks.graph import minimal

        return minimal(self.size)

    def zeros(self, batch: int) -> list[Array]:
        """The first states, `(1, B, H)`, layer by layer: h, then c where there is one."""
        size = self.size
        return [np.zeros((1, batch, size.hidden), np.float32) for _ in range(size.layers) for _ in size.states]


class Peer(ABC):
    """One way to run the models.

    What `step` and `chunk` return is called again and again, and carries the state, which is zeros at first. It answers with
    an array of numpy, its own or not; a peer's preparations are its own affair and not timed.

    Attributes:
        name: in tables.
        package: that must be installed; empty where nothing but what rnnx needs.
        repeats: how many times over a call does what it is asked, each time for other streams.
    """

    name: ClassVar[str]
    package: ClassVar[str] = ""
    repeats: ClassVar[int] = 1

    def unavailable(self) -> str | None:
        """Why it cannot run here; None where it can."""
        root = self.package.split(".", maxsplit=1)[0]
        if root and importlib.util.find_spec(root) is None:
            return f"{root} is not installed"
        return None

    def given(self, tokens: NDArray[np.int64]) -> Any:
        """The tokens of one call as its users have them at hand; not timed."""
        return tokens

    def step(self, subject: Subject, batch: int) -> Run:
        """Tokens `(B,)` → logits `(B, V)`.

        Raises:
            NotApplicableError: it cannot.
        """
        raise NotApplicableError(f"{self.name} takes no single steps")

    def chunk(self, subject: Subject, steps: int) -> Run:
        """Tokens `(1, T)` → logits `(1, T, V)`.

        Raises:
            NotApplicableError: it cannot.
        """
        raise NotApplicableError(f"{self.name} takes no chunks")


def one_thread() -> None:
    """Give torch one thread."""
    import torch

    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
