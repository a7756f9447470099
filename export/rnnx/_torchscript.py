"""TorchScript, beside the artifact: the same lifted module on torch's native layers.

torch has deprecated TorchScript, so this is a guarded extra: where a torch release refuses, the ONNX artifact is written all
the same. Our runtime never loads it.
"""

import io

import torch
from torch import Tensor, nn

from rnnx._eager import kinds
from rnnx._errors import ExportError
from rnnx._lift import Lift
from rnnx._lifted import LiftedModule
from rnnx._quiet import quiet
from rnnx_runtime.artifact import MANIFEST_KEY, Manifest


class NativeModule(LiftedModule):
    """The lifted module on torch's own recurrent layers."""

    def compute(self, layer: nn.RNNBase, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        count = len(kinds(layer))
        stacked = tuple(torch.cat(states[kind::count]) for kind in range(count))  # (L, B, H) per kind
        y, following = type(layer).forward(layer, x, stacked if count == 2 else stacked[0])
        found = following if count == 2 else (following,)
        return y, [found[kind][number : number + 1] for number in range(layer.num_layers) for kind in range(count)]


def trace(lift: Lift) -> torch.jit.ScriptModule:
    """The lifted module as TorchScript: `(*inputs, *states) -> (*outputs, *next states)`, any batch, any time.

    Raises:
        ExportError: this torch refuses.
    """
    inputs = lift.sample(2, 3, torch.Generator().manual_seed(0))
    with quiet(), torch.no_grad():
        try:
            example = tuple(inputs.values()) + tuple(lift.initial_states(2).values())
            script: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
                NativeModule(lift).eval(), example, check_trace=False
            )
        except Exception as error:
            reason = str(error).strip().split("\n", 1)[0]
            raise ExportError(f"torch {torch.__version__} cannot make TorchScript of {lift.eager.name}: {reason}") from error
    return script


def serialise(script: torch.jit.ScriptModule, manifest: Manifest) -> bytes:
    """The file's bytes, with the manifest as an extra file inside; `torch.jit.load` reads it."""
    buffer = io.BytesIO()
    with quiet():
        torch.jit.save(script, buffer, _extra_files={MANIFEST_KEY: manifest.encode()})
    return buffer.getvalue()
