"""ONNX files in the styles that others publish, built with onnx's own helper; none of them knows rnnx."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL, FLOAT16 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT16


class Builder:
    """A graph, node by node."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def given(self, name: str, shape: list[Any] | None, kind: int = FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def gives(self, name: str, shape: list[Any] | None, kind: int = FLOAT) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def weight(self, *shape: int, name: str = "") -> str:
        values = self.random.standard_normal(shape).astype(np.float32) / np.sqrt(max(shape[-1:] or (1,)))
        return self.constant(values.astype(np.float32), name)

    def constant(self, values: Any, name: str = "") -> str:
        name = name or f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def node(self, operator: str, *inputs: str, to: str | list[str] = "", **attributes: Any) -> str:
        outputs = [to] if isinstance(to, str) else to
        outputs = [one or f"{operator}_{len(self.nodes)}" for one in outputs] if isinstance(to, str) else outputs
        name = attributes.pop("name", f"/{operator.lower()}_{len(self.nodes)}")
        self.nodes.append(helper.make_node(operator, list(inputs), outputs, name=name, **attributes))
        return str(outputs[0])

    def recurrent(self, operator: str, x: str, size: int, hidden: int, h: str = "", c: str = "", **given: Any) -> str:
        """An LSTM, GRU or RNN with random weights; `to` names its outputs."""
        gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator]
        directions = 2 if given.get("direction") == "bidirectional" else 1
        weights = [
            self.weight(directions, gates * hidden, size),
            self.weight(directions, gates * hidden, hidden),
            self.weight(directions, 2 * gates * hidden),
        ]
        more = {"linear_before_reset": 1} if operator == "GRU" else {}
        inputs = [x, *weights, *(["", h, c] if c else ["", h] if h else [])]
        return self.node(operator, *inputs, hidden_size=hidden, **more, **given)

    def model(self, opset: int = 17, ir: int = 8, **given: Any) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "main_graph", self.inputs, self.outputs, self.weights)
        opsets = [helper.make_opsetid("", opset), *given.pop("domains", [])]
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir, producer_name="somebody", **given)


def language_model(vocabulary: int = 5, hidden: int = 6, *, softmax: str = "LogSoftmax") -> onnx.ModelProto:
    """Two LSTMs over embedded tokens; h0, c0 and hn, cn hold both layers."""
    b = Builder(1)
    b.given("tokens", ["batch", "seq"], INT64)
    for name in ("h0", "c0"):
        b.given(name, [2, "batch", hidden])
    x = b.node("Transpose", b.node("Gather", b.weight(vocabulary, 4), "tokens"), perm=[1, 0, 2])
    ends: dict[str, list[str]] = {"h": [], "c": []}
    for layer in (0, 1):
        parts = [b.node("Slice", name, b.ints(layer), b.ints(layer + 1), b.ints(0)) for name in ("h0", "c0")]
        outputs = [f"y{layer}", f"end_h{layer}", f"end_c{layer}"]
        b.recurrent("LSTM", x, 4 if layer == 0 else hidden, hidden, *parts, to=outputs, name=f"/rnn/LSTM_{layer}")
        x = b.node("Squeeze", f"y{layer}", b.ints(1))
        ends["h"].append(f"end_h{layer}")
        ends["c"].append(f"end_c{layer}")
    scores = b.node("MatMul", b.node("Transpose", x, perm=[1, 0, 2]), b.weight(hidden, vocabulary))
    b.node(softmax, scores, to="log_probs", axis=-1)
    b.node("Concat", *ends["h"], to="hn", axis=0)
    b.node("Concat", *ends["c"], to="cn", axis=0)
    b.gives("log_probs", ["batch", "seq", vocabulary])
    b.gives("hn", [2, "batch", hidden])
    b.gives("cn", [2, "batch", hidden])
    return b.model()


def detector(samples: int = 16, hidden: int = 4) -> onnx.ModelProto:
    """A speech detector: two networks, one for each sample rate; its state is called state, the next one stateN.

    As scripted modules come out: the rate chooses by an If, shapes choose by another, and the weights of the LSTM are put together
    from parts.
    """
    b = Builder(2)
    b.given("input", ["", ""])
    b.given("state", [2, "", hidden])
    b.given("sr", [], INT64)
    branches = [_detector_branch(rate, samples * (2 if rate else 1), hidden) for rate in (1, 0)]
    is_wide = b.node("Equal", "sr", b.constant(np.array(16000, np.int64)))
    b.node("If", is_wide, to=["output", "stateN"], then_branch=branches[0], else_branch=branches[1])
    b.gives("output", ["", 1])
    b.gives("stateN", ["", "", ""])
    return b.model(16)


