"""What differs between two files: contract, weights, graph, behaviour, provenance."""

import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final, Literal

import msgspec

from rnnx._diff import words
from rnnx._diff.behaviour import BehaviourDifference, compare_behaviour
from rnnx._diff.change import NONE, Change, change, paired
from rnnx._diff.contract import contract_changes
from rnnx._diff.declared import declared_changes, inputs_of, outputs_of
from rnnx._diff.files import OnnxFile, Source, read_file
from rnnx._diff.graph import GraphDifference, compare_graphs
from rnnx._diff.weights import WeightsDifference, compare_weights, pair_weights, stored_weights
from rnnx_runtime.artifact import Manifest, ParitySummary

Verdict = Literal["identical", "same", "other graph", "other weights", "compatible", "other behaviour", "breaking"]
_WIDTH: Final = 80


def diff(a: Source, b: Source, *, trust: bool = False) -> "Difference":
    """Compare two artifacts, or any two ONNX files: a is what there was, b what takes its place.

    Artifacts are compared in contract, weights, graph and behaviour, which is what both answer to both golden traces. Of other
    ONNX files nothing is run, and their contract is the inputs and outputs that they declare.

    Args:
        a, b: paths, or contents of files.
        trust: run operators outside the runtime's list too, as `rnnx_runtime.load`.

    Raises:
        ArtifactNotFoundError: there is no file at a path.
        ArtifactError: a file is not an ONNX file, or a weight cannot be read.
    """
    one, two = read_file(a), read_file(b)
    pairs = pair_weights(stored_weights(one), stored_weights(two))
    inputs = {new.name: old.name for old, new in paired(inputs_of(one), inputs_of(two)) if old and new}
    outputs = {new.name: old.name for old, new in paired(outputs_of(one), outputs_of(two)) if old and new}
    weights, graph = compare_weights(pairs), compare_graphs(one, two, pairs, inputs, outputs)
    identical = one.data == two.data and not weights.changed and graph.same  # weights may lie in other files
    behaviour = BehaviourDifference(0.0, (), {}, ()) if identical else compare_behaviour(one, two, trust=trust)
    bare = [side for side, file in (("a", one), ("b", two)) if file.manifest is None]
    unknown = [f"states, codec and the like: manifests tell them, and {side} has none" for side in bare]
    return Difference(
        a=_side(one),
        b=_side(two),
        identical=identical,
        contract=_contract(one, two),
        weights=weights,
        graph=graph,
        behaviour=behaviour,
        provenance=_provenance(one.manifest, two.manifest),
        left_out=(*unknown, *behaviour.left_out),
    )


@dataclass(frozen=True)
class Side:
    """One of the files. `name`: of the model; None where the file is no artifact. `states`: their names."""

    label: str
    name: str | None
    states: tuple[str, ...]
    sha256: str
    size: int


