"""What a model's file says of it: how it is built, what it learns from, and how good it must be."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Generic, TypeVar

import torch
from torch import Tensor, nn

from rnnx_runtime import RnnxError
from rnnx_runtime.artifact import Codec, Sampling

C = TypeVar("C")
Batch = tuple[Tensor, ...]
Carried = tuple[Tensor, ...]  # the state at the end of a batch; empty where a sequence begins

# What more than this asks for fits no memory, or ends after years.
_MOST: Final = {"epochs": 1_000_000, "batch_size": 65_536, "seq_len": 65_536}
_HIGHEST_LR: Final = 1e6


class SettingsError(RnnxError, ValueError):
    """A model cannot be trained this way: a value out of its range, or a setting that the model does not have."""


@dataclass(frozen=True)
class Score:
    """How good a trained module is, on what it was not trained on where there is such a thing.

    Attributes:
        reached: whether it meets the target stated in the model's file.
        lower_is_better: an error, rather than a share of what is right.
    """

    value: float
    unit: str
    reached: bool
    lower_is_better: bool = False

    def as_good_as(self, other: "Score") -> bool:
        """Better than another score of the same model, or equal to it."""
        return self.value <= other.value if self.lower_is_better else self.value >= other.value

    @property
    def figure(self) -> str:
        """The number alone: `0.0032`, or `98.5 %` where it is a share."""
        return f"{self.value:.4g}" if self.lower_is_better else f"{100 * self.value:.4g} %"

    def __str__(self) -> str:
        return f"{self.figure} {self.unit}"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model is trained.

    Attributes:
        epochs: from 1 to a million.
        lr: the highest learning rate, at most a million; the recipe's schedule makes it smaller.
        batch_size: sequences trained on at a time; None where the data fix it.
        seq_len: steps that the gradient flows back; None where the data fix it.
    """

    epochs: int
    lr: float
    batch_size: int | None = None
    seq_len: int | None = None

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise SettingsError(f"{name} must be from 1 to {most}, got {value}")
        if not 0 < self.lr <= _HIGHEST_LR:
            raise SettingsError(f"lr must be above 0 and at most {_HIGHEST_LR:g}, got {self.lr}")

    def changed(self, model: str, **given: float | None) -> "Settings":
        """These settings, with those given that are not None.

        Raises:
            SettingsError: the model has no such setting.
        """
        known = {field.name for field in dataclasses.fields(self) if getattr(self, field.name) is not None}
        wanted = {name: value for name, value in given.items() if value is not None}
        for name in wanted.keys() - known:
            raise SettingsError(f"{model} has no {name}, its data fix it; it has {', '.join(sorted(known))}")
        return dataclasses.replace(self, **wanted)  # type: ignore[arg-type]


class Recipe(ABC, Generic[C]):
    """How one model is built, trained and judged. One final subclass per model.

    Attributes:
        name: in the registry.
        config_type: a frozen dataclass of sizes; every field has a default.
        settings: those that reach the target.
        target: the score that the model is for, in words.
        reads_text: whether it learns from any text, which is then its second argument.
        in_bits: whether the loss is a cross-entropy per character, to be shown in bits.
    """

    name: ClassVar[str]
    config_type: ClassVar[type]
    settings: ClassVar[Settings]
    target: ClassVar[str]
    reads_text: ClassVar[bool] = False
    in_bits: ClassVar[bool] = False

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
    def batches(self, settings: Settings, generator: torch.Generator) -> Sequence[Batch]:
        """One epoch, in order, with as many batches as every other.

        All that is random in it is drawn from `generator`, so that an epoch can be made again.

        Raises:
            SettingsError: the data do not fill one batch.
        """

    @abstractmethod
    def loss(self, module: nn.Module, batch: Batch, carried: Carried) -> tuple[Tensor, Carried]:
        """The scalar to be minimised, and the state for the next batch; `carried` is empty at the beginning of an epoch."""

    @abstractmethod
    def score(self, module: nn.Module) -> Score:
        """Judge a module in eval mode, without drawing from torch's generator."""

    def optimizer(self, module: nn.Module, lr: float) -> torch.optim.Optimizer:
        """The optimiser of all of the module's weights."""
        return torch.optim.Adam(module.parameters(), lr=lr)

    def schedule(self, done: float) -> float:
        """The learning rate's factor when this share of the training is done, from 0 to 1."""
        return 1.0

    def sampling(self) -> Sampling | None:
        """How the model answers with text of its own; None where it does not."""
        return None

    def fingerprint(self) -> str:
        """Tells apart the data of two trainings; empty where the data are the model's own."""
        return ""


def device_of(module: nn.Module) -> torch.device:
    """Where a module's weights are, and its inputs must be."""
    return next(module.parameters()).device


def pieces(tensor: Tensor, size: int, axis: int) -> tuple[Tensor, ...]:
    """A tensor cut along an axis, the last piece perhaps shorter."""
    cut: tuple[Tensor, ...] = torch.split(tensor, size, dim=axis)
    return cut


def warm_cosine(done: float, warm_up: float = 0.05, last: float = 0.02) -> float:
    """A learning rate's factor that rises in a line for the share `warm_up` of the training, then falls as a cosine to `last`."""
    if done < warm_up:
        return (done + 0.01) / (warm_up + 0.01)
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))
