"""Generation: one symbol after the other, each drawn from what the model answered to the one before.

`Writing` is the text in progress, and knows no model: it draws a token, and is told what the model answered to it.
`Generation` drives it over a stream or a pool. When a piece is handed out, the model has read it.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from threading import Lock, get_ident
from typing import Any, Self, TypedDict, final

import msgspec
import numpy as np
from numpy.typing import NDArray

from rnnx_runtime import _snapshot
from rnnx_runtime._codec import TextCodec
from rnnx_runtime._errors import InputError, RnnxError, StateError, printable
from rnnx_runtime._graph import Graph
from rnnx_runtime._inputs import whole
from rnnx_runtime._memory import out_of_memory
from rnnx_runtime._sampling import RandomState, Sampler, SamplerOptions, log_softmax
from rnnx_runtime._state import _FARTHEST, State, check_finite

OnToken = Callable[[str], object]


class GenerateOptions(TypedDict, total=False):
    """What `Stream.generate` takes besides the prompt and the length; it says what they mean."""

    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    seed: int | None
    stop: str | Sequence[str]
    on_token: OnToken | None


_NO = (False, np.False_)
_BUSY = "this text is being written by another call; one thread at a time goes on with it"
_LOGITS = "rnnx.logits"
_SEEN = "rnnx.seen"


class _Progress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of a generation in progress but its arrays."""

    sampler: SamplerOptions
    random: RandomState
    stop: tuple[str, ...]
    left: int
    text: str
    pending: int | None
    ready: str
    held: str
    drawn_logprobs: tuple[float, ...]
    position: int


# What a symbol's log-probability is computed from, where somebody asks: its token, and the logits that it was drawn from.
# Where a checkpoint was in between, the log-probability.
_Drawn = tuple[int, NDArray[Any]] | float


def _logprob(drawn: _Drawn) -> float:
    return drawn if isinstance(drawn, float) else float(log_softmax(drawn[1])[drawn[0]])


