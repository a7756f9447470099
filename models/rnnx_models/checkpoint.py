"""Checkpoints: weights in safetensors, and in its header the model's name, config and training record.

One file, written whole or not at all; the same training gives the same bytes.
"""

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import safetensors
import safetensors.torch
from torch import Tensor, nn

from rnnx_models._recipe import Recipe
from rnnx_models._registry import get_recipe
from rnnx_runtime import RnnxError
from rnnx_runtime.artifact import write_atomic

# One key only: safetensors writes several in no fixed order.
_KEY: Final = "rnnx"


class CheckpointError(RnnxError, ValueError):
    """The file is no checkpoint, or one of another model."""


class CheckpointHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint says of itself.

    Attributes:
        epochs: after which the weights were the best.
        settings: of the whole training.
        text: SHA-256 of the text that was learned from; empty where the data are the model's own.
    """

    model: str
    config: dict[str, Any]
    seed: int
    epochs: int
    score: float
    unit: str
    reached: bool
    settings: dict[str, Any] = {}
    text: str = ""


def save_checkpoint(path: str | os.PathLike[str], header: CheckpointHeader, weights: Mapping[str, Tensor]) -> None:
    """Write a checkpoint.

    Raises:
        OSError: the file cannot be written; what was there is untouched.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomic(path, safetensors.torch.save(plain, {_KEY: msgspec.json.encode(header).decode()}))


def load_checkpoint(path: str | os.PathLike[str], model: str | None = None) -> tuple[Recipe[Any], nn.Module]:
    """The recipe that a checkpoint was trained by, and the trained module in eval mode.

    Args:
        path: of the file.
        model: the name that the checkpoint must have, where the caller expects one.

    Raises:
        CheckpointError: it is no checkpoint of ours, one of another model, or its weights do not fit or are not finite.
        FileNotFoundError: there is no file.
    """
    name = os.fspath(path)
    if not Path(path).exists():
        raise FileNotFoundError(errno.ENOENT, "no checkpoint here; make one with `rnnx train`", name)
    try:
        with safetensors.safe_open(name, framework="pt") as file:
            header = msgspec.json.decode((file.metadata() or {})[_KEY], type=CheckpointHeader)
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
    except (KeyError, msgspec.DecodeError, safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{name} is not a checkpoint made by `rnnx train`: {error}") from None
    if model is not None and header.model != model:
        raise CheckpointError(f"{name} is a checkpoint of {header.model!r}, not of {model!r}; give the one that fits")
    for key, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"{name}: {key} holds NaN or infinity; train the model again")
    recipe_type = get_recipe(header.model)
    try:
        recipe = recipe_type(recipe_type.config_type(**header.config))
        module = recipe.build()
        module.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{name}: the checkpoint does not fit {header.model}: {reason}") from None
    return recipe, module.eval()
