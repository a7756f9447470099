"""Values from files and to files: CSV, .npy, images."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnx_runtime import InputError
from rnnx_runtime.artifact import BATCH, TIME, Input, Output, write_atomic


def read_values(inputs: tuple[Input, ...], source: str) -> NDArray[Any]:
    """A chunk `(B, T, ...)` from a file: a row of CSV per step, or an array with or without the batch axis.

    Raises:
        InputError: the file is no such thing, or its columns are not the model's.
    """
    if len(inputs) != 1:
        raise InputError(f"--input is for models of one input, this one has {[spec.name for spec in inputs]}; use the library")
    spec = inputs[0]
    inner = len([size for size in spec.shape if size not in (BATCH, TIME)])
    values = _read_npy(source) if source.endswith(".npy") else _read_csv(source)
    if not source.endswith(".npy") and inner == 0:
        values = values.reshape(-1)  # tokens, one or many to a line
    if np.issubdtype(values.dtype, np.floating) and spec.dtype.startswith("int"):
        if not (values == np.trunc(values)).all():
            raise InputError(f"{source}: {spec.name} takes whole numbers")
        values = values.astype(np.int64)
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
    return np.array(rows, np.float64).reshape(len(rows), -1 if rows else 0)


def read_image(spec: Input, path: Path) -> NDArray[np.float32]:
    """An image in the size that a condition `(B, channels, height, width)` has, from 0 (black) to 1 (white).

    Raises:
        InputError: the file is no image, or the condition is none.
    """
    from PIL import Image, UnidentifiedImageError

    sizes = [size for size in spec.shape if isinstance(size, int)]
    if len(sizes) != 3 or sizes[0] not in (1, 3) or spec.dtype != "float32":
        raise InputError(f"{spec.name} is {spec.dtype} {list(spec.shape)}, which is no image; use the library")
    channels, height, width = sizes
    try:
        with Image.open(path) as image:
            plain = image.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    except FileNotFoundError:
        raise InputError(f"no file at {path}; give an image") from None
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{path} is not an image: {error}") from None
    values = np.asarray(plain, np.float32).reshape(height, width, channels) / np.float32(255)
    return values.transpose(2, 0, 1)[None].astype(np.float32)


def write_values(outputs: tuple[Output, ...], answer: Any, path: Path | None) -> None:
    """The answer as CSV on standard output, or in a file: .csv, .npy (one output) or .npz (several).

    Raises:
        InputError: the file's ending is another.
        OSError: the file cannot be written.
    """
    named = answer if isinstance(answer, dict) else {outputs[0].name: answer}
    if path is None:
        sys.stdout.write(_csv(named))
        return
    buffer = io.BytesIO()
    if path.suffix == ".csv":
        buffer.write(_csv(named).encode())
    elif path.suffix == ".npy" and len(named) == 1:
        np.save(buffer, next(iter(named.values())))
    elif path.suffix == ".npz":
        np.savez(buffer, **named)
    else:
        raise InputError(
            f"{path.name}: an answer of {len(named)} arrays is written to .csv, .npz" + " or .npy" * (len(named) == 1)
        )
    write_atomic(path, buffer.getvalue())


def _csv(named: dict[str, NDArray[Any]]) -> str:
    """A row per step, the columns of all outputs side by side; with their names above where there are several."""
    tables = {
        name: array.reshape(-1, int(np.prod(array.shape[2:], dtype=np.int64)) if array.ndim > 2 else array.shape[-1])
        for name, array in named.items()
    }
    if len({len(table) for table in tables.values()}) != 1:
        raise InputError(f"the outputs {sorted(named)} have different numbers of rows; write them to a .npz file with -o")
    lines = []
    if len(tables) > 1:
        lines.append(",".join(f"{name}.{column}" for name, table in tables.items() for column in range(table.shape[1])))
    lines += [",".join(f"{value:.9g}" for value in row) for row in np.concatenate(list(tables.values()), axis=1)]
    return "".join(f"{line}\n" for line in lines)