@final
class StopFilter:
    """Lets a text through up to the first of the stop strings, which is left out.

    Attributes:
        held: what is held back: only while it could be the beginning of a stop string.
        ended: whether a stop string came.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop = tuple(stop)
        self.held = ""
        self.ended = False

    def push(self, text: str) -> str:
        """More of the text comes; what of it can be let through."""
        piece, self.held, self.ended = self.sifted(text)
        return piece

    def sifted(self, text: str) -> tuple[str, str, bool]:
        """What would be let through of more text, what held back, and whether a stop string came; nothing changes."""
        if not self.stop:
            return text, "", False
        held = self.held + text
        found = min((at for at in (held.find(word) for word in self.stop) if at >= 0), default=None)
        if found is not None:
            return held[:found], "", True
        keep = max((n for word in self.stop for n in range(1, len(word)) if held.endswith(word[:n])), default=0)
        return held[: len(held) - keep], held[len(held) - keep :], False

    def flush(self) -> str:
        """No more comes: what was held back."""
        piece, self.held = self.held, ""
        return piece


@final
class Writing:
    """A text in progress. Wherever it is interrupted, it has read a symbol or it has not.

    Attributes:
        logits: what the model answered last, `(V,)`.
        reads: how many symbols it has read, since it was begun here.
    """

    def __init__(self, graph: Graph, sampler: Sampler, stop: tuple[str, ...], left: int, on_token: OnToken | None) -> None:
        self.logits: NDArray[Any] = np.empty(0)
        self._vocabulary = graph.text_codec().vocabulary
        self._digest = graph.digest
        self._sampler = sampler
        self._filter = StopFilter(stop)
        self._left = left  # symbols that may still be drawn
        self._on_token = on_token
        self._pending: int | None = None  # drawn, and not yet read by the model
        self._ready = ""  # can be handed out, and was not
        self._pieces: list[str] = []  # what was handed out
        # Nobody looks at a symbol before it is handed out.
        self._direct = not stop and on_token is None and sampler.options.repetition_penalty == 1
        self._drawn: list[_Drawn] = []  # of the text that is ready or held back
        self._piece: list[_Drawn] = []
        self.reads = 0

    @property
    def text(self) -> str:
        """What was handed out."""
        return "".join(self._pieces)

    @property
    def logprob(self) -> float:
        """The natural log-probability of the piece handed out last, in the model's own distribution."""
        return sum(map(_logprob, self._piece), 0.0)

    def begin(self, tokens: Sequence[int] | NDArray[Any], logits: NDArray[Any]) -> None:
        """The model has read a prompt of these tokens."""
        self._sampler.seen[np.asarray(tokens)] = True
        self.logits = logits

    def draw(self) -> int | None:
        """The token that the model is to read next; None at the end. Until `read`, it stays the same."""
        if self._left == 0:
            return None
        if self._pending is None:
            token = self._sampler.peek(self.logits)
            # No call between these two: nothing can interrupt them.
            self._pending = token
            del self._sampler.noise[-1:]
        return self._pending

    def read(self, logits: NDArray[Any]) -> str:
        """The model has read the token, and answered this; the text that can be handed out now."""
        assert self._pending is not None
        token, before = self._pending, self.logits
        symbol = self._vocabulary[token]
        # From `_pending` on, either way, no call returns until all is in its place: nothing can interrupt it.
        if self._direct and not self._ready:
            self._pending, self.logits, self._piece = None, logits, [(token, before)]
            self.reads += 1
            self._left -= 1
            self._pieces.append(symbol)
            return symbol
        piece, held, ended = self._filter.sifted(symbol)
        drawn = [*self._drawn, (token, before)]
        self._pending, self.logits, self._drawn = None, logits, drawn
        self.reads += 1
        self._sampler.seen[token] = True
        self._filter.held, self._filter.ended = held, ended
        self._left = 0 if ended else self._left - 1
        self._ready += piece
        # After everything is in its place: it may raise, or make a checkpoint.
        if self._on_token is not None and self._on_token(symbol) in _NO:
            self._left = 0
        return self.take()

    def take(self) -> str:
        """The text that can be handed out; it is from now on."""
        held = self._filter.held
        piece = self._ready + held if self._left == 0 else self._ready  # nothing more comes
        size, drawn = len(piece), self._drawn
        if piece:
            self._filter.held = "" if self._left == 0 else held
            self._ready, self._piece, self._drawn = "", drawn[:size], drawn[size:]
            self._pieces.append(piece)
        return piece

    def to_bytes(self, state: State) -> bytes:
        """A checkpoint: this text, and the state of the stream that it is written with."""
        progress = _Progress(
            sampler=self._sampler.options,
            random=self._sampler.random_state(),
            stop=self._filter.stop,
            left=self._left,
            text=self.text,
            pending=self._pending,
            ready=self._ready,
            held=self._filter.held,
            drawn_logprobs=tuple(map(_logprob, self._drawn[: len(self._ready) + len(self._filter.held)])),
            position=state.position,
        )
        arrays = {**dict(state), _LOGITS: self.logits, _SEEN: self._sampler.seen}
        return _snapshot.to_bytes("generation", self._digest, arrays, progress)

    @classmethod
    def from_bytes(cls, graph: Graph, data: bytes, on_token: OnToken | None) -> tuple[Self, State]:
        """The text in progress that `to_bytes` was called on, and the state.

        Raises:
            StateError: it is no whole checkpoint, it is damaged, or another model's.
            InputError: the artifact does not answer in text.
        """
        symbols = len(graph.text_codec().vocabulary)
        check_on_token(on_token)
        header, arrays = _snapshot.from_bytes("generation", data)
        logits, seen = arrays.pop(_LOGITS, None), arrays.pop(_SEEN, None)
        try:
            progress = msgspec.json.decode(header.meta, type=_Progress)
            options = progress.sampler.checked()
            writing = cls(graph, Sampler(options, 0, symbols), stop_strings(progress.stop), progress.left, on_token)
            writing._sampler.set_random_state(progress.random)
        except ValueError as error:  # msgspec's errors are ValueErrors, and so is InputError
            raise StateError(f"the checkpoint is not valid: {printable(str(error))}") from None
        state = graph.check_state(State._of(header.digest, 1, arrays, progress.position), 1)
        if logits is None or seen is None or logits.shape != (symbols,) or seen.shape != (symbols,) or seen.dtype != np.bool_:
            raise StateError(f"the checkpoint lacks the logits of {symbols} symbols; it was not made by rnnx")
        if not math.isfinite(logits.max()):  # of a NaN, if there is one
            raise StateError("the checkpoint's logits are not finite; resume one from before the model overflowed")
        check_finite(state)
        if (
            progress.left < 0
            or not 0 <= progress.position <= _FARTHEST
            or logits.dtype.name not in {spec.dtype for spec in graph.manifest.outputs if spec.role == "logits"}
            or arrays.keys() != graph.states.keys()
            or len(progress.ready) + len(progress.held) != len(progress.drawn_logprobs)
            or not 0 <= (progress.pending or 0) < symbols
        ):
            raise StateError("the checkpoint is not valid: it was not made by rnnx")
        writing._pieces, writing._filter.held = [progress.text], progress.held
        writing._pending, writing._ready = progress.pending, progress.ready
        writing.logits, writing._sampler.seen, writing._drawn = logits, seen, list(progress.drawn_logprobs)
        return writing, state


