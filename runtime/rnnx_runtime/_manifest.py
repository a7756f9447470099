"""The manifest: what an artifact says of itself, as JSON in `metadata_props["rnnx.manifest"]`.

This is the one definition of the contract: the exporter writes these structs, the runtime reads them. Decoding is
strict: unknown keys, wrong types and unknown versions are refused.
"""

import math
import re
from typing import Any, Final, Literal, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from rnnx_runtime._codec import Codec, ScalerCodec
from rnnx_runtime._errors import ArtifactError, printable

MANIFEST_KEY: Final = "rnnx.manifest"
INITIAL_KEY: Final = "rnnx.initial"  # base64 of a second ONNX model: conditions -> computed initial states
FORMAT_VERSION: Final = 1

BATCH: Final = "batch"
TIME: Final = "seq_len"

DType = Literal["float32", "float64", "int32", "int64", "bool"]
Dimension = int | str  # a fixed size, "batch", "seq_len", or one flattened from both: "batch*seq_len" (batch outermost)

Precision = Literal["float32", "float64", "float16", "int8", "int4"]
QUANTISED: Final[dict[int, Precision]] = {16: "float16", 8: "int8", 4: "int4"}  # by the bits of a weight

_SYMBOLS: Final = re.compile(rf"{BATCH}|{TIME}|{BATCH}\*{TIME}|{TIME}\*{BATCH}")
_MAX_ELEMENTS: Final = 1 << 31
_MAX_AXES: Final = 8
_MAX_FIXED_BATCH: Final = 65_536


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every struct here: immutable, and unknown keys are an error."""


class Array(_Strict, frozen=True):
    """A numpy array as data: C order, little-endian, base64 in JSON."""

    dtype: DType
    shape: tuple[int, ...]
    data: bytes

    def __post_init__(self) -> None:
        size = math.prod(self.shape) * np.dtype(self.dtype).itemsize
        if any(n < 0 for n in self.shape) or size != len(self.data):
            raise ValueError(f"{self.dtype} {self.shape} needs {size} bytes, not {len(self.data)}")

    @classmethod
    def of(cls, array: NDArray[Any]) -> Self:
        dtype: Any = array.dtype.name
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        return cls(dtype=dtype, shape=array.shape, data=little.tobytes())

    def numpy(self) -> NDArray[Any]:
        """The array, read-only."""
        return np.frombuffer(self.data, np.dtype(self.dtype).newbyteorder("<")).reshape(self.shape)


def _check_names(*names: str) -> None:
    """Names stand in messages, so they must not hold what a terminal obeys."""
    for name in names:
        if not name or not name.isprintable():
            raise ValueError(f"a name is empty or has characters that cannot be printed: {name!r}")


def _check_sizes(name: str, shape: tuple[Dimension, ...]) -> None:
    sizes = [size for size in shape if isinstance(size, int)]
    if len(shape) > _MAX_AXES or any(not 1 <= size <= _MAX_ELEMENTS for size in sizes) or math.prod(sizes) > _MAX_ELEMENTS:
        raise ValueError(f"{name}: shape {shape} has an axis without elements, too many axes or too many elements")


class _Tensor(_Strict, frozen=True):
    """A tensor at the border of the graph, in the artifact's own layout."""

    name: str
    dtype: DType
    shape: tuple[Dimension, ...]

    def __post_init__(self) -> None:
        _check_names(self.name)
        symbols = [d for d in self.shape if isinstance(d, str)]
        if not all(_SYMBOLS.fullmatch(symbol) for symbol in symbols):
            raise ValueError(f"{self.name}: shape {self.shape} has a symbol other than {BATCH} and {TIME}")
        if len("*".join(symbols).split("*")) != len(set("*".join(symbols).split("*"))):
            raise ValueError(f"{self.name}: shape {self.shape} has a symbol twice")
        _check_sizes(self.name, self.shape)

    @property
    def has_batch(self) -> bool:
        """Whether the graph has an axis for rows; where it has none, it takes one row."""
        return any(isinstance(size, str) and BATCH in size for size in self.shape)


class Input(_Tensor, frozen=True):
    """What a step is given.

    `role` "tokens": integers in `[0, vocabulary_size)`; "values": numbers, all finite; "lengths": how many steps of each row
    are none of the padding, at least 1 and at most all.
    """

    role: Literal["tokens", "values", "lengths"]
    vocabulary_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.role != "tokens" and self.vocabulary_size is not None:
            raise ValueError(f"{self.name}: {self.role} have no vocabulary")
        if self.role == "lengths" and (not self.dtype.startswith("int") or self.shape != (BATCH,)):
            raise ValueError(f"{self.name}: lengths are integers ({BATCH}), not {self.dtype} {self.shape}")
        if self.role == "tokens" and (not self.dtype.startswith("int") or (self.vocabulary_size or 0) < 1):
            raise ValueError(f"{self.name}: tokens are integers out of a vocabulary of at least 1, not {self.dtype}")


