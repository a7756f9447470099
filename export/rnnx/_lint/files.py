"""Rules about the file: whether it runs, what it needs beside itself, and what it gives away."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

import onnx

from rnnx._lint.model import LintedModel
from rnnx._lint.rules import Found, Rules
from rnnx._lint.source import outside_operators
from rnnx._lint.states import is_statistic, mutated_buffers
from rnnx._lint.weights import bodies

RULES: Final = Rules("The file")

_ORT_OPSETS: Final = range(7, 29)  # that some release of ONNX Runtime that the runtime takes reads
_RUNTIME_OPSETS: Final = range(13, 25)  # that the runtime reads
_ORT_DOMAINS: Final = ("com.microsoft", "com.ms", "ai.onnx")  # their operators are in ONNX Runtime's official packages
_RANDOM: Final = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
_SHOWN: Final = 60  # characters of a path

# A path on somebody's machine: below a folder that such paths begin with, or anywhere where it names a file of source or
# weights. Not every slash is one: names of nodes begin with it too.
_PATH: Final = re.compile(
    r"""(?:(?<=^)|(?<=[\s"'(=:,\[]))
    (?: /(?:home|Users|root|tmp|var|opt|usr|mnt|data|workspace|private|work|srv)/[^\s"',)]+
      | (?:/[^\s"',()/=:\[]+)+\.(?:py|ipynb|pt|pth|ckpt|safetensors|onnx|json|yaml)\b[^\s"',)]*
      | [A-Za-z]:\\[^\s"',)]+
      | ~/[^\s"',)]+ )""",
    re.VERBOSE,
)


@RULES.add(
    "broken-artifact",
    "error",
    finds="a manifest in a file that the runtime does not take for an artifact",
    consequence="`load` refuses it: the bytes, or what they say of themselves, were changed after the export.",
    remedy="Export or adopt the model again; copy the artifact again.",
)
def broken_artifact(model: LintedModel) -> Iterator[Found]:
    if model.refused is not None:
        yield Found("the file", model.refused)


@RULES.add(
    "does-not-load",
    "error",
    finds="a model that ONNX Runtime does not load, or on which it ends the process or does not come back",
    consequence="It cannot run.",
    remedy="Look at what ONNX Runtime says; export again with `rnnx export`.",
)
def does_not_load(model: LintedModel) -> Iterator[Found]:
    if model.trials is not None:
        for because in filter(None, (model.trials.refused_because, model.trials.died_because)):
            yield Found("the file", because)


@RULES.add(
    "does-not-run",
    "error",
    "note",
    finds="a model that fails at every size that was tried; a note where other values or sizes may be wanted than could be guessed",
    consequence="Nothing is known of its behaviour: only its graph was looked at.",
    remedy="Run it once with inputs of your own; export again with `rnnx export`.",
)
def does_not_run(model: LintedModel) -> Iterator[Found]:
    if model.trials is not None and model.trials.runs and not model.trials.worked:
        free = any(isinstance(size, str) for value in model.inputs.values() for size in value.shape or ())
        guessed = any(value.dtype != onnx.TensorProto.FLOAT for value in model.inputs.values())
        tried = len(model.trials.runs)
        yield Found(
            "the file",
            f"{tried} run{'s' if tried > 1 else ''} failed, the first with: {model.trials.runs[0].failed_because}",
            "note" if free or guessed else None,
        )


@RULES.add(
    "not-run",
    "note",
    finds="a model that was not run",
    consequence="Frozen axes, declared shapes and what feeding the states back does were not tried.",
    remedy="See the reason.",
)
def not_run(model: LintedModel) -> Iterator[Found]:
    if model.not_run_because is not None:
        yield Found("the file", model.not_run_because)


@RULES.add(
    "unread-opset",
    "error",
    "warning",
    finds="an opset or IR version that ONNX Runtime does not read; a warning where only the runtime does not",
    consequence="Engines refuse it, or read it by the rules of another version.",
    remedy="Export again with opset 18, as `rnnx export` does; `rnnx adopt` rewrites opsets 11 and 12.",
)
def unread_opset(model: LintedModel) -> Iterator[Found]:
    ours = f"the runtime reads {_RUNTIME_OPSETS[0]} to {_RUNTIME_OPSETS[-1]}"
    if model.opset not in _ORT_OPSETS:
        yield Found("the file", f"opset {model.opset}; ONNX Runtime reads {_ORT_OPSETS[0]} to {_ORT_OPSETS[-1]}")
    elif model.opset not in _RUNTIME_OPSETS:
        yield Found("the file", f"opset {model.opset}; {ours}", "warning")
    if model.proto.ir_version > onnx.IR_VERSION:
        yield Found("the file", f"IR version {model.proto.ir_version}; up to {int(onnx.IR_VERSION)} is read")


@RULES.add(
    "outside-operator",
    "error",
    "warning",
    finds="operators outside the runtime's list; an error for a domain that no official ONNX Runtime has",
    consequence="The runtime refuses the file until somebody says that they trust it; other engines may not have the operator.",
    remedy="`rnnx adopt --trust` takes it in, and `--trust` loads it.",
)
def outside_operator(model: LintedModel) -> Iterator[Found]:
    trusted = model.manifest.trusted if model.manifest is not None else ()
    counts = Counter(node.operator for node in model.nodes)
    for name in outside_operators(counts):
        known = "::" not in name or name.startswith(_ORT_DOMAINS)
        if name not in trusted:
            times = "once" if counts[name] == 1 else f"{counts[name]} times"
            yield Found(name, f"{times} in the graph", "warning" if known else "error")


@RULES.add(
    "external-data",
    "error",
    "warning",
    finds="weights in another file; an error where that is not there",
    consequence="Two files that must stay together: the model alone does not load, and the runtime refuses it.",
    remedy="Export again with external_data=False; `rnnx export` and `rnnx adopt` write one file.",
)
def external_data(model: LintedModel) -> Iterator[Found]:
    places = Counter(weight.location for weight in model.weights.values() if weight.location is not None)
    for location, count in places.items():
        gone = location in model.missing
        where = f"{count} weight{'s lie' if count > 1 else ' lies'} in {location!r}"
        yield Found("the file", where + (", which is not there" if gone else ""), "error" if gone else "warning")


@RULES.add(
    "local-path",
    "warning",
    finds="paths of the machine that made the file: in metadata, documentation and stack traces",
    consequence="Names of people and projects go out with the model, and the same export gives other bytes elsewhere.",
    remedy="Take the metadata out of nodes, graph and model; `rnnx export` and `rnnx adopt` leave none.",
)
def local_path(model: LintedModel) -> Iterator[Found]:
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for place, text in _texts(model.proto):
        found = _PATH.search(text)
        if found is not None:
            counts[place] += 1
            examples.setdefault(place, found.group()[:_SHOWN])
    for place, count in counts.items():
        yield Found(place, f"{f'{count} times, ' if count > 1 else ''}such as {examples[place]!r}")


def _texts(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """All free text of a file, with where it stands."""
    yield "doc_string of the model", model.doc_string
    yield "producer", f"{model.producer_name} {model.producer_version} {model.domain}"
    yield from _entries("model", model.metadata_props)
    yield from _graph_texts(model.graph)


def _graph_texts(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    yield "doc_string of the graph", graph.doc_string
    yield from _entries("graph", graph.metadata_props)
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield "doc_string of a value", value.doc_string
        yield from _entries("values", value.metadata_props)
    for tensor in graph.initializer:
        yield "doc_string of a weight", tensor.doc_string
        yield from _entries("weights", tensor.metadata_props)
    yield from _node_texts(graph.node)


def _node_texts(nodes: Iterable[onnx.NodeProto]) -> Iterator[tuple[str, str]]:
    for node in nodes:
        yield "doc_string of nodes", node.doc_string
        yield from _entries("nodes", node.metadata_props)
        for attribute in node.attribute:
            for body in bodies(attribute):
                yield from _graph_texts(body)


def _entries(whose: str, entries: Iterable[onnx.StringStringEntryProto]) -> Iterator[tuple[str, str]]:
    return ((f"metadata {entry.key!r} of {whose}", entry.value) for entry in entries)


@RULES.add(
    "training-mode",
    "error",
    finds="Dropout or BatchNormalization in training mode, or statistics that were being counted at the export",
    consequence="Answers are random, or depend on the other rows of the batch.",
    remedy="Call `module.eval()` before the export; `rnnx export` does.",
)
def training_mode(model: LintedModel) -> Iterator[Found]:
    for node in model.nodes:
        if node.operator == "Dropout":
            weight = model.weights.get(node.input(2))
            on = weight is not None and weight.values is not None and bool(weight.values.any())
            if on or (node.input(2) and weight is None):
                yield Found(
                    node.where, "training_mode is true" if on else f"training_mode is {node.input(2)!r}, which is computed"
                )
        elif node.operator == "BatchNormalization" and (
            node.whole("training_mode") or (model.opset < 14 and any(node.outputs[1:]))
        ):
            yield Found(node.where, "in training mode")
    counted = [name for name in mutated_buffers(model) if is_statistic(name)]
    if counted:
        yield Found(f"buffer {counted[0]!r}", f"changed in forward{f', with {len(counted) - 1} more' if counted[1:] else ''}")


@RULES.add(
    "random-operator",
    "warning",
    finds="operators that draw random numbers",
    consequence="Two calls with the same inputs give different answers.",
    remedy="Export in eval mode; or make the noise an input.",
)
def random_operator(model: LintedModel) -> Iterator[Found]:
    for node in model.nodes:
        if node.operator in _RANDOM:
            yield Found(node.where, "draws random numbers")


@RULES.add(
    "non-finite-weight",
    "error",
    finds="a weight with NaN or infinity, or one whose bytes do not fit its shape",
    consequence="Answers are NaN, or a state is spoilt for good; recurrent nodes of ONNX Runtime hide it behind finite numbers.",
    remedy="Look at the checkpoint: the training diverged, or the file was cut.",
)
def non_finite_weight(model: LintedModel) -> Iterator[Found]:
    for weight in model.weights.values():
        if weight.broken_because is not None:
            yield Found(f"weight {weight.name!r}", f"cannot be read: {weight.broken_because}")
        elif not weight.finite:
            yield Found(f"weight {weight.name!r}", "is not finite")


@RULES.add(
    "unread-weight",
    "warning",
    finds="a stored weight that no node reads",
    consequence="It makes the file larger, and something of the module may have been left out: a projection, a layer.",
    remedy="See that the module's answers are the file's; `rnnx export` proves that.",
)
def unread_weight(model: LintedModel) -> Iterator[Found]:
    stored = {tensor.name for tensor in model.proto.graph.initializer}
    read = {name for node in model.nodes for name in node.inputs} | set(model.outputs) | _given_out(model.proto.graph)
    for name in sorted(stored - read):
        yield Found(f"weight {name!r}", f"{list(model.weights[name].shape)}, read by nothing")


def _given_out(graph: onnx.GraphProto) -> set[str]:
    """What bodies give out as it is."""
    found = set()
    for node in graph.node:
        for attribute in node.attribute:
            for body in bodies(attribute):
                found |= {value.name for value in body.output} | _given_out(body)
    return found


@RULES.add(
    "weight-is-input",
    "warning",
    finds="weights that are inputs of the graph as well",
    consequence="Callers may replace them, so engines cannot prepare them: it is slower, and quantisers pass them over.",
    remedy="Export again with keep_initializers_as_inputs=False; `rnnx export` stores weights only.",
)
def weight_is_input(model: LintedModel) -> Iterator[Found]:
    both = [value.name for value in model.proto.graph.input if value.name in model.weights]
    if both:
        yield Found(f"weight {both[0]!r}", f"is an input too{f', with {len(both) - 1} more' if both[1:] else ''}")
