"""Calls of a graph in plain ONNX Runtime, and rows and steps in the graph's own layout.

Written apart from the runtime's own, so that the proof compares two opinions.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from rnnx._adopt.borders import Border
from rnnx._adopt.pairs import Pair
from rnnx._errors import AdoptError
from rnnx_runtime.artifact import BATCH, TIME, Dimension

Arrays = dict[str, NDArray[Any]]
Shape = tuple[Dimension, ...]

_NODE: Final = re.compile(r"Non-zero status code returned while running (\w+) node\. Name:'.*?' Status Message: ")
_LONGEST: Final = 200  # characters of what ONNX Runtime says
EMPTY: Final = "is left without rows or steps"  # ends the name of the node that guards another
_PLACE: Final = re.compile(r"/\S*onnxruntime\S*:\d+ .*?\) (?=\S)|\[ONNXRuntimeError\] : \d+ : \w+ : ")


@final
class PlainSession:
    """A graph in plain ONNX Runtime, on one thread of the CPU; `constants` are given in every call.

    Raises:
        AdoptError: ONNX Runtime cannot load it.
    """

    def __init__(self, model: ModelProto, constants: Mapping[str, NDArray[Any]] | None = None) -> None:
        import onnxruntime  # rnnx_runtime, which is imported first, has switched its telemetry off

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        settings.log_severity_level = 4
        settings.add_session_config_entry("session.load_model_format", "ONNX")
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), settings, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime's exceptions have no base of their own
            raise AdoptError(f"ONNX Runtime cannot load the file: {words(error)}") from None
        self._constants = dict(constants or {})
        self._outputs = [value.name for value in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """All outputs; no array may be empty, for some operators end the process then."""
        return dict(zip(self._outputs, self._session.run(self._outputs, {**self._constants, **feeds}), strict=True))


def words(error: Exception) -> str:
    """What ONNX Runtime or onnx says, on one line, without places in its source and what a terminal obeys."""
    guard = re.search(rf"Name:'\S+ (.* {EMPTY})'", str(error))
    if guard is not None:
        return guard[1]
    text = _NODE.sub(r"\1: ", _PLACE.sub("", " ".join(str(error).split())))
    found = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[:_LONGEST])
    return found or f"{type(error).__name__}, without a word"


@dataclass(frozen=True)
class Contract:
    """What the calls of a graph take and give, as far as it is known.

    Attributes:
        shapes: of the inputs, outputs and states by their names in the graph, with symbols as in a manifest.
        fixed_batch: the one batch size that the graph takes; None where it takes any.
        one_step: each call takes one step.
    """

    inputs: tuple[Border, ...]
    outputs: tuple[Border, ...]
    pairs: tuple[Pair, ...]
    shapes: Mapping[str, Shape]
    fixed_batch: int | None
    one_step: bool
    vocabularies: Mapping[str, int] = field(default_factory=dict)

    def has_time(self, name: str) -> bool:
        """Whether an input or output has a value per step."""
        return self.one_step or any(TIME in str(size) for size in self.shapes[name])

    def initial(self, batch: int) -> Arrays:
        """The states that a sequence begins with, by the names of the inputs."""
        states = {}
        for pair in self.pairs:
            shape = self.shapes[pair.input]
            if pair.initial is None:
                states[pair.input] = np.zeros(sized(shape, batch, 1), pair.dtype)
            else:
                states[pair.input] = pair.initial
                if BATCH in shape:
                    states[pair.input] = np.repeat(pair.initial.take([0], shape.index(BATCH)), batch, shape.index(BATCH))
        return states


def sized(shape: Shape, batch: int, steps: int) -> tuple[int, ...]:
    """The shape at a batch size and number of steps."""
    sizes = {BATCH: batch, TIME: steps, f"{BATCH}*{TIME}": batch * steps, f"{TIME}*{BATCH}": batch * steps}
    return tuple(sizes[size] if isinstance(size, str) else size for size in shape)


def inner_of(shape: Shape) -> tuple[int, ...]:
    """What callers hand over behind batch and time: the fixed sizes, but for those of 1 in front of both."""
    first = next((axis for axis, size in enumerate(shape) if isinstance(size, str)), 0)
    return tuple(size for axis, size in enumerate(shape) if isinstance(size, int) and not (size == 1 and axis < first))


def batch_first(array: NDArray[Any], shape: Shape, batch: int, steps: int) -> NDArray[Any]:
    """An array in the graph's layout as `(B, T, ...)`, or `(B, ...)` where no time stands in the shape."""
    names: list[Dimension] = list(shape)
    for flat, sizes in ((f"{BATCH}*{TIME}", (batch, steps)), (f"{TIME}*{BATCH}", (steps, batch))):
        if flat in names:
            axis = names.index(flat)
            array = array.reshape(*array.shape[:axis], *sizes, *array.shape[axis + 1 :])
            names[axis : axis + 1] = flat.split("*")
    front = [names.index(name) for name in (BATCH, TIME) if name in names]
    moved = np.moveaxis(array, front, range(len(front)))
    return moved.reshape(batch, *((steps,) if TIME in names else ()), *inner_of(shape))


