"""What a model's file says of it: how it is built, what it learns from, and how good it must be."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from rnnx_runtime.artifact import Codec

C = TypeVar("C")


@dataclass(frozen=True)
class Score:
    """How good a trained module is, on what it was not trained on where there is such a thing."""

    value: float
    unit: str
    reached: bool  # the target stated in the model's file


class Recipe(ABC, Generic[C]):
    """How one model is built, trained and judged. One final subclass per model.

    Attributes:
        name: in the registry.
        config_type: a frozen dataclass of sizes; every field has a default.
        epochs: how many reach the target.
    """

    name: ClassVar[str]
    config_type: ClassVar[type]
    epochs: ClassVar[int]

    def __init__(self, config: C) -> None:
        self.config = config

    @abstractmethod
    def build(self) -> nn.Module:
        """A new module, its weights drawn from torch's generator."""

    @abstractmethod
    def example(self) -> tuple[Tensor, ...]:
        """Arguments of `forward`, to export the module with."""

    @abstractmethod
    def codec(self) -> Codec | None:
        """How text becomes what the module takes; None where it takes values."""

    @abstractmethod
    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of all of the module's weights."""

    @abstractmethod
    def losses(self, module: nn.Module) -> Iterator[Tensor]:
        """One epoch: a scalar loss per batch, to be minimised as it comes."""

    @abstractmethod
    def score(self, module: nn.Module) -> Score:
        """Judge a module in eval mode."""
