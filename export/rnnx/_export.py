"""`rnnx.export`: lift, lower, prove, seal, write. Nothing is written before everything is proven."""

import base64
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import msgspec
import onnx
import torch
from torch import Tensor, nn

from rnnx import _torchscript
from rnnx._axes import has_time
from rnnx._describe import Description
from rnnx._errors import ExportError, ParityError
from rnnx._lift import Lift, LiftedInput, StateSlot
from rnnx._lower import OPSETS, lower, lower_initial
from rnnx._parity import ParityReport, prove, prove_torchscript
from rnnx._quiet import quiet
from rnnx._readings import lift as find_lift
from rnnx_runtime import ArtifactError, Model, load
from rnnx_runtime.artifact import (
    FORMAT_VERSION,
    INITIAL_KEY,
    MANIFEST_KEY,
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
    StateSpec,
    Zeros,
    check_writable,
    open_artifact,
    seal,
    write_atomic,
)

_GOLDEN_STEPS = 4


@dataclass(frozen=True)
class Exported:
    """What an export made: the files, and what was found on the way.

    Attributes:
        path: the artifact.
        torchscript: the TorchScript file; None where torch refused, or made another module of it: `torchscript_refused`.
        size: bytes of the artifact.
        operators: nodes of the graph, in order.
        replaced: the name of another model whose artifact stood at `path` before; None where none did.
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
    replaced: str | None

    def __str__(self) -> str:
        """What was found and made, line by line."""
        title = (
            f"{self.path}: {self.manifest.name}, proven equal to eager PyTorch in {self.parity.summary().cases} comparisons"
        )
        lines = Description(self.manifest, self.operators, self.size, self.digest).lines()
        beside = [str(self.parity_path)] if self.torchscript is None else [str(self.torchscript), str(self.parity_path)]
        return "\n".join([title, *lines, f"  {'also':<11}{', '.join(beside)}"])

    def to_json(self) -> str:
        """The same for machines, with the manifest as it stands in the file."""
        beside = {
            "path": str(self.path),
            "replaced": self.replaced,
            "torchscript": None if self.torchscript is None else str(self.torchscript),
            "torchscript_refused": self.torchscript_refused,
            "parity": [
                {"check": check, "cases": cases, "failed": failed, "outputs": outputs, "states": states}
                for check, cases, failed, outputs, states in self.parity.rows()
            ],
        }
        return Description(self.manifest, self.operators, self.size, self.digest).to_json(beside)


def export(
    module: nn.Module,
    example: Tensor | tuple[Any, ...] | dict[str, Any],
    path: str | os.PathLike[str] = "artifacts/model.onnx",
    *,
    codec: Codec | None = None,
    sampling: Sampling | None = None,
    name: str | None = None,
    states: Mapping[str, str] | None = None,
    axes: Mapping[str, str] | None = None,
    opset: int = 18,
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
        sampling: how the artifact answers with text of its own: what it is told first, and what ends its answer.
        name: of the model in the manifest; the module's class by default.
        states: which arguments are states, and which outputs hand the next ones back, `{"h": "output.1"}`, where that cannot be
            found; outputs are called "output", or after their position, key or field, "output.1", "output.hidden".
        axes: which axis is batch and which time, a letter each, where that cannot be found: `{"x": "TBF"}`.

        opset: of ONNX, 18 to 23; 18 is what ONNX Runtime since 1.20, its web build and OpenVINO read.

    Raises:
        LiftError: the module's state or axes cannot be made explicit.
        ParityError: the exported model differs from the module; nothing was written.
        ExportError: torch cannot trace it.
        OSError: a file cannot be written; what was there is untouched.
    """
    target = check_target(path)
    if opset not in OPSETS:
        raise ExportError(f"opset must be from {OPSETS[0]} to {OPSETS[-1]}, got {opset}")
    title = name or type(module).__name__
    replaced = _other_model(target, title)
    with quiet():
        lift = find_lift(module, example, states, axes)
        if codec is not None:
            _check_codec(lift, codec)
        model = lower(lift, opset)
        initial = lower_initial(lift, opset) if lift.conditions else None
        script, refused = _try_torchscript(lift)
        manifest = _manifest(lift, module, codec, sampling, title)
        report = prove(lift, _load(_sealed(model, initial, manifest)))
        if not report.passed:
            raise ParityError(f"the exported model differs from {lift.name}; nothing was written\n{report.table()}")
        if script is not None:
            with_script = report.also(prove_torchscript(lift, script))
            if with_script.passed:
                report = with_script
            else:
                script, refused = None, f"the TorchScript of {lift.name} differs from it\n{with_script.table()}"
        manifest = msgspec.structs.replace(manifest, parity=report.summary())
        data = _sealed(model, initial, manifest)
        proven = _load(data)
    script_path, report_path = _beside(target)
    if script is not None:
        write_atomic(script_path, _torchscript.serialise(script, manifest))
    elif script_path.exists():
        script_path.unlink()  # of an export before: ours, `check_target` made sure
    write_atomic(report_path, report.to_json())
    write_atomic(target, data)
    return Exported(
        path=target,
        torchscript=None if script is None else script_path,
        torchscript_refused=refused,
        parity_path=report_path,
        manifest=manifest,
        parity=report,
        digest=proven.digest,
        size=len(data),
        operators=tuple(node.op_type for node in model.graph.node),
        replaced=replaced,
    )