def to_graph(array: NDArray[Any], shape: Shape, batch: int, steps: int) -> NDArray[Any]:
    """A batch-first array of an input in the graph's layout, C-ordered."""
    sizes = {BATCH: batch, TIME: steps}
    names = [name for name in sizes if name in shape]
    spread = array.reshape(*(sizes[name] for name in names), *(size for size in shape if isinstance(size, int)))
    return np.ascontiguousarray(np.moveaxis(spread, range(len(names)), [shape.index(name) for name in names]))


def call(session: PlainSession, contract: Contract, chunk: Arrays, states: Arrays, batch: int) -> tuple[Arrays, Arrays]:
    """Answer batch-first arrays, `(B, T, ...)` by input, in as many calls as the graph needs.

    Returns:
        The answers, `(B, T, ...)` each that has a value per step, and the next states, both by the graph's names.
    """
    steps = next((array.shape[1] for name, array in chunk.items() if contract.has_time(name)), 1)
    if not contract.one_step:
        return _call(session, contract, chunk, states, batch, steps)
    pieces: list[Arrays] = []
    for step in range(steps):
        found, states = _call(session, contract, {name: array[:, step] for name, array in chunk.items()}, states, batch, 1)
        pieces.append({name: array.reshape(batch, 1, *inner_of(contract.shapes[name])) for name, array in found.items()})
    return joined(contract, pieces), states


def _call(
    session: PlainSession, contract: Contract, chunk: Arrays, states: Arrays, batch: int, steps: int
) -> tuple[Arrays, Arrays]:
    feeds = {name: to_graph(array, contract.shapes[name], batch, steps) for name, array in chunk.items()}
    found = session.run({**feeds, **states})
    answers = {
        border.name: batch_first(found[border.name], contract.shapes[border.name], batch, steps) for border in contract.outputs
    }
    return answers, {pair.input: found[pair.output] for pair in contract.pairs}


def cut(contract: Contract, chunk: Arrays, first: int, last: int) -> Arrays:
    """Some of the steps."""
    return {name: array[:, first:last] if contract.has_time(name) else array for name, array in chunk.items()}


def joined(contract: Contract, pieces: Sequence[Arrays]) -> Arrays:
    """The answers to consecutive chunks as those to one."""
    return {
        name: np.concatenate([piece[name] for piece in pieces], axis=1) if contract.has_time(name) else pieces[-1][name]
        for name in pieces[0]
    }


def in_pieces(
    session: PlainSession, contract: Contract, chunk: Arrays, states: Arrays, batch: int, bounds: Sequence[int]
) -> tuple[Arrays, Arrays]:
    """Answer the chunks between bounds one after the other; all of it, and the states that it ends with."""
    pieces = []
    for first, last in itertools.pairwise(bounds):
        answers, states = call(session, contract, cut(contract, chunk, first, last), states, batch)
        pieces.append(answers)
    return joined(contract, pieces), states


def golden_array(array: NDArray[Any], contract: Contract, name: str, batch: int, steps: int) -> NDArray[Any]:
    """A batch-first array of an input or output as the golden trace holds it: in the graph's layout, with an axis for every step.

    Where the graph has none for rows or for steps, they stand in front, as callers see them.
    """
    shape = list(contract.shapes[name])
    if not any(BATCH in str(size) for size in shape):
        shape.insert(next((axis for axis, size in enumerate(shape) if isinstance(size, str)), 0), BATCH)
    if contract.one_step and TIME not in shape:
        shape.insert(shape.index(BATCH) + 1, TIME)
    if any("*" in str(size) for size in shape):
        flat = next(axis for axis, size in enumerate(shape) if "*" in str(size))
        shape[flat : flat + 1] = str(shape[flat]).split("*")
        return to_graph(array, tuple(shape), batch, steps).reshape(sized(contract.shapes[name], batch, steps))
    return to_graph(array, tuple(shape), batch, steps)