@final
class Generation(Iterator[str]):
    """Text in progress: iterate over its pieces.

    It can be left and gone on with at any piece: `to_bytes` makes a checkpoint of it, `Stream.resume` goes on from there,
    in any process, to the same text.
    """

    def __init__(
        self,
        writing: Writing,
        read: Callable[[int, int], NDArray[Any]],
        state: Callable[[], State],
        position: int,
        unread: Callable[[int], None] = lambda position: None,
    ) -> None:
        """Write with a model that `read`s a token where it stands at a position, and answers `(V,)`.

        `unread`: what takes the model back to a position, where it has read a token more and the answer was lost.
        """
        self._writing = writing
        self._read = read
        self._state = state
        self._start = position - writing.reads
        self._unread = unread
        self._lock = Lock()
        self._writer: int | None = None  # the thread that goes on with it

    @property
    def _position(self) -> int:
        """Where the text left the model."""
        return self._start + self._writing.reads

    def __next__(self) -> str:
        thread, lock = get_ident(), self._lock
        # Not `acquire`: whoever is interrupted behind it never gives it back.
        if lock.locked():  # `on_token` may make a checkpoint, but not go on
            raise InputError(_BUSY)
        with lock:
            self._writer = thread
            try:
                return self._next()
            except MemoryError as error:
                raise out_of_memory(error) from None

    def _next(self) -> str:
        if piece := self._writing.take():
            return piece
        while (token := self._writing.draw()) is not None:
            try:
                piece = self._writing.read(self._read(token, self._position))
            except RnnxError:  # the model has read nothing
                raise
            except BaseException:
                self._unread(self._position)
                raise
            if piece:
                return piece
        raise StopIteration

    @property
    def text(self) -> str:
        """What was handed out so far."""
        return self._writing.text

    @property
    def logprob(self) -> float:
        """The natural log-probability of the piece handed out last, in the model's own distribution: temperature 1, nothing
        penalised or cut off. Summed over all pieces, it is that of the text.
        """
        return self._writing.logprob

    def to_bytes(self) -> bytes:
        """A checkpoint: the stream's state, the random numbers, the penalty's memory and the text so far.

        Raises:
            InputError: the stream is in use by another call, or was moved by one.
        """
        thread, lock = get_ident(), self._lock
        if not lock.locked():
            with lock:
                return self._checkpoint()
        if self._writer != thread:
            raise InputError(_BUSY)
        return self._checkpoint()  # made by `on_token`

    def _checkpoint(self) -> bytes:
        state = self._state()
        check_unmoved(self._position, state.position)
        return self._writing.to_bytes(state)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a generation cannot be copied or pickled; keep its to_bytes, and resume it with another stream")


def check_on_token(on_token: Any) -> None:
    """Raises InputError where it cannot be called."""
    if on_token is not None and not callable(on_token):
        raise InputError(f"on_token must be a function of one text, got {on_token!r}")


def check_unmoved(expected: int, position: int) -> None:
    """Raises InputError where the stream is not where the text left it."""
    if position != expected:
        raise InputError(
            f"the stream is at position {position}, this text left it at {expected}; "
            "a generation has its stream to itself: go on with a fork, or end it first"
        )


def start_writing(
    graph: Graph, prompt: str, max_new_tokens: int, options: GenerateOptions
) -> tuple[Writing, NDArray[np.int64]]:
    """A text to be written, and the tokens of its prompt; everything is checked and nothing is run.

    Raises:
        InputError: see `Stream.generate`.
    """
    codec = graph.text_codec()
    given: dict[str, Any] = dict(options)
    seed, stop, on_token = given.pop("seed", None), given.pop("stop", ()), given.pop("on_token", None)
    unknown = given.keys() - set(SamplerOptions.__struct_fields__)
    if unknown:
        raise InputError(f"generate has no argument {min(unknown)!r}; it has {', '.join(GenerateOptions.__annotations__)}")
    sampling = SamplerOptions(**given).checked()
    tokens = prompt_tokens(codec, prompt)
    count = whole("max_new_tokens", max_new_tokens, 0)
    check_on_token(on_token)
    words = stop_strings(stop)
    sampler = Sampler(sampling, None if seed is None else whole("seed", seed, 0), len(codec.vocabulary))
    return Writing(graph, sampler, words, count, on_token), tokens


def prompt_tokens(codec: TextCodec, prompt: str) -> NDArray[np.int64]:
    """The tokens of a prompt, at least one.

    Raises:
        InputError: it is no text, it is empty, or the codec cannot encode it.
    """
    tokens = codec.tokens(prompt)
    if not prompt:
        raise InputError("the prompt is empty; give at least one character to begin with")
    if not len(tokens):
        raise InputError("nothing of the prompt is in the model's vocabulary")
    return tokens


def stop_strings(stop: Any) -> tuple[str, ...]:
    """One stop string, or any number of them."""
    try:
        words = (stop,) if isinstance(stop, str) else tuple(stop)
    except TypeError:
        raise InputError(f"stop must be a text or several, got {stop!r}") from None
    if not all(isinstance(word, str) and word for word in words):
        raise InputError(f"stop strings are texts and not empty, got {stop!r}")
    if any(not word.isascii() and re.search("[\ud800-\udfff]", word) for word in words):
        raise InputError(f"stop strings are texts without lone surrogates, got {stop!r}")
    return words