def check_target(path: str | os.PathLike[str]) -> Path:
    """The path of an artifact that can be written, with its companions.

    Raises:
        ExportError: it does not end in .onnx, or the TorchScript file would replace one that is not ours.
        OSError: one of the files cannot be written there.
    """
    target = Path(path)
    if target.suffix != ".onnx":
        raise ExportError(f"the artifact's name must end in .onnx, got {target.name!r}; for example artifacts/model.onnx")
    script, report = _beside(target)
    for file in (target, script, report):
        check_writable(file)
    if script.exists() and not _torchscript.is_ours(script):
        raise ExportError(
            f"{script} would be replaced by TorchScript, but it is not an export of rnnx; move it, or choose another name"
        )
    return target


def _other_model(target: Path, title: str) -> str | None:
    """The name of the model whose artifact is there, where it is another one."""
    if not target.exists():
        return None
    try:
        name = open_artifact(target).manifest.name
    except ArtifactError:
        return "something that is no artifact"
    return None if name == title else name


def _beside(target: Path) -> tuple[Path, Path]:
    """Where the TorchScript file and the parity report go."""
    return target.with_suffix(".pt"), target.with_suffix(".parity.json")


def _load(data: bytes) -> Model:
    try:
        return load(data)
    except ArtifactError as error:
        raise ExportError(f"the module needs what an artifact may not hold: {error}") from error


def _try_torchscript(lift: Lift) -> tuple[torch.jit.ScriptModule | None, str | None]:
    try:
        return _torchscript.trace(lift), None
    except ExportError as error:
        return None, str(error)


def _sealed(model: onnx.ModelProto, initial: onnx.ModelProto | None, manifest: Manifest) -> bytes:
    """The artifact's bytes: the graph with this manifest, and perhaps a second graph, checked and sealed."""
    described = onnx.ModelProto()
    described.CopyFrom(model)
    described.metadata_props.add(key=MANIFEST_KEY, value=manifest.encode())
    if initial is not None:
        onnx.checker.check_model(initial, full_check=True)
        text = base64.b64encode(initial.SerializeToString(deterministic=True)).decode()
        described.metadata_props.add(key=INITIAL_KEY, value=text)
    onnx.checker.check_model(described, full_check=True)
    return seal(described.SerializeToString(deterministic=True))


def _manifest(lift: Lift, module: nn.Module, codec: Codec | None, sampling: Sampling | None, name: str) -> Manifest:
    symbols = len(codec.vocabulary) if codec is not None else None
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
            weights_sha256=_weights_digest(lift.sited.eager.module),
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
    return Zeros() if slot.initial is None else Constant(value=Array.of(slot.initial.numpy()))


def _input(spec: LiftedInput, codec: Codec | None) -> Input:
    dtype = _dtype(spec.name, str(spec.example.dtype).removeprefix("torch."))
    looked_up, size = spec.vocabulary_size, spec.vocabulary_size
    if codec is not None and dtype.startswith("int"):
        size = size or len(codec.vocabulary)
        if len(codec.vocabulary) > size:
            raise ExportError(f"the codec has {len(codec.vocabulary)} symbols, but {spec.name} is looked up among {looked_up}")
    role: Any = "lengths" if spec.lengths else "values" if size is None else "tokens"
    return Input(name=spec.name, dtype=dtype, shape=spec.shape, role=role, vocabulary_size=size)


def _check_codec(lift: Lift, codec: Codec) -> None:
    """Refuse a codec that gives what the module does not take."""
    if len(lift.inputs) != 1:
        raise ExportError(f"a codec needs one input of every step, there are {[spec.name for spec in lift.inputs]}")
    spec, symbols = lift.inputs[0], len(codec.vocabulary)
    if isinstance(codec, OneHotCodec) and (not spec.example.is_floating_point() or spec.shape[-1] != symbols):
        raise ExportError(
            f"a one-hot codec of {symbols} symbols needs float32 values (.., {symbols}); {spec.name} is {spec.shape}"
        )
    if isinstance(codec, CharCodec) and (spec.example.is_floating_point() or spec.example.ndim != 2):
        raise ExportError(
            f"a char codec needs integer tokens (batch, seq_len); {spec.name} is {spec.example.dtype} {spec.shape}"
        )


def _golden(lift: Lift) -> GoldenTrace:
    inputs = lift.sample(1, _GOLDEN_STEPS, torch.Generator().manual_seed(4))
    states = lift.initial_states(inputs)
    outputs, following = lift.run(inputs, states)

    def arrays(tensors: dict[str, Tensor]) -> dict[str, Array]:
        return {name: Array.of(tensor.numpy()) for name, tensor in tensors.items()}

    given = {spec.name: inputs[spec.name] for spec in lift.inputs}
    return GoldenTrace(inputs=arrays(given), states=arrays(states), outputs=arrays(outputs), next_states=arrays(following))


def _weights_digest(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted((*module.named_parameters(), *module.named_buffers())):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
