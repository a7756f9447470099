"""The manifest of a lifted module."""

import hashlib
from importlib.metadata import version
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from rnnx._axes import has_time
from rnnx._errors import ExportError, LiftError
from rnnx._lift import Lift
from rnnx._slots import LiftedInput, StateSlot
from rnnx_runtime.artifact import (
    FORMAT_VERSION,
    Array,
    CharCodec,
    Codec,
    Computed,
    Constant,
    GoldenTrace,
    Input,
    Manifest,
    OneHotCodec,
    Output,
    Provenance,
    Sampling,
    ScalerCodec,
    StateSpec,
    Zeros,
)

_GOLDEN_STEPS: Final = 4


def make_manifest(lift: Lift, module: nn.Module, codec: Codec | None, sampling: Sampling | None, name: str) -> Manifest:
    symbols = None if codec is None or isinstance(codec, ScalerCodec) else len(codec.vocabulary)
    outputs = tuple(
        Output(
            name=output,
            dtype=_dtype(output, lift.dtypes[output]),
            shape=shape,
            role="logits" if symbols is not None and shape[-1] == symbols and has_time(shape) else "values",
        )
        for output, shape in lift.outputs.items()
    )
    states = tuple(
        StateSpec(
            name=slot.name,
            input=slot.name,
            output=f"{slot.name}.next",
            dtype=_dtype(slot.name, str(slot.dtype).removeprefix("torch.")),
            shape=slot.shape,
            batch_axis=slot.batch_axis,
            init=_init(slot),
            found=lift.sited.origins[place],
        )
        for place, slot in enumerate(lift.states)
    )
    return Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        inputs=tuple(_input(spec, codec) for spec in lift.inputs),
        conditions=tuple(_input(spec, None) for spec in lift.conditions),
        outputs=outputs,
        states=states,
        streamable=lift.not_streamable_because is None,
        not_streamable_because=lift.not_streamable_because,
        chunks_matter_because=lift.chunks_matter_because,
        lowering=lift.lowering,
        lowering_because=lift.lowering_because,
        precision=_precision(lift),
        codec=codec,
        sampling=sampling,
        golden=_golden(lift),
        provenance=Provenance(
            module=type(module).__qualname__,
            weights_sha256=weights_digest(lift.sited.eager.module),
            versions={package: version(package) for package in ("rnnx", "torch", "onnx", "onnxscript", "onnxruntime")},
        ),
    )


def _dtype(name: str, dtype: str) -> Any:
    if dtype not in ("float32", "float64", "int32", "int64", "bool"):
        raise ExportError(f"{name} is {dtype}; an artifact answers with float32, float64, int32, int64 or bool: convert it")
    return dtype


def _precision(lift: Lift) -> Literal["float32", "float64"]:
    weights = lift.sited.eager.module.parameters()
    return "float64" if any(weight.dtype == torch.float64 for weight in weights) else "float32"


def _init(slot: StateSlot) -> Zeros | Constant | Computed:
    if slot.computed:
        return Computed()
    if slot.initial is None:
        return Zeros()
    if slot.initial.is_floating_point() and not slot.initial.isfinite().all():
        raise LiftError(
            f"{slot.name}: the initial state is not finite; begin with the smallest or largest number that can occur"
        )
    return Constant(value=Array.of(slot.initial.numpy()))


def _input(spec: LiftedInput, codec: Codec | None) -> Input:
    dtype = _dtype(spec.name, str(spec.example.dtype).removeprefix("torch."))
    looked_up, size = spec.vocabulary_size, spec.vocabulary_size
    if codec is not None and not isinstance(codec, ScalerCodec) and dtype.startswith("int"):
        size = size or len(codec.vocabulary)
        if len(codec.vocabulary) > size:
            raise ExportError(f"the codec has {len(codec.vocabulary)} symbols, but {spec.name} is looked up among {looked_up}")
    role: Any = "lengths" if spec.lengths else "values" if size is None else "tokens"
    return Input(name=spec.name, dtype=dtype, shape=spec.shape, role=role, vocabulary_size=size)


def check_codec(lift: Lift, codec: Codec) -> None:
    """Refuse a codec that gives what the module does not take."""
    if len(lift.inputs) != 1:
        raise ExportError(f"a codec needs one input of every step, there are {[spec.name for spec in lift.inputs]}")
    spec = lift.inputs[0]
    if isinstance(codec, ScalerCodec):
        _check_scaler(lift, codec)
        return
    symbols = len(codec.vocabulary)
    if isinstance(codec, OneHotCodec) and (not spec.example.is_floating_point() or spec.shape[-1] != symbols):
        raise ExportError(
            f"a one-hot codec of {symbols} symbols needs float32 values (.., {symbols}); {spec.name} is {spec.shape}"
        )
    if isinstance(codec, CharCodec) and (spec.example.is_floating_point() or spec.example.ndim != 2):
        raise ExportError(
            f"a char codec needs integer tokens (batch, seq_len); {spec.name} is {spec.example.dtype} {spec.shape}"
        )


def _check_scaler(lift: Lift, codec: ScalerCodec) -> None:
    """Refuse a scaler of other features than the module has."""
    sides = [("input", {spec.name: (spec.shape, str(spec.example.dtype)) for spec in lift.inputs}, codec.mean)]
    sides.append(("output", {name: (shape, lift.dtypes[name]) for name, shape in lift.outputs.items()}, codec.output_mean))
    for side, tensors, numbers in sides:
        if numbers and len(tensors) != 1:
            raise ExportError(f"a scaler is for one {side}, there are {list(tensors)}")
        for name, (shape, dtype) in tensors.items() if numbers else ():
            if "float" not in dtype or (len(numbers) > 1 and shape[-1] != len(numbers)):
                raise ExportError(f"the scaler has {len(numbers)} {side} features; {name} is {dtype} {shape}")


def _golden(lift: Lift) -> GoldenTrace:
    # Several rows where they may differ in length: providers have been seen to disregard that.
    rows = 3 if any(spec.lengths for spec in lift.inputs) else 1
    inputs = lift.sample(rows, _GOLDEN_STEPS, torch.Generator().manual_seed(4))
    states = lift.initial_states(inputs)
    outputs, following = lift.run(inputs, states)

    def arrays(tensors: dict[str, Tensor]) -> dict[str, Array]:
        return {name: Array.of(tensor.numpy()) for name, tensor in tensors.items()}

    given = {spec.name: inputs[spec.name] for spec in lift.inputs}
    return GoldenTrace(inputs=arrays(given), states=arrays(states), outputs=arrays(outputs), next_states=arrays(following))


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted((*module.named_parameters(), *module.named_buffers())):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