def _detector_branch(rate: int, samples: int, hidden: int) -> onnx.GraphProto:
    b = Builder(3 + rate)
    b.given("input", None)
    x = b.node("Unsqueeze", "input", b.ints(1))  # (B, 1, S)
    x = b.node("Relu", b.node("Conv", x, b.weight(hidden, 1, samples), strides=[samples]))  # (B, H, 1) for one frame
    # squeeze(-1), as a scripted module has it: only where that axis is 1
    last = b.node("Gather", b.node("Shape", x), b.constant(np.array(-1, np.int64)))
    one = b.node("Equal", last, b.constant(np.array(1, np.int64)))
    yes, no = Builder(), Builder()
    yes.node("Squeeze", x, yes.ints(-1), to="squeezed")
    yes.gives("squeezed", None)
    no.node("Identity", x, to="as_it_was")
    no.gives("as_it_was", None)
    then = helper.make_graph(yes.nodes, "then", [], yes.outputs, yes.weights)
    other = helper.make_graph(no.nodes, "else", [], no.outputs, no.weights)
    x = b.node("Unsqueeze", b.node("If", one, then_branch=then, else_branch=other), b.ints(0))  # (1, B, H)
    gates = [b.weight(1, hidden, hidden) for _ in range(8)]
    w, r = b.node("Concat", *gates[:4], axis=1), b.node("Concat", *gates[4:], axis=1)
    h, c = (b.node("Unsqueeze", b.node("Gather", "state", b.constant(np.array(i, np.int64))), b.ints(0)) for i in (0, 1))
    b.node("LSTM", x, w, r, "", "", h, c, to=["", f"h{rate}", f"c{rate}"], hidden_size=hidden, name="/decoder/rnn/LSTM")
    after = b.node("Squeeze", f"h{rate}", b.ints(0))
    b.node("Sigmoid", b.node("MatMul", b.node("Relu", after), b.weight(hidden, 1)), to=f"output{rate}")
    b.node("Concat", f"h{rate}", f"c{rate}", to=f"state{rate}", axis=0)
    outputs = [helper.make_tensor_value_info(name, FLOAT, None) for name in (f"output{rate}", f"state{rate}")]
    return helper.make_graph(b.nodes, f"rate{rate}", [], outputs, b.weights)


def sequence_detector(features: int = 8, hidden: int = 4) -> onnx.ModelProto:
    """The same over a whole recording: no axis for rows, and a time axis of one name on each side."""
    b = Builder(5)
    b.given("input", ["sequence_length", features])
    b.given("h", [1, 1, hidden])
    b.given("c", [1, 1, hidden])
    x = b.node("Unsqueeze", "input", b.ints(1))
    b.recurrent("LSTM", x, features, hidden, "h", "c", to=["y", "hn", "cn"], name="/rnn/LSTM")
    scores = b.node("MatMul", b.node("Squeeze", "y", b.ints(1, 2)), b.weight(hidden, 1))
    b.node("Reshape", b.node("Sigmoid", scores), b.ints(-1), to="speech_probs")
    b.gives("speech_probs", ["sequence_length"])
    for name in ("hn", "cn"):
        b.gives(name, [1, "LSTM_dim_1", hidden])
    return b.model(16)


def enhancer(features: int = 6, opset: int = 11) -> onnx.ModelProto:
    """A speech enhancer, frame by frame, frozen at a batch of 1: a cache of two frames for a convolution, and a GRU's state."""
    b = Builder(6)
    b.given("mix", [1, features, 1, 2])
    b.given("conv_cache", [1, 2, 2, features])  # (B, C, T, F)
    b.given("inter_cache", [1, 1, 5])
    x = b.node("Transpose", "mix", perm=[0, 3, 2, 1])  # (1, 2, 1, F)
    longer = b.node("Concat", "conv_cache", x, axis=2)
    b.node("Slice", longer, b.ints(1), b.ints(3), b.ints(2), to="conv_cache_out")
    y = b.node("Conv", longer, b.weight(2, 2, 3, 1))  # (1, 2, 1, F)
    old = opset < 13
    flat = b.node("Reshape", y, b.ints(1, 1, 2 * features))
    b.recurrent("GRU", flat, 2 * features, 5, "inter_cache", to=["g", "inter_cache_out"], name="GRU_1")
    g = b.node("Squeeze", "g", axes=[1]) if old else b.node("Squeeze", "g", b.ints(1))
    gain = b.node("Softmax", b.node("MatMul", g, b.weight(5, features)), axis=2)  # (1, 1, F)
    gain = b.node("Unsqueeze", gain, axes=[1]) if old else b.node("Unsqueeze", gain, b.ints(1))
    b.node("Transpose", b.node("Mul", y, gain), to="enh", perm=[0, 3, 2, 1])
    b.gives("enh", [1, features, 1, 2])
    b.gives("conv_cache_out", [1, 2, 2, features])
    b.gives("inter_cache_out", [1, 1, 5])
    return b.model(opset, 6 if old else 8)


