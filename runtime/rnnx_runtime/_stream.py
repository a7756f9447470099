"""A stream: one sequence in progress, or a batch of them in lockstep."""

import time
from collections.abc import AsyncIterator, Sequence
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Final, Unpack, final

import numpy as np
from numpy.typing import NDArray

from rnnx_runtime._engine import Engine
from rnnx_runtime._errors import InputError, StateError
from rnnx_runtime._graph import Answers
from rnnx_runtime._inputs import Chunk
from rnnx_runtime._memory import out_of_memory, within_memory
from rnnx_runtime._state import State, check_finite
from rnnx_runtime._stats import Stats
from rnnx_runtime._stepper import Stepper

if TYPE_CHECKING:  # imported where a text is written
    from rnnx_runtime._generation import GenerateOptions, Generation, OnToken, Writing
    from rnnx_runtime._score import Hypothesis

_BUSY: Final = "this stream is in use by another call; give each thread a stream of its own"


@final
class Stream:
    """A model and its own state. Cheap to make; get one from `Model.stream`.

    One call at a time: while one is running, a second raises `InputError` and changes nothing. A call that fails, or that
    is cancelled, leaves the state as it was.
    """

    def __init__(self, engine: Engine, initial: State) -> None:
        self._engine = engine
        self._graph = engine.graph
        self._lock = Lock()
        self._forks = engine.forks
        self._epoch = engine.epoch
        self._initial = initial
        self._resting = initial  # the state, while no stepper has it
        self._live: Stepper | None = None  # has the state
        self._spare: Stepper | None = None  # made by the first step: a stream that is only fed needs none
        self._fed = 0  # steps of the last chunk that no prepared call took: where as many come again, one is prepared
        self._stats: Stats | None = None

    @property
    def batch(self) -> int:
        """The number of rows in lockstep."""
        return self._initial.batch

    @property
    @within_memory
    def state(self) -> State:
        """The state after the last step, as a value: it does not change when the stream goes on."""
        with self._turn():
            return self._now()

    @property
    def position(self) -> int:
        """How many steps the state has behind it since the sequence began."""
        live = self._live
        return self._resting.position if live is None else live.position

    @property
    def stats(self) -> Stats | None:
        """The durations of `step`, `feed` and their twins since `measure` was called; None before."""
        return self._stats

    def step(self, x: Any) -> Any:
        """Answer one step and carry the state on.

        Args:
            x: `(B,)` tokens or `(B, F)` values; a mapping by name where the model has several inputs.

        Returns:
            `(B, ...)`, the caller's own array; a mapping by name where the model has several outputs.

        Raises:
            InputError: `x` breaks the contract, the model is closed, or another call is running; the state is as before.
        """
        lock = self._lock
        if lock.locked():  # as `_turn`, a tenth of a step faster
            lock = self._turn()
        try:
            with lock:
                stepper = self._live
                if stepper is None or self._epoch != self._engine.epoch:
                    stepper = self._wake()
                return stepper.step(x)
        except MemoryError as error:  # as `within_memory`
            raise out_of_memory(error) from None

    @within_memory
    def feed(self, chunk: Any) -> Any:
        """Answer a chunk in one call and carry the state on: the same as its steps, and much faster.

        Args:
            chunk: `(B, T)` tokens or `(B, T, F)` values; T may be 0, and then nothing changes.

        Returns:
            `(B, T, ...)`; `(B, ...)` for an output that has one value per chunk.

        Raises:
            InputError: `chunk` breaks the contract, or has another batch size than the stream; the state is as before.
        """
        with self._turn():
            if self._live is not None and self._epoch == self._engine.epoch:
                answer = self._live.feed(chunk)
                if answer is not None:
                    return answer
            checked = self._checked(self._graph.check_chunk(chunk))
            again, self._fed = checked.steps == self._fed, checked.steps
            if again and self._engine.prepares(checked):
                stepper = self._wake()
                stepper.prepare(checked.steps)
                return self._graph.single(stepper.run_chunk(checked))
            answers, state = self._engine.run(checked, self._now())
            found = self._graph.single(answers)
            self._rest(state)
            return found

    async def astep(self, x: Any) -> Any:
        """`step` in another thread, so that the event loop stays free. A call that is cancelled never happened."""
        answers = await self._aside(self._checked(self._graph.check_step(x)))
        return self._graph.single(self._graph.of_step(answers))

    async def afeed(self, chunk: Any) -> Any:
        """`feed` in another thread, so that the event loop stays free. A call that is cancelled never happened."""
        return self._graph.single(await self._aside(self._checked(self._graph.check_chunk(chunk))))

    @within_memory
    def generate(
        self,
        prompt: str,
        max_new_tokens: int = 256,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        on_token: "OnToken | None" = None,
    ) -> "Generation":
        """Go on writing: pieces of text, as they come. The stream reads what it writes.

        Args:
            prompt: read first, at least one symbol; it is not part of the answer.
            max_new_tokens: ends the answer.
            temperature, top_k, top_p, min_p, repetition_penalty: as in transformers, and in its order. Temperature 0 takes
                the most likely symbol each time. The penalty is for what is in the prompt and in the answer so far.
            seed: the same seed writes the same text, however the model is fed; None writes another each time.
            stop: the answer ends before the first of these strings, or before this one.
            on_token: called with each symbol that is drawn; where it returns False, the answer ends behind that symbol.

        Returns:
            An iterator over the pieces. A piece is held back only while it could be the beginning of a stop string.

        Raises:
            InputError: the artifact has no text codec or does not answer in text, the batch is not 1, the prompt is empty or
                has an unknown character, or a value is out of range or of the wrong type.
        """
        writing, tokens = self._begun(
            prompt,
            max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop,
            on_token=on_token,
        )
        answer = self.feed(self._graph.text_codec().rows(tokens)[None])
        writing.begin(tokens, self._graph.last_logits(answer)[0])
        return self._generation(writing)

    def agenerate(self, prompt: str, max_new_tokens: int = 256, **options: "Unpack[GenerateOptions]") -> AsyncIterator[str]:
        """`generate` with another thread for the model, so that the event loop stays free: `async for piece in ...`.

        Where it is cancelled, the stream has read what was handed out, and what was held back.

        Args:
            prompt, max_new_tokens, options: as `generate`.

        Raises:
            InputError: as `generate`.
        """
        return self._apieces(*self._begun(prompt, max_new_tokens, **options))

    async def _apieces(self, writing: "Writing", tokens: NDArray[np.int64]) -> AsyncIterator[str]:
        from rnnx_runtime._generation import check_unmoved

        answers = await self._aside(self._graph.symbols(tokens))
        writing.begin(tokens, self._graph.last_logits(answers)[0])
        expected = self.position
        while (token := writing.draw()) is not None:
            check_unmoved(expected, self.position)
            expected += 1
            answers = await self._aside(self._graph.symbols([token]))
            piece = writing.read(self._graph.last_logits(answers)[0])
            if piece:
                yield piece

    def _begun(
        self, prompt: str, max_new_tokens: int, **options: "Unpack[GenerateOptions]"
    ) -> "tuple[Writing, NDArray[np.int64]]":
        from rnnx_runtime._generation import start_writing

        self._check_single()
        return start_writing(self._graph, prompt, max_new_tokens, options)

    @within_memory
    def resume(self, checkpoint: bytes, *, on_token: "OnToken | None" = None) -> "Generation":
        """Go on with a generation that `Generation.to_bytes` was called on, to the same text; `text` has what there was.

        Raises:
            StateError: it is no whole checkpoint, it is damaged, or another model's; the stream is as before.
            InputError: the artifact does not answer in text, or the batch is not 1.
        """
        self._check_single()
        from rnnx_runtime._generation import Writing

        writing, state = Writing.from_bytes(self._graph, checkpoint, on_token)
        self.restore(state)
        return self._generation(writing)

    @within_memory
    def beam_search(
        self,
        prompt: str,
        max_new_tokens: int = 256,
        *,
        num_beams: int = 4,
        length_penalty: float = 1.0,
        stop: str | Sequence[str] = (),
    ) -> "list[Hypothesis]":
        """The likeliest ways to go on, the best first; the stream stays where it is.

        Args:
            prompt, max_new_tokens, stop: as `generate`.
            num_beams: how many are followed at once, and how many are returned at most.
            length_penalty: as in transformers: they are ranked by log-probability / length ** length_penalty.

        Raises:
            InputError: as `generate`.
        """
        self._check_single()
        from rnnx_runtime._score import beam_search

        return beam_search(self._engine, self.state, prompt, max_new_tokens, num_beams, length_penalty, stop)

    @within_memory
    def reset(self) -> None:
        """Start a new sequence, from the state that the stream was made with."""
        with self._turn():
            self._rest(self._initial)

    @within_memory
    def restore(self, state: State) -> None:
        """Continue from `state`.

        Raises:
            StateError: it is another model's, of another batch size, or not finite; the stream is as before.
        """
        self._graph.check_state(state)
        if state.batch != self.batch:
            raise StateError(f"the state has a batch of {state.batch}, this stream one of {self.batch}")
        check_finite(state)
        with self._turn():
            self._rest(state)

    @within_memory
    def fork(self) -> "Stream":
        """Another stream at the same state: both go on by themselves. `reset` takes both to the same start."""
        with self._turn():
            twin = Stream(self._engine, self._initial)
            twin._rest(self._now())
            return twin

    def measure(self, deadline_ms: float | None = None) -> Stats:
        """Write down from now on how long each `step`, `feed`, `astep` and `afeed` takes; before, that costs nothing.

        Args:
            deadline_ms: count the calls that take longer.

        Raises:
            InputError: `deadline_ms` is not above 0.
        """
        stats = Stats(deadline_ms)
        # In front of the methods, on this one stream only: the others stay as fast as they were.
        for name in ("step", "feed"):
            vars(self)[name] = stats.timed(getattr(type(self), name).__get__(self), lambda: self.position)
        self._stats = stats
        return stats

    def _generation(self, writing: "Writing") -> "Generation":
        from rnnx_runtime._generation import Generation, check_unmoved

        graph = self._graph

        def read(token: int, position: int) -> NDArray[Any]:
            check_unmoved(position, self.position)
            scores: NDArray[Any] = graph.logits(self.step(graph.symbol(token)))[0]
            return scores

        def unread(position: int) -> None:
            if self._live is not None and self._live.position == position + 1:
                self._live.take_back()

        return Generation(writing, read, lambda: self.state, self.position, unread)

    async def _aside(self, chunk: Chunk) -> Answers:
        """Run a chunk in another thread. What is cancelled changes nothing: it is a pure function, and the state is put in its
        place here; the thread ends after the call that it is in.
        """
        import asyncio  # here: it takes as long to import as all the rest of this package

        started, over = time.perf_counter(), Event()
        run = within_memory(self._engine.run)
        with self._turn():
            try:
                answers, state = await asyncio.get_running_loop().run_in_executor(None, run, chunk, self._now(), over.is_set)
            finally:
                over.set()
            self._rest(state)
        if self._stats is not None:
            self._stats.add((time.perf_counter() - started) * 1e3, chunk.steps)
        return answers

    def _checked(self, chunk: Chunk) -> Chunk:
        if chunk.batch != self.batch:
            raise InputError(
                f"the input has a batch of {chunk.batch}, this stream one of {self.batch}; "
                "another batch size needs a stream of its own"
            )
        return chunk

    def _check_single(self) -> None:
        if self.batch != 1:
            raise InputError(f"text is generated one stream at a time, this one has a batch of {self.batch}")

    def _now(self) -> State:
        """The state, for a call that has the turn."""
        return self._resting if self._live is None else self._live.state()

    def _rest(self, state: State) -> None:
        self._resting, self._live = state, None

    def _wake(self) -> Stepper:
        """A stepper at the state; a new one where the engine's sessions are not those of before."""
        if self._live is not None and self._epoch == self._engine.epoch:
            return self._live
        if self._live is not None and self._forks != self._engine.forks and self._engine.lost:
            raise StateError(self._engine.lost)
        state = self._now()
        self._forks = self._engine.forks
        if self._epoch != self._engine.epoch:
            self._rest(state)
            self._spare = None
        if self._spare is None:
            self._epoch = self._engine.epoch
            self._spare = self._engine.stepper(self.batch)
        self._spare.load(state)
        self._live = self._spare
        return self._live

    def _turn(self) -> Lock:
        """The lock of one caller, to be entered by `with` and nothing else: there alone it is given back wherever it is interrupted.
        Who comes between the two lines, within a millionth of a second, is waited for and not refused.

        Raises:
            InputError: another call is running.
        """
        if self._lock.locked():
            if self._forks == self._engine.forks:
                raise InputError(_BUSY)
            self._forks = self._engine.forks  # the one who has it is a thread of the parent process
            self._lock = Lock()
        self._forks = self._engine.forks
        return self._lock

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a stream cannot be copied or pickled; keep its state, and restore it in another stream")
