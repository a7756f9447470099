"""What is handed to somebody else's graph to see what it does."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnx._adopt.borders import Border
from rnnx._adopt.calls import Arrays, Contract, Shape, inner_of, sized


@dataclass(frozen=True)
class Sampler:
    """Draws inputs; the same seed draws the same.

    Attributes:
        vocabularies: below which number the tokens of an input are.
        positive: draw no negative numbers: some graphs take spectra, and their logarithm.
    """

    vocabularies: Mapping[str, int] = field(default_factory=dict)
    positive: bool = False

    def draw(self, border: Border, shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[Any]:
        """Values for one input."""
        if border.dtype == "bool":
            return generator.integers(0, 2, shape).astype(bool)
        if border.dtype.startswith("int"):
            return generator.integers(0, self.vocabularies.get(border.name, 2), shape, border.dtype)
        values = generator.standard_normal(shape).astype(border.dtype)
        return np.abs(values) if self.positive else values

    def in_graph(self, border: Border, shape: Shape, batch: int, steps: int, seed: int) -> NDArray[Any]:
        """One input in the graph's layout."""
        return self.draw(border, sized(shape, batch, steps), np.random.default_rng(seed))

    def chunk(self, contract: Contract, batch: int, steps: int, seed: int) -> Arrays:
        """All inputs of a chunk, batch-first."""
        generator = np.random.default_rng(seed)
        found = {}
        for border in contract.inputs:
            shape = contract.shapes[border.name]
            time = (steps,) if contract.has_time(border.name) else ()
            found[border.name] = self.draw(border, (batch, *time, *inner_of(shape)), generator)
        return found
