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
_FAR_ABOVE: Final = 10.0  # times the loss of the untrained module; what learns anything stays below it


class TrainingError(RnnxError, ArithmeticError):
    """The training diverged: a loss, a gradient, a score or a weight is not finite, or an epoch left the loss far too high."""


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
        self.made_by = " ".join(str(self.optimizer).split())  # the optimiser and all its settings, in words
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self.epoch, self.step = 0, 0
        self.carried: Carried = ()
        self.best: Best | None = None
        self.curve = Curve()
        self._batches: Sequence[Batch] = ()
        self._sum = 0.0  # of the losses of this epoch
        self.steps = len(self._make_batches())  # of every epoch

    @property
    def finished(self) -> bool:
        return self.epoch == self.settings.epochs

    def go_to(self, epoch: int, step: int, curve: Curve) -> None:
        """Take up the place in the data where so many epochs, and so many steps of the next one, are done.

        Raises:
            ValueError: there is no such place, or the curve is of another length.
        """
        if not (epoch + (step > 0) <= self.settings.epochs and step < self.steps):
            raise ValueError(f"it has {self.settings.epochs} epochs of {self.steps} steps, and step {step} of {epoch} is none")
        if (len(curve.losses), len(curve.scores)) != (epoch * self.steps + step, epoch):
            raise ValueError(f"{len(curve.losses)} losses and {len(curve.scores)} scores are not those of {epoch} epochs")
        self.epoch, self.step, self.curve = epoch, step, curve
        self._batches = self._make_batches() if step else ()
        self._sum = 0.0
        for loss in curve.losses[epoch * self.steps :]:  # one by one: `sum` rounds otherwise
            self._sum += loss

    def advance(self) -> Progress:
        """One step; after the last of an epoch the module is judged.

        Raises:
            TrainingError: it diverged; `best` is what it was.
        """
        if self.step == 0:
            self._batches, self._sum = self._make_batches(), 0.0
        loss = self._learn(self._batches[self.step])
        self.curve.losses.append(loss)
        self._sum += loss
        self.step += 1
        mean = self._sum / self.step
        here = Progress(self.epoch + 1, self.settings.epochs, self.step, self.steps, mean, self._last_score())
        if self.step < self.steps:
            return here
        score = self._judge()
        self.epoch, self.step, self.carried = self.epoch + 1, 0, ()
        return dataclasses.replace(here, score=score)

    def _make_batches(self) -> Sequence[Batch]:
        # A generator of its own for every epoch: an interrupted one is made again without going through those before it.
        return self.recipe.batches(self.settings, torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch))

    def _learn(self, batch: Batch) -> float:
        done = (self.epoch * self.steps + self.step) / (self.settings.epochs * self.steps)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self.recipe.schedule(done)
        loss, carried = self._loss(batch, self.carried)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), _LONGEST_GRADIENT).item()
        value = loss.item()
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value}")
        if not math.isfinite(norm):
            raise self._diverged(f"the gradient's norm is {norm}")
        self.optimizer.step()
        self.carried = tuple(tensor.detach() for tensor in carried)
        return value

    def _loss(self, batch: Batch, carried: Carried) -> tuple[Tensor, Carried]:
        return self.recipe.loss(self.module, tuple(tensor.to(self.device) for tensor in batch), carried)

    def _judge(self) -> Score:
        """The score after an epoch; the best weights are kept.

        Weights that made the loss far worse than it was before the first step are not judged: a training that learns anything
        never has an epoch end at ten times the loss of the untrained module, which guesses.

        Raises:
            TrainingError: that is so, or the score or a weight is not finite.
        """
        weights = {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}
        broken = next((name for name, tensor in weights.items() if not tensor.isfinite().all()), None)
        if broken is not None:
            raise self._diverged(f"the weight {broken} is not finite")
        self.module.eval()
        with torch.no_grad():
            loss = self._loss(self._batches[-1], ())[0].item()
            if not loss <= _FAR_ABOVE * self.curve.losses[0]:
                raise self._diverged(f"the loss is {loss:.4g}, and was {self.curve.losses[0]:.4g} before the first step")
            score = self.recipe.score(self.module)
        self.module.train()
        if not math.isfinite(score.value):
            raise self._diverged(f"the score is {score.value} {score.unit}")
        if self.best is None or score.as_good_as(self.best.score):
            self.best = Best(self.epoch + 1, score, weights)
        self.curve.scores.append(score.value)
        return score

    def _last_score(self) -> Score | None:
        return None if self.best is None else dataclasses.replace(self.best.score, value=self.curve.scores[-1])

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(f"{what}, in epoch {self.epoch + 1} after {self.step} of {self.steps} steps")
