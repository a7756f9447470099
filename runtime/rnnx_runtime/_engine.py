"""What answers: the sessions of one artifact, opened when they are first needed, and again in a process forked off.

An engine has an epoch. It changes when the sessions of before must not be used any more: after `close`, and in a child
process, which has the parent's memory but not its threads. Whoever keeps something of a session compares epochs.
"""

import math
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, final
from weakref import WeakSet

from numpy.typing import ArrayLike

from rnnx_runtime._artifact import Artifact
from rnnx_runtime._errors import ExecutionError, InputError, ProviderError
from rnnx_runtime._golden import bindings_hold, golden_difference, tolerance_of
from rnnx_runtime._graph import Answers, Graph
from rnnx_runtime._inputs import Chunk
from rnnx_runtime._providers import AUTO, Placement
from rnnx_runtime._session import Options, Session, leave_to_parent
from rnnx_runtime._state import State
from rnnx_runtime._stepper import Stepper

# A call of so many steps at most: what ONNX Runtime allocates for a call, it keeps. And a call cannot be interrupted: where the
# weights, which each row of a step reads, are large, it takes fewer. So many bytes are read in some hundredths of a second.
_LONGEST_CALL: Final = 512
_LARGEST_CALL: Final = 1 << 29

# Rows of a call that are measured, to see how many are best.
_SMALL_BATCH: Final = 64
_LARGEST_BATCH: Final = 4096
_NO_SLOWER: Final = 1.02

# Elements in and out of a chunk that a call is prepared for, at most: of a larger one the call itself is a small part, and its
# buffers would be a large one of the stream.
_PREPARED: Final = 1 << 15