class Output(_Tensor, frozen=True):
    """What a step answers. `role` "logits": unnormalised scores of the codec's symbols on the last axis; else "values"."""

    role: Literal["logits", "values"]


class Zeros(_Strict, frozen=True, tag="zeros", tag_field="kind"):
    """The sequence starts with a state of zeros."""


class Constant(_Strict, frozen=True, tag="constant", tag_field="kind"):
    """The sequence starts with these values: the state's shape with a batch of 1, repeated for each row."""

    value: Array

    def __post_init__(self) -> None:
        if not np.isfinite(self.value.numpy()).all():
            raise ValueError("an initial value is not finite")


class Computed(_Strict, frozen=True, tag="computed", tag_field="kind"):
    """The artifact's second graph, `metadata_props["rnnx.initial"]`, computes it from the conditions."""


class StateSpec(_Strict, frozen=True):
    """One state tensor: the graph's `output` after one call is its `input` at the next.

    `batch_axis` None: the graph has no axis for rows, and takes one.
    """

    name: str
    input: str
    output: str
    dtype: DType
    shape: tuple[Dimension, ...]
    batch_axis: int | None
    init: Zeros | Constant | Computed
    found: str = ""  # where in the module it was, in words

    def __post_init__(self) -> None:
        _check_names(self.name, self.input, self.output, self.found or self.name)
        where = [axis for axis, size in enumerate(self.shape) if isinstance(size, str)]
        if where != ([] if self.batch_axis is None else [self.batch_axis]) or any(self.shape[axis] != BATCH for axis in where):
            raise ValueError(f"{self.name}: {BATCH} must stand at batch_axis {self.batch_axis} of {self.shape}, alone")
        _check_sizes(self.name, self.shape)
        if isinstance(self.init, Constant):
            value = self.init.value
            if value.shape != self.sized(1) or value.dtype != self.dtype:
                raise ValueError(f"{self.name}: the initial value is {value.dtype} {value.shape}, not {self.sized(1)}")

    def sized(self, batch: int) -> tuple[int, ...]:
        """The shape at a batch size."""
        return tuple(batch if isinstance(size, str) else size for size in self.shape)

    def initial(self, batch: int) -> NDArray[Any]:
        """The state that a sequence starts with, for each of `batch` rows, where it is not computed."""
        if isinstance(self.init, Constant):
            value = self.init.value.numpy()
            return value if self.batch_axis is None else np.repeat(value, batch, axis=self.batch_axis)
        return np.zeros(self.sized(batch), self.dtype)


class Sampling(_Strict, frozen=True):
    """How the model is meant to answer with text of its own: what it is told first, and what ends its answer."""

    prompt: str
    stop: tuple[str, ...] = ()
    temperature: float = 1.0
    max_new_tokens: int = 256


class GoldenTrace(_Strict, frozen=True):
    """A short run of the eager module, so that a device can test itself: names and layouts are the graph's.

    Of a graph of one step, the trace has as many as it likes: an array has its steps on the axis "seq_len", or where its shape
    has none, on one behind "batch" (in front, where it has no "batch" either).

    `sha256`: over the bytes of what the runtime itself answered where the artifact was made, on the CPU: outputs, then next
    states, in the manifest's order. It tells whether another machine computes the very same bits; empty where nobody knows.
    """

    inputs: dict[str, Array]
    states: dict[str, Array]
    outputs: dict[str, Array]
    next_states: dict[str, Array]
    sha256: str = ""


class TrajectorySummary(_Strict, frozen=True):
    """A long run against a float64 reference, or against the module itself from a nudged state.

    `error` and `eager`: how far the artifact and the eager module got from it, on the scale of the values. `horizon`: the first
    step at which the artifact is another run than the reference, off by more than 1e-3. `agreement`: the share of steps with the
    same most likely symbol; `bits`: the difference of mean surprise per symbol; `rmse`: of values, in multiples of their spread.
    """

    steps: int
    reference: Literal["float64", "nudged"]
    error: float
    eager: float
    horizon: int | None = None
    agreement: float | None = None
    bits: float | None = None
    rmse: float | None = None


class ParitySummary(_Strict, frozen=True):
    """What the parity gate found: the largest absolute differences against the eager module.

    `by_rounding`: cases that are off by more than the tolerance, and no further than rounding takes the module itself; they are not
    among the largest differences. `second_opinion`: of onnx's own evaluator; None where it cannot judge the graph, or was not asked.
    """

    passed: bool
    cases: int
    outputs: float
    states: float
    stepping: float
    tolerance: float
    proof: Literal["quick", "full", "thorough"] = "full"
    by_rounding: int = 0
    second_opinion: float | None = None
    trajectory: TrajectorySummary | None = None


