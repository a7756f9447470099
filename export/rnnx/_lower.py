"""Lower: from the lifted module to an ONNX graph that keeps each recurrence a recurrence.

Recurrent layers become one ONNX node each. Where there are cells, one step is traced, and a Scan takes it over time.
"""

import re
from collections.abc import Mapping, Sequence

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim

from rnnx._eager import first_line
from rnnx._errors import ExportError
from rnnx._lift import Lift
from rnnx._lifted import InitialModule
from rnnx._operators import TRANSLATIONS, OperatorModule
from rnnx._quiet import quiet
from rnnx._scan import scan_over_time
from rnnx._tidy import tidy
from rnnx_runtime.artifact import BATCH, TIME, Dimension

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
    axes: list[dict[int, str]] = []
    for spec in lift.inputs:
        axes.append({spec.axes.batch: BATCH})
        if spec.axes.time is not None and not scanned:
            axes[-1][spec.axes.time] = TIME
    axes += [{slot.batch_axis: BATCH} for slot in lift.states]
    model = _trace(
        lift,
        OperatorModule(lift),
        (*inputs.values(), *states.values()),
        axes,
        [*inputs, *states],
        [*lift.outputs, *(f"{name}.next" for name in states)],
    )
    graph = tidy(scan_over_time(model, lift) if scanned else model)
    declared = {spec.name: spec.shape for spec in lift.inputs} | lift.outputs
    for slot in lift.states:
        declared |= {slot.name: slot.shape, f"{slot.name}.next": slot.shape}
    return _declare(graph, declared)


def lower_initial(lift: Lift) -> onnx.ModelProto:
    """The second graph of an artifact with conditions: `(*conditions) -> (*computed initial states)`.

    Raises:
        ExportError: torch cannot trace the module.
    """
    sampled = lift.sample(2, 3, torch.Generator().manual_seed(0))
    names = [spec.name for spec in lift.conditions]
    axes = [{spec.axes.batch: BATCH} for spec in lift.conditions]
    computed = [slot.name for slot in lift.states if slot.computed]
    model = _trace(lift, InitialModule(lift), tuple(sampled[name] for name in names), axes, names, computed)
    declared = {spec.name: spec.shape for spec in lift.conditions} | {slot.name: slot.shape for slot in lift.states}
    return _declare(tidy(model), declared)


def _trace(
    lift: Lift,
    module: nn.Module,
    example: tuple[Tensor, ...],
    axes: Sequence[Mapping[int, str]],
    inputs: list[str],
    outputs: list[str],
) -> ir.Model:
    with quiet():
        try:
            shapes = (tuple(dict.fromkeys(of_input, Dim.AUTO) for of_input in axes),)
            captured = torch.export.export(module.eval(), example, dynamic_shapes=shapes, strict=False)
            _refuse_guards(lift, captured, axes)
            program = torch.onnx.export(
                captured,
                example,
                dynamo=True,
                input_names=inputs,
                output_names=outputs,
                opset_version=OPSET,
                custom_translation_table=TRANSLATIONS,
                verbose=False,
            )
        except ExportError:
            raise
        except Exception as error:
            raise ExportError(f"torch cannot trace {lift.name}: {_reason(error)}") from error
    assert program is not None
    return program.model


def _refuse_guards(lift: Lift, captured: torch.export.ExportedProgram, axes: Sequence[Mapping[int, str]]) -> None:
    """Refuse a module whose code takes another way at another size: a trace has one way only.

    torch notes each such decision as a guard over the symbols that it gave to the sizes. That all inputs have one batch
    size is a guard too, and the only kind that is let through.
    """
    names: dict[str, str] = {}
    placeholders = [node for node in captured.graph.nodes if node.op == "placeholder"][-len(axes) :]
    environment = None
    for node, of_input in zip(placeholders, axes, strict=True):
        for axis, name in of_input.items():
            size = node.meta["val"].shape[axis]
            if not isinstance(size, torch.SymInt):
                raise ExportError(f"forward of {lift.name} works for a {name} of {size} only; let it follow the input's size")
            names[str(size.node.expr)] = name
            environment = size.node.shape_env
    if environment is None:
        return
    for guard in environment.guards:
        symbols = {str(symbol) for symbol in guard.expr.free_symbols}
        one_size = type(guard.expr).__name__ == "Equality" and all(side.is_Symbol for side in guard.expr.args)
        # A symbol that is no longer at an input is one that torch found to be equal to another.
        if symbols and not (one_size and len({names[symbol] for symbol in symbols if symbol in names}) <= 1):
            condition = re.sub(r"[su]\d+", lambda found: names.get(found.group(), "a size"), str(guard.expr))
            raise ExportError(
                f"forward of {lift.name} does one thing where {condition}, another where not; an artifact does one"
            )


def _declare(model: ir.Model, shapes: Mapping[str, tuple[Dimension, ...]]) -> onnx.ModelProto:
    """The model with these shapes at its borders; between them, sizes follow from the operators."""
    borders = (*model.graph.inputs, *model.graph.outputs)
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    for value in borders:
        value.shape = ir.Shape(list(shapes[value.name or ""]))
    return ir.to_proto(model)


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause: torch wraps the telling one in general ones."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
