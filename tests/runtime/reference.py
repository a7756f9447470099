"""The golden networks in plain numpy, in float64, after the formulas of the ONNX operators.

A state is a dict of arrays by name, shaped as the manifest says; it is never changed in place.
https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html, onnx__RNN.html
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnx_runtime import Model
from rnnx_runtime._protobuf import Reader

Array = NDArray[Any]
States = dict[str, Array]
Step = Callable[[Array, Mapping[str, Array]], tuple[dict[str, Array], States]]

FLOAT = 1  # TensorProto.DataType


def step_of(model: Model) -> Step:
    """One step of the model's network: `x` as `Stream.step` takes it → outputs by name, and the next state."""
    if model.manifest.name == "running_sum":
        return _sum
    weights = _weights(model._engine._artifact.data)
    return {"CharRnn": _char_rnn, "Lstm": _lstm, "Gru": _gru}[model.manifest.name](weights)


def _weights(data: bytes) -> dict[str, Array]:
    """The float initializers of an ONNX file, by name: ModelProto.graph (7), GraphProto.initializer (5)."""
    reader, found = Reader(), {}
    (graph,) = [value for number, value in reader.fields(memoryview(data)) if number == 7]
    for number, tensor in reader.fields(graph):
        if number == 5:
            fields = list(reader.fields(tensor))
            of = {key: [value for number, value in fields if number == key] for key in (1, 2, 8, 9)}
            dims = [part for value in of[1] for part in ([value] if isinstance(value, int) else bytes(value))]
            if of[2] == [FLOAT]:
                raw = np.frombuffer(bytes(of[9][0]), "<f4")
                found[bytes(of[8][0]).decode().rpartition("module.")[2]] = raw.reshape(dims).astype(np.float64)
    return found


def _sum(x: Array, state: Mapping[str, Array]) -> tuple[dict[str, Array], States]:
    total = state["sum"] + x
    return {"y": total}, {"sum": total}


def _char_rnn(w: dict[str, Array]) -> Step:
    def step(x: Array, state: Mapping[str, Array]) -> tuple[dict[str, Array], States]:
        y, following = w["emb.weight"][x], {}  # (B, E)
        for layer in range(2):
            h = state[f"rnn.l{layer}.h"][0]  # (B, H)
            (wx,), (wh,), ((bx, bh),) = *_pair(w, "rnn", layer), _biases(w, "rnn", layer)
            y = np.tanh(y @ wx.T + bx + h @ wh.T + bh)
            following[f"rnn.l{layer}.h"] = y[None]
        return {"output": y @ w["val_3"] + w["fc.bias"]}, following

    return step


def _lstm(w: dict[str, Array]) -> Step:
    def step(x: Array, state: Mapping[str, Array]) -> tuple[dict[str, Array], States]:
        h, c = state["lstm.l0.h"][0], state["lstm.l0.c"][0]
        (wx,), (wh,), ((bx, bh),) = *_pair(w, "lstm", 0), _biases(w, "lstm", 0)
        i, o, f, g = np.split(x @ wx.T + bx + h @ wh.T + bh, 4, axis=1)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
        return {"output.0": h @ w["val_2"] + w["fc.bias"]}, {"lstm.l0.h": h[None], "lstm.l0.c": c[None]}

    return step


def _gru(w: dict[str, Array]) -> Step:
    def step(x: Array, state: Mapping[str, Array]) -> tuple[dict[str, Array], States]:
        y, following = x, {}
        for layer in range(2):
            h = state[f"gru.l{layer}.h"][0]
            (wx,), (wh,), ((bx, bh),) = *_pair(w, "gru", layer), _biases(w, "gru", layer)
            (xz, xr, xn), (hz, hr, hn) = np.split(y @ wx.T + bx, 3, axis=1), np.split(h @ wh.T + bh, 3, axis=1)
            z, r = _sigmoid(xz + hz), _sigmoid(xr + hr)
            y = (1 - z) * np.tanh(xn + r * hn) + z * h
            following[f"gru.l{layer}.h"] = y[None]
        return {"output.0": y @ w["val_3"] + w["fc.bias"], "output.1": y}, following

    return step


def _pair(w: dict[str, Array], name: str, layer: int) -> tuple[Array, Array]:
    return w[f"{name}.onnx_w{layer}"], w[f"{name}.onnx_r{layer}"]


def _biases(w: dict[str, Array], name: str, layer: int) -> list[list[Array]]:
    return [np.split(row, 2) for row in w[f"{name}.onnx_b{layer}"]]


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))
