"""`rnnx.adopt`: read, bring into order, pair, measure, prove, seal, write. Needs no torch; nothing is written before it is proven."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from onnx import ModelProto, ValueInfoProto, helper

from rnnx._adopt.adopted import Adopted
from rnnx._adopt.borders import Border, declare, inputs_of, outputs_of, parse_letters, with_axes
from rnnx._adopt.calls import Arrays, Contract, PlainSession, Shape, inner_of
from rnnx._adopt.contract import make_golden, make_manifest
from rnnx._adopt.dataflow import Dataflow
from rnnx._adopt.defaults import take_defaults
from rnnx._adopt.folding import set_inputs, tidy
from rnnx._adopt.frozen import frozen_axes, frozen_difference
from rnnx._adopt.guards import guarded
from rnnx._adopt.horizon import reach_of
from rnnx._adopt.labels import check_elements, check_inputs
from rnnx._adopt.lifting import forgetful, lift_states
from rnnx._adopt.opset import modernise
from rnnx._adopt.pairs import Pair, check_lost, given_pairs, proposed_pairs
from rnnx._adopt.proof import check_states_matter, compare_with_original
from rnnx._adopt.remarks import frozen_sizes, kept_by_none
from rnnx._adopt.samples import Sampler
from rnnx._adopt.sizes import Found, find_contract
from rnnx._adopt.source import OriginalFile, read_original
from rnnx._adopt.stepping import Precision, find_stepping
from rnnx._adopt.target import replaced_model, sealed
from rnnx._errors import AdoptError
from rnnx_runtime import ArtifactError, Model, load
from rnnx_runtime.artifact import (
    BATCH,
    TIME,
    Codec,
    Dimension,
    check_writable,
    golden_sha256,
    inspect_graph,
    write_atomic,
)

_FOLDABLE: Final = frozenset(["If"])  # once more sizes are known


def adopt(
    source: str | os.PathLike[str] | bytes,
    path: str | os.PathLike[str] = "artifacts/adopted.onnx",
    *,
    states: Mapping[str, str] | None = None,
    set: Mapping[str, Any] | None = None,
    axes: Mapping[str, str] | None = None,
    lift: bool = False,
    trust: bool = False,
    name: str | None = None,
    codec: Codec | None = None,
) -> Adopted:
    """Make an artifact of an ONNX file that somebody else made, so that it runs as a stream.

    Its states are found, each is fed back to see that it matters, and the artifact, run by the runtime, is compared with the
    file in plain ONNX Runtime before anything is written. The file itself is not changed.

    Args:
        source: a path, or the content of the file.
        path: of the artifact.
        states: which output hands each state back, `{"h0": "hn"}`; empty where there is none; None to find them.
        set: inputs that are the same for all steps, and what they are, `{"sr": 16000}`: constants of the artifact.
        axes: of inputs, a letter or a size each, B for batch, T for time: `{"x": "BT80"}`, where that cannot be found.
        lift: make inputs and outputs of the states that recurrent nodes begin anew in each call.
        trust: allow operators outside the runtime's list; whoever loads the artifact must allow them too.
        name: of the model in the manifest; the file's by default.
        codec: how text becomes tokens, so that the artifact answers text.

    Raises:
        AdoptError: the file cannot be adopted: the message says why, and what to say where something cannot be found.
        OSError: a file cannot be read or written. The artifact is written whole or not at all.
    """
    target = Path(path)
    if target.suffix != ".onnx":
        raise AdoptError(f"the artifact's name must end in .onnx, got {target.name!r}; for example artifacts/adopted.onnx")
    check_writable(target)
    original = read_original(source)
    replaced = replaced_model(target, source)
    PlainSession(original.model)  # nothing else looks at a graph as closely
    work = _Adoption(original, states, set or {}, axes or {}, trust=trust)
    work.pair()
    work.measure()
    if lift:
        work.lift()
    work.settle()
    return work.write(target, name or original.name, codec, replaced)


class _Adoption:
    """One file on its way; what a step finds, the next one needs."""

    def __init__(
        self,
        original: OriginalFile,
        states: Mapping[str, str] | None,
        constants: Mapping[str, Any],
        axes: Mapping[str, str],
        *,
        trust: bool,
    ) -> None:
        self._file = original
        self._states = states
        self._axes = axes
        self._trust = trust
        self._pairs: tuple[Pair, ...] = ()
        self._found: Found | None = None
        self._model = ModelProto()
        self._model.CopyFrom(original.model)
        check_elements(inputs_of(self._model))
        self._defaults = take_defaults(self._model, states)
        self._notes = [*original.notes, *modernise(self._model)]
        self._constants = set_inputs(self._model, inputs_of(self._model), constants)
        for key, value in self._constants.items():
            self._notes.append(f"{key} is {value.flat[0] if value.size == 1 else 'the same'} in every call")
        self._constants |= self._without_unread()
        said = {one.name: one.sizes for one in self._inputs() if one.name in self._axes and one.sizes is not None}
        declare(self._model, said)  # the graph can be folded by it
        self._tidy()
        self._flow = Dataflow(self._model.graph)

    def _without_unread(self) -> Arrays:
        """Take out inputs that nothing reads; what the file is given for them."""
        flow = Dataflow(self._model.graph)
        given = {value.name for value in self._model.graph.output}
        unread = {one.name: one for one in inputs_of(self._model) if not flow.read(one.name) and one.name not in given}
        kept = [value for value in self._model.graph.input if value.name not in unread]
        check_lost(unread, outputs_of(self._model), self._states)
        if not unread or not kept:
            return {}
        del self._model.graph.input[:]
        self._model.graph.input.extend(kept)
        self._notes.append(f"nothing reads {', '.join(unread)}, so the artifact does not take it")
        sizes = {key: [size if isinstance(size, int) else 1 for size in one.sizes or ()] for key, one in unread.items()}
        return {key: np.zeros(sizes[key], one.dtype) for key, one in unread.items()}

    def _inputs(self) -> tuple[Border, ...]:
        axes = {key: letters for key, letters in self._axes.items() if key not in self._constants}
        return with_axes(inputs_of(self._model), axes)

    def _letters(self) -> dict[str, tuple[int | str, ...]]:
        return {one.name: parse_letters(self._axes[one.name]) for one in self._inputs() if one.name in self._axes}

    def _tidy(self) -> None:
        self._model, notes = tidy(self._model)
        self._notes += notes

    def _foreign(self, but: frozenset[str] = frozenset()) -> tuple[str, ...]:
        """The operators outside the runtime's list, where they are trusted.

        Raises:
            AdoptError: they are not, or an artifact may not hold the graph for other reasons.
        """
        shown = ModelProto()
        shown.CopyFrom(self._model)
        for value in shown.graph.output:
            value.type.tensor_type.shape.SetInParent()  # a shape that the file does not declare is measured later
        try:
            foreign = inspect_graph(shown.SerializeToString()).foreign
        except ArtifactError as error:
            raise AdoptError(f"an artifact cannot hold this graph: {error}") from None
        refused = [one for one in foreign if one not in but]
        if refused and not self._trust:
            hint = "; fixed sizes, --axes, may do away with If" if "If" in refused else ""
            raise AdoptError(
                f"operators outside the runtime's list: {', '.join(refused)}; --trust allows them, here and wherever the artifact is "
                f"loaded{hint}"
            )
        return foreign

    def pair(self) -> None:
        """Find which outputs hand states back, or check what was said."""
        inputs, outputs = self._inputs(), outputs_of(self._model)
        if self._states is None:
            self._pairs = proposed_pairs(inputs, outputs, self._flow)
        else:
            self._pairs = given_pairs(self._states, inputs, outputs, self._flow)
        starts = {name: array if array.any() else None for name, array in self._defaults.items()}
        self._pairs = tuple(dataclasses.replace(pair, initial=starts.get(pair.input)) for pair in self._pairs)
        if self._pairs and len(self._pairs) == len(outputs):
            self._answer_with_a_state()
        lengths = next((one.name for one in inputs if self._flow.counts_steps(one.name)), None)
        if lengths is not None:
            raise AdoptError(
                f"{lengths} says how many steps of each row count, which a stream, taking one after the other, cannot know; export the file "
                "without it: chunks of a stream have no padding"
            )
        check_inputs(inputs, {pair.input for pair in self._pairs}, self._letters())
        self._foreign(but=_FOLDABLE)

    def _answer_with_a_state(self) -> None:
        """A cell may give nothing but its next states: the first one is then its answer too."""
        state, answer = self._model.graph.output[0], ValueInfoProto()
        answer.CopyFrom(state)
        answer.name = f"{state.name}.answer"
        self._model.graph.node.append(helper.make_node("Identity", [state.name], [answer.name], name=answer.name))
        self._model.graph.output.append(answer)
        self._file.model.graph.node.append(self._model.graph.node[-1])  # so that both can be compared
        self._file.model.graph.output.append(answer)
        self._flow = Dataflow(self._model.graph)
        self._notes.append(f"every output hands a state back, so {state.name} is the answer too, as {answer.name}")

    def measure(self) -> None:
        """Run the graph at several sizes, and see which axes follow."""
        inputs = self._inputs()
        states = {pair.input for pair in self._pairs}
        vocabularies = {
            one.name: size
            for one in inputs
            if one.dtype.startswith("int") and one.name not in states and (size := self._flow.vocabulary(one.name))
        }
        session = PlainSession(guarded(self._model))
        found = find_contract(session, inputs, outputs_of(self._model), self._pairs, self._letters(), vocabularies)
        self._pairs = tuple(_of_one_row(pair, found.contract.shapes[pair.input]) for pair in self._pairs)
        self._found = dataclasses.replace(found, contract=dataclasses.replace(found.contract, pairs=self._pairs))

    def lift(self) -> None:
        """Make inputs and outputs of states that begin anew in each call, and measure again."""
        assert self._found is not None
        self._model, pairs, notes = lift_states(self._model, self._found.contract, self._found.sampler)
        self._notes += notes
        self._pairs = (*self._pairs, *pairs)
        self._flow = Dataflow(self._model.graph)
        why = self._found.notes
        self.measure()
        self._found = dataclasses.replace(self._found, notes=why)

    def settle(self) -> None:
        """Declare at the borders what was found, fold what follows from it, and note the rest."""
        assert self._found is not None
        contract = self._found.contract
        fixed = {BATCH: contract.fixed_batch, TIME: 1 if contract.one_step else None}
        shapes = dict(contract.shapes) | {pair.output: contract.shapes[pair.input] for pair in self._pairs}
        declare(self._model, {key: tuple(_declared(size, fixed) for size in shape) for key, shape in shapes.items()})
        self._tidy()
        self._notes += self._found.notes
        if contract.one_step:
            frames = [f"{one.name} {['B', *inner_of(contract.shapes[one.name])]}" for one in contract.inputs]
            self._notes.append(f"a step is {', '.join(frames)}".replace("'B'", "B"))
        self._notes += frozen_sizes(contract, self._inputs(), self._letters())
        if not self._pairs:
            self._notes.append("it keeps no state: no output is an input of the next call")

    def _check_frozen(self, session: PlainSession, contract: Contract, sampler: Sampler, anew: list[str]) -> None:
        """Where a person said that a call takes one step, and the file takes many, compare both.

        Raises:
            AdoptError: they differ.
        """
        frozen = frozen_axes(contract, inputs_of(self._file.model), self._letters())
        if not frozen:
            return
        whole = ModelProto()
        whole.CopyFrom(self._file.model)
        take_defaults(whole, self._states)
        modernise(whole)
        failure = frozen_difference(PlainSession(guarded(whole), self._constants), session, contract, frozen, sampler)
        if failure:
            raise AdoptError("; ".join([failure, *(anew or kept_by_none(self._flow))]))

    def _check_memory(self, contract: Contract, anew: list[str], *, refused: bool) -> None:
        """Note nodes that begin anew where steps are no stream; refuse those of a step, where nobody said that they may.

        Raises:
            AdoptError: there is one.
        """
        if contract.one_step and anew and self._states is None:
            also = "; or, where it is meant, say which outputs hand states back: --state INPUT=OUTPUT, or --state none"
            raise AdoptError(f"steps are no stream, for {anew[0]}{also}")
        if contract.one_step or (refused and not self._pairs):
            self._notes += anew

    @property
    def _precision(self) -> Precision:
        dtypes = {one.dtype for one in (*inputs_of(self._model), *outputs_of(self._model))}
        return "float64" if "float64" in dtypes and "float32" not in dtypes else "float32"

    def write(self, target: Path, name: str, codec: Codec | None, replaced: str | None) -> Adopted:
        """Prove that the artifact is the file, and write it."""
        assert self._found is not None
        contract, sampler, trusted = self._found.contract, self._found.sampler, self._foreign()
        session = PlainSession(guarded(self._model))
        quantised = any("DynamicQuantize" in node.op_type for node in self._model.graph.node)
        anew = forgetful(self._model, contract, sampler)
        reasons = [*anew, *([] if contract.one_step else kept_by_none(self._flow))]
        stepping = find_stepping(
            session, contract, sampler, self._precision, reach_of(self._model), reasons, quantised=quantised
        )
        check_states_matter(session, contract, sampler)
        original = PlainSession(self._file.model, self._constants)
        self._check_frozen(session, contract, sampler, anew)
        self._check_memory(contract, anew, refused=stepping.refused is not None)
        golden = make_golden(PlainSession(self._model), contract, sampler)
        manifest = make_manifest(name, self._file, self._model, contract, stepping, golden, self._precision, trusted, codec)
        model = self._load(sealed(self._model, manifest))
        comparison = compare_with_original(model, original, contract, sampler, self._precision)
        golden = msgspec.structs.replace(golden, sha256=golden_sha256(model))
        manifest = msgspec.structs.replace(manifest, golden=golden, lowering_because=str(comparison))
        data = sealed(self._model, manifest)
        digest = self._load(data).digest
        write_atomic(target, data)
        return Adopted(
            path=target,
            manifest=manifest,
            comparisons=comparison.cases,
            difference=comparison.largest,
            notes=tuple(self._notes),
            digest=digest,
            size=len(data),
            operators=tuple(node.op_type for node in self._model.graph.node),
            replaced=None if replaced == name else replaced,
        )

    def _load(self, data: bytes) -> Model:
        try:
            return load(data, trust=self._trust)
        except ArtifactError as error:
            raise AdoptError(f"an artifact cannot hold this graph: {error}") from None


def _of_one_row(pair: Pair, shape: Shape) -> Pair:
    """The pair, beginning with what all rows begin with.

    Raises:
        AdoptError: they begin with different values.
    """
    if pair.initial is None or BATCH not in shape:
        return pair
    first = pair.initial.take([0], shape.index(BATCH))
    if (pair.initial != first).any():
        raise AdoptError(f"{pair.input} begins each row with another state; rnnx begins all rows alike")
    return dataclasses.replace(pair, initial=first)


def _declared(size: Dimension, fixed: Mapping[str, int | None]) -> Dimension:
    """The one size that a symbol stands for, where it stands for one."""
    known = [fixed[part] for part in size.split("*")] if isinstance(size, str) else []
    sizes = [part for part in known if part is not None]
    return int(np.prod(sizes)) if sizes and len(sizes) == len(known) else size
