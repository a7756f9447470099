"""Inputs that need not be given: the file holds what they are then. As states they begin with that."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from rnnx._adopt.dataflow import Dataflow
from rnnx._adopt.pairs import named_alike

_FIRST_IR: Final = 4  # before it, every weight stood among the inputs, and could not be given


def take_defaults(model: ModelProto, states: Mapping[str, str] | None) -> dict[str, NDArray[Any]]:
    """Make plain inputs of those with a default that are states: as said, by their names, or by the node that they begin. In place.

    Returns:
        What each begins with. Other weights that could be given stay weights.
    """
    if model.ir_version < _FIRST_IR:
        return {}
    listed = {value.name for value in model.graph.input}
    stored = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in listed}
    if states is None:
        flow = Dataflow(model.graph)
        outputs = [value.name for value in model.graph.output]
        names = {
            name for name in stored if any(flow.begins(name) & flow.ends(one) or named_alike(name, one) for one in outputs)
        }
    else:
        names = set(stored) & set(states)
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in names]
    found = {name: np.asarray(numpy_helper.to_array(stored[name])) for name in sorted(names)}
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return found
