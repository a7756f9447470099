"""PyTorch: `nn.*` called one step at a time, cells in a loop, and TorchScript, frozen. All with the state carried by hand.

They are called in inference mode, which a heat enters once: to enter it anew at each step costs a microsecond.
"""

import warnings
from typing import Any, final

import torch
from torch import Tensor, nn

from benchmarks.models import Net, Size
from benchmarks.peers.peer import Peer, Run, Subject, one_thread


@final
class Eager(Peer):
    """`nn.RNN`, `nn.LSTM`, `nn.GRU`: what all others are compared with."""

    name = "PyTorch nn.*"

    def step(self, subject: Subject, batch: int) -> Run:
        chunk = self.chunk(subject, 1)
        return lambda tokens: chunk(tokens[:, None])[:, 0]

    def chunk(self, subject: Subject, steps: int) -> Run:
        one_thread()
        net = subject.size.module()
        hidden: Any = None

        def run(tokens: Any) -> Any:
            nonlocal hidden
            logits, hidden = net.carried(torch.from_numpy(tokens), hidden)
            return logits.numpy()

        return run


@final
class _CellNet(nn.Module):
    """The same model of cells: one step, the state as a list."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        net = size.module()
        self.emb, self.fc = net.emb, net.fc
        cell: Any = getattr(nn, f"{size.kind}Cell")
        self.cells = nn.ModuleList(cell(size.hidden if at else size.embedding, size.hidden) for at in range(size.layers))
        for at, one in enumerate(self.cells):
            one.load_state_dict({name.removesuffix(f"_l{at}"): tensor for name, tensor in _of_layer(net, at).items()})

    def forward(self, tokens: Tensor, hidden: list[Any]) -> tuple[Tensor, list[Any]]:
        x = self.emb(tokens)  # (B, E)
        following = []
        for cell, state in zip(self.cells, hidden, strict=True):
            following.append(cell(x, state))
            x = following[-1][0] if isinstance(following[-1], tuple) else following[-1]  # (B, H)
        return self.fc(x), following


def _of_layer(net: Net, layer: int) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in net.rnn.state_dict().items() if name.endswith(f"_l{layer}")}


@final
class Cells(Peer):
    """`nn.RNNCell`, `nn.LSTMCell`, `nn.GRUCell`: PyTorch's fastest way to take single steps, and so the fair baseline."""

    name = "PyTorch cells"

    def step(self, subject: Subject, batch: int) -> Run:
        one_thread()
        net = _CellNet(subject.size).eval()
        hidden: list[Any] = [None] * subject.size.layers

        def run(tokens: Any) -> Any:
            nonlocal hidden
            logits, hidden = net(torch.from_numpy(tokens), hidden)
            return logits.numpy()

        return run


@final
class _Explicit(nn.Module):
    """The model as a function of tensors, so that it can be traced."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.net = size.module()

    def forward(self, tokens: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        logits, hidden = self.net.carried(tokens, states if len(states) == 2 else states[0])
        return (logits, *(hidden if isinstance(hidden, tuple) else (hidden,)))


@final
class TorchScript(Peer):
    """Traced and frozen."""

    name = "TorchScript, frozen"

    def step(self, subject: Subject, batch: int) -> Run:
        run = self._script(subject, batch, 1)
        return lambda tokens: run(tokens[:, None])[:, 0]

    def chunk(self, subject: Subject, steps: int) -> Run:
        return self._script(subject, 1, steps)

    def _script(self, subject: Subject, batch: int, steps: int) -> Run:
        one_thread()
        size = subject.size
        states = [torch.zeros(size.layers, batch, size.hidden) for _ in size.states]
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")  # TorchScript is deprecated
            example = (torch.zeros(batch, steps, dtype=torch.long), *(torch.zeros_like(state) for state in states))
            traced: Any = torch.jit.trace(_Explicit(size).eval(), example)  # type: ignore[no-untyped-call]
            script: Any = torch.jit.freeze(traced)

        def run(given: Any) -> Any:
            nonlocal states
            logits, *states = script(torch.from_numpy(given), *states)
            return logits.numpy()

        return run
