"""Lower: from the lifted module to an ONNX graph that keeps each recurrence a recurrence.

Recurrent layers become one ONNX node each. Where there are cells, one step is traced, and a Scan takes it over time.
"""

from collections.abc import Sequence
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim

from rnnx._errors import ExportError
from rnnx._lift import Lift
from rnnx._lifted import InitialModule
from rnnx._operators import TRANSLATIONS, OperatorModule
from rnnx._quiet import quiet
from rnnx._scan import scan_over_time
from rnnx._tidy import tidy
from rnnx_runtime.artifact import BATCH, TIME

OPSET = 18


def lower(lift: Lift) -> onnx.ModelProto:
    """The ONNX graph of a lifted module: `(*inputs, *states) -> (*outputs, *next states)`, with dynamic batch and time.

    Raises:
        ExportError: torch cannot trace the module.
    """
    scanned = lift.lowering == "scan"
    sampled = lift.sample(2, 1 if scanned else 3, torch.Generator().manual_seed(0))
    inputs = {spec.name: sampled[spec.name] for spec in lift.inputs}
    states = {slot.name: torch.zeros(slot.at(2)) for slot in lift.states}
    batch, steps = Dim(BATCH), Dim(TIME)
    shapes: list[dict[int, Any]] = []
    for spec in lift.inputs:
        shapes.append({spec.axes.batch: batch})
        if spec.axes.time is not None and not scanned:
            shapes[-1][spec.axes.time] = steps
    shapes += [{slot.batch_axis: batch} for slot in lift.states]
    model = _trace(
        lift,
        OperatorModule(lift),
        (*inputs.values(), *states.values()),
        shapes,
        [*inputs, *states],
        [*lift.outputs, *(f"{name}.next" for name in states)],
    )
    return ir.to_proto(tidy(scan_over_time(model, lift) if scanned else model))


def lower_initial(lift: Lift) -> onnx.ModelProto:
    """The second graph of an artifact with conditions: `(*conditions) -> (*computed initial states)`.

    Raises:
        ExportError: torch cannot trace the module.
    """
    sampled = lift.sample(2, 3, torch.Generator().manual_seed(0))
    names = [spec.name for spec in lift.conditions]
    shapes = [{spec.axes.batch: Dim(BATCH)} for spec in lift.conditions]
    computed = [slot.name for slot in lift.states if slot.computed]
    model = _trace(lift, InitialModule(lift), tuple(sampled[name] for name in names), shapes, names, computed)
    return ir.to_proto(tidy(model))


def _trace(
    lift: Lift, module: nn.Module, example: tuple[Tensor, ...], shapes: Sequence[Any], inputs: list[str], outputs: list[str]
) -> ir.Model:
    with quiet():
        try:
            program = torch.onnx.export(
                module.eval(),
                example,
                dynamo=True,
                dynamic_shapes=(tuple(shapes),),
                input_names=inputs,
                output_names=outputs,
                opset_version=OPSET,
                custom_translation_table=TRANSLATIONS,
                verbose=False,
            )
        except Exception as error:
            raise ExportError(f"torch cannot trace {lift.name}: {_reason(error)}") from error
    assert program is not None
    return program.model


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause: torch wraps the telling one in general ones."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n", 1)[0]