@final
class Engine:
    """Runs one artifact. Any number of threads may use it."""

    def __init__(self, artifact: Artifact, options: Options) -> None:
        self.graph = Graph(artifact.manifest, artifact.digest)
        self.epoch = 0
        self.lost = ""  # why streams of before a fork cannot go on
        self.forks = 0  # how many processes up from here this engine was made
        self._artifact = artifact
        self._options = replace(options, half=artifact.half)
        self._opening = threading.Lock()
        self._closed = False
        self._session: Session | None = None
        self._initial: Session | None = None
        self._placement: Placement | None = None
        self._row_seconds: dict[int, float] = {}  # by the rows of a call
        _engines.add(self)

    def open(self) -> Session:
        """The session, opened now where it was not yet.

        Raises:
            InputError: the engine is closed.
            ProviderError, ExecutionError: as `Session`.
        """
        session = self._session
        return session if session is not None else self._open()

    @property
    def placement(self) -> Placement:
        """Which provider runs which node."""
        self.open()
        assert self._placement is not None
        return self._placement

    @property
    def tolerance(self) -> float:
        """How far from the golden trace is right, relative above 1."""
        return tolerance_of(self.graph.manifest, reduced=self._options.reduced_precision)

    def run(self, chunk: Chunk, state: State, is_cancelled: Callable[[], bool] | None = None) -> tuple[Answers, State]:
        """Answer a checked chunk of any length, and hand on the state.

        Raises:
            ExecutionError: ONNX Runtime failed, or `is_cancelled` said so between two calls: then nobody waits for the answer.
        """
        session = self.open()
        if chunk.steps == 0:
            return self.graph.empty(chunk.batch), state
        if self._is_one_call(chunk):
            return self._run(session, chunk, state)
        pieces, longest = [], self._longest_call(chunk.batch)
        for first in range(0, chunk.steps, longest):
            if is_cancelled is not None and is_cancelled():
                raise ExecutionError("the call was cancelled; the state is as before")
            cut = self.graph.cut(chunk, first, min(first + longest, chunk.steps))
            answers, state = self._run(session, cut, state)
            pieces.append(answers)
        return self.graph.joined(pieces), state

    def _run(self, session: Session, chunk: Chunk, state: State) -> tuple[Answers, State]:
        if not self.graph.manifest.one_step or chunk.steps == 1:
            return self.graph.call(session, chunk, state)
        stepper = self.stepper(chunk.batch)
        stepper.load(state)
        return stepper.run_steps(chunk), stepper.state()

    def prepares(self, chunk: Chunk) -> bool:
        """Whether a prepared call is worth its buffers for chunks like this one, should they come again."""
        if chunk.steps == 0 or self.graph.manifest.one_step or not self._is_one_call(chunk):
            return False
        layouts = [*(port.layout for port in self.graph.inputs.values()), *self.graph.outputs.values()]
        return sum(math.prod(layout.graph_shape(chunk.batch, chunk.steps)) for layout in layouts) <= _PREPARED

    def _is_one_call(self, chunk: Chunk) -> bool:
        manifest = self.graph.manifest
        whole = not manifest.streamable or manifest.chunks_matter_because is not None
        return whole or chunk.steps <= self._longest_call(chunk.batch)

    def _longest_call(self, batch: int) -> int:
        """Of how many steps a call is at most. It depends on nothing that is measured, so that answers don't either."""
        return max(1, min(_LONGEST_CALL, _LARGEST_CALL // (len(self._artifact.data) * batch)))

    def initial_state(self, batch: object, conditions: Mapping[str, ArrayLike]) -> State:
        """The state that new sequences start with."""
        if not conditions and not self.graph.conditions:
            return self.graph.initial_state(batch)
        self.open()
        return self.graph.computed_state(self._initial, conditions)

    def best_batch(self, rows: int) -> int:
        """Of how many rows a call takes the least time for each on this machine, where there are so many: measured once, above 64.

        Larger products use the processor better, until they no longer fit its caches.
        """
        best = _SMALL_BATCH
        size = 2 * best
        while size < 2 * rows and size <= _LARGEST_BATCH:
            for one in (best, size):
                if one not in self._row_seconds:
                    self._row_seconds[one] = self.stepper(one).seconds() / one
            if self._row_seconds[size] > _NO_SLOWER * self._row_seconds[best]:  # one call costs less than two besides
                break
            best, size = size, 2 * size
        return best

    def stepper(self, batch: int) -> Stepper:
        """The fast path under `Stream.step`, at no state yet."""
        return Stepper(self.graph, self.open(), batch)

    def close(self) -> None:
        """Let go of the sessions; write the profile, where one was asked for."""
        with self._opening:
            session, self._session, self._initial = self._session, None, None
            self._closed = True
            self.epoch += 1
            if session is not None and self._options.profile is not None:
                try:
                    os.replace(session.end_profile(), self._options.profile)  # noqa: PTH105  # pathlib takes 4 ms to import
                except OSError as error:
                    raise ExecutionError(
                        f"the profile cannot be written to {self._options.profile!r}: {error.strerror}"
                    ) from None

    def _open(self) -> Session:
        with self._opening:
            if self._closed:
                raise InputError("this model is closed; load it again")
            if self._session is None:
                if AUTO in self._options.providers:
                    session, self._options, self._placement = self._fastest()
                else:
                    session = Session(self._artifact.data, self._options)
                    # After a fork it may have become another: what was chosen by itself says why it was.
                    because = session.placement.because or (self._placement.because if self._placement else "")
                    requested = self._placement.requested if self._placement else session.placement.requested
                    self._placement = replace(session.placement, requested=requested, because=because)
                    self._check(session)
                if self._artifact.initial is not None:
                    # Run once per sequence, and not covered by the golden trace: where ONNX Runtime is at home.
                    self._initial = Session(
                        self._artifact.initial, replace(self._options, providers={"cpu": {}}, strict=True, profile=None)
                    )
                if session.on_device and not self._bindings_hold(session):
                    session.forget_bindings()
                self._session = session
            return self._session

    def _bindings_hold(self, session: Session) -> bool:
        try:
            return bindings_hold(self.graph, session)
        except (ExecutionError, ProviderError):  # plain runs have shown that they work
            return False

    def _check(self, session: Session) -> None:
        """Raises ProviderError where a provider other than the CPU's computes something else than was exported."""
        others = [name for name in session.placement.granted if name != "cpu"]
        if not others or not self._options.refuse_wrong:
            return
        difference = golden_difference(self.graph, session)
        if difference > self.tolerance:
            raise ProviderError(
                f"{', '.join(others)} runs this artifact wrongly: its golden trace is off by {difference:.1e}; use another provider"
            )

    def _fastest(self) -> tuple[Session, Options, Placement]:
        """The provider of this machine that runs the golden trace in the shortest time, and rightly."""
        from rnnx_runtime._trials import try_providers

        trials = try_providers(self._artifact.data, self.graph, self._options.threads, half=self._artifact.half)
        right = [(trial.report, trial.options, trial.session) for trial in trials if trial.options and trial.session]
        if not right:
            said = "; ".join(f"{trial.report.name}: {trial.report.because}" for trial in trials if trial.report.here)
            raise ProviderError(f"no provider of this machine runs the golden trace rightly: {said}")
        report, options, session = min(right, key=lambda one: one[0].microseconds or math.inf)
        if self._options.profile is not None:  # the trials are not to stand in it
            options = replace(options, profile=self._options.profile)
            session = Session(self._artifact.data, options)
        said = ", ".join(
            f"{one.name} {one.microseconds:.0f} µs" if one.microseconds else f"{one.name} {one.because}"
            for one in (trial.report for trial in trials)
            if one.here
        )
        because = f"{report.name} runs the golden trace fastest: {said}"
        if report.microseconds is None:
            because = f"{report.name} comes first, for the artifact's golden trace holds no step to measure"
        return session, options, replace(session.placement, requested=(AUTO,), because=because)

    def _after_fork(self) -> None:
        """In a child process: its parent's threads are not here, and nobody holds a lock."""
        self._opening = threading.Lock()
        self.epoch += 1
        self.forks += 1
        if self._session is not None and self._session.on_device:
            self.lost = "its state is in the memory of a device, which a forked process cannot use; load the model there"
        self._session = self._initial = None


_engines: Final[WeakSet[Engine]] = WeakSet()


def _after_fork_in_child() -> None:
    leave_to_parent()
    for engine in list(_engines):
        engine._after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)