class QuantisedWeight(_Strict, frozen=True):
    """One matrix that is stored in fewer bits. `role`: what it is to the node that it was taken from, in words."""

    name: str
    node: str
    role: str
    shape: tuple[int, ...]
    bytes_before: int
    bytes_after: int


class LeftWeight(_Strict, frozen=True):
    """One matrix that stayed as it was."""

    name: str
    bytes: int
    because: str


class Quantisation(_Strict, frozen=True):
    """What `rnnx quantize` did to the weights of another artifact, and what it found to have changed by that.

    `bits` 16: the weights are float16, and it is computed with those. 8 and 4: of integers, in blocks of `block` that share a scale.

    `loss_before`, `loss_after`: of the other artifact and of this one on the same data, in `unit`; `rise`: the share by which it is
    higher, beyond `limit` it is written only where that was allowed. `one_step`: the largest
    difference of a state or output after one step, relative above 1; `drift`: of outputs over `drift_steps` steps, root of the mean
    squared difference in multiples of their spread; `agreement`: the share of steps with the same most likely symbol.
    """

    bits: Literal[4, 8, 16]
    block: int | None
    weights: tuple[QuantisedWeight, ...]
    left: tuple[LeftWeight, ...]
    source_sha256: str
    source_bytes: int
    source_proven: bool
    data: str
    unit: Literal["bits per symbol", "RMSE", "RMSE over spread"]
    loss_before: float
    loss_after: float
    rise: float
    limit: float
    one_step: float
    drift: float
    drift_steps: int
    agreement: float | None = None


class Provenance(_Strict, frozen=True):
    """What made the artifact. No paths and no times: the same module gives the same bytes.

    `source_sha256`: of the file that it was adopted from; empty where a module was exported.
    """

    module: str
    weights_sha256: str
    versions: dict[str, str]
    source_sha256: str = ""


