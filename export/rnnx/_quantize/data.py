"""What both artifacts, with many bits and with few, are run on: what somebody gives, or what can be made from the artifact alone."""

import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rnnx._errors import QuantizeError
from rnnx_runtime import InputError, Model, State
from rnnx_runtime.artifact import CharCodec, Input, Layout, OneHotCodec, ScalerCodec, golden_start, read_regular

Arrays = dict[str, NDArray[Any]]

_MOST: Final = 20_000  # steps that are measured
_WRITTEN: Final = 4_000  # symbols that a model writes to itself
_DRAWN: Final = 2_000  # steps of values
_WHOLE: Final = 64  # and rows and steps of sequences, where a model cannot be stepped
_LARGEST: Final = 1 << 28  # bytes of a file
_SEED: Final = 0


@dataclass(frozen=True)
class Data:
    """Inputs for a run from `start`.

    Attributes:
        inputs: by name, `(B, T, ...)`, and `(B, ...)` of those without time.
        symbols: what comes next at each step, `(T,)`, of a text; None of values.
        targets: what outputs should be, by name, batch-first.
        what: where it is from, in words.
    """

    inputs: Arrays
    start: State
    what: str
    symbols: NDArray[np.int64] | None = None
    targets: Arrays = field(default_factory=dict)


def find_data(model: Model, given: str | os.PathLike[str] | Mapping[str, Any] | NDArray[Any] | None) -> Data:
    """The data for a model: those given, else made from the model itself.

    Args:
        given: a text, or the path of one, for a model that reads text; an array, a mapping of arrays with targets under the names
            of outputs, or the path of a .npy, .npz or .csv, for one of values.

    Raises:
        QuantizeError: they are not such data as the model takes, or there is no such file.
        OSError: the file cannot be read.
    """
    if given is None:
        return _made(model)
    if isinstance(given, str | os.PathLike) and not Path(given).is_file():
        raise QuantizeError(
            f"no file of data at {os.fspath(given)!a}; give a text for a model that reads text, else .npy, .npz or .csv"
        )
    if reads_text(model):
        if not isinstance(given, str | os.PathLike):
            raise QuantizeError(f"this artifact reads text; data are the path of a text, got {type(given).__name__}")
        return _of_text(model, Path(given))
    try:
        return _of_values(model, given)
    except InputError as error:
        raise QuantizeError(f"the data do not fit the artifact: {error}") from None


def reads_text(model: Model) -> bool:
    """Whether it scores, at each step, which symbol comes next."""
    outputs = [spec for spec in model.manifest.outputs if spec.role == "logits"]
    text = isinstance(model.manifest.codec, CharCodec | OneHotCodec)
    return text and model.manifest.streamable and len(outputs) == 1 and model.manifest.has_time(outputs[0])


def start_of(model: Model, batch: int | None = None) -> State:
    """Where sequences begin; of a model whose state is computed, where its golden trace does."""
    if not model.manifest.conditions:
        return model.initial_state(batch)
    start = golden_start(model)
    if start is None:
        raise QuantizeError("the state is computed, and the golden trace of this artifact holds no step; export it again")
    return repeated(model, start[1], batch or start[1].batch)


def repeated(model: Model, state: State, batch: int) -> State:
    """A state with its rows repeated or cut to a batch."""
    if state.batch == batch or not model.manifest.states:
        return state if state.batch == batch else model.initial_state(batch)
    rows = np.arange(batch) % state.batch
    axes = {spec.name: spec.batch_axis or 0 for spec in model.manifest.states}
    return model.make_state({name: np.take(array, rows, axis=axes[name]) for name, array in state.items()})


def drawn(model: Model, batch: int, steps: int, generator: np.random.Generator) -> Arrays:
    """Random inputs: tokens of the vocabulary, floats with the mean and spread of the golden trace, else values that stand there."""
    start = golden_start(model)
    golden = {} if start is None else start[0]
    return {spec.name: _drawn(model, spec, golden.get(spec.name), batch, steps, generator) for spec in model.manifest.inputs}


def _drawn(
    model: Model, spec: Input, golden: NDArray[Any] | None, batch: int, steps: int, generator: np.random.Generator
) -> NDArray[Any]:
    timed, dtype = model.manifest.has_time(spec), np.dtype(spec.dtype)
    inner = Layout(spec.shape, one_step=model.manifest.one_step).inner
    shape = (batch, steps, *inner) if timed else (batch, *inner)
    if spec.role == "lengths":
        return np.full(shape, steps, dtype)
    if spec.vocabulary_size is not None:
        return generator.integers(spec.vocabulary_size, size=shape).astype(dtype)
    if dtype.kind == "f":
        mean, spread = (0.0, 1.0) if golden is None else (float(golden.mean()), float(golden.std()) or 1.0)
        return generator.normal(mean, spread, shape).astype(dtype)
    return generator.choice(np.zeros(1, dtype) if golden is None else golden.ravel(), shape).astype(dtype)


