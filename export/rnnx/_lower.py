"""Lower: from the lifted module to an ONNX graph that keeps each recurrence a recurrence.

Recurrent layers become one ONNX node each. Where there are cells, one step is traced, and a Scan takes it over time.
"""

import contextlib
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

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

_FEWEST_STEPS: Final = 3  # all lengths up to here are in the gate's grid
OPSETS: Final = range(18, 24)


class _BatchError(ExportError):
    """What torch traced holds for some batch sizes only, such as that of the trace: Python gives `len(x)` as a number.

    Attributes:
        sizes: where another trace might differ.
    """

    def __init__(self, message: str, sizes: Iterable[int]) -> None:
        super().__init__(message)
        self.sizes = frozenset(sizes)


def lower(lift: Lift, opset: int) -> onnx.ModelProto:
    """The ONNX graph of a lifted module: `(*inputs, *states) -> (*outputs, *next states)`, with dynamic batch and time.

    Raises:
        ExportError: torch cannot trace the module.
    """
    try:
        return _lowered(lift, opset, 2, any_batch=True)
    except _BatchError as error:
        # Traced for several batch sizes, those at the borders among them: where all graphs are one, no batch size is in it.
        first, *others = (_lowered(lift, opset, batch, any_batch=False) for batch in sorted({2, 3, *error.sizes} - {0, 1}))
        if any(other != first for other in others):
            raise ExportError(str(error)) from None
        return first


