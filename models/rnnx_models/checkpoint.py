"""Checkpoints: weights in safetensors, and in its header the model's name, config and training record.

One file, written whole or not at all; the same training gives the same bytes.
"""

import dataclasses
import errno
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import msgspec
import safetensors.torch
import torch
from torch import Tensor, nn

from rnnx_models._recipe import Recipe
from rnnx_models._registry import MODELS, get_recipe
from rnnx_models._tensors import Safetensors, TensorFileError, check_types, misfits, one_line, shown
from rnnx_runtime import RnnxError
from rnnx_runtime.artifact import write_atomic

# One key only: safetensors writes several in no fixed order.
_KEY: Final = "rnnx"


class CheckpointError(RnnxError, ValueError):
    """The file is no checkpoint, or one of another model."""


class _Header(Protocol):
    @property
    def model(self) -> str: ...
    @property
    def config(self) -> dict[str, Any]: ...


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
    if not Path(path).exists():
        raise FileNotFoundError(errno.ENOENT, "no checkpoint here; make one with `rnnx train`", os.fspath(path))
    _, recipe, weights = read_tensors(path, _KEY, CheckpointHeader, "a checkpoint", "checkpoint", model)
    module = recipe.build()
    module.load_state_dict(weights)
    return recipe, module.eval()


def write_tensors(path: str | os.PathLike[str], key: str, header: msgspec.Struct, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file with a header under one key.

    Raises:
        OSError: the file cannot be written; what was there is untouched.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, safetensors.torch.save(plain, {key: msgspec.json.encode(header).decode()}))


def read_tensors(
    path: str | os.PathLike[str],
    key: str,
    kind: type[H],
    noun: str,
    what: str,
    model: str | None,
    prefixes: Sequence[str] = ("",),
) -> tuple[H, Recipe[Any], dict[str, Tensor]]:
    """What `write_tensors` wrote: the header, the recipe that it describes, and the tensors.

    Args:
        kind: of the header.
        noun, what: what the file is to be, and what is in it, for the message.
        model: the name that the header must have, where the caller expects one.
        prefixes: of the names of tensors that are a module's, all of them; "" where the file holds nothing else. A prefix that no
            name has is left out.

    Raises:
        CheckpointError: it is no such file, one of another model, its module has other tensors, or its values are not finite.
    """
    name = os.fspath(path)
    header, file = _open(path, key, kind, noun)
    with file:
        if model is not None and header.model != model:
            raise CheckpointError(f"{name} is {noun} of {shown(header.model)!r}, not of {model!r}; give the one that fits")
        if header.model not in MODELS:
            raise CheckpointError(f"{name} is {noun} of {shown(header.model)!r}; there are {', '.join(MODELS)}")
        recipe_type = get_recipe(header.model)
        recipe = recipe_type(read_config(path, recipe_type, header.config))
        own = _check_fits(f"{name}: the {what}", recipe, file, prefixes)
        try:
            tensors = file.read_finite(file.shapes)
            check_types({name: tensor for name, tensor in tensors.items() if name in own}, own)
        except TensorFileError as error:
            raise CheckpointError(f"{name}: {error}") from None
    return header, recipe, tensors


def _open(path: str | os.PathLike[str], key: str, kind: type[H], noun: str) -> tuple[H, Safetensors]:
    """The header of a file, and its tensors before they are read.

    Raises:
        CheckpointError: it is no such file.
    """
    try:
        file = Safetensors(Path(path))
        header = msgspec.json.decode(file.metadata.get(key, ""), type=kind)
    except (TensorFileError, OSError, ValueError, RecursionError) as error:  # msgspec.DecodeError is a ValueError
        raise CheckpointError(f"{os.fspath(path)} is not {noun} made by `rnnx train`: {one_line(error)}") from None
    return header, file


def _check_fits(what: str, recipe: Recipe[Any], file: Safetensors, prefixes: Sequence[str]) -> dict[str, Tensor]:
    """Refuse a config whose module has other tensors than the file, before room is made for any; its own, without values.

    Raises:
        CheckpointError: that is so.
    """
    values = sum(map(math.prod, file.shapes.values()))
    for field, size in dataclasses.asdict(recipe.config).items():
        most = len(file.shapes) if field == "layers" else values
        if isinstance(size, int) and size > most:  # as many steps may be taken to find that out otherwise
            raise CheckpointError(f"{what} does not fit {recipe.name}: its {field} would need more tensors than there are")
    try:
        with torch.device("meta"):
            plain = recipe.build().state_dict()
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{what} does not fit {recipe.name}: {one_line(error)}") from None
    own: dict[str, Tensor] = {}
    for prefix in prefixes:
        found = {name: shape for name, shape in file.shapes.items() if name.startswith(prefix)}
        if found or prefix == prefixes[0]:
            mine = {f"{prefix}{name}": tensor for name, tensor in plain.items()}
            if problems := misfits(found, mine):
                raise CheckpointError(f"{what} does not fit {recipe.name}: {'; '.join(problems)}")
            own |= mine
    return own


def read_config(path: str | os.PathLike[str], recipe_type: type[Recipe[Any]], values: dict[str, Any]) -> Any:
    """A model's config from a header.

    Raises:
        CheckpointError: it has other fields, or values of other types.
    """
    try:
        msgspec.convert(values, recipe_type.config_type)
        return recipe_type.config_type(**values)
    except (TypeError, ValueError) as error:  # msgspec.ValidationError is one
        raise CheckpointError(f"{os.fspath(path)}: the config does not fit {recipe_type.name}: {one_line(error)}") from None
