"""`rnnx.export`: lift, lower, prove, seal, write. Nothing is written before everything is proven."""

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import onnx
import torch
from torch import Tensor, nn

from rnnx import _torchscript
from rnnx._companions import beside, manifest_inside, write_export
from rnnx._contract import check_codec, make_manifest
from rnnx._eager import first_line
from rnnx._errors import ExportError, ParityError
from rnnx._exported import Exported
from rnnx._lift import Lift
from rnnx._lint import lint
from rnnx._lower import OPSETS, lower, lower_initial
from rnnx._parity.proof import Progress, Proof, check_proof, prove, prove_torchscript
from rnnx._parity.report import ParityReport
from rnnx._quiet import quiet
from rnnx._readings import lift as find_lift
from rnnx._threads import one_thread
from rnnx_runtime import ArtifactError, Model, load
from rnnx_runtime.artifact import (
    INITIAL_KEY,
    MANIFEST_KEY,
    Codec,
    Manifest,
    Sampling,
    check_writable,
    golden_sha256,
    open_artifact,
    seal,
)


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
    proof: Proof = "full",
    allow_mismatch: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Export a recurrent module, unmodified, to a sealed ONNX artifact, and to TorchScript beside it.

    The state of the module's layers, cells, loops, arguments and attributes comes from outside, whether `forward` takes it as an
    argument, keeps it or makes its own. Batch and time stay dynamic. Before anything is written, the
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
        proof: how much is compared. "full" takes seconds for a small module and follows it for 10 000 steps, "thorough" for a
            million; "quick" follows none, for the inner loop.
        allow_mismatch: write the artifact even where it differs from the module; its manifest says that it is not proven.
        progress: is called with the check at work, and the share of all that is done.

    Raises:
        LiftError: the module's state or axes cannot be made explicit.
        ParityError: the exported model differs from the module; nothing was written.
        ExportError: torch cannot trace it, or the graph has what `rnnx.lint` calls an error.
        OSError: a file cannot be written. All of them are made before the first takes its place, the artifact last.
    """
    module = getattr(module, "_orig_mod", module)  # what torch.compile has inside
    target = check_target(path)
    if opset not in OPSETS:
        raise ExportError(f"opset must be from {OPSETS[0]} to {OPSETS[-1]}, got {opset}")
    check_proof(proof)
    title = name or type(module).__name__
    replaced = _other_model(target, title)
    with quiet(), one_thread():
        lift = find_lift(module, example, states, axes)
        if codec is not None:
            check_codec(lift, codec)
        model = lower(lift, opset)
        initial = lower_initial(lift, opset) if lift.conditions else None
        script, refused = _try_torchscript(lift)
        manifest = make_manifest(lift, module, codec, sampling, title)
        data = _sealed(model, initial, manifest)
        artifact = _load(data)
        report = prove(lift, artifact, data, proof, progress)
        if not report.passed and not allow_mismatch:
            raise ParityError(f"the exported model differs from {lift.name}; nothing was written\n{report.table()}", report)
        if script is not None:
            with_script, refused = _prove_script(lift, script, manifest, proof)
            script, report = (script, report.also(with_script)) if with_script is not None else (None, report)
        golden = msgspec.structs.replace(manifest.golden, sha256=golden_sha256(artifact))
        manifest = msgspec.structs.replace(manifest, parity=report.summary(), golden=golden)
        data = _sealed(model, initial, manifest)
        proven = _load(data)
        if golden_sha256(proven) != golden.sha256:
            raise ExportError(
                f"two runs of the exported {lift.name} differ; nothing was written: an artifact must compute one thing"
            )
        linted = lint(data)
        if not linted.passed and not allow_mismatch:
            raise ExportError(f"the exported {lift.name} has what fails in silence; nothing was written\n{linted}")
        archive = None if script is None else _torchscript.serialise(script, manifest)
    script_path, report_path = beside(target)
    write_export(target, data, archive, report.to_json(proven.digest))  # a script of an export before is ours: `check_target`
    return Exported(
        path=target,
        torchscript=None if archive is None else script_path,
        torchscript_refused=refused,
        parity_path=report_path,
        manifest=manifest,
        parity=report,
        lint=linted,
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
    script, report = beside(target)
    for file in (target, script, report):
        check_writable(file)
    if script.exists() and manifest_inside(script) is None:
        raise ExportError(
            f"{script} would be replaced by TorchScript, but it is not an export of rnnx; move it, or choose another name"
        )
    return target


def _other_model(target: Path, title: str) -> str | None:
    """The name of the model whose artifact is there, where it is another one."""
    if not target.exists():
        return None
    try:
        name = open_artifact(target, trust=True).manifest.name
    except ArtifactError:
        return "something that is no artifact"
    return None if name == title else name


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


def _prove_script(
    lift: Lift, script: torch.jit.ScriptModule, manifest: Manifest, proof: Proof
) -> tuple[ParityReport | None, str | None]:
    """The report on what a reader of the file gets; None, and why, where it differs or torch cannot read it."""
    try:
        read = _torchscript.deserialise(_torchscript.serialise(script, manifest))
        report = prove_torchscript(lift, read, manifest.precision, proof)
    except Exception as error:
        return None, f"the TorchScript of {lift.name} does not run: {first_line(error)}"
    return (report, None) if report.passed else (None, f"the TorchScript of {lift.name} differs from it\n{report.table()}")


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
