"""numpy by hand: one product per layer over the input and the state side by side, results in arrays that are kept."""

from collections.abc import Callable
from typing import Final, final

import numpy as np

from benchmarks.models import Array
from benchmarks.peers.peer import Peer, Run, Subject

Layer = Callable[[Array], Array]  # (B, inputs) → (B, H)


def _sigmoid(x: Array, out: Array) -> None:
    """In place; tanh is faster than exp and a division, and does not overflow."""
    np.multiply(x, 0.5, out=out)
    np.tanh(out, out=out)
    out += 1
    out *= 0.5


def _rnn(wx: Array, wh: Array, bx: Array, bh: Array, batch: int) -> Layer:
    w, b = np.ascontiguousarray(np.hstack([wx, wh]).T), bx + bh
    inputs, hidden = wx.shape[1], wh.shape[1]
    both = np.zeros((batch, inputs + hidden), np.float32)  # x and h, side by side
    h = both[:, inputs:]

    def step(x: Array) -> Array:
        both[:, :inputs] = x
        y = both @ w
        y += b
        np.tanh(y, out=h)
        return h

    return step


def _lstm(wx: Array, wh: Array, bx: Array, bh: Array, batch: int) -> Layer:
    w, b = np.ascontiguousarray(np.hstack([wx, wh]).T), bx + bh
    inputs, hidden = wx.shape[1], wh.shape[1]
    both = np.zeros((batch, inputs + hidden), np.float32)
    h, c = both[:, inputs:], np.zeros((batch, hidden), np.float32)
    gates = np.empty((batch, 4 * hidden), np.float32)  # i, f, g, o
    i, f, g, o = (gates[:, n * hidden : (n + 1) * hidden] for n in range(4))

    def step(x: Array) -> Array:
        both[:, :inputs] = x
        np.matmul(both, w, out=gates)
        np.add(gates, b, out=gates)
        _sigmoid(gates[:, : 2 * hidden], gates[:, : 2 * hidden])
        _sigmoid(o, o)
        np.tanh(g, out=g)
        np.multiply(c, f, out=c)
        np.multiply(i, g, out=g)
        np.add(c, g, out=c)
        np.tanh(c, out=g)
        np.multiply(o, g, out=h)
        return h

    return step


def _gru(wx: Array, wh: Array, bx: Array, bh: Array, batch: int) -> Layer:
    wx, wh = np.ascontiguousarray(wx.T), np.ascontiguousarray(wh.T)
    hidden = wh.shape[0]
    h = np.zeros((batch, hidden), np.float32)

    def step(x: Array) -> Array:
        mine, before = x @ wx, h @ wh  # (B, 3H): r, z, n
        mine += bx
        before += bh
        gates = mine[:, : 2 * hidden]
        gates += before[:, : 2 * hidden]
        _sigmoid(gates, gates)
        r, z = gates[:, :hidden], gates[:, hidden:]
        n = before[:, 2 * hidden :]
        n *= r
        n += mine[:, 2 * hidden :]
        np.tanh(n, out=n)
        np.subtract(h, n, out=h)
        np.multiply(h, z, out=h)
        np.add(h, n, out=h)
        return h

    return step


_KINDS: Final[dict[str, Callable[[Array, Array, Array, Array, int], Layer]]] = {"RNN": _rnn, "LSTM": _lstm, "GRU": _gru}


@final
class Numpy(Peer):
    """No engine at all."""

    name = "numpy by hand"

    def step(self, subject: Subject, batch: int) -> Run:
        size, weights = subject.size, subject.size.weights()
        parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        layers = []
        for at in range(size.layers):
            wx, wh, bx, bh = (weights[f"rnn.{part}_l{at}"] for part in parts)
            layers.append(_KINDS[size.kind](wx, wh, bx, bh, batch))
        emb, fc, bias = weights["emb.weight"], np.ascontiguousarray(weights["fc.weight"].T), weights["fc.bias"]

        def run(tokens: Array) -> Array:
            x = emb[tokens]  # (B, E)
            for layer in layers:
                x = layer(x)
            logits: Array = x @ fc
            logits += bias
            return logits

        return run

    def chunk(self, subject: Subject, steps: int) -> Run:
        step = self.step(subject, 1)
        return lambda tokens: np.stack([step(tokens[:, at]) for at in range(steps)], axis=1)
