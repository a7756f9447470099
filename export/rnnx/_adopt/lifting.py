"""States that a graph begins anew in each call, made inputs and outputs.

A recurrent node whose first state is a constant, or computed from sizes alone, forgets between calls. Lifted, it takes that state
from outside, begins a sequence with the same constant, and hands the next state on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from rnnx._adopt.calls import Arrays, Contract, PlainSession, to_graph
from rnnx._adopt.dataflow import RECURRENT, Dataflow, attribute, operator
from rnnx._adopt.guards import guarded
from rnnx._adopt.pairs import Pair
from rnnx._adopt.samples import Sampler
from rnnx._errors import AdoptError
from rnnx_runtime.artifact import BATCH

_TYPES: Final = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}


@dataclass(frozen=True)
class _Port:
    """One state of one recurrent node: where it stands among the node's inputs and outputs."""

    kind: Literal["h", "c"]
    taken: int
    given: int


_PORTS: Final = (_Port("h", 5, 1), _Port("c", 6, 2))


def lift_states(model: ModelProto, contract: Contract, sampler: Sampler) -> tuple[ModelProto, tuple[Pair, ...], list[str]]:
    """Lift every state that begins with a constant in each call.

    Args:
        contract: of the graph as it is.

    Returns:
        The new model, the pairs that were lifted, and what was left, in words.

    Raises:
        AdoptError: a node reads in both directions, or there is nothing to lift.
    """
    lifted = ModelProto()
    lifted.CopyFrom(model)
    flow = Dataflow(lifted.graph)
    nodes = [node for node in flow.nodes if operator(node) in RECURRENT]
    seen = _Seen(model, nodes, flow, contract, sampler)
    pairs: list[Pair] = []
    notes: list[str] = []
    for node in nodes:
        name = flow.names[id(node)]
        if not seen.along_time(node):
            notes.append(f"{node.op_type} {name} reads along another axis than time; it begins anew in each step, as it was")
            continue
        direction = attribute(node, "direction", b"forward")
        if direction != b"forward":
            how = "backwards" if direction == b"reverse" else "in both directions"
            raise AdoptError(
                f"{node.op_type} {name} reads {how}: it needs what comes later, so its state cannot be lifted to a stream; adopt the "
                "file without --lift, for whole sequences"
            )
        for port in _PORTS[: 2 if "LSTM" in node.op_type else 1]:
            begin = node.input[port.taken] if port.taken < len(node.input) else ""
            if flow.sources_of_values(begin):
                continue  # a state that is an input already, or one that is computed from what is given
            initial = seen.initial(node, begin)
            rows: int | str = BATCH if initial.shape[1] == 1 else initial.shape[1]
            rows = contract.fixed_batch if rows == BATCH and contract.fixed_batch is not None else rows
            pairs.append(_lift(lifted, node, f"{name}.{port.kind}", port, initial, rows))
    if pairs and contract.one_step:
        notes.append("the file begins anew in each call, so that only first steps could be compared with it")
    if not pairs:
        raise AdoptError(
            "nothing to lift: no RNN, LSTM or GRU of the graph begins with a constant in each call"
            + (f"; {notes[0]}" if notes else "")
        )
    return lifted, tuple(pairs), notes


def forgetful(model: ModelProto, contract: Contract, sampler: Sampler) -> list[str]:
    """The recurrent nodes that read along time, and begin with what no input gives, in words."""
    flow = Dataflow(model.graph)
    nodes = [
        node
        for node in flow.nodes
        if operator(node) in RECURRENT
        and not any(flow.sources_of_values(node.input[port.taken]) for port in _PORTS if port.taken < len(node.input))
    ]
    if not nodes:
        return []
    seen = _Seen(model, nodes, flow, contract, sampler)
    call = "step" if contract.one_step else "call"
    return [
        f"{node.op_type} {flow.names[id(node)]} begins anew in each {call}; {_remedy(node)}"
        for node in nodes
        if seen.along_time(node)
    ]


def _remedy(node: NodeProto) -> str:
    """How a node is kept from beginning anew, in words."""
    if attribute(node, "direction", b"forward") != b"forward":
        return "it needs what comes later, so that no state makes a stream of it"
    return "--lift makes its state an input"


