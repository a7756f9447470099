"""Values from files and to files: CSV, .npy, images."""

import io
import math
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from rnnx_runtime import InputError
from rnnx_runtime.artifact import BATCH, TIME, Input, Manifest, check_writable, write_atomic

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_PICTURES: Final = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_WHOLE_BELOW: Final = 2**53  # from there on, a float64 is not every whole number


def read_values(inputs: tuple[Input, ...], source: str) -> NDArray[Any]:
    """A chunk `(B, T, ...)` from a file: a row of CSV per step, or an array with or without the batch axis.

    Raises:
        InputError: the file is no such thing, or its columns are not the model's.
    """
    if len(inputs) != 1:
        raise InputError(f"--input is for models of one input, this one has {[spec.name for spec in inputs]}; use the library")
    if Path(source).suffix.lower() in _PICTURES:
        raise InputError(f"{source} is an image, --input takes .csv and .npy; give it with --image")
    spec = inputs[0]
    sizes = [size for size in spec.shape if isinstance(size, int)]
    inner = len([size for size in spec.shape if size not in (BATCH, TIME)])
    values = _read_npy(source) if source.endswith(".npy") else _read_csv(source)
    if not source.endswith(".npy") and inner == 0:
        values = values.reshape(-1)  # tokens, one or many to a line
    if np.issubdtype(values.dtype, np.floating) and spec.dtype.startswith("int"):
        wrong = values[~((values == np.trunc(values)) & (np.abs(values) < _WHOLE_BELOW))]
        if wrong.size:
            raise InputError(f"{source}: {spec.name} takes whole numbers below 2**53, got {wrong[0]:g}")
        values = values.astype(np.int64)
    if values.ndim == 2 < inner + 1 and values.shape[1] == math.prod(sizes):
        values = values.reshape(-1, *sizes)  # a step's values in one row of a CSV
    if values.ndim == inner == 1:
        values = values[:, None]  # (T,), a value per step as in a CSV of one column
    return values[None] if values.ndim == inner + 1 else values


def _read_npy(source: str) -> NDArray[Any]:
    try:
        values: NDArray[Any] = np.load(source, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"no file at {source}") from None
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{source} is not a .npy file of numbers: {error}") from None
    if not np.issubdtype(values.dtype, np.number) and values.dtype != np.bool_:
        raise InputError(f"{source} holds {values.dtype}, not numbers")
    return values


def _read_csv(source: str) -> NDArray[np.float64]:
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        text = text.removeprefix("\ufeff")  # a byte order mark
    except FileNotFoundError:
        raise InputError(f"no file at {source}; give a .csv or .npy file, or - for standard input") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not CSV: byte {error.start} is not UTF-8") from None
    rows: list[list[float]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            rows.append([float(cell) for cell in line.split(",")])
        except ValueError as error:
            raise InputError(f"{source}, line {number}: {error}; a row of CSV is numbers and commas only") from None
        if len(rows[-1]) != len(rows[0]):
            raise InputError(f"{source}, line {number}: {len(rows[-1])} columns where the first row has {len(rows[0])}")
    if not rows:
        raise InputError(f"{source} is empty; give a row of numbers for each step")
    return np.array(rows, np.float64)


def read_image(spec: Input, path: Path) -> NDArray[np.float32]:
    """An image in the size that a condition `(B, channels, height, width)` has, from 0 (black) to 1 (white).

    Raises:
        InputError: the file is no image, or a huge one, or the condition is none.
    """
    from PIL import Image

    sizes = [size for size in spec.shape if isinstance(size, int)]
    if len(sizes) != 3 or sizes[0] not in (1, 3) or spec.dtype != "float32":
        raise InputError(f"{spec.name} is {spec.dtype} {list(spec.shape)}, which is no image; use the library")
    channels, height, width = sizes
    try:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning), Image.open(path) as image:
            plain = _eight_bit(image).convert("L" if channels == 1 else "RGB")
            plain = plain.resize((width, height), Image.Resampling.BILINEAR)
    except FileNotFoundError:
        raise InputError(f"no file at {path}; give an image") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise InputError(f"{path} has more than {Image.MAX_IMAGE_PIXELS} pixels; make the image smaller") from None
    except (OSError, SyntaxError, ValueError) as error:  # the latter two where a chunk of the file is broken
        raise InputError(f"{path} is not an image: {error}") from None
    values = np.asarray(plain, np.float32).reshape(height, width, channels) / np.float32(255)
    return values.transpose(2, 0, 1)[None].astype(np.float32)


def _eight_bit(image: "Picture") -> "Picture":
    """16-bit grey in 8 bits, which Pillow's own conversion clips; any other image as it is."""
    from PIL import Image

    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 0xFFFF) / 0x101).round().astype(np.uint8))


def check_output(path: Path | None, *, text: bool, arrays: int = 1) -> None:
    """Find out, before a model runs, that its answer cannot be written there.

    Raises:
        InputError: the file's ending is another.
        OSError: nothing can be written there.
    """
    if path is None:
        return
    endings = [".txt"] if text else [".csv", ".npz", *([".npy"] if arrays == 1 else [])]
    if path.suffix not in endings:
        what = "a text" if text else f"an answer of {arrays} array{'s' if arrays > 1 else ''}"
        raise InputError(f"{path.name}: {what} is written to {' or '.join(endings)}; give such a name")
    check_writable(path)


def write_values(manifest: Manifest, answer: Any, path: Path | None) -> None:
    """The answer as CSV on standard output, or in a file that `check_output` let pass.

    Raises:
        InputError: the outputs do not stand side by side in a CSV.
        OSError: the file cannot be written.
    """
    named = answer if isinstance(answer, dict) else {manifest.outputs[0].name: answer}
    if path is None:
        sys.stdout.write(_csv(manifest, named))
        return
    buffer = io.BytesIO()
    if path.suffix == ".csv":
        buffer.write(_csv(manifest, named).encode())
    elif path.suffix == ".npy":
        np.save(buffer, next(iter(named.values())))
    else:
        np.savez(buffer, **named)
    write_atomic(path, buffer.getvalue())


def _csv(manifest: Manifest, named: dict[str, NDArray[Any]]) -> str:
    """A row per step, the columns of all outputs side by side; with their names above where there are several."""
    timed = {spec.name: manifest.has_time(spec) for spec in manifest.outputs}
    tables = {name: array.reshape(-1, math.prod(array.shape[2 if timed[name] else 1 :])) for name, array in named.items()}
    if len({len(table) for table in tables.values()}) != 1:
        raise InputError(f"the outputs {sorted(named)} have different numbers of rows; write them to a .npz file with -o")
    lines = []
    if len(tables) > 1:
        lines.append(",".join(f"{name}.{column}" for name, table in tables.items() for column in range(table.shape[1])))
    lines += [",".join(f"{value:.9g}" for value in row) for row in np.concatenate(list(tables.values()), axis=1)]
    return "".join(f"{line}\n" for line in lines)
