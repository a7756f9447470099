"""Lower: from the lifted module to an ONNX graph that keeps each recurrence one node."""

import onnx
import onnx_ir as ir
import torch
from torch.export import Dim

from rnnx._errors import ExportError
from rnnx._lift import Lift
from rnnx._operators import TRANSLATIONS, OperatorModule
from rnnx._quiet import quiet
from rnnx._tidy import tidy
from rnnx_runtime.artifact import BATCH, TIME

OPSET = 18


def lower(lift: Lift) -> onnx.ModelProto:
    """The ONNX graph of a lifted module: `(*inputs, *states) -> (*outputs, *next states)`, with dynamic batch and time.

    Raises:
        ExportError: torch cannot trace the module.
    """
    batch, steps = Dim(BATCH), Dim(TIME)
    inputs = lift.sample(2, 3, torch.Generator().manual_seed(0))
    states = lift.initial_states(2)
    shapes = [{spec.axes.batch: batch} | ({} if spec.axes.time is None else {spec.axes.time: steps}) for spec in lift.inputs]
    with quiet():
        try:
            program = torch.onnx.export(
                OperatorModule(lift).eval(),
                tuple(inputs.values()) + tuple(states.values()),
                dynamo=True,
                dynamic_shapes=((*shapes, *({1: batch} for _ in states)),),
                input_names=[*inputs, *states],
                output_names=[*lift.outputs, *(f"{name}.next" for name in states)],
                opset_version=OPSET,
                custom_translation_table=TRANSLATIONS,
                verbose=False,
            )
        except Exception as error:
            raise ExportError(f"torch cannot trace {lift.eager.name}: {_reason(error)}") from error
    assert program is not None
    return ir.to_proto(tidy(program.model))


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause: torch wraps the telling one in general ones."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n", 1)[0]
