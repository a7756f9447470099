"""A model's step as a TensorFlow Lite file, made by hand with the schema that LiteRT brings along.

What litert-torch 0.10 writes for the same step is the same, operation for operation (but for a split that it writes as slices), and
takes the same time; but it needs jax, torchao and a converter beside torch.
"""

import importlib
from typing import Any, final

import numpy as np

from benchmarks.models import Array, Size


def step_graph(size: Size, batch: int) -> bytes:
    """Tokens `(B,)` int32 and states `(B, H)` → logits `(B, V)` and the next states."""
    weights = size.weights()
    graph = _Graph()
    tokens = graph.tensor((batch,), np.int32, "tokens")
    states = [
        [graph.tensor((batch, size.hidden), np.float32, f"l{layer}.{kind}") for kind in size.states]
        for layer in range(size.layers)
    ]
    x = graph.rows(weights["emb.weight"], tokens)
    following = []
    for layer, state in enumerate(states):
        parts = [weights[f"rnn.{part}_l{layer}"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        then = _CELLS[size.kind](graph, x, state, *parts)
        following += then
        x = then[0]
    logits = graph.dense(x, weights["fc.weight"], weights["fc.bias"])
    return graph.packed([tokens, *(one for state in states for one in state)], [logits, *following])


def _rnn(graph: "_Graph", x: int, state: list[int], wx: Array, wh: Array, bx: Array, bh: Array) -> list[int]:
    return [graph.unary("TANH", graph.dense(graph.concat(x, state[0]), np.hstack([wx, wh]), bx + bh))]


def _lstm(graph: "_Graph", x: int, state: list[int], wx: Array, wh: Array, bx: Array, bh: Array) -> list[int]:
    i, f, g, o = graph.split(graph.dense(graph.concat(x, state[0]), np.hstack([wx, wh]), bx + bh), 4)
    kept = graph.binary("MUL", graph.unary("LOGISTIC", f), state[1])
    c = graph.binary("ADD", kept, graph.binary("MUL", graph.unary("LOGISTIC", i), graph.unary("TANH", g)))
    return [graph.binary("MUL", graph.unary("LOGISTIC", o), graph.unary("TANH", c)), c]


def _gru(graph: "_Graph", x: int, state: list[int], wx: Array, wh: Array, bx: Array, bh: Array) -> list[int]:
    rx, zx, nx = graph.split(graph.dense(x, wx, bx), 3)
    rh, zh, nh = graph.split(graph.dense(state[0], wh, bh), 3)
    r, z = (graph.unary("LOGISTIC", graph.binary("ADD", a, b)) for a, b in ((rx, rh), (zx, zh)))
    n = graph.unary("TANH", graph.binary("ADD", nx, graph.binary("MUL", r, nh)))
    return [graph.binary("ADD", n, graph.binary("MUL", z, graph.binary("SUB", state[0], n)))]


_CELLS = {"RNN": _rnn, "LSTM": _lstm, "GRU": _gru}


@final
class _Graph:
    """A graph in the making: each method adds an operation, and returns the number of the tensor that it gives."""

    def __init__(self) -> None:
        self._schema: Any = importlib.import_module("ai_edge_litert.schema_py_generated")
        self._tensors: list[Any] = []
        self._shapes: list[tuple[int, ...]] = []
        self._buffers: list[Any] = [self._schema.BufferT()]  # the first is the empty one
        self._operators: list[Any] = []
        self._codes: dict[str, int] = {}

    def tensor(self, shape: tuple[int, ...], dtype: Any, name: str = "", buffer: int = 0) -> int:
        types = {np.float32: self._schema.TensorType.FLOAT32, np.int32: self._schema.TensorType.INT32}
        name = name or f"t{len(self._tensors)}"
        self._tensors.append(
            self._schema.TensorT(shape=list(shape), type=types[dtype], buffer=buffer, name=name, hasRank=True)
        )
        self._shapes.append(shape)
        return len(self._tensors) - 1

    def constant(self, array: Array) -> int:
        data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        self._buffers.append(self._schema.BufferT(data=data))
        return self.tensor(array.shape, array.dtype.type, buffer=len(self._buffers) - 1)

    def rows(self, table: Array, at: int) -> int:
        shape = (*self._shapes[at], table.shape[1])
        return self._add("EMBEDDING_LOOKUP", [at, self.constant(table)], [shape])[0]

    def concat(self, a: int, b: int) -> int:
        (rows, first), (_, second) = self._shapes[a], self._shapes[b]
        return self._add("CONCATENATION", [a, b], [(rows, first + second)], "ConcatenationOptions", axis=1)[0]

    def dense(self, x: int, weight: Array, bias: Array) -> int:
        inputs = [x, self.constant(weight), self.constant(bias)]
        return self._add("FULLY_CONNECTED", inputs, [(self._shapes[x][0], len(weight))], "FullyConnectedOptions")[0]

    def split(self, x: int, parts: int) -> list[int]:
        rows, columns = self._shapes[x]
        axis = self.constant(np.array(1, np.int32))
        return self._add("SPLIT", [axis, x], [(rows, columns // parts)] * parts, "SplitOptions", numSplits=parts)

    def unary(self, name: str, x: int) -> int:
        return self._add(name, [x], [self._shapes[x]])[0]

    def binary(self, name: str, a: int, b: int) -> int:
        return self._add(name, [a, b], [self._shapes[a]], f"{name.capitalize()}Options")[0]

    def packed(self, inputs: list[int], outputs: list[int]) -> bytes:
        flatbuffers: Any = importlib.import_module("flatbuffers")
        schema = self._schema
        codes = [self._code(name) for name in self._codes]
        subgraph = schema.SubGraphT(
            tensors=self._tensors, inputs=inputs, outputs=outputs, operators=self._operators, name="step"
        )
        model = schema.ModelT(version=3, operatorCodes=codes, subgraphs=[subgraph], buffers=self._buffers, description="step")
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _code(self, name: str) -> Any:
        code = getattr(self._schema.BuiltinOperator, name)
        return self._schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=min(code, 127), version=1)

    def _add(
        self, name: str, inputs: list[int], shapes: list[tuple[int, ...]], options: str = "", **settings: int
    ) -> list[int]:
        outputs = [self.tensor(shape, np.float32) for shape in shapes]
        self._operators.append(
            self._schema.OperatorT(
                opcodeIndex=self._codes.setdefault(name, len(self._codes)),
                inputs=inputs,
                outputs=outputs,
                builtinOptionsType=getattr(self._schema.BuiltinOptions, options) if options else 0,
                builtinOptions=getattr(self._schema, f"{options}T")(**settings) if options else None,
            )
        )
        return outputs