def unnamed(hidden: int = 4, features: int = 3, *, decomposed: bool = False) -> onnx.ModelProto:
    """As converters from Keras name things: nothing in the names, both states of an LSTM on the last axis of one tensor."""
    b = Builder(7)
    b.given("input_2", [1, 1, features])
    b.given("input_3", [1, hidden, 2])
    h, c = (b.node("Squeeze", b.node("Slice", "input_3", b.ints(i), b.ints(i + 1), b.ints(2)), b.ints(2)) for i in (0, 1))
    if decomposed:
        x = b.node("Squeeze", "input_2", b.ints(0))
        after_h, after_c = _lstm_cell(b, x, h, c, features, hidden)
    else:
        first = [b.node("Unsqueeze", one, b.ints(0)) for one in (h, c)]
        b.recurrent("LSTM", "input_2", features, hidden, *first, to=["", "lstm_h", "lstm_c"], name="lstm_4")
        after_h, after_c = (b.node("Squeeze", one, b.ints(0)) for one in ("lstm_h", "lstm_c"))
    mask = b.node("Sigmoid", b.node("MatMul", after_h, b.weight(hidden, features)))
    b.node("Unsqueeze", mask, b.ints(0), to="activation_2")
    parts = [b.node("Unsqueeze", one, b.ints(2)) for one in (after_h, after_c)]
    b.node("Concat", *parts, to="tf_op_layer_stack_2", axis=2)
    b.gives("activation_2", [1, 1, features])
    b.gives("tf_op_layer_stack_2", ["N", hidden, 2])
    return b.model(13)


def _lstm_cell(b: Builder, x: str, h: str, c: str, features: int, hidden: int) -> tuple[str, str]:
    sums = b.node(
        "Add", b.node("MatMul", x, b.weight(features, 4 * hidden)), b.node("MatMul", h, b.weight(hidden, 4 * hidden))
    )
    names = [f"gate_{i}" for i in range(4)]
    b.node("Split", sums, b.ints(*[hidden] * 4), to=names, axis=1)
    i, f, o = (b.node("Sigmoid", name) for name in names[:3])
    after = b.node("Add", b.node("Mul", f, c), b.node("Mul", i, b.node("Tanh", names[3])))
    return b.node("Mul", o, b.node("Tanh", after)), after


def cell(features: int = 3, hidden: int = 4, answers: int = 2) -> onnx.ModelProto:
    """One step of a cell written out, no axis for time: (B, F), (B, H) → (B, V), (B, H)."""
    b = Builder(8)
    b.given("x", ["batch_size", features])
    b.given("h_in", ["batch_size", hidden])
    total = b.node(
        "Add", b.node("MatMul", "x", b.weight(features, hidden)), b.node("MatMul", "h_in", b.weight(hidden, hidden))
    )
    b.node("Tanh", total, to="h_out")
    b.node("MatMul", "h_out", b.weight(hidden, answers), to="y")
    b.gives("y", ["batch_size", answers])
    b.gives("h_out", ["batch_size", hidden])
    return b.model()


def flat(frame: int = 5, state: int = 7) -> onnx.ModelProto:
    """No axis for rows anywhere: a frame, all states in one vector, a limit that is the same for all frames, and a single number."""
    b = Builder(9)
    b.given("input_frame", [frame])
    b.given("states", [state])
    b.given("atten_lim_db", [])
    both = b.node("Concat", "input_frame", "states", axis=0)
    b.node("Tanh", b.node("MatMul", both, b.weight(frame + state, state)), to="new_states")
    clean = b.node("MatMul", "new_states", b.weight(state, frame))
    limit = b.node("Div", "atten_lim_db", b.constant(np.array(100, np.float32)))
    b.node("Mul", clean, limit, to="enhanced_audio_frame")
    b.node("ReduceMean", "new_states", to="lsnr", keepdims=0)
    b.gives("enhanced_audio_frame", [frame])
    b.gives("new_states", [state])
    b.gives("lsnr", [])
    return b.model()


