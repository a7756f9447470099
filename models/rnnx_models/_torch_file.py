"""What `torch.save` wrote of plain tensors, read without `torch.load`.

Such a file is a zip of bytes and of one pickle that names them. The pickle may call nothing but what makes dictionaries and names
dense tensors; those are then read from their bytes, of which there must be as many as the pickle says. `torch.load`, with
`weights_only` too, trusts that number, and makes sparse, quantised and empty tensors.
"""

import math
import os
import pickletools
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, TypeGuard, final

import torch
from torch import Tensor

from rnnx_models._tensors import LARGEST_HEADER, TensorFile, TensorFileError, one_line, open_regular, shown

_END: Final = 98  # bytes of the three records that end such a zip
_SAVE: Final = "save module.state_dict()"
_CODE: Final = f"holds more than weights, and reading it would run code; {_SAVE} instead of the module"
_TYPES: Final = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: Final[Mapping[str, Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_AXES: Final = 64  # of a tensor of torch


@dataclass(frozen=True, slots=True)
class _Storage:
    """The bytes of one or more tensors: where they are, and how many values."""

    key: str
    dtype: torch.dtype
    size: int


@dataclass(frozen=True, slots=True)
class _Named:
    """A tensor that the pickle names."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@final
class TorchFile(TensorFile):
    """A file of `torch.save`: of a dictionary of tensors, which may lie under `state_dict` or `model_state_dict` beside an optimiser's.

    Raises:
        TensorFileError: it holds something else, or is damaged.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        with ExitStack() as opened:
            file = opened.enter_context(open_regular(path))
            try:
                self._records = _Records(opened, file)
                self._named = _state_dict(_unpickled(self._records))
            except TensorFileError:
                raise
            except Exception as error:  # whatever zipfile and pickle stumble over
                raise TensorFileError(f"no file of torch.save: {one_line(error)}") from None
            self._opened = opened.pop_all()
        self.shapes = {name: one.shape for name, one in self._named.items()}
        self._last: tuple[_Storage, Tensor] | None = None  # flattened weights of a layer share one

    def close(self) -> None:
        self._opened.close()

    def read(self, name: str) -> Tensor:
        one = self._named[name]
        if self._last is None or self._last[0] != one.storage:
            self._last = None
            self._last = one.storage, self._values(one.storage)
        return self._last[1].as_strided(one.shape, one.strides, one.offset).clone()

    def _values(self, storage: _Storage) -> Tensor:
        try:
            data = bytearray(self._records.read(f"data/{storage.key}"))
        except Exception as error:
            raise TensorFileError(f"its weights cannot be read: {one_line(error)}") from None
        return torch.frombuffer(data, dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)


@final
class _Records:
    """The parts of the zip: each is there once and is not compressed, so that none is larger than the file."""

    def __init__(self, opened: ExitStack, file: IO[bytes]) -> None:
        _check_end(file)
        self._archive = opened.enter_context(zipfile.ZipFile(file))
        entries = self._archive.infolist()
        self._entries = {entry.filename: entry for entry in entries}
        tops = [name.removesuffix("/data.pkl") for name in self._entries if name.endswith("/data.pkl")]
        if len(tops) != 1:
            raise TensorFileError(f"no file of torch.save: it must have one data.pkl, and has {len(tops)}")
        self._top = tops[0]
        if any(name.startswith((f"{self._top}/constants.pkl", f"{self._top}/code/")) for name in self._entries):
            raise TensorFileError(f"holds TorchScript, which is code; {_SAVE} instead of a traced or scripted module")
        if len(self._entries) != len(entries) or any(
            one.compress_type or one.compress_size != one.file_size for one in entries
        ):
            raise TensorFileError("no file of torch.save: a part is compressed, or there twice")
        if self.size("byteorder") is not None and self.read("byteorder") != b"little":
            raise TensorFileError("was written by a machine of another byte order; save it there with safetensors")

    def read(self, name: str) -> bytes:
        """A part; its checksum is compared."""
        return self._archive.read(self._entries[f"{self._top}/{name}"])

    def size(self, name: str) -> int | None:
        """Bytes of a part; None where there is none."""
        entry = self._entries.get(f"{self._top}/{name}")
        return None if entry is None else entry.file_size


def _check_end(file: IO[bytes]) -> None:
    """Refuse a zip whose list of parts is long, before an object is made of each.

    Raises:
        TensorFileError: that is so, or it does not end as torch ends it.
    """
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - _END))
    end = file.read(_END)
    sizes = [int.from_bytes(end[-10:-6], "little")]
    if end[-42:-38] == b"PK\6\7":  # of files over 4 GB, and of all that torch writes
        sizes.append(int.from_bytes(end[-58:-50], "little"))
    if end[-22:-18] != b"PK\5\6" or end[-2:] != b"\0\0":
        raise TensorFileError("no file of torch.save, which writes a zip since torch 1.6; load an older one and save it again")
    if max(sizes) > LARGEST_HEADER:
        raise TensorFileError(
            f"its list of parts has {max(sizes)} bytes, and at most {LARGEST_HEADER} are read; {_SAVE} alone"
        )


