"""The self-test: an artifact's golden trace on this very machine, with this very provider, in every way that it can be run."""

import time
from dataclasses import dataclass
from typing import Any, Final, Literal

from rnnx_runtime._engine import Engine
from rnnx_runtime._errors import ArtifactError
from rnnx_runtime._golden import answers_sha256, compare, golden_answers, golden_chunk
from rnnx_runtime._graph import Answers, Graph
from rnnx_runtime._inputs import Chunk
from rnnx_runtime._providers import Placement
from rnnx_runtime._state import State
from rnnx_runtime._stream import Stream

Way = Literal["whole", "chunks", "steps"]

_LINES: Final = 8  # of tensors, in the text of a result
_WIDTH: Final = 30  # of a tensor's name there


@dataclass(frozen=True)
class TensorDifference:
    """How far one tensor is from the golden trace.

    Attributes:
        name: of the output or state, as in the manifest.
        kind: which of the two; of a state, what it is after the last step.
        way: how the trace was run: in one call, cut in two, or step by step as a stream does.
        absolute: the largest difference; infinite where a value is not a number.
        relative: the same, but of values above 1 relative to them: what the tolerance is for.
    """

    name: str
    kind: Literal["output", "state"]
    way: Way
    absolute: float
    relative: float


@dataclass(frozen=True)
class SelfTest:
    """What a self-test found. Get one from `Model.selftest` or `selftest`; as text, it is a table.

    Attributes:
        verdict: "bit-exact": the whole run gives the very bits that the runtime gave where the artifact was made, or those of
            the module itself, and all else is within the tolerance. "within tolerance": other bits, as other processors and
            providers give. "broken": something differs by more, or is not a number.
        differences: of every output and state, in every way that the trace was run. Chunks and steps are left out where the
            model cannot be stepped, or its answers depend on how a stream is cut.
        tolerance: the largest `relative` that passes.
        seconds: what running the trace in all ways took, without loading.
        placement: on which providers it ran.
        batch: the rows of the trace.
        steps: its length.
    """

    verdict: Literal["bit-exact", "within tolerance", "broken"]
    differences: tuple[TensorDifference, ...]
    tolerance: float
    seconds: float
    placement: Placement
    batch: int
    steps: int

    @property
    def passed(self) -> bool:
        """Whether it is not broken."""
        return self.verdict != "broken"

    @property
    def largest(self) -> float:
        """The largest `relative` of all."""
        return max(one.relative for one in self.differences)

    def __str__(self) -> str:
        ways = list(dict.fromkeys(one.way for one in self.differences))
        table: dict[tuple[str, str], list[float]] = {}
        for one in self.differences:
            table.setdefault((one.kind, one.name), []).append(one.relative)
        shown = sorted(table, key=lambda key: -max(table[key]))[:_LINES] if len(table) > _LINES else list(table)
        width = max(len(_cut(name)) for _, name in shown)
        rows, steps = (f"{n} {what}{'s' if n > 1 else ''}" for n, what in ((self.batch, "row"), (self.steps, "step")))
        lines = [
            self._summary(),
            f"  golden trace of {rows} and {steps}, on {', '.join(self.placement.granted)}, in {self.seconds * 1e3:.1f} ms",
            f"  {'off by':<{width + 8}}" + "".join(f"{way:>10}" for way in ways),
        ]
        lines += [
            f"  {kind:<8}{_cut(name):<{width}}" + "".join(f"{value:>10.1e}" for value in table[kind, name])
            for kind, name in shown
        ]
        if len(table) > len(shown):
            lines.append(f"  and {len(table) - len(shown)} more, none further off")
        return "\n".join(lines)

    def _summary(self) -> str:
        if self.verdict == "bit-exact":
            return "bit-exact: the same bits as where the artifact was made"
        if self.passed:
            return f"within tolerance: off by {self.largest:.1e} at most, {self.tolerance:.0e} is allowed"
        other = "provider" if set(self.placement.granted) != {"cpu"} else "version of onnxruntime"
        return f"broken: off by {self.largest:.1e}, {self.tolerance:.0e} is allowed; use another {other}"


def _cut(name: str) -> str:
    return name if len(name) <= _WIDTH else f"...{name[3 - _WIDTH :]}"


def run_selftest(engine: Engine) -> SelfTest:
    """See `Model.selftest`."""
    graph = engine.graph
    begin = golden_chunk(graph)
    if begin is None:
        raise ArtifactError("the golden trace of this artifact holds no step, so there is nothing to test; export it again")
    chunk, state = begin
    engine.open()
    started = time.perf_counter()
    found: dict[Way, tuple[Answers, State]] = {"whole": engine.run(chunk, state)}
    if graph.manifest.streamable and graph.manifest.chunks_matter_because is None:
        if chunk.steps > 1:
            found["chunks"] = _in_chunks(Stream(engine, state), graph, chunk)
        found["steps"] = _in_steps(Stream(engine, state), graph, chunk)
    seconds = time.perf_counter() - started
    wanted = golden_answers(graph, chunk)
    differences: list[TensorDifference] = []
    for way, (answers, following) in found.items():
        differences += [
            TensorDifference(name, "output", way, *compare(answers[name], right)) for name, right in wanted[0].items()
        ]
        differences += [
            TensorDifference(name, "state", way, *compare(following[name], right)) for name, right in wanted[1].items()
        ]
    tolerance = engine.tolerance
    exact = answers_sha256(graph, *found["whole"]) in (graph.manifest.golden.sha256, answers_sha256(graph, *wanted))
    broken = any(one.relative > tolerance for one in differences)
    return SelfTest(
        "broken" if broken else "bit-exact" if exact else "within tolerance",
        tuple(differences),
        tolerance,
        seconds,
        engine.placement,
        chunk.batch,
        chunk.steps,
    )


def _in_chunks(stream: Stream, graph: Graph, chunk: Chunk) -> tuple[Answers, State]:
    cuts = [(0, chunk.steps // 2), (chunk.steps // 2, chunk.steps)]
    pieces = [_named(graph, stream.feed(graph.cut(chunk, first, last).arrays)) for first, last in cuts]
    return graph.joined(pieces), stream.state


def _in_steps(stream: Stream, graph: Graph, chunk: Chunk) -> tuple[Answers, State]:
    pieces = []
    for step in range(chunk.steps):
        x = graph.step_of(chunk, step)
        pieces.append(
            {
                name: array[:, None] if graph.outputs[name].has_time else array
                for name, array in _named(graph, stream.step(x)).items()
            }
        )
    return graph.joined(pieces), stream.state


def _named(graph: Graph, answer: Any) -> Answers:
    return answer if isinstance(answer, dict) else {next(iter(graph.outputs)): answer}