def _made(model: Model) -> Data:
    generator = np.random.default_rng(_SEED)
    if reads_text(model) and (model.manifest.fixed_batch or 1) == 1:
        return _written(model)
    rows = model.manifest.fixed_batch or 1
    if model.manifest.streamable:
        return Data(drawn(model, rows, _DRAWN, generator), start_of(model, rows), f"{_DRAWN} steps of random inputs")
    rows = model.manifest.fixed_batch or _WHOLE
    inputs = drawn(model, rows, _WHOLE, generator)
    what = f"{rows} sequence{'s' * (rows > 1)} of {_WHOLE} steps of random inputs"
    return Data(inputs, start_of(model, rows), what)


def _written(model: Model) -> Data:
    """What the model writes itself: then its own loss is the entropy of its answers, and more is the divergence of the other's."""
    codec = model.manifest.codec
    assert isinstance(codec, CharCodec | OneHotCodec)
    start = start_of(model, 1)
    advised = model.manifest.sampling
    prompt = advised.prompt if advised is not None and advised.prompt else codec.vocabulary[0]
    pieces = model.stream(state=start).generate(prompt, _WRITTEN, temperature=1.0, seed=_SEED)
    text = prompt + "".join(pieces)
    return _texts(model, text, start, f"{_WRITTEN} symbols that the float artifact wrote itself, seed {_SEED}")


def _of_text(model: Model, path: Path) -> Data:
    try:
        text = read_regular(path, _LARGEST).decode()
    except UnicodeDecodeError as error:
        raise QuantizeError(f"{path} is not a text: byte {error.start} is not UTF-8; this artifact reads text") from None
    size, name = len(text), _printed(path)
    what = f"the {size} symbols of {name}" if size <= _MOST else f"the first {_MOST} of the {size} symbols of {name}"
    try:
        return _texts(model, text[: _MOST + 1], start_of(model, 1), what)
    except InputError as error:
        raise QuantizeError(f"{path.name} does not fit the artifact: {error}") from None


def _texts(model: Model, text: str, start: State, what: str) -> Data:
    codec = model.manifest.codec
    assert isinstance(codec, CharCodec | OneHotCodec)
    tokens = codec.tokens(text)
    if len(tokens) < 2:
        raise QuantizeError(f"a text of {len(tokens)} symbols has nothing to predict; give at least two")
    return Data({model.manifest.inputs[0].name: codec.rows(tokens[:-1])[None]}, start, what, tokens[1:])


def _of_values(model: Model, given: Any) -> Data:
    from rnnx._cli.values import read_values

    manifest = model.manifest
    if isinstance(given, str | os.PathLike):
        path = Path(given)
        what = f"the values of {_printed(path)}"
        if path.suffix != ".npz" and len(manifest.inputs) > 1:
            raise QuantizeError(
                f"{path} is of one input, this artifact has {_names(manifest.inputs)}; give them by name in a .npz"
            )
        arrays: dict[str, Any] = (
            _npz(path) if path.suffix == ".npz" else {manifest.inputs[0].name: read_values(manifest.inputs, str(path))}
        )
    else:
        what = "the values given"
        arrays = dict(given) if isinstance(given, Mapping) else {manifest.inputs[0].name: given}
    inputs = {spec.name: np.asarray(arrays.pop(spec.name)) for spec in manifest.inputs if spec.name in arrays}
    lacking = [spec.name for spec in manifest.inputs if spec.name not in inputs]
    outputs = {spec.name for spec in manifest.outputs}
    if lacking or set(arrays) - outputs:
        raise QuantizeError(
            f"data need the inputs {_names(manifest.inputs)}, and may have targets for "
            f"{', '.join(sorted(outputs))}; got {', '.join([*inputs, *arrays]) or 'none'}"
        )
    if isinstance(manifest.codec, ScalerCodec):
        inputs = {name: manifest.codec.encode(array) for name, array in inputs.items()}
    timed = next((spec.name for spec in manifest.inputs if manifest.has_time(spec)), None)
    if timed is not None and inputs[timed].ndim > 1 and not inputs[timed].shape[1]:
        raise QuantizeError(f"data need at least one step, {timed} has the shape {inputs[timed].shape}")
    if timed is not None and manifest.streamable and not arrays and inputs[timed].ndim > 1:
        inputs = {
            n: a[:, :_MOST] if manifest.has_time(s) else a for s in manifest.inputs for n, a in [(s.name, inputs[s.name])]
        }
    batch = inputs[manifest.inputs[0].name].shape[0] if inputs[manifest.inputs[0].name].ndim else 1
    targets = {name: _target(name, np.asarray(array)) for name, array in arrays.items()}
    return Data(inputs, start_of(model, batch), f"{what}{', with targets' if targets else ''}", targets=targets)


def _target(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind not in "biuf":
        raise QuantizeError(f"the targets of {name} must be numbers, got {array.dtype}")
    wrong = array[~np.isfinite(array)]
    if wrong.size:
        raise QuantizeError(f"the targets of {name} must be finite, got {wrong[0]}")
    return array


def _npz(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, Mapping):
                raise ValueError("it holds one array, as a .npy does")
            return dict(arrays)
    except (ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise QuantizeError(f"{path} is not a .npz file of numbers: {error}") from None


def _printed(path: Path) -> str:
    """The name of a file as an artifact may hold it."""
    return path.name if path.name.isprintable() else ascii(path.name)


def _names(inputs: Sequence[Input]) -> str:
    return ", ".join(spec.name for spec in inputs)