def _lowered(lift: Lift, opset: int, batch: int, *, any_batch: bool) -> onnx.ModelProto:
    scanned = lift.lowering == "scan"
    sampled = lift.sample(batch, 1 if scanned else 3, torch.Generator().manual_seed(0))
    inputs = {spec.name: sampled[spec.name] for spec in lift.inputs}
    states = {slot.name: slot.start(batch).contiguous() for slot in lift.states}
    axes: list[dict[int, str]] = []
    for spec in lift.inputs:
        axes.append({spec.axes.batch: BATCH} if any_batch else {})
        if spec.axes.time is not None and not scanned:
            axes[-1][spec.axes.time] = TIME
    axes += [{slot.batch_axis: BATCH} if any_batch else {} for slot in lift.states]
    model = _trace(
        lift,
        opset,
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


def lower_initial(lift: Lift, opset: int) -> onnx.ModelProto:
    """The second graph of an artifact with conditions: `(*conditions) -> (*computed initial states)`.

    Raises:
        ExportError: torch cannot trace the module.
    """
    sampled = lift.sample(2, 3, torch.Generator().manual_seed(0))
    names = [spec.name for spec in lift.conditions]
    axes = [{spec.axes.batch: BATCH} for spec in lift.conditions]
    computed = [slot.name for slot in lift.states if slot.computed]
    model = _trace(lift, opset, InitialModule(lift), tuple(sampled[name] for name in names), axes, names, computed)
    declared = {spec.name: spec.shape for spec in lift.conditions} | {slot.name: slot.shape for slot in lift.states}
    return _declare(tidy(model), declared)


def _trace(
    lift: Lift,
    opset: int,
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
        except ExportError:
            raise
        except Exception as error:
            reason = _reason(error)
            if "data-dependent" in reason or "SymBool" in reason:
                reason = "it decides by the values of a tensor, and an artifact goes one way for all: use torch.where"
            raise ExportError(f"torch cannot trace {lift.name}{_line(error)}: {reason}") from error
        _refuse_guards(lift, captured, axes)
        try:
            program = torch.onnx.export(
                captured,
                example,
                dynamo=True,
                input_names=inputs,
                output_names=outputs,
                opset_version=opset,
                custom_translation_table=TRANSLATIONS,
                verbose=False,
            )
        except Exception as error:
            reason = _reason(error)
            raise ExportError(
                f"ONNX has no operator for what {lift.name} computes{_operation(captured, reason)}: {reason}"
            ) from error
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
                message = f"forward of {lift.name} works for a {name} of {size} only; let it follow the input's size"
                raise _BatchError(message, ()) if name == BATCH else ExportError(message)
            names[str(size.node.expr)] = name
            environment = size.node.shape_env
    if environment is None:
        return
    for guard in environment.guards:  # a symbol that torch found to be equal to another is no longer at an input
        if type(guard.expr).__name__ == "Equality":
            sides = [str(side) for side in guard.expr.args]
            known = next((names[side] for side in sides if side in names), None)
            names |= {side: known for side in sides if known is not None and not side.isdigit()}
    refused: list[tuple[Any, bool]] = []
    for guard in environment.guards:
        symbols = {str(symbol) for symbol in guard.expr.free_symbols}
        one_size = type(guard.expr).__name__ == "Equality" and all(side.is_Symbol for side in guard.expr.args)
        if _always(guard.expr, names) or _is_tested(guard.expr, names) or _is_index_limit(guard.expr):
            continue
        if symbols and not (one_size and len({names[symbol] for symbol in symbols if symbol in names}) <= 1):
            fixed = not symbols & names.keys() and re.fullmatch(r"Eq\(\w+, \w+\)", str(guard.expr)) is not None
            refused.append((guard.expr, fixed or {names.get(symbol) for symbol in symbols} == {BATCH}))
    if not refused:
        return
    expression = next((found for found, of_batch in refused if not of_batch), refused[0][0])
    condition = re.sub(r"[su]\d+", lambda found: names.get(found.group(), "a size"), str(expression))
    message = f"forward of {lift.name} does one thing where {condition}, another where not; an artifact does one"
    if not all(of_batch for _, of_batch in refused):
        raise ExportError(message)
    borders = {int(number) for found, _ in refused for number in found.atoms() if number.is_Integer}
    raise _BatchError(message, {border + step for border in borders for step in (-1, 0, 1) if border + step > 1})


def _always(expression: Any, names: Mapping[str, str]) -> bool:
    """Whether a condition holds for every batch size, as all inputs have the same."""
    batches = sorted((s for s in expression.free_symbols if names.get(str(s)) == BATCH), key=str)
    return bool(expression.subs(dict.fromkeys(batches[1:], batches[0])) == True) if batches else False  # noqa: E712


def _is_tested(expression: Any, names: Mapping[str, str]) -> bool:
    """Whether a condition is that some number of steps, fewer than a few, is not 1: what torch asks before it broadcasts.

    The parity gate runs those lengths.
    """
    found = re.fullmatch(r"Ne\((\w+)( - (\d+))?, 1\)", str(expression))
    return found is not None and names.get(found.group(1)) == TIME and int(found.group(3) or 0) < _FEWEST_STEPS


def _is_index_limit(expression: Any) -> bool:
    """Whether a condition is that elements can be counted in 32 bits: torch then takes another kernel for the same result."""
    return type(expression).__name__ == "LessThan" and bool(expression.rhs == 2**31 - 1)


def _declare(model: ir.Model, shapes: Mapping[str, tuple[Dimension, ...]]) -> onnx.ModelProto:
    """The model with these shapes at its borders; between them, sizes follow from the operators."""
    borders = (*model.graph.inputs, *model.graph.outputs)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            value.shape = None
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                for value in attribute.as_graph().inputs:
                    value.shape = None
    for value in borders:
        value.shape = ir.Shape(list(shapes[value.name or ""]))
    return ir.to_proto(model)


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause: torch wraps the telling one in general ones."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def _line(error: BaseException) -> str:
    """The innermost line of the module's own code that an error came from."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_foreign(frame.filename)]
    return f", line {frames[-1].lineno} of {Path(frames[-1].filename).name} ({frames[-1].line})" if frames else ""


def _is_foreign(file: str) -> bool:
    folders = (Path(torch.__file__).parent, Path(__file__).parent, Path(contextlib.__file__).parent)
    return any(Path(file).is_relative_to(folder) for folder in folders)


def _operation(captured: torch.export.ExportedProgram, reason: str) -> str:
    """The operator that a reason names, with the submodule and the line that it stands in."""
    found = re.search(r"op='(?:\w+)\.(\w+)'", reason)
    operator = found.group(1).strip("_") if found else ""
    for node in captured.graph.nodes:
        if operator and operator in str(node.target):
            modules = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
            path = modules[-1].removeprefix("module").strip(".") if modules else ""
            lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines() if line.strip()]
            where = [f"in {path}" if path else "", f"line {lines[-1]!r}" if lines else ""]
            return f" ({', '.join([f'operator {operator}', *filter(None, where)])})"
    return ""
