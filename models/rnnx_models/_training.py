"""A training in progress: all that its next step depends on, so that it can stop at any step and go on bit by bit the same."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from rnnx_models._recipe import Batch, Carried, Recipe, Score, Settings
from rnnx_runtime import RnnxError

_LONGEST_GRADIENT: Final = 1.0  # longer ones are shortened to this norm


class TrainingError(RnnxError, ArithmeticError):
    """The training diverged: a loss, a gradient or a score is not finite."""


@dataclass(frozen=True)
class Progress:
    """Where a training stands after a step.

    Attributes:
        epoch: the one that the step belongs to, from 1.
        step: how many of the epoch's steps are done.
        loss: mean over those steps.
        score: of the last epoch that was judged; None in the first.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    score: Score | None

    @property
    def done(self) -> float:
        """The share of the whole training that is done, from 0 to 1."""
        return (self.epoch - 1 + self.step / self.steps) / self.epochs


@dataclass
class Curve:
    """What was measured on the way: the loss of every step, and the score of every epoch."""

    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Best:
    """The best weights so far, and the epoch that they are of."""

    epoch: int
    score: Score
    weights: dict[str, Tensor]


@final
class Training:
    """A module, its optimiser, and the place in the data. Sets and draws from torch's global generator: fork it first.

    Attributes:
        epoch: how many are done.
        step: how many steps of the next one are done.
        carried: the state that the next batch begins with.
    """

    def __init__(self, recipe: Recipe[Any], seed: int, settings: Settings, device: torch.device) -> None:
        self.recipe, self.seed, self.settings, self.device = recipe, seed, settings, device
        torch.manual_seed(seed)
        self.module = recipe.build().to(device).train()
        self.optimizer = recipe.optimizer(self.module, settings.lr)
        self.epoch, self.step = 0, 0
        self.carried: Carried = ()
        self.best: Best | None = None
        self.curve = Curve()
        self._batches: Sequence[Batch] = ()
        self.steps = len(self._make_batches())  # of every epoch
        total = self.steps * settings.epochs
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: recipe.schedule(step / total))

    @property
    def finished(self) -> bool:
        return self.epoch == self.settings.epochs

    def go_to(self, epoch: int, step: int) -> None:
        """Take up the place in the data where so many epochs, and so many steps of the next one, are done."""
        self.epoch, self.step = epoch, step
        self._batches = self._make_batches() if step else ()

    def advance(self) -> Progress:
        """One step; after the last of an epoch the module is judged.

        Raises:
            TrainingError: it diverged; `best` is what it was.
        """
        if self.step == 0:
            self._batches = self._make_batches()
        self.curve.losses.append(self._learn(self._batches[self.step]))
        self.step += 1
        loss = math.fsum(self.curve.losses[-self.step :]) / self.step
        here = Progress(self.epoch + 1, self.settings.epochs, self.step, self.steps, loss, self._last_score())
        if self.step < self.steps:
            return here
        score = self._judge()
        self.epoch, self.step, self.carried = self.epoch + 1, 0, ()
        return dataclasses.replace(here, score=score)

    def _make_batches(self) -> Sequence[Batch]:
        # A generator of its own for every epoch: an interrupted one is made again without going through those before it.
        return self.recipe.batches(self.settings, torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch))

    def _learn(self, batch: Batch) -> float:
        loss, carried = self.recipe.loss(self.module, tuple(tensor.to(self.device) for tensor in batch), self.carried)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), _LONGEST_GRADIENT).item()
        value = loss.item()
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value}")
        if not math.isfinite(norm):
            raise self._diverged(f"the gradient's norm is {norm}")
        self.optimizer.step()
        self.scheduler.step()
        self.carried = tuple(tensor.detach() for tensor in carried)
        return value

    def _judge(self) -> Score:
        self.module.eval()
        with torch.no_grad():
            score = self.recipe.score(self.module)
        self.module.train()
        weights = {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}
        if not math.isfinite(score.value) or not all(tensor.isfinite().all() for tensor in weights.values()):
            raise self._diverged(f"the score is {score.value} {score.unit}, or a weight is not finite")
        if self.best is None or score.as_good_as(self.best.score):
            self.best = Best(self.epoch + 1, score, weights)
        self.curve.scores.append(score.value)
        return score

    def _last_score(self) -> Score | None:
        return None if self.best is None else dataclasses.replace(self.best.score, value=self.curve.scores[-1])

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(f"{what}, in epoch {self.epoch + 1} after {self.step} of {self.steps} steps")
