"""An interrupted training as one safetensors file beside its checkpoint: everything that its next step depends on."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from torch import Tensor

from rnnx_models._recipe import Recipe, Score, Settings
from rnnx_models._training import Best, Curve, Training
from rnnx_models.checkpoint import CheckpointError, read_tensors, write_tensors

_KEY: Final = "rnnx.training"


class _Best(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    epoch: int
    value: float
    unit: str
    reached: bool
    lower_is_better: bool


class Interrupted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file says of itself: what is trained, how, and how far it is."""

    model: str
    config: dict[str, Any]
    text: str
    seed: int
    epochs: int
    lr: float
    batch_size: int | None
    seq_len: int | None
    epoch: int
    step: int
    best: _Best | None
    optimizer: str

    def __post_init__(self) -> None:
        if not (0 <= self.seed < 2**32 and 0 <= self.epoch <= self.settings.epochs and self.step >= 0):
            raise ValueError(f"epoch {self.epoch}, step {self.step} and seed {self.seed} are of no training")
        if self.epoch != 0 if self.best is None else not 1 <= self.best.epoch <= self.epoch:
            raise ValueError(f"the best epoch is not one of the {self.epoch} that are done")

    @property
    def settings(self) -> Settings:
        return Settings(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size, seq_len=self.seq_len)


def resume_path(checkpoint: str | os.PathLike[str]) -> Path:
    """Where an interrupted training is kept: `char_lstm.safetensors.resume` beside `char_lstm.safetensors`."""
    return Path(f"{os.fspath(checkpoint)}.resume")


def save_training(path: Path, training: Training) -> None:
    """Write a training between two steps.

    Raises:
        OSError: the file cannot be written; what was there is untouched.
    """
    recipe, best = training.recipe, training.best
    header = Interrupted(
        model=recipe.name,
        config=dataclasses.asdict(recipe.config),
        text=recipe.fingerprint(),
        seed=training.seed,
        **dataclasses.asdict(training.settings),
        epoch=training.epoch,
        step=training.step,
        best=None if best is None else _Best(epoch=best.epoch, **dataclasses.asdict(best.score)),
        optimizer=training.made_by,
    )
    tensors = {
        **_named("module", training.module.state_dict()),
        **_named("best", {} if best is None else best.weights),
        **_named("carried", dict(enumerate(training.carried))),
        **_named("random", _random_states(training.device)),
        "losses": torch.tensor(training.curve.losses, dtype=torch.float64),
        "scores": torch.tensor(training.curve.scores, dtype=torch.float64),
    }
    for number, values in training.optimizer.state_dict()["state"].items():
        tensors |= _named(f"optimizer.{number}", values)
    write_tensors(path, _KEY, header, tensors)


def read_training(path: Path, model: str) -> tuple[Interrupted, dict[str, Tensor]]:
    """What `save_training` wrote.

    Raises:
        CheckpointError: there is no such file, it is no interrupted training, one of another model, or its values are not
            finite.
    """
    if not path.exists():
        raise CheckpointError(f"no interrupted training at {path}; begin one without resuming")
    header, _, tensors = read_tensors(
        path, _KEY, Interrupted, "an interrupted training", "training", model, ("module.", "best.")
    )
    return header, tensors


def check_same(path: Path, header: Interrupted, recipe: Recipe[Any], **given: float | None) -> None:
    """Refuse to go on with anything but what was interrupted.

    Args:
        given: settings and seed that the caller asks for; None where it does not.

    Raises:
        CheckpointError: the config, the text or something given differs.
    """
    if header.text != recipe.fingerprint():
        raise CheckpointError(
            f"{path} learns from another text, of SHA-256 {header.text[:12]}…, not {recipe.fingerprint()[:12]}…; "
            "give the text that it began with: --text FILE"
        )
    wanted = {**dataclasses.asdict(recipe.config), **{name: value for name, value in given.items() if value is not None}}
    had = {**header.config, **msgspec.structs.asdict(header)}
    differing = [
        f"{name} {_short(had.get(name))}, not {_short(value)}" for name, value in wanted.items() if had.get(name) != value
    ]
    if differing:
        raise CheckpointError(
            f"{path} goes on as it began: with {'; '.join(differing)}; give the same, or delete that file to begin anew"
        )


def restore(path: Path, training: Training, header: Interrupted, tensors: Mapping[str, Tensor]) -> None:
    """Put a new training, made of the same recipe, seed and settings, where the interrupted one was.

    Raises:
        CheckpointError: the tensors do not fit.
    """
    device = training.device
    try:
        if header.optimizer != training.made_by:
            raise ValueError(f"its optimiser was {header.optimizer}, and now is {training.made_by}")
        training.go_to(header.epoch, header.step, Curve(tensors["losses"].tolist(), tensors["scores"].tolist()))
        training.module.load_state_dict(_under("module", tensors))
        optimizer = training.optimizer.state_dict()
        numbers = [number for group in optimizer["param_groups"] for number in group["params"]]
        states = {number: _under(f"optimizer.{number}", tensors) for number in numbers}
        optimizer["state"] = {number: state for number, state in states.items() if state}
        training.optimizer.load_state_dict(optimizer)
        carried = _under("carried", tensors)
        training.carried = tuple(carried[str(number)].to(device) for number in range(len(carried)))
        if header.best is not None:
            values = msgspec.structs.asdict(header.best)
            training.best = Best(values.pop("epoch"), Score(**values), _under("best", tensors))
        _set_random_states(device, _under("random", tensors))
    except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: the training does not fit {header.model}: {reason}") from None


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states["device"] = torch.get_device_module(device).get_rng_state()
    return states


def _set_random_states(device: torch.device, states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type != "cpu" and "device" in states:
        torch.get_device_module(device).set_rng_state(states["device"])


def _named(prefix: str, tensors: Mapping[Any, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