class Manifest(_Strict, frozen=True):
    """The whole contract of an artifact.

    `conditions`: what computed initial states are computed from, once per sequence. `streamable`: whether steps and chunks give what the whole sequence gives; `not_streamable_because` says why not. `chunks_matter_because`: why the answers of a stream depend on how it is cut into
    chunks, where they do: each call then computes what one call of the eager module does. `lowering` "adopted": the graph is
    somebody else's file. `fixed_batch`: the one batch size that the graph takes, where it takes no other; then "batch" in a shape
    stands for that size. `one_step`: each call of the graph takes one step, so that "seq_len" in a shape stands for 1, and an
    input or output without it is one step's; the runtime takes the steps of a chunk one by one. `trusted`: operators that are
    not in the runtime's list, which the person who adopted the file allowed; whoever loads it must allow them again.
    `precision`: of the weights and of what is computed; with "int8", "int4" and "float16" inputs, outputs and states are float32, and
    the golden trace and `parity` are none of a module's: `quantisation` says what is known instead.
    """

    format_version: int
    name: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    states: tuple[StateSpec, ...]
    streamable: bool
    lowering: Literal["recurrent", "scan", "adopted"]
    precision: Precision
    provenance: Provenance
    golden: GoldenTrace
    conditions: tuple[Input, ...] = ()
    not_streamable_because: str | None = None
    chunks_matter_because: str | None = None
    lowering_because: str = ""
    sampling: Sampling | None = None
    codec: Codec | None = None
    parity: ParitySummary | None = None
    fixed_batch: int | None = None
    one_step: bool = False
    trusted: tuple[str, ...] = ()
    quantisation: Quantisation | None = None

    def __post_init__(self) -> None:
        graph_inputs = [tensor.name for tensor in self.inputs] + [state.input for state in self.states]
        graph_outputs = [tensor.name for tensor in self.outputs] + [state.output for state in self.states]
        for names in (graph_inputs, graph_outputs, [state.name for state in self.states]):
            if len(names) != len(set(names)):
                raise ValueError(f"a name stands twice in {names}")
        if not self.inputs or not self.outputs:
            raise ValueError("an artifact has at least one input and one output")
        self._check_sizes_taken()
        self._check_codec()
        self._check_quantisation()
        names = [tensor.name for tensor in (*self.inputs, *self.conditions)]
        if len(names) != len(set(names)) or any(TIME in str(size) for spec in self.conditions for size in spec.shape):
            raise ValueError("a condition has the name of an input, or an axis seq_len")
        if bool(self.conditions) != any(isinstance(state.init, Computed) for state in self.states):
            raise ValueError("conditions must stand where a state is computed, and only there")
        if self.streamable and any(spec.role == "lengths" for spec in self.inputs):
            raise ValueError("lengths are those of whole sequences, so the model cannot be streamable")
        if self.streamable != (self.not_streamable_because is None):
            raise ValueError("not_streamable_because must stand where streamable is false, and only there")
        if self.chunks_matter_because is not None and not self.streamable:
            raise ValueError("chunks_matter_because must stand only where the model can be streamed")
        _check_names(
            self.name,
            self.not_streamable_because or self.name,
            self.chunks_matter_because or self.name,
            self.lowering_because or self.name,
        )

    def _check_sizes_taken(self) -> None:
        """What the graph takes of rows and steps."""
        if self.fixed_batch is not None and not 1 <= self.fixed_batch <= _MAX_FIXED_BATCH:
            raise ValueError(f"fixed_batch must be from 1 to {_MAX_FIXED_BATCH}, got {self.fixed_batch}")
        without = [tensor.name for tensor in (*self.inputs, *self.conditions, *self.outputs) if not tensor.has_batch]
        without += [state.name for state in self.states if state.batch_axis is None]
        if without and self.fixed_batch != 1:
            raise ValueError(f"{without[0]} has no axis {BATCH}, which only a graph of one row may lack")
        if self.one_step and not self.streamable:
            raise ValueError("a graph of one step must be streamable")
        _check_names(*self.trusted)

    def _check_quantisation(self) -> None:
        """What the artifact says of its weights fits its precision."""
        said = None if self.quantisation is None else QUANTISED.get(self.quantisation.bits)
        if said != (self.precision if self.reduced else None):
            raise ValueError(
                f"the precision is {self.precision}, but what is said of the weights is for {said or 'full precision'}"
            )
        if self.quantisation is not None:
            if self.parity is not None:
                raise ValueError("weights of fewer bits are not those that were proven, so that parity must not stand there")
            for weight in self.quantisation.weights:
                _check_names(weight.name, f"{weight.node} {weight.role}")
            for left in self.quantisation.left:
                _check_names(left.name, left.because)
            _check_names(self.quantisation.data)

    @property
    def reduced(self) -> bool:
        """Whether it was made to compute with fewer bits than its inputs, outputs and states have."""
        return self.precision in QUANTISED.values()

    def _check_codec(self) -> None:
        """The codec, what it is given to, and what it reads the answer from, are of one size."""
        logits = [spec for spec in self.outputs if spec.role == "logits"]
        if self.codec is None or isinstance(self.codec, ScalerCodec):
            if logits or self.sampling is not None:
                raise ValueError("logits and sampling need a codec with a vocabulary")
            if self.codec is not None:
                self._check_scaler(self.codec)
            return
        symbols = len(self.codec.vocabulary)
        for spec in logits:
            if spec.shape[-1:] != (symbols,) or sum(isinstance(size, int) and size != 1 for size in spec.shape[:-1]) > 0:
                raise ValueError(f"{spec.name}: the codec has {symbols} symbols, the logits have the shape {spec.shape}")
        for given in self.inputs:
            if given.vocabulary_size is not None and given.vocabulary_size < symbols:
                raise ValueError(f"{given.name}: the codec has {symbols} symbols, the vocabulary {given.vocabulary_size}")

    def _check_scaler(self, codec: ScalerCodec) -> None:
        sides = (("input", self.inputs, codec.mean), ("output", self.outputs, codec.output_mean))
        for side, specs, numbers in sides:
            if numbers and (len(specs) != 1 or specs[0].role != "values" or not specs[0].dtype.startswith("float")):
                raise ValueError(f"a scaler is for one {side} of real values, the artifact has {len(specs)}")
            if len(numbers) > 1 and specs[0].shape[-1:] != (len(numbers),):
                raise ValueError(f"the scaler has {len(numbers)} {side} features, the shape is {specs[0].shape}")

    def has_time(self, tensor: Input | Output) -> bool:
        """Whether there is a value for each step; of a condition there is one for the sequence."""
        return any(TIME in str(size) for size in tensor.shape) or (self.one_step and tensor not in self.conditions)

    def encode(self) -> str:
        """The JSON text of this manifest; the same manifest gives the same text."""
        return msgspec.json.encode(self).decode()


class _Version(msgspec.Struct):
    format_version: int


def decode_manifest(text: str) -> Manifest:
    """Read a manifest strictly.

    Raises:
        ArtifactError: it is no manifest, or one of another format version.
    """
    try:
        version = msgspec.json.decode(text, type=_Version).format_version
        if version != FORMAT_VERSION:
            raise ArtifactError(
                f"the artifact has format version {version}, this runtime reads version {FORMAT_VERSION}; "
                "export the model again, or install the runtime that fits"
            )
        return msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ArtifactError(f"the manifest is not valid: {printable(str(error))}") from None
