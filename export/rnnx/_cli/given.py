"""What a person hands to `rnnx export --module`: a factory in a file, weights, and inputs in words."""

import ast
import importlib.util
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from rnnx._eager import first_line
from rnnx._errors import ExportError

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
_SHOWN: Final = 5  # keys that do not fit


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
    """Fill a module with the weights of a file: safetensors, or what `torch.save` wrote of a state dict.

    Raises:
        ExportError: the file holds something else than dense finite tensors, or they do not fit the module.
        OSError: it cannot be read.
    """
    weights = _read_weights(path)
    for name, tensor in weights.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise ExportError(
                f"{path}: {name} is not a dense tensor with values ({tensor.layout}); save the module's plain state_dict"
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ExportError(f"{path}: {name} holds NaN or infinity; train the module again")
    own = module.state_dict()
    problems = _listed("missing in the file", [name for name in own if name not in weights])
    problems += _listed("not in the module", [name for name in weights if name not in own])
    shapes = [
        f"{n} {tuple(t.shape)}, not {tuple(own[n].shape)}" for n, t in weights.items() if n in own and t.shape != own[n].shape
    ]
    problems += _listed("of another shape", shapes)
    if problems:
        remedy = "build the module as it was trained (--arg), or give the checkpoint that fits"
        if weights and all(name.startswith("module.") for name in weights):
            remedy = "every name begins with 'module.': save model.module.state_dict()"
        raise ExportError(f"{path} does not fit {type(module).__name__}: {'; '.join(problems)}; {remedy}")
    module.load_state_dict(weights)


def _listed(what: str, names: Sequence[str]) -> list[str]:
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    return [f"{what}: {shown}"] if names else []


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(2, "no checkpoint here", str(path))
    readers: dict[str, Callable[[Path], Any]] = {".safetensors": _read_safetensors, ".pt": _read_torch, ".pth": _read_torch}
    if path.suffix not in readers:
        raise ExportError(f"{path}: a checkpoint ends in {', '.join(readers)}; save one with safetensors or torch.save")
    weights = readers[path.suffix](path)
    for key in ("state_dict", "model_state_dict"):  # beside an optimiser's, as training loops save them
        if isinstance(weights, dict) and isinstance(weights.get(key), dict):
            weights = weights[key]
    if not isinstance(weights, dict) or not all(isinstance(n, str) and isinstance(t, Tensor) for n, t in weights.items()):
        raise ExportError(f"{path} holds no state_dict, names with tensors; save module.state_dict()")
    return weights


def _read_safetensors(path: Path) -> Any:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ExportError(f"{path} is not a safetensors file: {error}") from None


def _read_torch(path: Path) -> Any:
    """With `weights_only`, and nothing else: any other way of reading would run code out of the file."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ExportError(
            f"{path} holds more than weights, and reading it would run code; save module.state_dict() instead of the module"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise ExportError(f"{path} is not a file of torch.save: {first_line(error)}") from None
