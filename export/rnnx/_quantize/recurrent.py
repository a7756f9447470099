"""A recurrent node as a Scan whose products have weights of a few bits.

What the inputs give to the gates is one product for the whole chunk, in front of the Scan, with both biases in it. Inside are the
product of the state, and what ONNX says of the operator, in as few nodes as it can be said in: a node costs as much as ten thousand
multiplications. Rows never meet: MatMulNBits rounds each row of the activations by itself.

Equations: https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html, onnx__RNN.html
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from rnnx._quantize.editor import Editor, attributes_of, given

_ACTIVATIONS: Final = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}
_OF_RNN: Final = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid"}
_KNOWN: Final = frozenset(["hidden_size", "direction", "activations", "linear_before_reset", "input_forget", "layout"])

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class _One:
    """One direction of a recurrent node: its weights `(G * H, I)` and `(G * H, H)`, and both biases `(G * H,)`."""

    base: str
    w: Matrix
    r: Matrix
    wb: Matrix
    rb: Matrix
    backwards: bool
    activation: str
    reset_first: bool  # of a GRU: the state is reset before it is multiplied

    @property
    def hidden(self) -> int:
        return int(self.r.shape[1])


def replace_recurrent(editor: Editor, node: NodeProto) -> list[NodeProto]:
    """The nodes that stand for it; none where it stays, and `editor.reasons` says why."""
    reason = _unfit(editor, node)
    if reason:
        editor.reasons |= dict.fromkeys(node.input[1:3], reason)
        return []
    base = node.name or f"{node.op_type}.{node.output[0]}"
    ones = _directions(editor, node, base)
    for place, role in ((1, "of the input"), (2, "of the state")):
        editor.note(node.input[place], node, f"{node.op_type}, {role}", *((one.w, one.r)[place - 1] for one in ones))
    states = 2 if node.op_type == "LSTM" else 1
    front, starts = _starts(editor, node, base, len(ones), states, ones[0].hidden)
    nodes, ends = list(front), []
    for one, start in zip(ones, starts, strict=True):
        made, end = _scan(editor, node, one, start)
        nodes += made
        ends.append(end)
    # Y is (T, D, B, H), the last states (D, B, H).
    for place, axis in ((0, 1), (1, 0), (2, 0)):
        output = given(node.output, place)
        if not output:
            continue
        found = [end[place] for end in ends]
        if len(found) > 1:
            nodes.append(helper.make_node("Concat", found, [output], name=editor.fresh(f"{base}.join"), axis=axis))
        else:
            _rename(nodes, found[0], output)
    return nodes


def _unfit(editor: Editor, node: NodeProto) -> str:
    """Why it stays."""
    operator, attributes = node.op_type, attributes_of(node)
    w, r = editor.weight(given(node.input, 1)), editor.weight(given(node.input, 2))
    if w is None or r is None:
        return f"{operator} computes its weights, or they are no float32"
    if given(node.input, 4):
        return f"{operator} is given lengths, at which each row would have to stop by itself"
    if given(node.input, 7):
        return f"{operator} has peepholes"
    if given(node.input, 3) and editor.weight(node.input[3]) is None:
        return f"{operator} computes its biases"
    if set(attributes) - _KNOWN:
        return f"{operator} has {', '.join(sorted(set(attributes) - _KNOWN))}"
    if attributes.get("input_forget", 0) or attributes.get("layout", 0):
        return f"{operator} joins input and forget gates, or has its batch in front"
    plain, said = _ACTIVATIONS[operator], [one.decode().lower() for one in attributes.get("activations", [])]
    known = all(one in _OF_RNN for one in said) if operator == "RNN" else said == plain * (len(said) // len(plain))
    if not known or len(said) not in (0, len(plain) * len(w)):
        return f"{operator} has other activations than usual"
    return editor.unfit(*(one for matrix in (w, r) for one in matrix))


def _directions(editor: Editor, node: NodeProto, base: str) -> list[_One]:
    w, r = editor.weight(node.input[1]), editor.weight(node.input[2])
    assert w is not None
    assert r is not None
    attributes = attributes_of(node)
    b = editor.weight(given(node.input, 3))
    biases = np.zeros((len(w), 2 * w.shape[1]), np.float32) if b is None else b
    backwards = {b"forward": [False], b"reverse": [True]}.get(attributes.get("direction", b"forward"), [False, True])
    said = [one.decode().lower() for one in attributes.get("activations", [])] or ["tanh"] * len(w)
    return [
        _One(
            base if len(w) == 1 else f"{base}.{'backwards' if back else 'forwards'}",
            w[place],
            r[place],
            biases[place][: biases.shape[1] // 2],
            biases[place][biases.shape[1] // 2 :],
            back,
            _OF_RNN[said[place]] if node.op_type == "RNN" else "",
            not attributes.get("linear_before_reset", 0),
        )
        for place, back in enumerate(backwards)
    ]


def _starts(
    editor: Editor, node: NodeProto, base: str, directions: int, states: int, hidden: int
) -> tuple[list[NodeProto], list[list[str]]]:
    """The states that each direction starts with, `(1, B, H)` each, and the nodes that make them."""
    nodes: list[NodeProto] = []
    found: list[list[str]] = [[] for _ in range(directions)]
    zeros = ""
    for place in range(states):
        start = given(node.input, 5 + place)
        if not start:
            zeros = zeros or _zeros(editor, node, base, hidden, nodes)
            for one in found:
                one.append(zeros)
        elif directions == 1:
            found[0].append(start)
        else:
            parts = [editor.fresh(f"{base}.start") for _ in found]
            sizes = editor.store(f"{base}.directions", np.ones(directions, np.int64))
            nodes.append(helper.make_node("Split", [start, sizes], parts, name=editor.fresh(f"{base}.split"), axis=0))
            for one, part in zip(found, parts, strict=True):
                one.append(part)
    return nodes, found


def _zeros(editor: Editor, node: NodeProto, base: str, hidden: int, nodes: list[NodeProto]) -> str:
    """`(1, B, H)`, for the rows of X `(T, B, I)`."""
    shape, rows, size, zeros = (editor.fresh(f"{base}.{name}") for name in ("shape", "rows", "size", "zeros"))
    one, last = editor.store(f"{base}.one", np.array([1])), editor.store(f"{base}.hidden", np.array([hidden]))
    nodes += [
        helper.make_node("Shape", [node.input[0]], [shape], name=shape),
        helper.make_node("Gather", [shape, one], [rows], name=rows),
        helper.make_node("Concat", [one, rows, last], [size], name=size, axis=0),
        helper.make_node("ConstantOfShape", [size], [zeros], name=zeros),
    ]
    return zeros


def _scan(editor: Editor, node: NodeProto, one: _One, start: list[str]) -> tuple[list[NodeProto], list[str]]:
    """The products of the inputs, and the Scan; Y `(T, 1, B, H)` and the last states, `(1, B, H)` each."""
    operator, h, base = node.op_type, one.hidden, one.base
    bias = one.wb + one.rb
    if operator == "GRU" and not one.reset_first:
        bias[2 * h :] = one.wb[2 * h :]  # the other is reset with the state
    inputs = editor.product(f"{base}.w", node.input[0], one.w, bias)
    front, scanned = [inputs], [inputs.output[0]]
    make = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}[operator]
    if operator == "GRU":
        scanned = [editor.fresh(f"{base}.{name}") for name in ("gates", "candidate")]
        sizes = editor.store(f"{base}.sizes", np.array([2 * h, h]))
        front.append(helper.make_node("Split", [inputs.output[0], sizes], scanned, name=editor.fresh(f"{base}.split"), axis=2))
    before = [editor.fresh(f"{base}.{name}") for name in ("h", "c")[: len(start)]]
    now = [editor.fresh(f"{base}.now") for _ in scanned]
    body = _Body(editor, one)
    after = make(body, before, now)
    answer = body.add("Identity", [after[0]])
    graph = helper.make_graph(
        body.nodes, "step", [_float(name) for name in (*before, *now)], [_float(name) for name in (*after, answer)]
    )
    ends = [editor.fresh(f"{base}.{name}") for name in ("h.last", "c.last")[: len(start)]]
    answers = editor.fresh(f"{base}.y")
    directions: dict[str, Any] = (
        {"scan_input_directions": [1] * len(now), "scan_output_directions": [1]} if one.backwards else {}
    )
    scan = helper.make_node(
        "Scan",
        [*start, *scanned],
        [*ends, answers],
        name=editor.fresh(f"{base}.Scan"),
        body=graph,
        num_scan_inputs=len(now),
        **directions,
    )
    return [*front, scan], [answers, *ends]


class _Body:
    """The nodes of one step."""

    def __init__(self, editor: Editor, one: _One) -> None:
        self.editor = editor
        self.one = one
        self.nodes: list[NodeProto] = []

    def add(self, operator: str, inputs: list[str]) -> str:
        name = self.editor.fresh(f"{self.one.base}.{operator}")
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name))
        return name

    def product(self, base: str, x: str, matrix: Matrix, bias: Matrix | None = None) -> str:
        node = self.editor.product(f"{self.one.base}.{base}", x, matrix, bias)
        self.nodes.append(node)
        return str(node.output[0])

    def split(self, x: str, sizes: list[int]) -> list[str]:
        stored = self.editor.store(f"{self.one.base}.sizes", np.array(sizes))
        parts = [self.editor.fresh(f"{self.one.base}.part") for _ in sizes]
        name = self.editor.fresh(f"{self.one.base}.Split")
        self.nodes.append(helper.make_node("Split", [x, stored], parts, name=name, axis=2))
        return parts


def _lstm(body: _Body, before: list[str], now: list[str]) -> list[str]:
    """Gates in the order i, o, f, c."""
    (h, c), size = before, body.one.hidden
    gates = body.add("Add", [body.product("r", h, body.one.r), now[0]])
    i, o, f, u = body.split(gates, [size] * 4)
    i, o, f = (body.add("Sigmoid", [gate]) for gate in (i, o, f))
    u = body.add("Tanh", [u])
    c = body.add("Add", [body.add("Mul", [f, c]), body.add("Mul", [i, u])])
    return [body.add("Mul", [o, body.add("Tanh", [c])]), c]


def _gru(body: _Body, before: list[str], now: list[str]) -> list[str]:
    """Gates in the order z, r, h; z * h + (1 - z) * n as n + z * (h - n)."""
    (h,), one = before, body.one
    size = one.hidden
    gates, candidate = now
    if one.reset_first:
        both = body.add("Sigmoid", [body.add("Add", [body.product("r", h, one.r[: 2 * size]), gates])])
        z, r = body.split(both, [size, size])
        inner = body.product("n", body.add("Mul", [r, h]), one.r[2 * size :])
    else:
        bias = np.concatenate([np.zeros(2 * size, np.float32), one.rb[2 * size :]])
        of_gates, of_candidate = body.split(body.product("r", h, one.r, bias), [2 * size, size])
        z, r = body.split(body.add("Sigmoid", [body.add("Add", [of_gates, gates])]), [size, size])
        inner = body.add("Mul", [r, of_candidate])
    n = body.add("Tanh", [body.add("Add", [inner, candidate])])
    return [body.add("Add", [n, body.add("Mul", [z, body.add("Sub", [h, n])])])]


def _rnn(body: _Body, before: list[str], now: list[str]) -> list[str]:
    return [body.add(body.one.activation, [body.add("Add", [body.product("r", before[0], body.one.r), now[0]])])]


def _float(name: str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def _rename(nodes: list[NodeProto], before: str, after: str) -> None:
    for node in nodes:
        for place, name in enumerate(node.output):
            if name == before:
                node.output[place] = after
