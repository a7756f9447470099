"""Planted exporter faults: each is what an exporter has shipped, or may, as a small patch; and the check that is there to catch it."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from tests.export.modules import CharRnn, Explicit, Hidden, example
from torch import nn

from rnnx import _export, _operators
from rnnx._operators import OperatorModule
from rnnx_runtime.artifact import Zeros

original_packed = _operators._packed
original_compute = OperatorModule.compute
original_lower = _export.lower
original_manifest = _export.make_manifest


class Learned(nn.Module):
    """A GRU that starts every sequence with a learned state."""

    def __init__(self):
        super().__init__()
        self.start = nn.Parameter(torch.randn(1, 1, 5))
        self.layer = nn.GRU(3, 5)

    def forward(self, x):
        return self.layer(x, self.start.expand(-1, x.shape[1], -1).contiguous())[0]


class Last(nn.Module):
    """Answers once, after the last step."""

    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(3, 5, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.layer(x)[0][:, -1])


class Integrator(nn.Module):
    """An LSTM whose forget gate never forgets, and whose cell takes up what it sees: its cell state wanders far off."""

    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(3, 5, batch_first=True)
        with torch.no_grad():
            self.layer.bias_hh_l0[5:10] = 30
            self.layer.weight_hh_l0.zero_()

    def forward(self, x):
        return self.layer(x)[0]


class Looped(nn.Module):
    """A cell stepped by a loop in Python."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 5)

    def forward(self, x):
        h = torch.zeros(x.shape[0], 5)
        answers = []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            answers.append(h)
        return torch.stack(answers, 1)


class Padded(nn.Module):
    """Packs a padded batch by its lengths."""

    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(3, 5, batch_first=True)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        y, _ = self.layer(packed)
        return nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])[0]


class TwoHeads(nn.Module):
    """Two answers of one shape."""

    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(3, 5, batch_first=True)
        self.mean, self.spread = nn.Linear(5, 2), nn.Linear(5, 2)

    def forward(self, x):
        y = self.layer(x)[0]
        return self.mean(y), self.spread(y)


class TwoScales(nn.Module):
    """A value in the millions beside a probability."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.RNN(3, 8, nonlinearity="relu", batch_first=True), nn.Linear(8, 2)
        with torch.no_grad():
            self.head.weight[0] *= 1e6
            self.head.bias.copy_(torch.tensor([1e6, 0.5]))

    def forward(self, x):
        y = self.head(self.layer(x)[0])
        return torch.cat([y[..., :1], torch.sigmoid(y[..., 1:])], -1)


class Tiny(nn.Module):
    """Answers that are hardly anything."""

    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(3, 5, batch_first=True, bias=False)

    def forward(self, x):
        return self.layer(x)[0]


class MaskedLogits(Integrator):
    """The same, with a symbol that is ruled out."""

    def forward(self, x):
        return super().forward(x).masked_fill(torch.tensor([False, True, False, False, False]), -torch.inf)


class Both(nn.Module):
    """Looks both ways in time."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.LSTM(3, 5, 2, batch_first=True, bidirectional=True), nn.Linear(10, 2)

    def forward(self, x):
        return self.head(self.layer(x)[0])


MODULES: dict[str, Callable[[], tuple[nn.Module, object]]] = {
    "lstm": lambda: _with_example(Explicit("lstm", num_layers=2)),
    "lstm batch first": lambda: _with_example(Explicit("lstm", batch_first=True)),
    "gru": lambda: _with_example(Hidden("gru")),
    "rnn": lambda: _with_example(Hidden("rnn_relu")),
    "tanh": lambda: _with_example(Hidden("rnn_tanh")),
    "characters": lambda: (CharRnn(), torch.tensor([[0, 1, 2, 2, 3], [3, 2, 1, 0, 1]])),
    "learned start": lambda: (Learned(), torch.randn(4, 2, 3)),
    "last": lambda: (Last(), torch.randn(2, 4, 3)),
    "integrator": lambda: (Integrator(), torch.randn(2, 4, 3)),
    "loop": lambda: (Looped(), torch.randn(2, 4, 3)),
    "padded": lambda: (Padded(), (torch.randn(3, 5, 3), torch.tensor([5, 4, 2]))),
    "two heads": lambda: (TwoHeads(), torch.randn(2, 4, 3)),
    "two scales": lambda: (TwoScales(), torch.randn(2, 4, 3)),
    "tiny": lambda: (Tiny(), torch.randn(2, 4, 3) * 1e-7),
    "masked": lambda: (MaskedLogits(), torch.randn(2, 4, 3)),
    "both ways": lambda: (Both(), torch.randn(2, 4, 3)),
}