@dataclass(frozen=True)
class Difference:
    """What differs between a and b.

    Attributes:
        identical: byte by byte, and of weights that lie in other files, too.
        contract: every promise that differs; of plain ONNX files, what they declare.
        provenance: what made the files, and how they were proven; it never makes them differ.
        left_out: what was not compared, and why.
    """

    a: Side
    b: Side
    identical: bool
    contract: tuple[Change, ...]
    weights: WeightsDifference
    graph: GraphDifference
    behaviour: BehaviourDifference
    provenance: tuple[Change, ...]
    left_out: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """The gravest that holds."""
        if self.identical:
            return "identical"
        if any(one.breaks for one in self.contract):
            return "breaking"
        if not self.behaviour.close:
            return "other behaviour"
        if self.contract:
            return "compatible"
        if self.weights.changed:
            return "other weights"
        return "same" if self.graph.same else "other graph"

    @property
    def same(self) -> bool:
        """Whether b can stand for a, to the bit: no difference in contract, weights, graph and behaviour."""
        return self.verdict in ("identical", "same")

    @property
    def summary(self) -> str:
        """The verdict in one line."""
        if self.identical:
            return "identical: the same bytes"
        contract = "same contract"
        if self.a.name is None or self.b.name is None:
            contract = "same inputs and outputs"
        if self.verdict == "breaking":
            return f"contract changed: breaks {words.broken(self.contract)}"
        if self.contract:
            contract = f"compatible changes of the contract ({words.changed_names(self.contract)})"
        if not self.behaviour.close:
            return f"{contract}; other behaviour: {words.worst(self.behaviour)}"
        weights = "other weights" if self.weights.changed else "same weights"
        graph = "same graph" if self.graph.same else "other graph"
        behaviour = "same behaviour on the golden traces" if self.behaviour.runs else "behaviour not compared"
        return f"{contract}, {weights}, {graph}; {behaviour}"

    def __str__(self) -> str:
        """All of it, for people: the verdict, then a group of lines per part."""
        return "\n".join([_printable(self.summary), *self._lines()])

    def to_json(self) -> str:
        """All of it, for machines. Infinity is null."""
        found = {"verdict": self.verdict, "same": self.same, "summary": self.summary, **asdict(self)}
        return msgspec.json.format(msgspec.json.encode(found)).decode()

    def _kept_states(self) -> list[str]:
        """What becomes of states that somebody kept, where b has the same."""
        broken = any("stored states" in one.breaks for one in self.contract)
        if broken or not self.a.states or not self.b.states:
            return []
        return ["b takes their values over with make_state; snapshots stay a's own"]

    def _lines(self) -> Iterator[str]:
        groups = {"a": [_of_side(self.a)], "b": [_of_side(self.b)]}
        if not self.identical:
            groups |= {
                "contract": words.contract_words(self.contract),
                "states": self._kept_states(),
                "weights": words.weights_words(self.weights),
                "graph": words.graph_words(self.graph),
                "behaviour": words.behaviour_words(self.behaviour),
                "left out": list(self.left_out),
                "made by": [f"{one.what}: {one.before} → {one.after}" for one in self.provenance],
            }
        for label, texts in groups.items():
            for place, text in enumerate(texts):
                inner = len(text) - len(text.lstrip())
                yield from textwrap.wrap(
                    _printable(text.lstrip()),
                    _WIDTH,
                    initial_indent=f"  {label if place == 0 else '':<11}{' ' * inner}",
                    subsequent_indent=" " * (15 + inner),
                    break_long_words=False,
                    break_on_hyphens=False,
                )


def _side(file: OnnxFile) -> Side:
    name = None if file.manifest is None else file.manifest.name
    states = () if file.manifest is None else tuple(state.name for state in file.manifest.states)
    return Side(file.label, name, states, file.sha256, len(file.data))


def _of_side(side: Side) -> str:
    kind = "no artifact" if side.name is None else side.name
    return f"{side.label}: {kind}, {side.size:,} bytes, sha256 {side.sha256[:12]}"


def _contract(a: OnnxFile, b: OnnxFile) -> tuple[Change, ...]:
    if a.manifest is not None and b.manifest is not None:
        return contract_changes(a.manifest, b.manifest)
    declared = declared_changes(a, b)
    if a.manifest is None and b.manifest is None:
        return declared
    if b.manifest is None:
        return (
            Change("artifact", "yes", "no", {"callers": f"the runtime does not load b: {b.no_artifact_because}"}),
            *declared,
        )
    return (Change("artifact", "no", "yes", {}), *declared)


def _provenance(a: Manifest | None, b: Manifest | None) -> tuple[Change, ...]:
    if a is None or b is None:
        return ()
    before, after = a.provenance, b.provenance
    packages = dict.fromkeys([*before.versions, *after.versions])
    found = [
        change("module", (before.module, after.module)),
        change("weights of the module", (before.weights_sha256[:12], after.weights_sha256[:12])),
        change("adopted from", (before.source_sha256[:12] or NONE, after.source_sha256[:12] or NONE)),
        *(change(name, (before.versions.get(name, NONE), after.versions.get(name, NONE))) for name in packages),
        change("proof", (_proof(a.parity), _proof(b.parity))),
        change("why this lowering", (a.lowering_because or NONE, b.lowering_because or NONE)),
    ]
    return tuple(one for one in found if one is not None)


def _proof(parity: ParitySummary | None) -> str:
    if parity is None:
        return NONE
    return f"{parity.cases} comparisons{'' if parity.passed else ', failed'}"


def _printable(text: str) -> str:
    """Without what a terminal would obey: names of tensors in plain ONNX files may hold anything."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