def _unpickled(records: _Records) -> Any:
    """What the pickle makes of names, numbers, dictionaries and lists of them, and tensors that are named."""
    size = records.size("data.pkl") or 0
    if size > LARGEST_HEADER:
        raise TensorFileError(f"its data.pkl has {size} bytes, and at most {LARGEST_HEADER} are read; {_SAVE} alone")
    stack = _Stack()
    for operation, argument, _ in pickletools.genops(records.read("data.pkl")):
        name: str = operation.name
        if name == "BINPERSID":
            stack.append(_storage(records, *stack.pop()))
        elif name == "GLOBAL":
            stack.append(_allowed(str(argument)))
        else:
            stack.do(name, argument)
    return stack.pop()


@final
class _Stack(list[Any]):
    """What a pickle works on, and its operations: of the second protocol, those that torch.save needs."""

    def __init__(self) -> None:
        super().__init__()
        self._marks: list[int] = []
        self._memory: dict[object, Any] = {}

    def do(self, name: str, argument: object) -> None:
        match name:
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self.append(_CONSTANTS[name])
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                self.append(argument)
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                self.append(_EMPTY[name]())
            case "MARK":
                self._marks.append(len(self))
            case "TUPLE":
                self.append(tuple(self._above_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.append(tuple(self._above(len(self) - int(name[-1]))))
            case "APPEND" | "APPENDS":
                items = self._above_mark() if name == "APPENDS" else [self.pop()]
                self[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._above_mark() if name == "SETITEMS" else self._above(len(self) - 2)
                if not all(isinstance(key, str) or _is_size(key) for key in items[::2]):  # other keys may take ages to hash
                    raise TensorFileError(f"has keys that are no names; {_SAVE}")
                self[-1].update(zip(items[::2], items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                self._memory[argument] = self[-1]
            case "BINGET" | "LONG_BINGET":
                self.append(self._memory[argument])
            case "REDUCE":
                arguments = self.pop()
                self.append(self.pop()(*arguments))
            case "BUILD":
                self.pop()  # what a dictionary carries beside its items
            case "PROTO" | "STOP":
                pass
            case _:
                raise TensorFileError(_CODE)

    def _above_mark(self) -> list[Any]:
        return self._above(self._marks.pop())

    def _above(self, start: int) -> list[Any]:
        if not 0 <= start <= len(self):
            raise TensorFileError("no file of torch.save: its pickle takes what is not there")
        above = self[start:]
        del self[start:]
        return above


def _allowed(name: str) -> Any:
    """What the pickle may name: `module name`."""
    if name in _CALLS:
        return _CALLS[name]
    module, _, last = name.partition(" ")
    if (module == "torch" and last.endswith("Storage")) or (module == "torch._utils" and last.startswith("_rebuild")):
        raise TensorFileError(
            f"a tensor is not dense, or of a type that is not read ({shown(last)}); {_SAVE} of plain weights"
        )
    raise TensorFileError(f"{_CODE} (it names {shown(name)})")


def _storage(records: _Records, kind: object, dtype: object, key: object, device: object, size: object) -> _Storage:
    """The bytes of tensors, if there are as many as is said; wherever they were, they are read to the CPU."""
    if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str) or not _is_size(size):
        raise TensorFileError("no file of torch.save: a tensor has no storage")
    if records.size(f"data/{key}") != size * dtype.itemsize:
        raise TensorFileError(f"is damaged: data/{shown(key)} has not the bytes of {size} values")
    return _Storage(key, dtype, size)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Named:
    """A tensor whose values lie densely in its storage, in whatever order of axes."""
    if not (isinstance(storage, _Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)):
        raise TensorFileError("no file of torch.save: a tensor has no storage, or no shape")
    if not len(shape) == len(strides) <= _AXES or not all(map(_is_size, (offset, *shape, *strides))):
        raise TensorFileError("is damaged: a tensor has a shape or strides that are none")
    count = math.prod(shape)
    apart = 1
    for stride, size in sorted((stride, size) for stride, size in zip(strides, shape, strict=True) if size != 1):
        if stride != apart and count:
            raise TensorFileError(f"holds a tensor {shown(shape)} whose values overlap or lie apart; save a .clone() of it")
        apart *= size
    if offset + count > storage.size:
        raise TensorFileError(f"is damaged: a tensor {shown(shape)} reaches over the end of its {storage.size} values")
    return _Named(storage, offset, shape, strides)


def _nothing() -> dict[Any, Any]:
    return {}


def _itself(given: Any, *_: Any) -> Any:
    return given


_CALLS: Final[Mapping[str, Any]] = {
    "collections OrderedDict": _nothing,
    "collections Counter": _itself,  # of schedulers
    "torch Size": _itself,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _itself,
    **{f"torch {name}": dtype for name, dtype in _TYPES.items()},
}


def _is_size(given: object) -> TypeGuard[int]:
    return type(given) is int and 0 <= given < 2**63


def _state_dict(found: Any) -> dict[str, _Named]:
    for key in ("state_dict", "model_state_dict"):  # beside an optimiser's, as training loops save them
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(n, str) and isinstance(t, _Named) for n, t in found.items()):
        raise TensorFileError(f"holds no state_dict, names with tensors; {_SAVE}")
    return dict(found)
