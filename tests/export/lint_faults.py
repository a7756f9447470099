"""What the linter must find: a model with something wrong, the rule, and what it says of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data
from tests.export.lint_models import (
    F,
    H,
    attribute,
    dropout,
    layer_then,
    loop,
    model,
    node_before,
    pointwise,
    quantised_around,
    scan,
    sizes,
    stored,
    streamed,
    unrolled,
    value,
    weight,
    without,
)

from rnnx._lint.rules import Severity

GOLDEN = Path(__file__).parents[1] / "golden"


@dataclass(frozen=True)
class Fault:
    """`only_running`: looking at the graph cannot tell."""

    rule: str
    severity: Severity
    where: str
    found: str
    only_running: bool
    make: Callable[[], ModelProto | bytes]


FAULTS: list[Fault] = []


def fault(rule: str, severity: Severity, where: str, found: str, *, only_running: bool = False):
    def register(make: Callable[[], ModelProto | bytes]) -> Callable[[], ModelProto | bytes]:
        FAULTS.append(Fault(rule, severity, where, found, only_running, make))
        return make

    return register


# States


@fault("baked-state", "warning", "LSTM 'layer'", "its states h and c begin with zeros$")
def no_state() -> ModelProto:
    return without(streamed(), "h0", "c0", "hn", "cn")


@fault("baked-state", "warning", "GRU 'layer'", "its state h begins with zeros; the last goes out as 'hn', but none comes in")
def no_state_comes_in() -> ModelProto:
    return without(streamed("GRU"), "h0")


@fault("baked-state", "warning", "GRU 'layer'", "begins with the constant 'h0'; the last is computed, and nothing reads it")
def state_is_stored() -> ModelProto:
    made = stored(streamed("GRU", batch=2), weight("h0", 1, 2, H))
    del made.graph.output[1]
    return made


@fault("baked-state", "warning", "MatMul 'u0'", "multiplies constants only, 'start' and weights")
def cell_with_stored_state() -> ModelProto:
    return unrolled(4, 4)


@fault("one-step-forgets", "error", "RNN 'layer'", "takes one step, and its state h begins with zeros")
def one_step_without_state() -> ModelProto:
    return without(streamed("RNN", time=1), "h0")


def signature(buffer: str) -> ModelProto:
    made = streamed("GRU")
    text = f"\n# inputs\nx: USER_INPUT\n\n# outputs\nadd: BUFFER_MUTATION target='{buffer}'\ny: USER_OUTPUT\n"
    made.graph.metadata_props.add(key="pkg.torch.export.ExportedProgram.graph_signature", value=text)
    return made


@fault("dropped-buffer", "error", "buffer 'h'", "changed in forward, and not an output of the graph")
def buffer_that_changes() -> ModelProto:
    return signature("h")


@fault("frozen-start", "error", "GRU 'layer'", "initial_h, 'h0', is for batch 1, the input for any")
def state_for_one_row() -> ModelProto:
    return stored(streamed("GRU"), weight("h0", 1, 1, H))


@fault("lost-state", "warning", "LSTM 'layer'", "its state c comes in as 'c0', and does not go out")
def cell_state_does_not_go_out() -> ModelProto:
    return without(streamed(), "cn")


@fault(
    "state-does-not-fit",
    "error",
    "state 'h0' → 'hn'",
    r"float32 \[1, 3, 4\] and goes out as float32 \[3, 1, 4\]",
    only_running=True,
)
def state_goes_out_batch_first() -> ModelProto:
    made = without(streamed("GRU"), "hn")
    made.graph.node[0].output[1] = "last"
    made.graph.node.append(helper.make_node("Transpose", ["last"], ["hn"], perm=[1, 0, 2]))
    made.graph.output.append(value("hn", ["batch", 1, H]))
    return made


@fault(
    "state-does-not-fit",
    "error",
    "state 'h0' → 'hn'",
    "comes in and goes out in different types|comes in as float32 .* and goes out as float16",
)
def state_goes_out_in_another_type() -> ModelProto:
    made = without(streamed("GRU"), "hn")
    made.graph.node[0].output[1] = "last"
    made.graph.node.append(helper.make_node("Cast", ["last"], ["hn"], to=TensorProto.FLOAT16))
    made.graph.output.append(value("hn", [1, "batch", H], TensorProto.FLOAT16))
    return made


@fault("idle-input", "warning", "input 'mask'", "nothing reads it")
def input_that_nothing_reads() -> ModelProto:
    made = streamed("GRU")
    made.graph.input.append(value("mask", ["batch"]))
    return made


@fault("idle-input", "error", "input 'hidden'", "only its size is read")
def state_of_which_only_the_size_is_read() -> ModelProto:
    """As torch exports a forward that makes its own zeros of the size of what it is given."""
    made = without(streamed("GRU"), "hn")
    made.graph.node[0].input[5] = "zeros"
    made.graph.input[1].name = "hidden"
    made.graph.node[0].output[1] = "hidden_out"
    made.graph.output.append(value("hidden_out", [1, "batch", H]))
    made = node_before(made, helper.make_node("ConstantOfShape", ["size"], ["zeros"]))
    return node_before(made, helper.make_node("Shape", ["hidden"], ["size"]))


@fault("unchanged-state", "error", "output 'h0_out'", "is the input 'h0', unchanged")
def state_handed_through() -> ModelProto:
    return layer_then(helper.make_node("Identity", ["h0"], ["h0_out"]), value("h0_out", [1, "batch", H]), instead_of="hn")


@fault("unchanged-state", "warning", "output 'echo'", "is the input 'x', unchanged")
def input_handed_through() -> ModelProto:
    return layer_then(helper.make_node("Identity", ["x"], ["echo"]), value("echo", ["seq", "batch", F]))


@fault("constant-output", "note", "output 'std'", "depends on nothing that the model is given")
def answer_that_is_constant() -> ModelProto:
    return layer_then(helper.make_node("Neg", ["B"], ["std"]), value("std", [1, 6 * H]))


@fault("constant-output", "error", "output 'cache_out'", "depends on nothing that the model is given")
def state_that_is_constant() -> ModelProto:
    made = layer_then(helper.make_node("Neg", ["B"], ["cache_out"]), value("cache_out", [1, 6 * H]))
    made.graph.input.append(value("cache_in", [1, 6 * H]))
    return made


@fault("bidirectional", "error", "GRU 'layer'", r"is bidirectional, and its state is carried: \['h0'\] → \['hn'\]")
def both_directions_as_a_stream() -> ModelProto:
    return streamed("GRU", directions=2, direction="bidirectional")


@fault("bidirectional", "note", "GRU 'layer'", "is reverse")
def backward() -> ModelProto:
    return without(streamed("GRU", direction="reverse"), "h0")


@fault("steps-differ", "error", "output 'y'", "two chunks differ from the whole by", only_running=True)
def looks_ahead() -> ModelProto:
    made = streamed("GRU")
    made.graph.node[0].input[0] = "centred"
    made.graph.initializer.append(sizes("axes", 0))
    made = node_before(made, helper.make_node("Sub", ["x", "mean"], ["centred"]))
    return node_before(made, helper.make_node("ReduceMean", ["x", "axes"], ["mean"]))


@fault("rows-depend", "error", "output 'y'", "the first row moved by", only_running=True)
def softmax_over_the_batch() -> ModelProto:
    return layer_then(helper.make_node("Softmax", ["all"], ["y"], axis=2), value("y", ["seq", 1, "batch", H]))


@fault("coupled-rows", "warning", "DynamicQuantizeLinear 'to_int8'", "one scale for all rows")
def quantised_in_passing() -> ModelProto:
    return quantised_around()


@fault("not-repeatable", "error", "output 'y'", "moved by .* from one call to the next", only_running=True)
def dropout_that_drops() -> ModelProto:
    return dropout(training=True)


# Axes


@fault("frozen-batch", "warning", "LSTM 'layer'", "takes a batch of 2")
def two_rows() -> ModelProto:
    return streamed(batch=2)


@fault("frozen-batch", "note", "LSTM 'layer'", "takes a batch of 1")
def one_row() -> ModelProto:
    return streamed(batch=1)


@fault("frozen-batch", "note", "the inputs", "no axis of them is free")
def nothing_free() -> ModelProto:
    return model([helper.make_node("Relu", ["x"], ["y"])], [value("x", [2, F])], [value("y", [2, F])])


@fault("frozen-time", "warning", "LSTM 'layer'", "takes sequences of 6 steps")
def six_steps() -> ModelProto:
    return streamed(time=6)


@fault("frozen-time", "note", "LSTM 'layer'", "takes one step")
def one_step() -> ModelProto:
    return streamed(time=1)


@fault("frozen-axis", "error", "axis 'seq'", r"works at 5 only; at \d: .*cannot be reshaped", only_running=True)
def example_in_a_reshape() -> ModelProto:
    made = layer_then(helper.make_node("Reshape", ["all", "to"], ["y"], "flat"), value("y", ["seq", "batch", H]))
    made.graph.initializer.append(sizes("to", 5, 2, H))
    return made


@fault("idle-steps", "error", "the inputs", "of 8 steps, other values of the later half", only_running=True)
def steps_that_are_not_read() -> ModelProto:
    return unrolled(4, "seq")


@fault("refused-size", "warning", "axis 'seq'", "fails at 1, 2, 3: indices element out of data bounds", only_running=True)
def short_sequences_fail() -> ModelProto:
    return unrolled(4, "seq")


@fault(
    "shape-lies",
    "warning",
    "output 'y'",
    r"is declared \[6, 1, batch, 4\] and was \[4, 1, 3, 4\] at seq=4, batch=3",
    only_running=True,
)
def example_in_a_declaration() -> ModelProto:
    made = streamed("GRU")
    made.graph.output[0].CopyFrom(value("y", [6, 1, "batch", H]))
    return made


@fault(
    "shape-lies",
    "error",
    "output 'y'",
    r"is declared \[seq, batch, 4\] and was \[5, 2, 4\] at seq=10, batch=1",
    only_running=True,
)
def steps_that_become_rows() -> ModelProto:
    made = layer_then(helper.make_node("Reshape", ["all", "to"], ["y"]), value("y", ["seq", "batch", H]))
    made.graph.initializer.append(sizes("to", 5, -1, H))
    return made


@fault("unrolled-time", "warning", "MatMul 'u0' to MatMul 'times_3'", "the same weights 5 times in a row")
def cell_in_a_python_loop() -> ModelProto:
    return unrolled(4, 4)


@fault("graph-loop", "warning", "Loop 'loop'", "a Loop")
def loop_in_the_graph() -> ModelProto:
    return loop()


@fault("graph-loop", "note", "Scan 'scan'", "a Scan")
def scan_of_others() -> ModelProto:
    return scan()


# Recurrent nodes


@fault("linear-before-reset", "error", "GRU 'layer'", "linear_before_reset is 0")
def torch_with_the_reset_before() -> ModelProto:
    made = attribute(streamed("GRU"), linear_before_reset=0)
    made.producer_name = "pytorch"
    return made


@fault("linear-before-reset", "warning", "GRU 'layer'", "linear_before_reset is missing, which means 0")
def gru_that_does_not_say() -> ModelProto:
    return attribute(streamed("GRU"), linear_before_reset=None)


@fault("batchwise-layout", "error", "GRU 'layer'", "layout is 1")
def batch_first() -> ModelProto:
    return attribute(streamed("GRU"), layout=1)


@fault("recurrent-dtype", "error", "LSTM 'layer'", "computes in float64")
def in_float64() -> ModelProto:
    return streamed(dtype=np.float64)


@fault("recurrent-dtype", "note", "LSTM 'layer'", "computes in float16")
def in_float16() -> ModelProto:
    return streamed(dtype=np.float16)


@fault("weight-shapes", "error", "LSTM 'layer'", r"R, 'R', is \[1, 16, 2\], where \[1, 16, 4\] is needed")
def projection_left_out() -> ModelProto:
    return stored(streamed(), weight("R", 1, 4 * H, 2))


@fault("weight-shapes", "error", "LSTM 'layer'", r"initial_c, 'c0', is \[1, batch, 5\], where \[1, \?, 4\] is needed")
def state_of_another_size() -> ModelProto:
    made = streamed()
    made.graph.input[2].CopyFrom(value("c0", [1, "batch", H + 1]))
    return made


@fault("computed-weights", "warning", "LSTM 'layer'", "R, 'together', is computed by Concat 'put_together'")
def weights_put_together() -> ModelProto:
    parts = [f"r{gate}" for gate in "iofc"]
    made = stored(streamed(), *(weight(part, 1, H, H) for part in parts))
    made.graph.node[0].input[2] = "together"
    return node_before(made, helper.make_node("Concat", parts, ["together"], "put_together", axis=1))


@fault("computed-weights", "warning", "LSTM 'layer'", "W, 'W', is an input of the graph")
def weights_given() -> ModelProto:
    made = streamed()
    del made.graph.initializer[0]
    made.graph.input.append(value("W", [1, 4 * H, F]))
    return made


@fault("unusual-cell", "warning", "LSTM 'layer'", "its activations are Sigmoid, Relu, Tanh")
def other_activations() -> ModelProto:
    return streamed(activations=["Sigmoid", "Relu", "Tanh"])


@fault("unusual-cell", "warning", "RNN 'layer'", "clip is 0.5")
def clipped() -> ModelProto:
    return streamed("RNN", clip=0.5)


@fault("unusual-cell", "warning", "LSTM 'layer'", "has peepholes, 'P'")
def peepholes() -> ModelProto:
    made = stored(streamed(), weight("P", 1, 3 * H))
    made.graph.node[0].input.append("P")
    return made


def lengths(*steps: int, time: int | str = "seq") -> ModelProto:
    made = stored(streamed("GRU", time=time), numpy_helper.from_array(np.array(steps, np.int32), "lens"))
    made.graph.node[0].input[4] = "lens"
    return made


@fault("baked-lengths", "error", "GRU 'layer'", r"sequence_lens, 'lens', is constant, \[4, 2, 4\]")
def lengths_of_the_example() -> ModelProto:
    return lengths(4, 2, 4)


@fault("baked-lengths", "note", "GRU 'layer'", r"sequence_lens, 'lens', is constant, \[6, 6\]")
def lengths_of_whole_sequences() -> ModelProto:
    return lengths(6, 6, time=6)


# Quantisation


@fault("quantised-nothing", "warning", "the file", "its producer is 'onnx.quantize', and nothing in it is quantised")
def quantiser_that_did_nothing() -> ModelProto:
    made = streamed("GRU")
    made.producer_name = "onnx.quantize"
    return made


@fault("quantised-nothing", "warning", "the file", "its metadata has 'onnx.infer', which quantisers write, and nothing")
def metadata_of_a_quantiser() -> ModelProto:
    made = streamed("GRU")
    made.metadata_props.add(key="onnx.infer", value="onnxruntime.quant")
    return made


@fault("quantised-in-part", "warning", "GRU 'layer'", "its weights are floating point, in a file that is quantised")
def quantised_but_the_layer() -> ModelProto:
    return quantised_around()


# The file


@fault("broken-artifact", "error", "the file", "the seal at the end of the file is missing")
def artifact_without_its_seal() -> bytes:
    return (GOLDEN / "gru.onnx").read_bytes()[:-81]


@fault("does-not-load", "error", "the file", "NoSuchOperator", only_running=True)
def unknown_operator() -> ModelProto:
    return pointwise(helper.make_node("NoSuchOperator", ["x"], ["y"]))


@fault("does-not-load", "error", "the file", r"ONNX Runtime ended the process \(SIG", only_running=True)
def quotient_that_has_no_place() -> ModelProto:
    nodes = [
        helper.make_node("Div", ["least", "minus_one"], ["q"]),
        helper.make_node("Cast", ["q"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    return pointwise(*nodes, weights=[sizes("least", -(2**63)), sizes("minus_one", -1)])


@fault(
    "does-not-run", "error", "the file", "^1 run failed, the first with: indices element out of data bounds", only_running=True
)
def always_out_of_bounds() -> ModelProto:
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Add", ["whole", "far"], ["at"]),
        helper.make_node("Gather", ["x", "at"], ["y"]),
    ]
    return model(nodes, [value("x", [2, F])], [value("y", None)], [sizes("far", 10**6)])


@fault(
    "does-not-run", "note", "the file", "runs failed, the first with: LSTM operator does not support double", only_running=True
)
def kernel_that_is_not_there() -> ModelProto:
    return streamed(dtype=np.float64)


@fault("not-run", "note", "the file", "the input 'x' is of a kind that is not made here: string", only_running=True)
def texts() -> ModelProto:
    node = helper.make_node("StringNormalizer", ["x"], ["y"])
    return model([node], [value("x", [1], TensorProto.STRING)], [value("y", [1], TensorProto.STRING)])


@fault("unread-opset", "warning", "the file", "opset 12; the runtime reads 13 to 24")
def old_opset() -> ModelProto:
    return pointwise(helper.make_node("Relu", ["x"], ["y"]), opset=12)


@fault("unread-opset", "error", "the file", "opset 40; ONNX Runtime reads 7 to 28")
def opset_of_the_future() -> ModelProto:
    return pointwise(helper.make_node("Relu", ["x"], ["y"]), opset=40)


@fault("unread-opset", "error", "the file", "IR version 99; up to ")
def format_of_the_future() -> ModelProto:
    made = streamed()
    made.ir_version = 99
    return made


@fault("outside-operator", "warning", "com.microsoft::Gelu", "once in the graph")
def operator_of_onnx_runtime() -> ModelProto:
    return pointwise(helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft"), domains=["com.microsoft"])


@fault("outside-operator", "error", "my.own::Gelu", "once in the graph")
def operator_of_nobody() -> ModelProto:
    return pointwise(helper.make_node("Gelu", ["x"], ["y"], domain="my.own"), domains=["my.own"])


@fault("external-data", "warning", "the file", "1 weight lies in 'net.data'")
def weights_elsewhere() -> ModelProto:
    made = streamed()
    set_external_data(made.graph.initializer[0], "net.data")
    return made


@fault("local-path", "warning", "metadata 'pkg.torch.onnx.stack_trace' of nodes", "such as '/home/jane/secret/net.py'")
def stack_trace() -> ModelProto:
    made = streamed()
    made.graph.node[0].metadata_props.add(
        key="pkg.torch.onnx.stack_trace", value='File "/home/jane/secret/net.py", line 3, in forward'
    )
    return made


@fault("local-path", "warning", "metadata 'source' of model", r"such as 'C:\\\\Users\\\\jane\\\\net.pt'")
def checkpoint_of_another_system() -> ModelProto:
    made = streamed()
    made.metadata_props.add(key="source", value=r"C:\Users\jane\net.pt")
    return made


@fault("local-path", "warning", "doc_string of nodes", "such as '/tmp/build/net.py")
def line_of_the_source() -> ModelProto:
    made = streamed()
    made.graph.node[0].doc_string = "/tmp/build/net.py(12): forward"
    return made


@fault("local-path", "warning", "metadata 'source' of graph", "such as '/checkout/net.py'")
def line_of_a_container() -> ModelProto:
    made = streamed()
    made.graph.metadata_props.add(key="source", value='File "/checkout/net.py", line 3')
    return made


@fault("training-mode", "error", "Dropout 'dropout'", "training_mode is true")
def dropout_in_training() -> ModelProto:
    return dropout(training=True)


@fault("training-mode", "error", "BatchNormalization 'norm'", "in training mode")
def statistics_of_the_batch() -> ModelProto:
    names = ["scale", "bias", "mean", "var"]
    node = helper.make_node("BatchNormalization", ["x", *names], ["y", "m", "v"], "norm", training_mode=1)
    return pointwise(node, weights=[numpy_helper.from_array(np.ones(F, np.float32), name) for name in names])


@fault("training-mode", "error", "buffer 'bn.running_mean'", "changed in forward")
def statistics_that_were_counted() -> ModelProto:
    return signature("bn.running_mean")


@fault("random-operator", "warning", "RandomNormalLike 'noise'", "draws random numbers")
def noise() -> ModelProto:
    return pointwise(
        helper.make_node("RandomNormalLike", ["x"], ["noise"], "noise"), helper.make_node("Add", ["x", "noise"], ["y"])
    )


def biases(*values: float) -> ModelProto:
    spoilt = np.resize(np.array(values, np.float32), (1, 6 * H))
    return stored(streamed("GRU"), numpy_helper.from_array(spoilt, "B"))


@fault("non-finite-weight", "error", "weight 'B'", "is not finite")
def weight_with_nan() -> ModelProto:
    return biases(1.0, np.nan)


@fault("non-finite-weight", "error", "weight 'B'", "is not finite")
def weight_with_infinity() -> ModelProto:
    return biases(1.0, -2.0, np.inf)


@fault("non-finite-weight", "error", "weight 'W'", "cannot be read")
def weight_that_was_cut() -> ModelProto:
    made = streamed()
    made.graph.initializer[0].raw_data = b"1234"
    return made


@fault("unread-weight", "warning", "weight 'weight_hr_l0'", r"\[2, 4\], read by nothing")
def weight_that_nothing_reads() -> ModelProto:
    return stored(streamed(), weight("weight_hr_l0", 2, H))


@fault("weight-is-input", "warning", "weight 'W'", "is an input too$")
def weight_that_can_be_replaced() -> ModelProto:
    made = streamed()
    made.graph.input.append(value("W", [1, 4 * H, F]))
    return made
