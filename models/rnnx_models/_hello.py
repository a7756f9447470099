"""The task that the lecture notes begin with: read `hello`, say `ohlol`, one character at a time."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Final, TypeVar, final

import torch
from torch import Tensor, nn

from rnnx_models._recipe import Batch, Carried, Recipe, Score, Settings, device_of
from rnnx_runtime.artifact import CharCodec, OneHotCodec

C = TypeVar("C")

VOCABULARY: Final = "ehlo"  # token i is the character at i
QUESTION: Final = "hello"
ANSWER: Final = "ohlol"


class HelloRecipe(Recipe[C]):
    """Cross-entropy over the five characters, all of them in one batch; the target is the whole answer."""

    settings = Settings(epochs=100, lr=0.05)
    target = "the whole answer"

    @abstractmethod
    def example(self) -> tuple[Tensor]:
        """The question, in the module's own layout; the module answers it with logits of 5 · V values."""

    @abstractmethod
    def codec(self) -> CharCodec | OneHotCodec: ...

    @final
    def batches(self, settings: Settings, generator: torch.Generator) -> Sequence[Batch]:
        return [(*self.example(), self._answer())]

    @final
    def loss(self, module: nn.Module, batch: Batch, carried: Carried) -> tuple[Tensor, Carried]:
        question, answer = batch
        # The sum over the steps, as the notes have it where they step a cell.
        return nn.functional.cross_entropy(_by_step(module(question)), answer, reduction="sum"), ()

    @final
    def score(self, module: nn.Module) -> Score:
        (question,) = self.example()
        said = _by_step(module(question.to(device_of(module)))).argmax(dim=-1)  # (T,)
        right = (said.cpu() == self._answer()).sum().item() / len(ANSWER)
        return Score(right, "of the answer right", right == 1.0)

    def _answer(self) -> Tensor:
        return torch.from_numpy(self.codec().tokens(ANSWER))  # (T,)


class OneHotRecipe(HelloRecipe[C]):
    """The characters are given as one-hot rows, and the logits are the hidden states: both have one number per character.

    Plain Adam leaves one seed in six with saturated hidden states that no gradient moves; strong weight decay on a falling
    learning rate keeps them alive and answers rightly from each of 40 seeds.
    """

    settings = Settings(epochs=200, lr=0.1)

    @final
    def codec(self) -> OneHotCodec:
        return OneHotCodec(vocabulary=VOCABULARY)

    @final
    def question(self) -> Tensor:
        """The rows of `hello`, `(T=5, V)`."""
        return torch.from_numpy(self.codec().encode(QUESTION))

    @final
    def optimizer(self, module: nn.Module, lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=0.5)

    @final
    def schedule(self, done: float) -> float:
        return 1.0 - done


def _by_step(logits: Tensor) -> Tensor:
    return logits.reshape(len(ANSWER), len(VOCABULARY))  # (T, V): with a batch of one, every layout has this order
