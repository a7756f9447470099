"""RNN, LSTM and GRU: their weights are stored, and of the sizes that their attributes say.

Some versions of ONNX Runtime compute with the sizes of the attributes, and read beyond the end of weights that are smaller.

Operators: https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html, onnx__RNN.html
"""

from collections.abc import Mapping
from typing import Final

from rnnx_runtime._errors import ArtifactError
from rnnx_runtime._onnx import Name, Node, Tensor

_GATES: Final = {"RNN": 1, "LSTM": 4, "GRU": 3}
RECURRENT: Final = frozenset(_GATES)
_DIRECTIONS: Final = {b"forward": 1, b"reverse": 1, b"bidirectional": 2}
_PEEPHOLES: Final = 3


def check_recurrent(node: Node, stored: Mapping[Name, Tensor]) -> None:
    """Refuse a node without weights, or whose weights are stored in another size than its attributes say.

    Args:
        stored: all weights that it sees. That `W` and `R` are among them is for `check_constants`.
    """
    operator, weights = node.operator, node.inputs[1:]
    if len(node.inputs) < 3 or any(not name.text for name in node.inputs[:3]):
        raise ArtifactError(f"{operator} has no weights; an artifact's are stored in the file")
    directions = _DIRECTIONS.get(node.attributes.get("direction", b"forward"))
    if directions is None:
        raise ArtifactError(
            f"{operator} runs in the direction {node.attributes['direction']!r}; it is forward, reverse or bidirectional"
        )
    recurrent = stored.get(weights[1])
    if recurrent is None:
        return
    hidden, rows = node.integer("hidden_size", recurrent.dims[-1] if recurrent.dims else 0), _GATES[operator]
    given = stored.get(weights[0])
    features = given.dims[-1] if given is not None and given.dims else 0
    sizes = {
        0: (directions, rows * hidden, features),
        1: (directions, rows * hidden, hidden),
        2: (directions, 2 * rows * hidden),
        6: (directions, _PEEPHOLES * hidden),
    }
    for place, wanted in sizes.items():
        tensor = stored.get(weights[place]) if place < len(weights) and weights[place].text else None
        if tensor is not None and (tensor.dims != wanted or tensor.dtype != recurrent.dtype or min(wanted) < 1):
            raise ArtifactError(
                f"{operator} reads {tensor.name!r} of the type {tensor.dtype} and the size {list(tensor.dims)}, its attributes ask for "
                f"the type {recurrent.dtype} and {list(wanted)}"
            )
