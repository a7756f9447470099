"""`rnnx.export`: lift, lower, prove, seal, write. Nothing is written before everything is proven."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import onnx
import torch
from torch import Tensor, nn

from rnnx import _torchscript
from rnnx._axes import has_time
from rnnx._errors import ExportError, ParityError
from rnnx._lift import Lift
from rnnx._lower import lower
from rnnx._parity import ParityReport, prove
from rnnx_runtime import load
from rnnx_runtime.artifact import (
    FORMAT_VERSION,
    MANIFEST_KEY,
    Array,
    Codec,
    Constant,
    GoldenTrace,
    Input,
    Manifest,
    Output,
    Provenance,
    StateSpec,
    Zeros,
    check_writable,
    seal,
    write_atomic,
)

_GOLDEN_STEPS = 4


@dataclass(frozen=True)
class Exported:
    """What an export made: the files, and what was found on the way.

    Attributes:
        path: the artifact.
        torchscript: the TorchScript file; None where torch refused, for the reason in `torchscript_refused`.
        size: bytes of the artifact.
        operators: nodes of the graph, in order.
    """

    path: Path
    torchscript: Path | None
    torchscript_refused: str | None
    parity_path: Path
    manifest: Manifest
    parity: ParityReport
    digest: str
    size: int
    operators: tuple[str, ...]


def export(
    module: nn.Module,
    example: Tensor | tuple[Any, ...] | dict[str, Any],
    path: str | os.PathLike[str] = "artifacts/model.onnx",
    *,
    codec: Codec | None = None,
    name: str | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> Exported:
    """Export a recurrent module, unmodified, to a sealed ONNX artifact, and to TorchScript beside it.

    The module's recurrent layers (`nn.RNN`, `nn.LSTM`, `nn.GRU`) get their state from outside, one tensor per layer and kind,
    whether `forward` takes it as an argument or makes its own. Batch and time stay dynamic. Before anything is written, the
    artifact is run by the runtime and compared with the module: whole, in chunks and step by step. The module itself is not
    changed.

    Args:
        module: on any device, in any mode; it is copied to the CPU in eval mode.
        example: what `forward` is called with: a tensor, a tuple of arguments, or a mapping of keyword arguments. Sizes of
            2 and more in batch and time let the axes be told apart.
        path: of the artifact; TorchScript goes beside it as `.pt`, the parity report as `.parity.json`.
        codec: how text becomes tokens, so that the artifact answers text.
        name: of the model in the manifest; the module's class by default.
        progress: called with the name of each stage as it begins.

    Raises:
        LiftError: the module's state or axes cannot be made explicit.
        ParityError: the exported model differs from the module; nothing was written.
        ExportError: torch cannot trace it.
        OSError: a file cannot be written; what was there is untouched.
    """
    target = _checked_path(path)
    progress("lift")
    lift = Lift(module, example)
    progress("lower")
    model = lower(lift)
    script, refused = _try_torchscript(lift)
    progress("prove")
    manifest = _manifest(lift, module, codec, name or type(module).__name__)
    report = prove(lift, load(_sealed(model, manifest)), script)
    if not report.passed:
        raise ParityError(f"the exported model differs from {lift.name}; nothing was written\n{report.table()}")
    progress("seal")
    manifest = msgspec.structs.replace(manifest, parity=report.summary())
    data = _sealed(model, manifest)
    proven = load(data)
    script_path = None if script is None else target.with_suffix(".pt")
    report_path = target.with_suffix(".parity.json")
    if script is not None and script_path is not None:
        write_atomic(script_path, _torchscript.serialise(script, manifest))
    write_atomic(report_path, report.to_json())
    write_atomic(target, data)
    return Exported(
        path=target,
        torchscript=script_path,
        torchscript_refused=refused,
        parity_path=report_path,
        manifest=manifest,
        parity=report,
        digest=proven.digest,
        size=len(data),
        operators=tuple(node.op_type for node in model.graph.node),
    )


def _checked_path(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.suffix != ".onnx":
        raise ExportError(f"the artifact's name must end in .onnx, got {target.name!r}; for example artifacts/model.onnx")
    check_writable(target)
    return target


def _try_torchscript(lift: Lift) -> tuple[torch.jit.ScriptModule | None, str | None]:
    try:
        return _torchscript.trace(lift), None
    except ExportError as error:
        return None, str(error)


def _sealed(model: onnx.ModelProto, manifest: Manifest) -> bytes:
    """The artifact's bytes: the graph with this manifest, checked, and sealed."""
    described = onnx.ModelProto()
    described.CopyFrom(model)
    described.metadata_props.add(key=MANIFEST_KEY, value=manifest.encode())
    onnx.checker.check_model(described, full_check=True)
    return seal(described.SerializeToString(deterministic=True))


def _manifest(lift: Lift, module: nn.Module, codec: Codec | None, name: str) -> Manifest:
    symbols = len(codec.vocabulary) if codec is not None else None
    inputs = tuple(_input(spec.name, spec.example, spec.shape, spec.vocabulary_size, symbols) for spec in lift.inputs)
    outputs = tuple(
        Output(
            name=output,
            dtype="float32",
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
            dtype="float32",
            shape=slot.shape,
            batch_axis=slot.batch_axis,
            init=Zeros() if slot.initial is None else Constant(value=Array.of(slot.initial.numpy())),
        )
        for slot in lift.states
    )
    return Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        inputs=inputs,
        outputs=outputs,
        states=states,
        streamable=lift.not_streamable_because is None,
        not_streamable_because=lift.not_streamable_because,
        lowering=lift.lowering,
        precision="float32",
        codec=codec,
        golden=_golden(lift),
        provenance=Provenance(
            module=type(module).__qualname__,
            weights_sha256=_weights_digest(lift.sited.eager.module),
            versions={package: version(package) for package in ("rnnx", "torch", "onnx", "onnxscript", "onnxruntime")},
        ),
    )


def _input(name: str, example: Tensor, shape: Any, vocabulary_size: int | None, symbols: int | None) -> Input:
    dtype: Any = str(example.dtype).removeprefix("torch.")
    if dtype not in ("float32", "int32", "int64", "bool"):
        raise ExportError(f"{name} is {dtype}; an artifact takes float32, int32, int64 or bool: convert the example")
    integers = not example.is_floating_point() and dtype != "bool"
    if symbols is not None and integers and vocabulary_size is not None and symbols > vocabulary_size:
        raise ExportError(f"the codec has {symbols} symbols, but {name} is looked up among {vocabulary_size}")
    known = vocabulary_size if vocabulary_size is not None else symbols
    tokens = integers and known is not None
    return Input(
        name=name, dtype=dtype, shape=shape, role="tokens" if tokens else "values", vocabulary_size=known if tokens else None
    )


def _golden(lift: Lift) -> GoldenTrace:
    inputs = lift.sample(1, _GOLDEN_STEPS, torch.Generator().manual_seed(4))
    states = lift.initial_states(inputs)
    outputs, following = lift.run(inputs, states)

    def arrays(tensors: dict[str, Tensor]) -> dict[str, Array]:
        return {name: Array.of(tensor.numpy()) for name, tensor in tensors.items()}

    return GoldenTrace(inputs=arrays(inputs), states=arrays(states), outputs=arrays(outputs), next_states=arrays(following))


def _weights_digest(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
