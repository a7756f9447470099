"""Files of tensors, from wherever they come: nothing in them is run, and no room is made for values before it is known that they fit.

Two kinds are read: safetensors, here, and what `torch.save` wrote of plain tensors, in `_torch_file.py`.
"""

import json
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, Self, final

import safetensors
import torch
from torch import Tensor

LARGEST_HEADER: Final = 4 << 20  # bytes that name the tensors, some 30,000; Python makes up to a hundred times as many of them
_SHOWN: Final = 5  # tensors that do not fit
_LONGEST: Final = 80  # characters of a name out of a file
_LONGEST_LINE: Final = 500


class TensorFileError(Exception):
    """The file holds something else than tensors, or they do not fit. Why, in one line without the file's name."""


class TensorFile(ABC):
    """A file of tensors that was looked at, and not read yet. It is closed at the end of its block.

    Attributes:
        shapes: of the tensors, by name.
    """

    shapes: Mapping[str, tuple[int, ...]]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object, /) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """A tensor, dense.

        Raises:
            TensorFileError: the file is damaged.
        """

    @final
    def read_finite(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The tensors of these names.

        Raises:
            TensorFileError: there is NaN or infinity in one, or the file is damaged.
        """
        tensors = {}
        for name in names:
            tensor = tensors[name] = self.read(name)
            if (tensor.is_floating_point() or tensor.is_complex()) and not tensor.isfinite().all():
                raise TensorFileError(f"{shown(name)} holds NaN or infinity; train the model again")
        return tensors


@final
class Safetensors(TensorFile):
    """A safetensors file.

    Attributes:
        metadata: the texts in its header.

    Raises:
        TensorFileError: it is none.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        with open_regular(path) as file:
            size = int.from_bytes(file.read(8), "little")
            if size > LARGEST_HEADER:
                raise TensorFileError(
                    f"no safetensors file: its header has {size} bytes, and at most {LARGEST_HEADER} are read"
                )
            header = file.read(size)
        try:
            json.loads(header, object_pairs_hook=_once)  # of two tensors of one name, the library takes the last
            opened: Any = safetensors.safe_open  # which has no types
            self._file = opened(os.fspath(path), framework="pt")
            self.metadata: dict[str, str] = self._file.metadata() or {}
            self.shapes = {name: tuple(self._file.get_slice(name).get_shape()) for name in self._file.keys()}  # noqa: SIM118
        except Exception as error:  # whatever it stumbles over
            raise TensorFileError(f"no safetensors file: {one_line(error)}") from None

    def close(self) -> None:
        del self._file

    def read(self, name: str) -> Tensor:
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except Exception as error:
            raise TensorFileError(f"{shown(name)} cannot be read: {one_line(error)}") from None
        return tensor


def open_regular(path: Path) -> IO[bytes]:
    """A regular file, opened for reading; a pipe is not waited for.

    Raises:
        OSError: it is something else, or it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise OSError(f"{path} is {kind}; give the path of a checkpoint")
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def misfits(found: Mapping[str, tuple[int, ...]], own: Mapping[str, Tensor]) -> list[str]:
    """Why tensors of these names and shapes are not those of a module; nothing where they are."""
    shapes = [
        f"{shown(name)} {shown(shape)}, not {tuple(own[name].shape)}"
        for name, shape in found.items()
        if name in own and shape != tuple(own[name].shape)
    ]
    problems = _listed("missing in the file", [name for name in own if name not in found])
    problems += _listed("not in the module", [shown(name) for name in found if name not in own])
    return problems + _listed("of another shape", shapes)


def check_types(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Let through what a module holds without a loss: its own types, and floats of fewer bits.

    Raises:
        TensorFileError: a tensor is of another type.
    """
    for name, tensor in tensors.items():
        had, has = tensor.dtype, own[name].dtype
        narrower = had.is_floating_point and has.is_floating_point and had.itemsize < has.itemsize
        if had != has and not narrower:
            raise TensorFileError(
                f"{name} is {_plain(had)}, and {_plain(has)} in the module; save it as that, or build the module so"
            )


def shown(given: object) -> str:
    """A name or a shape out of a file, for a message: one line of printable characters, and not too long."""
    text = str(given)
    return text if len(text) <= _LONGEST and text.isprintable() else f"{text[:_LONGEST]!a}…"


def one_line(error: object) -> str:
    """What an error says, for a message."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:_LONGEST_LINE]) + "…" * (len(text) > _LONGEST_LINE)


def _listed(what: str, names: Sequence[str]) -> list[str]:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{what}: {', '.join(names[:_SHOWN])}{rest}"] if names else []


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