def forgetful(
    operator: str = "LSTM", start: str = "sizes", *, features: int = 3, hidden: int = 4, **given: Any
) -> onnx.ModelProto:
    """A layer that begins anew in each call. `start`: "absent", "sizes" (zeros made from shapes), or "constant" (not zero)."""
    b = Builder(10)
    b.given("x", ["batch", "time", features])
    x = b.node("Transpose", "x", perm=[1, 0, 2])
    kinds = 2 if operator == "LSTM" else 1
    directions = 2 if given.get("direction") == "bidirectional" else 1
    first: list[str] = []
    if start != "absent":
        rows = b.node("Slice", b.node("Shape", "x"), b.ints(0), b.ints(1))
        shape = b.node("Concat", b.ints(directions), rows, b.ints(hidden), axis=0)
        for _ in range(kinds):
            if start == "sizes":
                first.append(b.node("ConstantOfShape", shape, value=helper.make_tensor("zero", FLOAT, [1], [0.0])))
            else:
                first.append(b.node("Expand", b.weight(directions, 1, hidden), shape))
    b.recurrent(operator, x, features, hidden, *first, to=["y"], name=f"/rnn/{operator}", **given)
    merged = b.node("Reshape", b.node("Transpose", "y", perm=[0, 2, 1, 3]), b.ints(0, 0, -1))
    b.node("Transpose", merged, to="answer", perm=[1, 0, 2])
    b.gives("answer", ["batch", "time", directions * hidden])
    return b.model()


def pointwise(features: int = 3) -> onnx.ModelProto:
    """No state at all."""
    b = Builder(11)
    b.given("x", ["batch", "time", features])
    b.node("Relu", b.node("MatMul", "x", b.weight(features, 2)), to="y")
    b.gives("y", ["batch", "time", 2])
    return b.model()


def time_major(features: int = 3, hidden: int = 4, *, flattened: bool = False) -> onnx.ModelProto:
    """(T, B, F) without a word about which is which; names for the states that say nothing."""
    b = Builder(12)
    b.given("input.1", ["", "", features])
    b.given("hx", [1, "", hidden])
    b.recurrent("GRU", "input.1", features, hidden, "hx", to=["y", "175"], name="")
    y = b.node("Squeeze", "y", b.ints(1))
    y = b.node("Reshape", y, b.ints(-1, hidden)) if flattened else y
    b.node("MatMul", y, b.weight(hidden, 2), to="180")
    b.gives("180", None)
    b.gives("175", None)
    return b.model()


def attention(size: int = 4) -> onnx.ModelProto:
    """Keys that grow with every call."""
    b = Builder(13)
    b.given("x", ["batch", "seq_len", size])
    b.given("past_key_values.0.key", ["batch", "past_len", size])
    b.node("Concat", "past_key_values.0.key", b.node("MatMul", "x", b.weight(size, size)), to="present.0.key", axis=1)
    scores = b.node("MatMul", "x", b.node("Transpose", "present.0.key", perm=[0, 2, 1]))
    b.node("MatMul", b.node("Softmax", scores, axis=-1), "present.0.key", to="y")
    b.gives("y", ["batch", "seq_len", size])
    b.gives("present.0.key", ["batch", "total_len", size])
    return b.model()


def quantised(features: int = 8, hidden: int = 16) -> onnx.ModelProto:
    """Weights of one byte, and inputs quantised over all of a call."""
    b = Builder(14)
    b.given("x", ["batch", "time", features])
    b.given("h", [1, "batch", hidden])
    weights = b.constant(b.random.integers(-127, 127, (features, features)).astype(np.int8))
    b.node("DynamicQuantizeLinear", "x", to=["xq", "scale", "zero"])
    product = b.node("MatMulInteger", "xq", weights, "zero")
    b.nodes.append(helper.make_node("Cast", [product], ["real"], name="/cast", to=FLOAT))
    scale = b.node("Mul", "scale", b.constant(np.array(0.005, np.float32)))
    x = b.node("Transpose", b.node("Mul", "real", scale), perm=[1, 0, 2])
    b.recurrent("GRU", x, features, hidden, "h", to=["y", "hn"], name="/gru/GRU")
    b.node("Transpose", b.node("Squeeze", "y", b.ints(1)), to="answer", perm=[1, 0, 2])
    b.gives("answer", ["batch", "time", hidden])
    b.gives("hn", [1, "batch", hidden])
    return b.model()
