"""One recurrent layer of any size and any weights: as an artifact, written without the exporter, and in numpy, in any precision.

https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html, onnx__RNN.html; `linear_before_reset`, as torch has it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from tests.runtime import protobuf_writer as pb

from rnnx_runtime.artifact import MANIFEST_KEY as KEY
from rnnx_runtime.artifact import Array, GoldenTrace, Input, Manifest, Output, Provenance, StateSpec, Zeros, seal

Kind = Literal["RNN", "LSTM", "GRU"]
States = Mapping[str, NDArray[Any]]

KINDS: Final[tuple[Kind, ...]] = ("RNN", "LSTM", "GRU")
FEATURES: Final = 3
_GATES: Final = {"RNN": 1, "LSTM": 4, "GRU": 3}


@dataclass(frozen=True)
class Network:
    """Values `(B, T, FEATURES)` → the layer's output `(B, T, H)`. Weights are drawn evenly, up to `gain / sqrt(H)`.

    Attributes:
        gain: 1 is what torch begins with: such a network forgets. From some 3 on it does not.
        biases: their size, in multiples of that; 0 for none.
    """

    kind: Kind
    hidden: int
    gain: float = 1.0
    biases: float = 1.0
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.kind} {self.hidden}, gain {self.gain:g}"

    @property
    def states(self) -> tuple[str, ...]:
        return ("h", "c") if self.kind == "LSTM" else ("h",)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """As the ONNX operator takes them."""
        chance, rows, bound = np.random.default_rng(self.seed), _GATES[self.kind] * self.hidden, self.gain / self.hidden**0.5
        shapes = {"w": (1, rows, FEATURES), "r": (1, rows, self.hidden), "b": (1, 2 * rows)}
        found = {name: chance.uniform(-bound, bound, shape).astype(np.float32) for name, shape in shapes.items()}
        return found | {"b": found["b"] * np.float32(self.biases)}

    def artifact(self) -> bytes:
        carried = [(1, "batch", self.hidden)] * len(self.states)
        attributes = [pb.integer("hidden_size", self.hidden)]
        attributes += [pb.integer("linear_before_reset", 1)] * (self.kind == "GRU")
        states = [f"{name}.next" for name in self.states]
        graph = pb.graph(
            [
                pb.node(self.kind, ["x", "w", "r", "b", "", *self.states], ["ys", *states], attributes),
                pb.node("Squeeze", ["ys", "axes"], ["y"]),
            ],
            [pb.value_info("x", ("seq_len", "batch", FEATURES)), *map(pb.value_info, self.states, carried)],
            [pb.value_info("y", ("seq_len", "batch", self.hidden)), *map(pb.value_info, states, carried)],
            weights=[
                *(pb.tensor(name, array.shape, array.tobytes()) for name, array in self.weights().items()),
                pb.fields(1, [1]) + pb.field(2, pb.INT64) + pb.field(8, "axes") + pb.field(9, np.array([1]).tobytes()),
            ],
        )
        return seal(pb.model(graph, pb.metadata(KEY, self._manifest().encode())))

    def _manifest(self) -> Manifest:
        return Manifest(
            format_version=1,
            name=f"{self.kind}_{self.hidden}",
            inputs=(Input(name="x", dtype="float32", shape=("seq_len", "batch", FEATURES), role="values"),),
            outputs=(Output(name="y", dtype="float32", shape=("seq_len", "batch", self.hidden), role="values"),),
            states=tuple(
                StateSpec(
                    name=name,
                    input=name,
                    output=f"{name}.next",
                    dtype="float32",
                    shape=(1, "batch", self.hidden),
                    batch_axis=1,
                    init=Zeros(),
                )
                for name in self.states
            ),
            streamable=True,
            lowering="recurrent",
            precision="float32",
            provenance=Provenance(module="none", weights_sha256="0" * 64, versions={}),
            golden=self._golden(),
        )

    def _golden(self) -> GoldenTrace:
        """A trace of the reference."""
        reference, xs = Reference(self, np.float64, 2), values(2, 4, self.seed)
        states, ys, following = reference.states, reference.feed(xs), reference.states
        return GoldenTrace(
            inputs={"x": _stored(xs.swapaxes(0, 1))},
            states={name: _stored(array) for name, array in states.items()},
            outputs={"y": _stored(ys.swapaxes(0, 1))},
            next_states={name: _stored(array) for name, array in following.items()},
        )


class Reference:
    """The same network in numpy, from zero states on."""

    def __init__(self, network: Network, dtype: type[np.floating[Any]], batch: int) -> None:
        self._kind = network.kind
        weights = {name: array[0].astype(dtype) for name, array in network.weights().items()}
        self._w, self._r = weights["w"].T, weights["r"].T
        self._b, self._c = np.split(weights["b"], 2)
        self._states = {name: np.zeros((batch, network.hidden), dtype) for name in network.states}
        self._dtype = dtype

    @property
    def states(self) -> States:
        """As a `State` has them: `(1, B, H)` each."""
        return {name: array[None] for name, array in self._states.items()}

    def feed(self, xs: NDArray[Any]) -> NDArray[Any]:
        """`(B, T, FEATURES)` → `(B, T, H)`."""
        return np.stack([self._step(given) for given in (xs.astype(self._dtype) @ self._w + self._b).swapaxes(0, 1)], axis=1)

    def _step(self, given: NDArray[Any]) -> NDArray[Any]:
        h = self._states["h"]
        carried = h @ self._r + self._c
        if self._kind == "RNN":
            h = np.tanh(given + carried)
        elif self._kind == "GRU":
            (z, r, n), (hz, hr, hn) = np.split(given, 3, axis=1), np.split(carried, 3, axis=1)
            z = _sigmoid(z + hz)
            h = (1 - z) * np.tanh(n + _sigmoid(r + hr) * hn) + z * h
        else:
            i, o, f, g = np.split(given + carried, 4, axis=1)
            self._states["c"] = c = _sigmoid(f) * self._states["c"] + _sigmoid(i) * np.tanh(g)
            h = _sigmoid(o) * np.tanh(c)
        self._states["h"] = h
        return h


def _stored(array: NDArray[Any]) -> Array:
    return Array.of(array.astype(np.float32))


def _sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    return (1 + np.tanh(x / 2)) / 2  # without overflow


def values(batch: int, steps: int, seed: int) -> NDArray[np.float32]:
    """Random input `(B, T, FEATURES)`."""
    return np.random.default_rng(seed).standard_normal((batch, steps, FEATURES), dtype=np.float32)
