"""What a person hands to `rnnx export --module`: a factory in a file, weights, and inputs in words."""

import ast
import errno
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from rnnx._errors import ExportError
from rnnx_models._tensors import Safetensors, TensorFile, TensorFileError, check_types, misfits
from rnnx_models._torch_file import TorchFile

_EXAMPLE: Final = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_]\w*)\s*:)?\s*(?P<dtype>\w+)\s*\[(?P<sizes>[^\]]*)\]\s*(?:<\s*(?P<most>\d+))?\s*"
)
_DTYPES: Final = {
    "float32": torch.float32,
    "float64": torch.float64,
    "int32": torch.int32,
    "int64": torch.int64,
    "bool": torch.bool,
}


@dataclass(frozen=True)
class Described:
    """An input in words: `tokens: int64[B=2,T=7] < 50`.

    Attributes:
        name: of the parameter of `forward`; None for its place.
        letters: of its axes, "BT"; None where they carry none.
    """

    name: str | None
    tensor: Tensor
    letters: str | None


def make_module(target: str, arguments: Mapping[str, Any]) -> tuple[nn.Module, Any]:
    """The module that a factory returns, and the example that it returns beside it, or None.

    Args:
        target: `path/to/net.py:make_net`; a class of modules is a factory too.
        arguments: of the factory, by keyword.

    Raises:
        ExportError: there is no such factory, it fails, or it returns something else.
    """
    path, _, name = target.rpartition(":")
    if not path or not name.isidentifier():
        raise ExportError(f"expected a file and a factory in it, such as net.py:make_net; got {target!r}")
    file = Path(path)
    with _beside(file):
        factory = getattr(_load(file), name, None)
        if not callable(factory):
            raise ExportError(f"{path} has no function or class {name!r}")
        try:
            made = factory(**arguments)
        except Exception as error:
            raise ExportError(f"{name} of {path} failed: {type(error).__name__}: {error}") from error
    if isinstance(made, nn.Module):
        return made, None
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module):
        return made[0], made[1]
    raise ExportError(
        f"{name} of {path} must return a torch.nn.Module, or (module, example); it returned {type(made).__name__}"
    )


@contextmanager
def _beside(file: Path) -> Iterator[None]:
    """Let what stands beside a file be imported by it, as if it were run."""
    folder = str(file.parent.resolve())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _load(file: Path) -> Any:
    """The Python file as a module."""
    if not file.is_file():
        raise ExportError(f"{file}: no such file; give a Python file and a factory in it, such as net.py:make_net")
    if file.stem in sys.modules:
        raise ExportError(f"{file} is called like the package {file.stem}, which is in use; give it another name")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ExportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ExportError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        del sys.modules[file.stem]
    return module


def parse_arguments(given: Sequence[str]) -> dict[str, Any]:
    """`hidden=64`: Python literals, and text for everything else.

    Raises:
        ExportError: one has no name.
    """
    parsed: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ExportError(f"expected an argument of the factory as name=value, such as hidden=64; got {text!r}")
        try:
            parsed[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed[name] = value
    return parsed


def parse_pairs(option: str, given: Sequence[str], such_as: str) -> dict[str, str] | None:
    """`h=output.1`, as a mapping; None where none was given.

    Raises:
        ExportError: one is not of that form.
    """
    pairs = [text.partition("=") for text in given]
    for text, (name, _, value) in zip(given, pairs, strict=True):
        if not name or not value:
            raise ExportError(f"{option}: expected name=value, such as {such_as}; got {text!r}")
    return {name.strip(): value.strip() for name, _, value in pairs} or None


def parse_example(given: Sequence[str]) -> list[Described]:
    """Inputs in words, filled with random values.

    Raises:
        ExportError: one is not of the form `int64[B=2,T=7] < 50`.
    """
    generator = torch.Generator().manual_seed(0)
    return [_described(text, generator) for text in given]


def _described(text: str, generator: torch.Generator) -> Described:
    rule = 'expected an input such as "int64[B=2,T=7] < 50", "float32[B=2,T=7,3]" or "x: float32[T=7,B=2,3]"'
    found = _EXAMPLE.fullmatch(text)
    if found is None or found["dtype"] not in _DTYPES:
        raise ExportError(f"{rule}; got {text!r}")
    letters, sizes = "", []
    for part in found["sizes"].split(","):
        letter, _, size = part.rpartition("=")
        if not size.strip().isdigit() or int(size) < 1:
            raise ExportError(f"{rule}; {part.strip()!r} in {text!r} is no size")
        sizes.append(int(size))
        letters += letter.strip() if letter.strip() in ("B", "T") else "_"
    dtype = _DTYPES[found["dtype"]]
    integers = not dtype.is_floating_point and dtype != torch.bool
    if integers != (found["most"] is not None):
        raise ExportError(f"{rule}; integers, and only they, need < and a number that all of them are below; got {text!r}")
    if integers:
        tensor = torch.randint(int(found["most"]), sizes, generator=generator, dtype=dtype)
    elif dtype == torch.bool:
        tensor = torch.rand(sizes, generator=generator) < 0.5
    else:
        tensor = torch.randn(sizes, generator=generator, dtype=dtype)
    return Described(found["name"], tensor, letters if "B" in letters else None)


def as_example(module: nn.Module, described: Sequence[Described]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Keyword arguments of `forward`, and the axes of those whose axes carry letters.

    Raises:
        ExportError: there are more inputs than parameters, or a name is given twice.
    """
    import inspect

    parameters = list(inspect.signature(module.forward).parameters)
    arguments: dict[str, Tensor] = {}
    axes: dict[str, str] = {}
    for place, one in enumerate(described):
        name = one.name or (parameters[place] if place < len(parameters) else None)
        if name is None or name in arguments:
            raise ExportError(
                f"forward of {type(module).__name__} takes {', '.join(parameters)}; {len(described)} inputs do not fit"
            )
        arguments[name] = one.tensor
        if one.letters is not None:
            axes[name] = one.letters
    return arguments, axes


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill a module with the weights of a file: safetensors, or what `torch.save` wrote of a state dict. No code in it is run.

    Raises:
        ExportError: the file holds something else than dense finite tensors, or they do not fit the module.
        OSError: it cannot be read.
    """
    own = module.state_dict()
    try:
        with _open_tensors(path) as file:
            if problems := misfits(file.shapes, own):
                raise ExportError(f"{path} does not fit {type(module).__name__}: {'; '.join(problems)}; {_remedy(file)}")
            weights = file.read_finite(own)
            check_types(weights, own)
    except TensorFileError as error:
        raise ExportError(f"{path}: {error}") from None
    module.load_state_dict(weights)


def _remedy(file: TensorFile) -> str:
    if file.shapes and all(name.startswith("module.") for name in file.shapes):
        return "every name begins with 'module.': save model.module.state_dict()"
    return "build the module as it was trained (--arg), or give the checkpoint that fits"


def _open_tensors(path: Path) -> TensorFile:
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "no checkpoint here", str(path))
    readers: dict[str, Callable[[Path], TensorFile]] = {".safetensors": Safetensors, ".pt": TorchFile, ".pth": TorchFile}
    if path.suffix not in readers:
        raise ExportError(f"{path}: a checkpoint ends in {', '.join(readers)}; save one with safetensors or torch.save")
    return readers[path.suffix](path)
