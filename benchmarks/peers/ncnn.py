"""ncnn: its own recurrent layers, the model written in its two files by hand."""

import importlib
import tempfile
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from benchmarks.models import Array, Size
from benchmarks.peers.peer import NotApplicableError, Peer, Run, Subject

_GATES: Final = {"RNN": [0], "LSTM": [0, 1, 3, 2], "GRU": [0, 1, 2]}  # torch's ifgo → ifog; rzn as it is
_FLOAT32: Final = np.zeros(1, np.uint32)  # before each block of weights: how they are stored


@final
class Ncnn(Peer):
    """One sequence at a time: it has no batches."""

    name = "ncnn"
    package = "ncnn"

    def step(self, subject: Subject, batch: int) -> Run:
        if batch != 1:
            raise NotApplicableError("ncnn's recurrent layers take no batch")
        return self.chunk_of(subject, lambda logits: logits)

    def chunk(self, subject: Subject, steps: int) -> Run:
        return self.chunk_of(subject, lambda logits: logits[None])

    def chunk_of(self, subject: Subject, answer: Any) -> Run:
        ncnn = importlib.import_module("ncnn")
        size = subject.size
        net = ncnn.Net()
        net.opt.num_threads = 1
        for name in dir(net.opt):  # float32 for all
            if name.startswith(("use_fp16", "use_bf16", "use_int8")):
                setattr(net.opt, name, False)
        with tempfile.TemporaryDirectory() as folder:
            param, weights = Path(folder, "model.param"), Path(folder, "model.bin")
            param.write_text(_param(size), encoding="ascii")
            weights.write_bytes(b"".join(np.ascontiguousarray(array).tobytes() for array in _weights(size)))
            if net.load_param(str(param)) or net.load_model(str(weights)):
                raise NotApplicableError("ncnn cannot read the model")
        names = [f"{kind}{layer}" for layer in range(size.layers) for kind in size.states]
        kept = [np.zeros((1, size.hidden), np.float32) for _ in names]  # an ncnn.Mat does not keep the array alive
        states = [ncnn.Mat(array) for array in kept]

        def run(tokens: Array, _net: Any = net, _kept: Any = kept) -> Any:
            nonlocal states
            given = tokens.astype(np.int32).reshape(-1)
            extractor = _net.create_extractor()
            extractor.input("tokens", ncnn.Mat(given))
            for name, state in zip(names, states, strict=True):
                extractor.input(name, state)
            logits = np.array(extractor.extract("logits")[1])  # (T, V)
            states = [extractor.extract(f"{name}_next")[1] for name in names]
            return answer(logits)

        return run


def _param(size: Size) -> str:
    """The graph."""
    layers, tokens = [], size.vocabulary * size.embedding
    layers.append("Input tokens 0 1 tokens 0=1")
    names = [f"{kind}{layer}" for layer in range(size.layers) for kind in size.states]
    layers += [f"Input {name} 0 1 {name} 0={size.hidden} 1=1" for name in names]
    layers.append(f"Embed emb 1 1 tokens x0 0={size.embedding} 1={size.vocabulary} 2=0 3={tokens}")
    for layer in range(size.layers):
        inputs = size.hidden if layer else size.embedding
        count = inputs * size.hidden * len(_GATES[size.kind])
        states = [f"{kind}{layer}" for kind in size.states]
        following = [f"{name}_next" for name in states]
        ports = f"{1 + len(states)} {1 + len(states)} x{layer} {' '.join(states)} x{layer + 1} {' '.join(following)}"
        layers.append(f"{size.kind} rnn{layer} {ports} 0={size.hidden} 1={count} 2=0")
    count = size.hidden * size.vocabulary
    layers.append(f"InnerProduct fc 1 1 x{size.layers} logits 0={size.vocabulary} 1=1 2={count}")
    blobs = 1 + len(names) + 1 + size.layers * (1 + len(size.states)) + 1
    return "\n".join(["7767517", f"{len(layers)} {blobs}", *layers, ""])


def _weights(size: Size) -> list[Array]:
    """What the layers read, in their order."""
    weights = size.weights()
    found: list[Array] = [_FLOAT32, weights["emb.weight"]]
    for layer in range(size.layers):
        wx, wh, bx, bh = (
            _packed(size.kind, weights[f"rnn.{part}_l{layer}"]) for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        if size.kind == "GRU":  # r and z have one bias, n has two
            hidden = size.hidden
            bias = np.concatenate([(bx + bh)[: 2 * hidden], bx[2 * hidden :], bh[2 * hidden :]])
        else:
            bias = bx + bh
        found += [_FLOAT32, wx, _FLOAT32, bias, _FLOAT32, wh]
    return [*found, _FLOAT32, weights["fc.weight"], weights["fc.bias"]]


def _packed(kind: str, array: Array) -> Array:
    gates = np.split(array, len(_GATES[kind]))
    return np.concatenate([gates[gate] for gate in _GATES[kind]])
