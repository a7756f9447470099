"""TorchScript, beside the artifact: the same lifted module on torch's native layers.

torch has deprecated TorchScript, so this is a guarded extra: where a torch release refuses, the ONNX artifact is written all
the same. Our runtime never loads it.
"""

import io
import os
import zipfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnx._axes import has_time
from rnnx._companions import is_of, manifest_inside
from rnnx._eager import first_line
from rnnx._errors import ExportError
from rnnx._lift import Lift
from rnnx._lifted import LiftedModule
from rnnx._quiet import quiet
from rnnx._sites import split, stack
from rnnx_runtime.artifact import BATCH, MANIFEST_KEY, SIZE_LIMIT, TIME, Manifest, read_regular

_LARGEST: Final = 2 * SIZE_LIMIT  # bytes: its weights are those of an artifact, its code comes on top


class NativeModule(LiftedModule):
    """The lifted module on torch's own recurrent layers."""

    def compute(self, layer: nn.RNNBase, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        y, hx = type(layer).forward(layer, x, stack(layer, states))
        return y, split(layer, hx)

    def compute_packed(self, layer: nn.RNNBase, x: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        returned: tuple[PackedSequence, Any] = type(layer).forward(layer, x, hx)
        return returned

    def packing(self) -> AbstractContextManager[Any]:
        return nullcontext()


def trace(lift: Lift) -> torch.jit.ScriptModule:
    """The lifted module as TorchScript: `(*inputs, *states) -> (*outputs, *next states)`, any batch, any time.

    Raises:
        ExportError: this torch refuses.
    """
    scanned = lift.lowering == "scan"
    sampled = lift.sample(2, 1 if scanned else 3, torch.Generator().manual_seed(0))
    example = (*(sampled[spec.name] for spec in lift.inputs), *(slot.start(2) for slot in lift.states))
    with quiet(), torch.no_grad():
        try:
            traced: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
                NativeModule(lift).eval(), example, check_trace=False
            )
            return _loop(traced, lift) if scanned else traced
        except Exception as error:
            raise ExportError(
                f"torch {torch.__version__} cannot make TorchScript of {lift.name}: {first_line(error)}"
            ) from error


def serialise(script: torch.jit.ScriptModule, manifest: Manifest) -> bytes:
    """The file's bytes, with the manifest as an extra file inside; `torch.jit.load` reads it."""
    buffer = io.BytesIO()
    with quiet():
        torch.jit.save(script, buffer, _extra_files={MANIFEST_KEY: manifest.encode()})
    return _without_source(buffer)


def deserialise(data: bytes) -> torch.jit.ScriptModule:
    """What a reader of the file gets."""
    with quiet():
        script: torch.jit.ScriptModule = torch.jit.load(io.BytesIO(data))  # type: ignore[no-untyped-call]
    return script


def read(path: str | os.PathLike[str], manifest: Manifest) -> torch.jit.ScriptModule:
    """The TorchScript that was written beside an artifact.

    Raises:
        ExportError: it is no TorchScript of rnnx, or that of another artifact.
        ArtifactError: there is no regular file, or it is too large.
    """
    data = read_regular(path, _LARGEST)
    inside = manifest_inside(io.BytesIO(data))
    if inside is None:
        raise ExportError(f"{os.fspath(path)} is no TorchScript written by `rnnx export`; give the .pt beside the artifact")
    if not is_of(inside, manifest):
        raise ExportError(f"{os.fspath(path)} was written beside another artifact; export the model again")
    try:
        return deserialise(data)
    except Exception as error:
        raise ExportError(f"{os.fspath(path)}: torch {torch.__version__} cannot read it: {first_line(error)}") from error


def _without_source(buffer: io.BytesIO) -> bytes:
    """The archive without the debug records: they hold paths of this machine, and change from run to run.

    torch maps the weights, so they begin at multiples of 64, as in the archive that it wrote.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(buffer) as archive, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as kept:
        for name in archive.namelist():
            if name.endswith((".debug_pkl", "/.data/serialization_id")):  # the latter is a hash of the former, too
                continue
            entry = zipfile.ZipInfo(name)  # dated 1980
            start = out.tell() + 30 + len(name.encode())
            padding = -(start + 4) % 64
            entry.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
            kept.writestr(entry, archive.read(name))
    return out.getvalue()


def _loop(step: torch.jit.ScriptModule, lift: Lift) -> torch.jit.ScriptModule:
    """A traced step, taken over time by a loop written in TorchScript's own language."""
    inputs = [f"x{i}" for i in range(len(lift.inputs))]
    states = [f"s{i}" for i in range(len(lift.states))]
    answers = [f"y{i}" for i in range(len(lift.outputs))]
    pieces, clock = [], ""
    for name, spec in zip(inputs, lift.inputs, strict=True):
        if spec.axes.time is not None:
            clock = clock or f"{name}.size({spec.axes.time})"
            pieces.append(f"{name}.narrow({spec.axes.time}, t, 1)")
        else:
            pieces.append(name)
    joined = []
    for name, shape in zip(answers, lift.outputs.values(), strict=True):
        flat = next((axis for axis, size in enumerate(shape) if isinstance(size, str) and "*" in size), None)
        if not has_time(shape):
            joined.append(f"all_{name}[-1]")
        elif flat is None:
            joined.append(f"torch.cat(all_{name}, {shape.index(TIME)})")
        else:
            place = flat + 1 if shape[flat] == f"{BATCH}*{TIME}" else flat
            joined.append(f"torch.stack(all_{name}, {place}).flatten({flat}, {flat + 1})")
    lines = [
        f"def forward(self, {', '.join(f'{name}: Tensor' for name in (*inputs, *states))}):",
        *(f"    all_{name}: List[Tensor] = []" for name in answers),
        f"    for t in range({clock}):",
        f"        {', '.join((*answers, *states))} = self.step({', '.join((*pieces, *states))})",
        *(f"        all_{name}.append({name})" for name in answers),
        f"    return {', '.join((*joined, *states))}",
    ]
    holder = nn.Module()
    holder.step = step
    looped: Any = torch.jit.script(holder)
    looped.define("\n".join([*lines, ""]))
    script: torch.jit.ScriptModule = looped
    return script
