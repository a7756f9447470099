"""What a graph takes and gives, as it declares it, and as it is said or found to be."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, get_args

from onnx import ModelProto, TensorProto, ValueInfoProto

from rnnx._errors import AdoptError
from rnnx_runtime.artifact import BATCH, TIME, Dimension, DType

_DTYPES: Final[dict[int, DType]] = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.BOOL: "bool",
}
_DIGITS: Final = 9  # of a size
_SHOWN: Final = 60  # characters of what was typed, in a message
_LETTERS: Final = re.compile(r"[A-Z]|[0-9]+")


@dataclass(frozen=True)
class Border:
    """An input or output of a graph.

    Attributes:
        sizes: of its axes; where one is not fixed, its symbol, which may be "". None where no shape is declared.
    """

    name: str
    dtype: DType
    sizes: tuple[int | str, ...] | None

    def __str__(self) -> str:
        sizes = "of no declared shape" if self.sizes is None else f"[{', '.join(str(size) or '?' for size in self.sizes)}]"
        return f"{self.name} {sizes}"

    @property
    def free(self) -> tuple[int, ...]:
        """The axes whose size is not fixed."""
        return tuple(axis for axis, size in enumerate(self.sizes or ()) if isinstance(size, str))

    def may_equal(self, other: "Border") -> bool:
        """Whether both may have one type and shape."""
        if self.dtype != other.dtype or self.sizes is None or other.sizes is None:
            return self.dtype == other.dtype
        return len(self.sizes) == len(other.sizes) and all(
            one == two or isinstance(one, str) or isinstance(two, str)
            for one, two in zip(self.sizes, other.sizes, strict=True)
        )


def inputs_of(model: ModelProto) -> tuple[Border, ...]:
    """What the graph takes; weights that callers might replace stay weights.

    Raises:
        AdoptError: an input is no tensor of a type that an artifact takes.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    return tuple(_border(value, "takes") for value in model.graph.input if value.name not in stored)


def outputs_of(model: ModelProto) -> tuple[Border, ...]:
    """What the graph gives.

    Raises:
        AdoptError: an output is no tensor of a type that an artifact gives.
    """
    return tuple(_border(value, "gives") for value in model.graph.output)


def _border(value: ValueInfoProto, verb: str) -> Border:
    tensor = value.type.tensor_type
    dtype = _DTYPES.get(tensor.elem_type) if value.type.HasField("tensor_type") else None
    if dtype is None:
        kind = TensorProto.DataType.Name(tensor.elem_type).lower() if value.type.HasField("tensor_type") else "no tensor"
        raise AdoptError(
            f"the graph {verb} {value.name!r}, which is {kind}; an artifact {verb} {', '.join(get_args(DType))}: keep the types "
            "of inputs and outputs when the file is converted"
        )
    if not value.name.isprintable():
        raise AdoptError(f"the graph names {value.name!r}; a name has printable characters only")
    sizes = None
    if tensor.HasField("shape"):
        sizes = tuple(axis.dim_value if axis.HasField("dim_value") else axis.dim_param for axis in tensor.shape.dim)
    return Border(value.name, dtype, sizes)


def parse_letters(letters: str) -> tuple[int | str, ...]:
    """Axes written down by a person: a letter or a size for each, "BTF", "B576", "1,1,T".

    Raises:
        AdoptError: it is none of these, or B or T stands twice.
    """
    parts = [part.strip() for part in letters.split(",")] if "," in letters else _LETTERS.findall(letters)
    whole = "".join(parts) == letters.replace(",", "").replace(" ", "")
    if not parts or not whole or not all(_LETTERS.fullmatch(part) for part in parts) or max(map(len, parts)) > _DIGITS:
        raise AdoptError(f"axes are a letter or a size each, such as BTF, B576 or B,1,80; got {letters[:_SHOWN]!r}")
    if parts.count("B") > 1 or parts.count("T") > 1:
        raise AdoptError(f"B and T stand for one axis each; got {letters!r}")
    return tuple(int(part) if part.isdigit() else part for part in parts)


def with_axes(borders: Sequence[Border], axes: Mapping[str, str]) -> tuple[Border, ...]:
    """Inputs with the sizes that a person said; the axes B and T keep a fixed size where the file declares one.

    Raises:
        AdoptError: there is no such input, or what was said does not fit it.
    """
    unknown = set(axes) - {border.name for border in borders}
    if unknown:
        names = ", ".join(border.name for border in borders)
        raise AdoptError(f"axes of {min(unknown)!r}: the graph has no such input; it has {names}")
    return tuple(_with_letters(one, parse_letters(axes[one.name])) if one.name in axes else one for one in borders)


def _with_letters(border: Border, letters: tuple[int | str, ...]) -> Border:
    sizes = border.sizes if border.sizes is not None else ("",) * len(letters)
    if len(letters) != len(sizes):
        raise AdoptError(f"axes of {border.name}: {border} has {len(sizes)} axes, got {len(letters)} letters and sizes")
    found: list[int | str] = []
    for letter, size in zip(letters, sizes, strict=True):
        if isinstance(letter, int):
            if letter == 0 or (isinstance(size, int) and size != letter):
                raise AdoptError(f"axes of {border.name}: {letter} does not fit {border}")
            found.append(letter)
        elif isinstance(size, int):
            found.append(size)
        else:
            found.append({"B": BATCH, "T": TIME}.get(letter, ""))
    return replace(border, sizes=tuple(found))


def declare(model: ModelProto, shapes: Mapping[str, tuple[Dimension, ...]]) -> None:
    """Write sizes and symbols into the declarations of inputs and outputs; what was declared inside the graph is forgotten."""
    for value in (*model.graph.input, *model.graph.output):
        if value.name in shapes:
            shape = value.type.tensor_type.shape
            del shape.dim[:]
            for size in shapes[value.name]:
                if isinstance(size, int):
                    shape.dim.add(dim_value=size)
                else:
                    shape.dim.add(dim_param=size)
    del model.graph.value_info[:]