class _Seen:
    """What recurrent nodes read and begin with, seen by running the graph with these values as further outputs."""

    def __init__(
        self, model: ModelProto, nodes: list[NodeProto], flow: Dataflow, contract: Contract, sampler: Sampler
    ) -> None:
        watched = {node.input[0] for node in nodes} | {
            node.input[at] for node in nodes for at in (5, 6) if at < len(node.input)
        }
        shown = ModelProto()
        shown.CopyFrom(model)
        have = {value.name for value in (*shown.graph.output, *shown.graph.input)}
        stored = {tensor.name for tensor in shown.graph.initializer}
        for name in sorted(watched - have - stored - {""}):
            shown.graph.output.add(name=name)
        self._constants = {
            tensor.name: np.asarray(numpy_helper.to_array(tensor))
            for tensor in shown.graph.initializer
            if tensor.name in watched
        }
        session = PlainSession(guarded(shown))
        self._contract = contract
        self._sizes = [(contract.fixed_batch or rows, 1 if contract.one_step else steps) for rows, steps in ((2, 3), (5, 7))]
        self._runs = [_run(session, contract, sampler, *size) for size in self._sizes]

    def along_time(self, node: NodeProto) -> bool:
        """Whether the axis that the node reads along is that of the steps."""
        lengths = [run[node.input[0]].shape[0] for run in self._runs]
        return lengths == [steps for _, steps in self._sizes]

    def initial(self, node: NodeProto, begin: str) -> NDArray[Any]:
        """What the node begins with: `(1, 1, H)` where its rows are those of the batch, else `(1, rows, H)`."""
        rows = [run[node.input[0]].shape[1] for run in self._runs]
        x = self._runs[0][node.input[0]]
        size = attribute(node, "hidden_size")
        assert isinstance(size, int)
        own = rows == [batch for batch, _ in self._sizes]
        if not own and self._contract.fixed_batch is None:
            raise AdoptError(
                f"{node.op_type} {node.name!r} has {rows[0]} rows where the batch has {self._sizes[0][0]}, so its state has no axis for the "
                "rows of a batch; give the batch a fixed size of 1 with --axes"
            )
        if not begin:
            return np.zeros((1, 1 if own else rows[0], size), x.dtype)
        found = [self._constants[begin]] if begin in self._constants else [run[begin] for run in self._runs]
        value = found[0][:, :1] if own else found[0]
        if any((one != value).any() for one in (found if own else found[:1])):
            raise AdoptError(f"{node.op_type} {node.name!r} begins each row with another state; rnnx begins all rows alike")
        return np.ascontiguousarray(value)


def _run(session: PlainSession, contract: Contract, sampler: Sampler, batch: int, steps: int) -> Arrays:
    chunk = sampler.chunk(contract, batch, steps, batch)
    feeds = {name: to_graph(array, contract.shapes[name], batch, steps) for name, array in chunk.items()}
    states: Mapping[str, NDArray[Any]] = contract.initial(batch)
    return {**feeds, **session.run({**feeds, **states})}


def _lift(model: ModelProto, node: NodeProto, name: str, port: _Port, initial: NDArray[Any], rows: int | str) -> Pair:
    """Make one state of a node an input and an output of the graph."""
    graph = model.graph
    taken = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    taken |= {one for other in graph.node for one in other.output}
    while name in taken or f"{name}.next" in taken:
        name = f"{name}_"
    if initial.dtype.name not in _TYPES:
        raise AdoptError(f"{node.op_type} {node.name!r} computes in {initial.dtype}; a state is float32 or float64")
    kind = _TYPES[initial.dtype.name]
    shape = [1, rows, initial.shape[2]]
    graph.input.append(helper.make_tensor_value_info(name, kind, shape))
    node.input.extend([""] * (port.taken + 1 - len(node.input)))
    node.input[port.taken] = name
    node.output.extend([""] * (port.given + 1 - len(node.output)))
    output = node.output[port.given]
    if output not in {value.name for value in graph.output}:
        new = f"{name}.next"
        if output:
            graph.node.append(helper.make_node("Identity", [output], [new], name=f"{name}.next"))
        else:
            node.output[port.given] = new
        graph.output.append(helper.make_tensor_value_info(new, kind, shape))
        output = new
    dtype: Any = initial.dtype.name
    return Pair(
        name,
        name,
        output,
        dtype,
        f"lifted from {node.op_type} {name.rpartition('.')[0]}",
        initial if initial.any() else None,
        lifted=True,
    )