def _with_example(module):
    return module, example(module)


@dataclass(frozen=True)
class Mutant:
    """A fault.

    Attributes:
        module: of `MODULES`, in which it shows.
        plant: the patch, given pytest's monkeypatch.
        caught_by: the check that is meant to catch it.
        passes: checks that cannot see it.
    """

    name: str
    module: str
    plant: Callable[[object], None]
    caught_by: str
    passes: tuple[str, ...] = ()


def packed(change):
    """A fault in how weights are packed: `change(weights, layer, number)` changes them in place."""

    def plant(monkeypatch):
        def packs(layer, number):
            weights = {name: weight.clone() for name, weight in original_packed(layer, number).items()}
            change(weights, layer, number)
            return weights

        monkeypatch.setattr(_operators, "_packed", packs)

    return plant


def computed(change):
    """A fault in how a lifted layer is called: `change(run, layer, x, states)` gives the answer and the next states."""

    def plant(monkeypatch):
        def compute(self, layer, x, states):
            return change(lambda x, states: original_compute(self, layer, x, states), layer, x, states)

        monkeypatch.setattr(OperatorModule, "compute", compute)

    return plant


def lowered(change):
    """A fault in the graph: `change(graph)` changes it in place."""

    def plant(monkeypatch):
        def lower(lift, opset):
            model = original_lower(lift, opset)
            change(model.graph)
            return model

        monkeypatch.setattr("rnnx._export.lower", lower)

    return plant


def stated(change):
    """A fault in the manifest: `change(manifest)` gives another one."""

    def plant(monkeypatch):
        monkeypatch.setattr("rnnx._export.make_manifest", lambda *given: change(original_manifest(*given)))

    return plant


def gates(operator, order):
    def plant(monkeypatch):
        monkeypatch.setitem(_operators._GATES, operator, order)

    return plant


def input_weights_zero(weights, layer, number):
    weights["onnx_w"].zero_()


def biases_doubled(weights, layer, number):
    half = weights["onnx_b"].shape[1] // 2
    weights["onnx_b"][:, half:] += weights["onnx_b"][:, :half]


