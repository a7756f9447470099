"""Checkpoints: weights in safetensors, and in its header the model's name, config and training record.

One file, written whole or not at all; the same training gives the same bytes.
"""

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

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


class _Header(Protocol):
    @property
    def model(self) -> str: ...


H = TypeVar("H", bound=_Header)


class CheckpointHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint says of itself.

    Attributes:
        best_epoch: after which the weights were the best; how many were planned is in `settings`.
        settings: of the whole training.
        text: SHA-256 of the text that was learned from; empty where the data are the model's own.
    """

    model: str
    config: dict[str, Any]
    seed: int
    best_epoch: int
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
    write_tensors(path, _KEY, header, weights)


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
    header, weights = read_tensors(path, _KEY, CheckpointHeader, "a checkpoint", model)
    recipe_type = get_recipe(header.model)
    recipe = recipe_type(read_config(path, recipe_type, header.config))
    try:
        module = recipe.build()
        module.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{name}: the checkpoint does not fit {header.model}: {reason}") from None
    return recipe, module.eval()


def write_tensors(path: str | os.PathLike[str], key: str, header: msgspec.Struct, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file with a header under one key.

    Raises:
        OSError: the file cannot be written; what was there is untouched.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, safetensors.torch.save(plain, {key: msgspec.json.encode(header).decode()}))


def read_tensors(
    path: str | os.PathLike[str], key: str, kind: type[H], noun: str, model: str | None
) -> tuple[H, dict[str, Tensor]]:
    """What `write_tensors` wrote.

    Args:
        kind: of the header.
        noun: what the file is to be, for the message.
        model: the name that the header must have, where the caller expects one.

    Raises:
        CheckpointError: it is no such file, one of another model, or its values are not finite.
    """
    name = os.fspath(path)
    try:
        with safetensors.safe_open(name, framework="pt") as file:
            header = msgspec.json.decode((file.metadata() or {})[key], type=kind)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
    except (KeyError, msgspec.DecodeError, safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{name} is not {noun} made by `rnnx train`: {error}") from None
    if model is not None and header.model != model:
        raise CheckpointError(f"{name} is {noun} of {header.model!r}, not of {model!r}; give the one that fits")
    for tensor_name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"{name}: {tensor_name} holds NaN or infinity; train the model again")
    return header, tensors


def read_config(path: str | os.PathLike[str], recipe_type: type[Recipe[Any]], values: dict[str, Any]) -> Any:
    """A model's config from a header.

    Raises:
        CheckpointError: it has other fields, or values of other types.
    """
    try:
        msgspec.convert(values, recipe_type.config_type)
        return recipe_type.config_type(**values)
    except (TypeError, msgspec.ValidationError) as error:
        raise CheckpointError(f"{os.fspath(path)}: the config does not fit {recipe_type.name}: {error}") from None
