"""What callers hand over: made an array, and its content checked."""

import math
import operator
import sys
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from rnnx_runtime._errors import InputError, printable
from rnnx_runtime._layout import Layout
from rnnx_runtime._manifest import Input

_FEW = 16  # up to here, a loop over Python numbers is faster than a reduction by numpy


@final
class Port:
    """One input of the graph, with all that checking it needs prepared."""

    def __init__(self, spec: Input, *, one_step: bool = False) -> None:
        self.name = spec.name
        self.layout = Layout(spec.shape, one_step=one_step)
        self.dtype = np.dtype(spec.dtype)
        self._kinds = "iu" if self.dtype.kind == "i" else "b" if self.dtype.kind == "b" else "fiu"
        self._vocabulary_size = spec.vocabulary_size
        self._are_lengths = spec.role == "lengths"
        self._axes = ("B", "T") if self.layout.has_time else ("B",)

    def array(self, value: Any) -> NDArray[Any]:
        """`value` as an array; its shape and content are not looked at yet.

        Raises:
            InputError: it is no array of the right kind of numbers.
        """
        if is_masked(value):
            raise InputError(f"{self.name}: a masked array; fill or drop what is masked first")
        try:
            array = np.asarray(value)
        except Exception as error:
            raise InputError(f"{self.name}: {type(value).__name__} is no array of numbers: {printable(str(error))}") from None
        if array.dtype.kind not in self._kinds and (array.size or array.dtype != np.float64):  # [] is float64
            kind = array.dtype if array.ndim else type(value).__name__
            raise InputError(f"{self.name}: expected {self.dtype}, got {kind}; convert it first")
        return array

    def copier(self, view: NDArray[Any], steps: int) -> Callable[[NDArray[Any]], None]:
        """What puts so many steps in their place: it takes an array of the type and shape of `view`, checks the values, and copies them.

        It raises InputError, as `checked`.
        """
        size = self._vocabulary_size
        if size is not None and view.shape == (1,):

            def copy_token(array: NDArray[Any]) -> None:
                token = array.item()
                if not 0 <= token < size:
                    self._check_tokens(array)
                view[0] = token

            return copy_token

        def copy(array: NDArray[Any]) -> None:
            view[...] = self.checked(array, steps)

        return copy

    def check_shape(self, array: NDArray[Any]) -> None:
        """Raises InputError where the shape is not `(B, T, ...)`, or `(B, ...)` for an input without time."""
        front = len(self._axes)
        if array.ndim != front + len(self.layout.inner) or array.shape[front:] != self.layout.inner:
            wanted = ", ".join([*self._axes, *map(str, self.layout.inner)])
            raise InputError(f"{self.name}: expected the shape ({wanted}), got {array.shape}")

    def checked(self, array: NDArray[Any], steps: int) -> NDArray[Any]:
        """The array in the graph's type, every value allowed in a chunk of so many steps.

        Raises:
            InputError: a token is outside the vocabulary, a length outside the chunk, a number does not fit the type, or a
                value is not finite.
        """
        if self._are_lengths and steps and not ((array >= 1) & (array <= steps)).all():
            raise InputError(
                f"{self.name}: every length must be from 1 to {steps}, the steps of the chunk; got {array.tolist()}"
            )
        if self._vocabulary_size is not None:
            self._check_tokens(array)
        elif array.dtype.kind in "iu" and self.dtype.kind == "i" and array.size and not np.can_cast(array.dtype, self.dtype):
            limits = np.iinfo(self.dtype)
            if int(array.min()) < limits.min or int(array.max()) > limits.max:
                raise InputError(f"{self.name}: a value does not fit {self.dtype}, {limits.min} to {limits.max}")
        if array.dtype != self.dtype:
            with np.errstate(over="ignore"):
                converted = array.astype(self.dtype)
        else:
            converted = array
        # The sum of squares of finite values may overflow, but that of others is never finite.
        if self.dtype.kind == "f" and not math.isfinite(np.vdot(converted, converted)) and not np.isfinite(converted).all():
            where = np.argwhere(~np.isfinite(converted))[0].tolist()
            raise InputError(f"{self.name}: {array[tuple(where)]} at {where}; every value must be finite in {self.dtype}")
        return converted

    def _check_tokens(self, array: NDArray[Any]) -> None:
        size = self._vocabulary_size
        assert size is not None
        if array.size <= _FEW:
            wrong = next((token for token in array.ravel().tolist() if not 0 <= token < size), None)
        else:
            low, high = int(array.min()), int(array.max())
            wrong = low if low < 0 else high if high >= size else None
        if wrong is not None:
            raise InputError(f"{self.name}: token {wrong} is outside the vocabulary, 0 to {size - 1}")


def is_masked(value: Any) -> bool:
    """Whether it is a masked array of numpy's: there is none before their module, which takes 10 ms, was imported."""
    module = sys.modules.get("numpy.ma")
    return module is not None and isinstance(value, module.MaskedArray)


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """`value` as a whole number from `least` to `most`.

    Raises:
        InputError: it is none.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} must be a whole number, got {value!r}") from None
    if isinstance(value, bool | np.bool_) or number < least or (most is not None and number > most):
        limits = f"at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name} must be {limits}, got {_shown(value)}")
    return number


def _shown(value: object) -> str:
    """A value in a message; Python refuses to write very long integers."""
    try:
        return repr(value)
    except ValueError:
        return "a number of thousands of digits"


def real(name: str, value: Any) -> float:
    """`value` as a finite number.

    Raises:
        InputError: it is none.
    """
    try:
        if not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value):
            return float(value)
    except OverflowError:  # of an integer beyond all floats
        pass
    raise InputError(f"{name} must be a finite number, got {_shown(value)}")


def by_name(ports: Mapping[str, Port], value: Any) -> dict[str, NDArray[Any]]:
    """Arrays by input name: from one array, or from a mapping where the model has several inputs.

    Raises:
        InputError: an input is missing or unknown, or it is no array of the right kind.
    """
    if not isinstance(value, Mapping):
        if len(ports) > 1:
            raise InputError(f"this model has several inputs; give a mapping with {list(ports)}")
        return {name: port.array(value) for name, port in ports.items()}
    if value.keys() != ports.keys():
        raise InputError(f"the inputs are {sorted(ports)}, got {sorted(map(str, value))}")
    return {name: port.array(value[name]) for name, port in ports.items()}


class Chunk(NamedTuple):
    """Batch-first arrays by input name, checked, and the batch size and number of steps that they share."""

    arrays: dict[str, NDArray[Any]]
    batch: int
    steps: int


def check_chunk(ports: Mapping[str, Port], arrays: dict[str, NDArray[Any]]) -> Chunk:
    """The arrays checked, with their batch size and number of steps.

    Raises:
        InputError: a shape is wrong, the sizes disagree, the batch is empty, or a value is not allowed.
    """
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        ports[name].check_shape(array)
        for axis, size in zip(("B", "T"), array.shape[: 2 if ports[name].layout.has_time else 1], strict=False):
            if sizes.setdefault(axis, size) != size:
                raise InputError(f"{name}: {axis} is {size}, but {sizes[axis]} in another input")
    if sizes["B"] == 0:
        raise InputError("the batch is empty; give at least one row")
    steps = sizes.get("T", 1)
    return Chunk({name: ports[name].checked(array, steps) for name, array in arrays.items()}, sizes["B"], steps)