def recurrent_bias_dropped(weights, layer, number):
    weights["onnx_b"][:, weights["onnx_b"].shape[1] // 2 :] = 0


def input_bias_dropped(weights, layer, number):
    weights["onnx_b"][:, : weights["onnx_b"].shape[1] // 2] = 0


def biases_crossed(weights, layer, number):
    weights["onnx_b"][:] = weights["onnx_b"].roll(weights["onnx_b"].shape[1] // 2, 1)


def layers_swapped(weights, layer, number):
    weights["onnx_r"][:] = original_packed(layer, 1 - number)["onnx_r"]


def recurrent_weights_transposed(weights, layer, number):
    for gate in weights["onnx_r"][0].chunk(len(weights["onnx_r"][0]) // layer.hidden_size):
        gate.copy_(gate.T.clone())


def weights_in_half_precision(weights, layer, number):
    weights["onnx_w"][:] = weights["onnx_w"].half().float()


def weights_in_tf32(weights, layer, number):
    bits = weights["onnx_r"].view(torch.int32)
    bits &= ~((1 << 13) - 1)


def cell_forgets(weights, layer, number):
    """A forget gate of 1 - 2e-7 instead of 1."""
    weights["onnx_b"][:, 6 * layer.hidden_size : 7 * layer.hidden_size] = 15.4  # behind the input's: i, o, f


def initial_state_baked_to_zero(run, layer, x, states):
    return run(x, [torch.zeros_like(state) for state in states])


def states_crossed(run, layer, x, states):
    y, following = run(x, states)
    return y, following[::-1]


def cell_state_is_the_hidden_one(run, layer, x, states):
    y, following = run(x, states)
    return y, [following[0] if i % 2 else state for i, state in enumerate(following)]


def state_not_carried(run, layer, x, states):
    y, _ = run(x, states)
    return y, [state + 0 for state in states]


def state_clipped(run, layer, x, states):
    return run(x, [states[0], states[1].clamp(-3, 3)])


def dropout_scale_left(run, layer, x, states):
    y, following = run(x, states)
    return y / 0.9, following


def batch_statistics(run, layer, x, states):
    y, following = run(x, states)
    return y - y.mean(0 if layer.batch_first else 1, keepdim=True), following


def last_step_twice(run, layer, x, states):
    _, following = run(x, states)
    return run(x, following)


def linear_before_reset_dropped(graph):
    for node in graph.node:
        keep(node, lambda attribute: attribute.name != "linear_before_reset")


def activations_dropped(graph):
    for node in graph.node:
        keep(node, lambda attribute: attribute.name != "activations")


def goes_backwards(graph):
    node = next(node for node in graph.node if node.op_type in ("RNN", "LSTM", "GRU"))
    keep(node, lambda attribute: attribute.name != "direction")
    node.attribute.append(helper.make_attribute("direction", "reverse"))


def small_bias_dropped(graph):
    """Of the bias of two features, that of the small one."""
    bias = next(tensor for tensor in graph.initializer if tensor.name.endswith("head.bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * np.array([1, 0], np.float32), bias.name))


def cut_off(graph):
    """Answers 512 steps at most."""
    name = graph.output[0].name
    for node in graph.node:
        node.output[:] = ["whole" if output == name else output for output in node.output]
    for constant, value in (("from", 0), ("to", 512), ("along", 1)):
        graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), constant))
    graph.node.append(helper.make_node("Slice", ["whole", "from", "to", "along"], [name]))


def batch_taken_for_time(graph):
    for node in graph.node:
        if node.op_type == "Transpose":
            node.op_type = "Identity"
            del node.attribute[:]


def lengths_dropped(graph):
    node = next(node for node in graph.node if node.op_type == "GRU")
    node.input[4] = ""


def first_step_answers(graph):
    """The step that is gathered is the first, not the last."""
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.int64 and array.size == 1 and array.reshape(-1)[0] in (-1, 2**63 - 1):
            replaced = np.zeros_like(array) if array.reshape(-1)[0] == -1 else np.ones_like(array)
            tensor.CopyFrom(numpy_helper.from_array(replaced, tensor.name))


def embedding_off_by_one(graph):
    table = next(tensor for tensor in graph.initializer if tensor.name.endswith("emb.weight"))
    table.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(table), 1, axis=0), table.name))


def heads_swapped(graph):
    names = {"output.0": "swapped", "output.1": "output.0"}
    for node in graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
    for node in graph.node:
        node.output[:] = ["output.1" if name == "swapped" else name for name in node.output]


def steps_frozen(graph):
    """The answer is reshaped to as many steps as the export saw."""
    frozen(graph, -1)


def batch_frozen(graph):
    frozen(graph, -2)


def frozen(graph, place):
    """Cuts the answer with an Expand to the sizes of the export's trace: 2 rows, 3 steps, one of them."""
    sizes = [2, 1, 1] if place == -2 else [1, 3, 1]
    name = graph.output[0].name
    for node in graph.node:
        node.output[:] = ["whole" if output == name else output for output in node.output]
    graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), "sizes"))
    graph.node.append(helper.make_node("Expand", ["whole", "sizes"], [name]))


def scan_begins_anew(graph):
    """Each iteration is given the state that the first one had."""
    scan = next(node for node in graph.node if node.op_type == "Scan")
    body = next(attribute.g for attribute in scan.attribute if attribute.name == "body")
    inner, outer = body.input[0].name, scan.input[0]
    for node in body.node:
        node.input[:] = [outer if name == inner else name for name in node.input]


def scan_runs_backwards(graph):
    scan = next(node for node in graph.node if node.op_type == "Scan")
    scan.attribute.append(helper.make_attribute("scan_input_directions", [1]))


def starts_with_zeros(manifest):
    states = tuple(msgspec.structs.replace(state, init=Zeros()) for state in manifest.states)
    return msgspec.structs.replace(manifest, states=states)


