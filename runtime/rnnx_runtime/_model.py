"""A loaded artifact: immutable, and shared by any number of streams and threads."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self, final

from numpy.typing import ArrayLike, NDArray

from rnnx_runtime._artifact import Artifact, open_artifact
from rnnx_runtime._codec import ScalerCodec
from rnnx_runtime._engine import Engine
from rnnx_runtime._errors import ArtifactError, InputError
from rnnx_runtime._files import Source, check_writable
from rnnx_runtime._golden import answers_sha256, golden_chunk
from rnnx_runtime._inputs import whole
from rnnx_runtime._manifest import Manifest
from rnnx_runtime._memory import within_memory
from rnnx_runtime._providers import Placement, parse_providers
from rnnx_runtime._session import Options, warn_of_telemetry
from rnnx_runtime._state import State
from rnnx_runtime._stream import Stream

if TYPE_CHECKING:  # imported where they are needed: a process that only steps starts sooner
    from rnnx_runtime._pool import Pool
    from rnnx_runtime._selftest import SelfTest

_MOST_THREADS: Final = 256


@within_memory
def load(
    source: Source,
    *,
    providers: str | Sequence[str] | Mapping[str, Mapping[str, Any]] = "cpu",
    strict: bool = True,
    threads: int = 1,
    sha256: str | None = None,
    profile: str | os.PathLike[str] | None = None,
    trust: bool = False,
) -> "Model":
    """Open an artifact made by `rnnx export`, from a path or from its bytes.

    Args:
        source: a path, or the content of the file.
        providers: the execution providers to run on, by short name: one, several in order of preference, or a mapping of
            names to options. "auto" takes the fastest of this machine. `rnnx providers` lists them.
        strict: refuse to load where a provider is missing, or a node would run on one that was not asked for. Else that
            is only said in `Model.placement`.
        threads: used inside one call, 1 to 256; recurrent steps are small and rarely gain from more than one.
        sha256: refuse an artifact whose `digest` is another one: 64 hex digits.
        profile: where ONNX Runtime's trace of all calls is written when the model is closed, for chrome://tracing.
        trust: run operators outside the runtime's list, which whoever adopted the file trusted (`Manifest.trusted`): they may
            use more time and memory than the runtime can foresee. All other checks stay.

    Raises:
        ArtifactNotFoundError: there is no file at the path.
        ArtifactError: the file is not a whole, valid artifact, not the one meant by `sha256`, or it must be trusted.
        ProviderError: a provider or one of its options is unknown, it is missing, or it left nodes to another.
        ExecutionError: ONNX Runtime cannot load it.
        InputError: an argument is out of range or of the wrong type.
    """
    warn_of_telemetry()
    options = _options(providers, strict, threads, profile)
    model = _reopened(source, sha256, options, bool(trust))
    model._engine.open()
    return model


@within_memory
def selftest(
    source: Source,
    *,
    providers: str | Sequence[str] | Mapping[str, Mapping[str, Any]] = "cpu",
    strict: bool = True,
    threads: int = 1,
    trust: bool = False,
) -> "SelfTest":
    """`Model.selftest` of an artifact, also on a provider that `load` refuses because it computes something else.

    Args:
        source, providers, strict, threads, trust: as `load`.

    Raises:
        ArtifactError, ProviderError, ExecutionError, InputError: as `load` and `Model.selftest`.
    """
    warn_of_telemetry()
    options = replace(_options(providers, strict, threads, None), refuse_wrong=False)
    with _reopened(source, None, options, bool(trust)) as model:
        return model.selftest()


def _options(providers: Any, strict: bool, threads: Any, profile: Any) -> Options:
    """Raises ProviderError and InputError, as `load`."""
    return Options(
        parse_providers(providers),
        bool(strict),
        whole("threads", threads, 1, _MOST_THREADS),
        None if profile is None else _profile_path(profile),
    )


def _profile_path(profile: Any) -> str:
    try:
        path = str(os.path.abspath(profile))
        if "\0" in path:
            raise ValueError("a path has no null character")
        check_writable(path)
        path.encode()
    except (OSError, TypeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"the profile cannot be written to {profile!r}: {reason}") from None
    return path


def _reopened(source: Source, sha256: str | None, options: Options, trust: bool) -> "Model":
    """A model whose sessions are opened when they are first needed."""
    if sha256 is not None and not isinstance(sha256, str):
        raise InputError(f"sha256 must be a text of 64 hex digits, got {sha256!r}")
    artifact = open_artifact(source, trust=trust)
    if sha256 is not None and sha256.lower() != artifact.digest:
        raise ArtifactError(
            f"the artifact's sha256 is {artifact.digest}, expected {sha256}; this is another file than was meant"
        )
    return Model(artifact, options, source, trust)


@final
class Model:
    """A loaded artifact. Get one from `load`.

    Arrays are batch-first whatever layout the module had: a step is `(B, ...)`, a chunk `(B, T, ...)`. Where the model has
    one input or output it is an array; where it has several, a mapping by name. What breaks this contract raises
    `InputError`; a failure of ONNX Runtime itself `ExecutionError`.

    A model can be pickled: what travels is the path (or the bytes, where it was loaded from bytes), the digest, the options
    and the trust. It may be used in forked processes; there its sessions are opened anew.
    """

    def __init__(self, artifact: Artifact, options: Options, source: Source, trust: bool) -> None:
        self._engine = Engine(artifact, options)
        self._graph = self._engine.graph
        self._options = options
        self._trust = trust
        self._source = artifact.data if isinstance(source, bytes | bytearray | memoryview) else os.path.abspath(source)

    @property
    def manifest(self) -> Manifest:
        """The artifact's contract."""
        return self._graph.manifest

    @property
    def digest(self) -> str:
        """SHA-256 of the artifact's content, 64 hex digits."""
        return self._graph.digest

    @property
    def placement(self) -> Placement:
        """Which execution providers were asked for, which run something, and which node runs where."""
        return self._engine.placement

    def close(self) -> None:
        """Let go of ONNX Runtime's session. Whoever uses the model or one of its streams from now on gets an `InputError`."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Model({self.manifest.name!r}, {self.digest[:12]})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self._source, self.digest, self._options, self._trust)

    @within_memory
    def stream(self, batch: int | None = None, *, state: State | None = None, **conditions: ArrayLike) -> Stream:
        """A new sequence in progress, or a batch of them in lockstep.

        Args:
            batch: the number of rows; None for the conditions' or the state's own where there are any, else as `initial_state`.
            state: what it starts from, and what `Stream.reset` goes back to; the initial state when None.
            conditions: as `initial_state`.

        Raises:
            InputError: the model cannot be stepped, or as `initial_state`.
            StateError: the state is another model's.
        """
        self._graph.check_streamable()
        if state is None:
            return Stream(self._engine, self.initial_state(batch, **conditions))
        if conditions:
            raise InputError(f"a stream starts from a state or from conditions, got both: {', '.join(conditions)}")
        return Stream(self._engine, self._graph.check_state(state, batch))

    @within_memory
    def pool(self, *, max_batch: int | None = None, max_wait_ms: float = 0.0, max_queue: int = 1024) -> "Pool":
        """Many streams, stepped together in one call.

        Args:
            max_batch: rows in one call at most. None for as many as are fastest on this machine: the first call of more than 64
                streams measures that, a few calls long; and `Pool.submit` puts 64 requests together.
            max_wait_ms: how long `Pool.submit` lets a request wait for others to join it.
            max_queue: how many requests may wait before `Pool.submit` makes its caller wait.

        Raises:
            InputError: the model cannot be stepped, or a number is out of range.
        """
        self._graph.check_streamable()
        from rnnx_runtime._pool import Pool

        return Pool(self._engine, max_batch, max_wait_ms, max_queue)

    @within_memory
    def initial_state(self, batch: int | None = None, **conditions: ArrayLike) -> State:
        """The state that new sequences start with.

        Args:
            batch: the number of rows; the conditions' own where there are any. None for 1, or for the manifest's `fixed_batch`.
            conditions: `(B, ...)` each, by name: what the manifest's `conditions` lists, for a model whose initial state
                is computed.

        Raises:
            InputError: `batch` is out of range, a condition is missing or unknown, or its content is not allowed.
        """
        return self._engine.initial_state(batch, conditions)

    @within_memory
    def make_state(self, arrays: Mapping[str, ArrayLike]) -> State:
        """A state with these values, by state name, in the shapes that the manifest gives; the values are copied.

        Raises:
            StateError: a name, shape or type differs, the batch sizes disagree, or a value is not finite.
        """
        return self._graph.make_state(arrays)

    @within_memory
    def run(self, chunk: Any, state: State | None = None) -> tuple[Any, State]:
        """Answer a chunk, and hand on the state: a pure function.

        Args:
            chunk: `(B, T, ...)`; T may be 0, and then the state comes back as it was.
            state: of the same batch size; the initial state when None.

        Returns:
            The outputs, `(B, T, ...)` for each that has a value per step, else `(B, ...)`; and the next state.

        Raises:
            InputError: the chunk breaks the contract, or a state is given to a model that is not streamable.
            StateError: the state is another model's, or of another batch size.
        """
        checked = self._graph.check_chunk(chunk)
        begin = self.initial_state(checked.batch) if state is None else self._graph.check_state(state, checked.batch)
        answers, following = self._engine.run(checked, begin)
        return self._graph.single(answers), following

    @within_memory
    def step(self, x: Any, state: State) -> tuple[Any, State]:
        """Answer one step, `(B, ...)`, and hand on the state: a pure function. `Stream.step` is faster.

        Raises:
            InputError, StateError: as `run`.
        """
        checked = self._graph.check_step(x)
        answers, following = self._engine.run(checked, self._graph.check_state(state, checked.batch))
        return self._graph.single(self._graph.of_step(answers)), following

    @within_memory
    def infer(self, sequence: str | ArrayLike) -> Any:
        """Answer a whole sequence from the initial state, through the artifact's codec.

        Args:
            sequence: text, where the codec has a vocabulary: the answer is text too, the most likely symbol of each step.
                Or an array `(B, T, ...)`: the answer is what `run` returns, without the state. A scaler's arrays are in the
                units of the data on both sides.

        Raises:
            InputError: the sequence breaks the contract.
        """
        codec = self.manifest.codec
        if isinstance(codec, ScalerCodec):
            return codec.decode(self.run(codec.encode(sequence))[0])
        if not isinstance(sequence, str):
            return self.run(sequence)[0]
        chunk = self.encode(sequence)[None]  # (B=1, T) or (B=1, T, V)
        return self.decode(self.logits(self.run(chunk)[0])[0].argmax(axis=-1))

    @within_memory
    def score(self, text: str) -> float:
        """How surprising the text is to the model: bits per character, over all characters but the first.

        The mean of -log2 p(character | all before it). A model that knows nothing of `V` symbols gives log2 V.

        Raises:
            InputError: the artifact does not answer in text, the text has fewer than two characters, or one that is not in
                the vocabulary.
        """
        from rnnx_runtime._score import bits_per_symbol

        return bits_per_symbol(self._engine, text)

    @within_memory
    def selftest(self) -> "SelfTest":
        """Run the artifact's golden trace on this very machine, with this model's providers: whole, in chunks and in steps.

        Takes milliseconds, needs no torch, and touches no stream.

        Raises:
            ArtifactError: the trace holds no step, so that there is nothing to test.
            ExecutionError: the graph cannot be run.
        """
        from rnnx_runtime._selftest import run_selftest

        return run_selftest(self._engine)

    @within_memory
    def encode(self, sequence: Any) -> NDArray[Any]:
        """What the model takes for `sequence`, by the artifact's codec.

        Of a text one row per character: tokens `(T,)`, or one-hot `(T, V)`; with a scaler `(..., F)` for values `(..., F)`.

        Raises:
            InputError: the artifact has no codec, or it cannot encode this.
        """
        if self.manifest.codec is None:
            raise InputError("this artifact has no text codec; give arrays instead of text")
        encoded: NDArray[Any] = self.manifest.codec.encode(sequence)
        return encoded

    @within_memory
    def decode(self, answer: Any) -> Any:
        """What the artifact's codec makes of an answer: the text of tokens; with a scaler, values in the units of the data.

        Raises:
            InputError: the artifact has no codec, or it cannot decode this.
        """
        if self.manifest.codec is None:
            raise InputError("this artifact has no text codec; it takes and gives numbers")
        return self.manifest.codec.decode(answer)

    def logits(self, answer: Any) -> NDArray[Any]:
        """The scores of the codec's symbols in an answer of `run`, `step` or `feed`: `(B, T, V)` or `(B, V)`.

        Raises:
            InputError: the artifact does not answer in text.
        """
        return self._graph.logits(answer)


def golden_sha256(model: Model) -> str:
    """The digest of what the model answers to its own golden trace, as `GoldenTrace.sha256` holds it; "" where that holds no step.

    Raises:
        ArtifactError: the trace breaks the artifact's own contract.
        ExecutionError: the graph cannot be run.
    """
    begin = golden_chunk(model._graph)
    return "" if begin is None else answers_sha256(model._graph, *model._engine.run(*begin))


def golden_start(model: Model) -> tuple[dict[str, NDArray[Any]], State] | None:
    """What the model's own golden trace begins with: the chunk, `(B, T, ...)` by input name, and the state; None where that holds no step.

    Raises:
        ArtifactError: the trace breaks the artifact's own contract.
    """
    begin = golden_chunk(model._graph)
    return None if begin is None else (begin[0].arrays, begin[1])
