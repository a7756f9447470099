"""The task that the lecture notes begin with: read `hello`, say `ohlol`, one character at a time."""

from typing import Final

import torch
from torch import Tensor

from rnnx_runtime.artifact import CharCodec

VOCABULARY: Final = "ehlo"  # token i is the character at i
QUESTION: Final = "hello"
ANSWER: Final = "ohlol"


def codec() -> CharCodec:
    return CharCodec(vocabulary=VOCABULARY)


def question() -> Tensor:
    """The tokens of `hello`, `(B=1, T=5)`."""
    return torch.from_numpy(codec().encode(QUESTION))[None]


def answer() -> Tensor:
    """The tokens of `ohlol`, `(T=5,)`."""
    return torch.from_numpy(codec().encode(ANSWER))


def answered(logits: Tensor) -> float:
    """The share of characters answered rightly, from logits `(T, V)`."""
    return (logits.argmax(dim=-1) == answer()).float().mean().item()