def keep(node: onnx.NodeProto, wanted) -> None:
    kept = [attribute for attribute in node.attribute if wanted(attribute)]
    del node.attribute[:]
    node.attribute.extend(kept)


MUTANTS = (
    Mutant("LSTM gates in torch's order", "lstm", gates("LSTM", (0, 1, 2, 3)), "one step"),
    Mutant("LSTM gate order applied twice", "lstm", gates("LSTM", (0, 2, 3, 1)), "one step"),
    Mutant("GRU gates in torch's order", "gru", gates("GRU", (0, 1, 2)), "one step"),
    Mutant("GRU resets before the product", "gru", lowered(linear_before_reset_dropped), "one step"),
    Mutant("recurrent bias dropped", "lstm", packed(recurrent_bias_dropped), "one step"),
    Mutant("input bias dropped", "gru", packed(input_bias_dropped), "one step"),
    Mutant("input bias added twice", "tanh", packed(biases_doubled), "one step"),
    Mutant("biases crossed", "gru", packed(biases_crossed), "one step"),
    Mutant("layers swapped", "lstm", packed(layers_swapped), "one step"),
    Mutant("recurrent weights transposed", "tanh", packed(recurrent_weights_transposed), "one step"),
    Mutant("activation forgotten", "rnn", lowered(activations_dropped), "one step"),
    Mutant("embedding off by one row", "characters", lowered(embedding_off_by_one), "untouched"),
    Mutant("weights in float16", "tanh", packed(weights_in_half_precision), "one step"),
    Mutant("weights in TF32", "lstm", packed(weights_in_tf32), "one step"),
    Mutant("initial state baked to zero", "lstm", computed(initial_state_baked_to_zero), "whole", ("untouched",)),
    Mutant("learned start replaced by zeros", "learned start", stated(starts_with_zeros), "untouched", ("one step", "chunks")),
    Mutant("next states crossed", "lstm", computed(states_crossed), "one step", ("untouched",)),
    Mutant("cell state is the hidden state", "lstm", computed(cell_state_is_the_hidden_one), "one step", ("untouched",)),
    Mutant("next state is the given one", "gru", computed(state_not_carried), "chunks", ("untouched",)),
    Mutant("layer run twice", "gru", computed(last_step_twice), "one step"),
    Mutant("goes backwards in time", "gru", lowered(goes_backwards), "whole", ("one step",)),
    Mutant("batch taken for time", "lstm batch first", lowered(batch_taken_for_time), "whole"),
    Mutant("steps frozen", "lstm batch first", lowered(steps_frozen), "whole"),
    Mutant("batch frozen", "lstm batch first", lowered(batch_frozen), "whole"),
    Mutant("first step answers for the last", "last", lowered(first_step_answers), "whole", ("one step",)),
    Mutant("answers swapped", "two heads", lowered(heads_swapped), "one step"),
    Mutant("dropout's scale left on", "gru", computed(dropout_scale_left), "one step"),
    Mutant("statistics of the batch", "gru", computed(batch_statistics), "whole"),
    Mutant("lengths dropped", "padded", lowered(lengths_dropped), "padding"),
    Mutant("every iteration begins anew", "loop", lowered(scan_begins_anew), "whole", ("one step",)),
    Mutant("loop runs backwards", "loop", lowered(scan_runs_backwards), "whole", ("one step",)),
    Mutant("small bias beside a large one dropped", "two scales", lowered(small_bias_dropped), "untouched"),
    Mutant("hardly anything becomes nothing", "tiny", packed(input_weights_zero), "untouched"),
    Mutant("weights in float16, both ways", "both ways", packed(weights_in_half_precision), "strict"),
    Mutant("cut off after 512 steps", "lstm batch first", lowered(cut_off), "long", ("whole", "one step", "trajectory")),
    Mutant("cell behind a mask forgets", "masked", packed(cell_forgets), "trajectory", ("one step", "whole")),
    Mutant("cell state clipped", "integrator", computed(state_clipped), "visited", ("one step", "whole", "untouched")),
    Mutant(
        "cell forgets two parts in ten million a step",
        "integrator",
        packed(cell_forgets),
        "trajectory",
        ("one step", "visited", "whole", "chunks", "steps"),
    ),
)
