"""One traced step, wrapped as the body of an ONNX Scan that takes it over time.

The weights stay outside, and the body sees them from there. Inputs are scanned along their own time axis, so that no
transpose is needed whatever the module's layout is.
"""

import onnx_ir as ir

from rnnx._axes import has_time
from rnnx._lift import Lift
from rnnx_runtime.artifact import BATCH, TIME, Dimension


def scan_over_time(step: ir.Model, lift: Lift) -> ir.Model:
    """The model of a whole sequence, from the model of one step (T=1) of a lifted module."""
    outer = step.graph
    inputs = {value.name: value for value in outer.inputs}
    timed = [spec for spec in lift.inputs if spec.axes.time is not None]
    body_nodes = list(outer)
    outer.remove(body_nodes)

    # Inside: the states, and one step of each input without its time axis, which is put back for the traced step.
    body_inputs: list[ir.Value] = []
    front: list[ir.Node] = []
    for slot in lift.states:
        inner = ir.Value(name=f"step.{slot.name}", type=inputs[slot.name].type, shape=inputs[slot.name].shape)
        _replace_inside(body_nodes, inputs[slot.name], inner)
        body_inputs.append(inner)
    for spec in timed:
        assert spec.axes.time is not None
        given = inputs[spec.name]
        inner = ir.Value(name=f"step.{spec.name}", type=given.type, shape=_without(given.shape, spec.axes.time))
        restored = ir.node("Unsqueeze", [inner, _axes(outer, spec.axes.time)])
        front.append(restored)
        _replace_inside(body_nodes, given, restored.outputs[0])
        body_inputs.append(inner)

    results = list(outer.outputs)
    answers = dict(zip(lift.outputs, results, strict=False))
    back: list[ir.Node] = []
    body_outputs: list[ir.Value] = []
    sources = dict(zip((value.name for value in outer.inputs), outer.inputs, strict=True))
    replaced = {id(sources[value.name.removeprefix("step.")]): value for value in body_inputs if value.name}
    for following in results[len(lift.outputs) :]:
        copied = ir.node("Identity", [replaced.get(id(following), following)])
        back.append(copied)
        body_outputs.append(copied.outputs[0])
    places = {name: _time_place(shape) for name, shape in lift.outputs.items()}
    for name, answer in answers.items():
        value = replaced.get(id(answer), answer)
        shape = lift.outputs[name]
        timed_answer = TIME in shape
        node = ir.node("Squeeze", [value, _axes(outer, shape.index(TIME))]) if timed_answer else ir.node("Identity", [value])
        back.append(node)
        body_outputs.append(node.outputs[0])
    body = ir.Graph(body_inputs, body_outputs, nodes=[*front, *body_nodes, *back], name="step")

    scan_axes = [spec.axes.time for spec in timed if spec.axes.time is not None]
    # Outside: the Scan, and each answer in the module's own layout.
    for place, value in enumerate(body_outputs):
        value.name = f"scanned.{place}"
    scan = ir.node(
        "Scan",
        [*(inputs[slot.name] for slot in lift.states), *(inputs[spec.name] for spec in timed)],
        attributes={
            "body": body,
            "num_scan_inputs": len(timed),
            "scan_input_axes": scan_axes,
            "scan_output_axes": list(places.values()),
        },
        num_outputs=len(lift.states) + len(lift.outputs),
    )
    outer.append(scan)
    finals = list(scan.outputs[: len(lift.states)])
    finished: list[ir.Value] = []
    for stacked, (name, shape) in zip(scan.outputs[len(lift.states) :], lift.outputs.items(), strict=True):
        finished.append(_in_layout(outer, stacked, shape, places[name]))
    names = [*lift.outputs, *(f"{slot.name}.next" for slot in lift.states)]
    for place, (value, old) in enumerate(zip([*finished, *finals], results, strict=True)):
        value.type, old.name = old.type, f"step.result.{place}"
    for value, name in zip([*finished, *finals], names, strict=True):
        value.name = name
    for value, shape in zip(finished, lift.outputs.values(), strict=True):
        value.shape = ir.Shape(list(shape))
    for value, slot in zip(finals, lift.states, strict=True):
        value.shape = ir.Shape(list(slot.shape))
    for spec in timed:
        inputs[spec.name].shape = ir.Shape(list(spec.shape))
    outer.outputs[:] = [*finished, *finals]
    return step


def _time_place(shape: tuple[Dimension, ...]) -> int:
    """Where the Scan stacks an answer: at its time axis, or beside the batch axis that it is flattened with."""
    for axis, size in enumerate(shape):
        if size in (TIME, f"{TIME}*{BATCH}"):
            return axis
        if size == f"{BATCH}*{TIME}":
            return axis + 1
    return 0  # the last step's is taken


def _in_layout(graph: ir.Graph, stacked: ir.Value, shape: tuple[Dimension, ...], place: int) -> ir.Value:
    if not has_time(shape):
        last = _constant(graph, "last_step", -1)
        node = ir.node("Gather", [stacked, last], attributes={"axis": place})
    elif TIME in shape:
        return stacked
    else:
        sizes = [-1 if isinstance(size, str) else size for size in shape]
        node = ir.node("Reshape", [stacked, _constant(graph, f"layout.{'.'.join(map(str, sizes))}", sizes)])
    graph.append(node)
    return node.outputs[0]


def _axes(graph: ir.Graph, axis: int) -> ir.Value:
    return _constant(graph, f"axes.{axis}", [axis])


def _constant(graph: ir.Graph, name: str, value: int | list[int]) -> ir.Value:
    """An int64 constant of the outer graph, made once."""
    if name not in graph.initializers:
        tensor = ir.tensor(value, dtype=ir.DataType.INT64, name=name)
        graph.register_initializer(ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype)))
    return graph.initializers[name]


def _replace_inside(nodes: list[ir.Node], old: ir.Value, new: ir.Value) -> None:
    for node in nodes:
        for place, value in enumerate(node.inputs):
            if value is old:
                node.replace_input_with(place, new)


def _without(shape: ir.Shape | None, axis: int) -> ir.Shape | None:
    return None if shape is None else ir.Shape([size for place, size in enumerate(shape) if place != axis])
