"""Training: a recipe's epochs, one after the other, from a seed."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rnnx_models._recipe import Recipe
from rnnx_models.checkpoint import CheckpointHeader
from rnnx_runtime import RnnxError


class TrainingError(RnnxError, ArithmeticError):
    """Training went wrong: the loss is not finite."""


@dataclass(frozen=True)
class Epoch:
    """What a progress display shows after each epoch."""

    number: int
    of: int
    loss: float


def train(
    recipe: Recipe[Any],
    *,
    seed: int = 0,
    epochs: int | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[CheckpointHeader, dict[str, Tensor]]:
    """Train a new module.

    The same seed gives the same weights on the same machine. torch's global generator is set, and put back.

    Args:
        epochs: the recipe's own number when None.
        on_epoch: called after each epoch.

    Raises:
        TrainingError: the loss is not finite.
    """
    epochs = recipe.epochs if epochs is None else epochs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = recipe.build().train()
        optimizer = recipe.optimizer(module)
        for number in range(1, epochs + 1):
            total, batches = 0.0, 0
            for loss in recipe.losses(module):
                if not torch.isfinite(loss):
                    raise TrainingError(f"the loss is {loss.item()} in epoch {number}; lower the learning rate")
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total, batches = total + loss.item(), batches + 1
            on_epoch(Epoch(number, epochs, total / batches))
        module.eval()
        with torch.no_grad():
            score = recipe.score(module)
    header = CheckpointHeader(
        model=recipe.name,
        config=dataclasses.asdict(recipe.config),
        seed=seed,
        epochs=epochs,
        score=score.value,
        unit=score.unit,
        reached=score.reached,
    )
    return header, module.state_dict()
