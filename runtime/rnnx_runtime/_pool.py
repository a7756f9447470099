"""A pool: many streams of one model, stepped together in one call, that join and leave at any step."""

import threading
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Final, Self, Unpack, final

from numpy.typing import ArrayLike, NDArray

from rnnx_runtime._batcher import Batcher
from rnnx_runtime._engine import Engine
from rnnx_runtime._errors import InputError, StateError
from rnnx_runtime._generation import GenerateOptions, Generation, OnToken, Writing, check_unmoved, start_writing
from rnnx_runtime._graph import Answers
from rnnx_runtime._held import Held
from rnnx_runtime._inputs import real, whole
from rnnx_runtime._members import by_key, one_chunk, own_step, side_by_side, stacked_steps
from rnnx_runtime._memory import within_memory
from rnnx_runtime._rows import Rows
from rnnx_runtime._state import State, check_finite, make_state, rows_of
from rnnx_runtime._stats import Stats

_MOST: Final = 1 << 20
_LONGEST_WAIT_SECONDS: Final = 60
_USUAL: Final = 64  # requests that are answered together, where it is not said how many


@final
class Pool:
    """Streams by key: any hashable value. Get one from `Model.pool`; any number of threads may use it.

    A row is answered as if it were alone: for float32 LSTM and GRU on the CPU bit for bit, for RNN to 1e-6. Inputs and
    answers are a stream's own, without a batch axis: a step is a token or `(F,)`, a chunk `(T,)` or `(T, F)`.
    """

    def __init__(self, engine: Engine, max_batch: int | None, max_wait_ms: float, max_queue: int) -> None:
        self._engine = engine
        self._graph = engine.graph
        self._max_batch = None if max_batch is None else whole("max_batch", max_batch, 1, _MOST)
        fixed = engine.graph.manifest.fixed_batch
        if fixed is not None:
            if fixed > 1:
                raise InputError(f"a pool's streams are a row each, but this graph takes a batch of {fixed}; use Model.stream")
            self._max_batch = 1
        self._max_wait = real("max_wait_ms", max_wait_ms) / 1e3
        if not 0 <= self._max_wait <= _LONGEST_WAIT_SECONDS:
            raise InputError(f"max_wait_ms must be from 0 to {_LONGEST_WAIT_SECONDS * 1000}, got {max_wait_ms}")
        self._max_queue = whole("max_queue", max_queue, 1)
        self._rows = Rows(engine.graph)
        self._forks = engine.forks
        self._held = Held(engine, self._rows)  # the streams whose states are not in their rows
        self._stats: Stats | None = None
        self._closed = False
        self._forget_threads()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(list(self._rows))

    @property
    def stats(self) -> Stats | None:
        """The durations of the calls since `measure` was called; None before."""
        return self._stats

    @within_memory
    def join(self, key: Hashable, state: State | None = None, **conditions: ArrayLike) -> None:
        """Add a stream. `step` and `feed` do so by themselves where the initial state is not computed.

        Args:
            key: the stream's name from now on.
            state: where it goes on, with a batch of 1; the initial state when None.
            conditions: as `Model.initial_state`, with a batch of 1.

        Raises:
            StateError: there is such a stream already, or the state does not fit.
            InputError: as `Model.initial_state`.
        """
        if state is not None and conditions:
            raise InputError(f"a stream starts from a state or from conditions, got both: {', '.join(conditions)}")
        begin = self._engine.initial_state(1, conditions) if state is None else self._fitting(state)
        if begin.batch != 1:
            raise InputError(f"a stream of a pool is one row, the conditions have a batch of {begin.batch}")
        with self._turn():
            if key in self._rows:
                raise StateError(f"there is a stream {key!r} in this pool already; restore sets its state")
            self._rows.put(key, begin)

    @within_memory
    def leave(self, key: Hashable) -> State:
        """Remove a stream; the state that it leaves with.

        Raises:
            StateError: there is no such stream, or a request of it is waiting.
        """
        with self._turn():
            if self._batcher.is_waiting(key):
                raise StateError(f"a request of stream {key!r} is waiting; let it be answered first")
            self._held.settle()
            state = self._rows.state(key)
            self._rows.drop(key)
            return state

    @within_memory
    def state(self, key: Hashable) -> State:
        """The state of a stream, as a value.

        Raises:
            StateError: there is no such stream.
        """
        with self._turn():
            self._held.settle()
            return self._rows.state(key)

    @within_memory
    def restore(self, key: Hashable, state: State) -> None:
        """Let a stream continue from `state`.

        Raises:
            StateError: there is no such stream, or the state does not fit.
        """
        fitting = self._fitting(state)
        with self._turn():
            if key not in self._rows:
                raise StateError(f"there is no stream {key!r} in this pool")
            self._held.settle()
            self._rows.put(key, fitting)

    @within_memory
    def step(self, xs: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Answer one step of each of these streams. Those that are new join at the initial state.

        Args:
            xs: by stream: a token, or `(F,)` values; a mapping by name where the model has several inputs.

        Returns:
            By stream, what `Stream.step` returns, less the batch axis.

        Raises:
            InputError: an input breaks the contract. The message says which stream's; all states are as before.
        """
        started = time.perf_counter()
        keys, chunk = stacked_steps(self._graph, xs)
        with self._joining(keys):
            if not keys:
                return {}
            if not self._held.holds(keys):
                self._held.hold(keys, self._most(len(keys)))
            answers = self._held.look_ahead(keys, chunk)
            found: dict[Hashable, Any] = (
                dict(zip(keys, *answers.values(), strict=True))
                if len(answers) == 1
                else {key: {name: array[row] for name, array in answers.items()} for row, key in enumerate(keys)}
            )
            self._held.steps += 1  # last, when nothing can fail any more
            self._count(started, len(keys))
            return found

    @within_memory
    def feed(self, chunks: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Answer a chunk of each of these streams, of any lengths. Those that are new join at the initial state.

        Args:
            chunks: by stream: `(T,)` tokens or `(T, F)` values; a mapping by name where the model has several inputs.

        Returns:
            By stream, what `Stream.feed` returns, less the batch axis.

        Raises:
            InputError: an input breaks the contract. The message says which stream's; all states are as before.
        """
        started = time.perf_counter()
        checked = {key: one_chunk(self._graph, key, chunk) for key, chunk in by_key(chunks)}
        pieces: dict[Hashable, list[Answers]] = {
            key: [] if chunk.steps else [self._graph.empty(1)] for key, chunk in checked.items()
        }
        with self._joining(list(checked)):
            self._held.settle()
            states = {key: self._rows.state(key) for key in checked}
            for first, last, going in self._cuts({key: chunk.steps for key, chunk in checked.items()}):
                for part in self._parts(going):
                    cut = side_by_side([self._graph.cut(checked[key], first, last) for key in part])
                    answers, following = self._engine.run(cut, self._graph.together([states[key] for key in part]))
                    for row, key in enumerate(part):
                        pieces[key].append({name: array[row : row + 1] for name, array in answers.items()})
                        one = rows_of(following, [row], self._graph.batch_axes)
                        states[key] = make_state(one.digest, 1, dict(one), states[key].position + last - first)
            found = {
                key: self._graph.single({name: array[0] for name, array in self._graph.joined(pieces[key]).items()})
                for key in checked
            }
            self._rows.put_all(states)
            self._count(started, sum(chunk.steps for chunk in checked.values()))
            return found

    def _cuts(self, lengths: Mapping[Hashable, int]) -> Iterator[tuple[int, int, list[Hashable]]]:
        """Ragged chunks as calls of equal lengths: from which step to which, and the streams that are still going."""
        first = 0
        for last in sorted(set(lengths.values()) - {0}):
            if self._graph.manifest.chunks_matter_because is not None:  # each is one call
                yield 0, last, [key for key, steps in lengths.items() if steps == last]
            else:
                yield first, last, [key for key, steps in lengths.items() if steps >= last]
            first = last

    @within_memory
    def submit(self, key: Hashable, x: Any, *, timeout: float | None = None) -> Future[Any]:
        """Ask for one step of a stream; requests of many threads are answered together.

        A stream's requests are answered in their order, one per call, and the streams take turns. Where `max_queue` requests
        are waiting, the caller waits too.

        Args:
            key, x: as `step`.
            timeout: how many seconds to wait for room in the queue; None for as long as it takes.

        Returns:
            The answer to come, as `step` has it for this stream.

        Raises:
            InputError: `x` breaks the contract, or the pool is closed.
            BusyError: the queue had no room in time.
        """
        if timeout is not None and real("timeout", timeout) < 0:
            raise InputError(f"timeout must be 0 or more, got {timeout}")
        return self._submit(key, x, timeout, Future())

    def _submit(self, key: Hashable, x: Any, timeout: float | None, future: Future[Any]) -> Future[Any]:
        owned = own_step(self._graph, key, x)
        self._after_fork()
        self._batcher.submit(key, owned, None if timeout is None else min(timeout, threading.TIMEOUT_MAX), future)
        return future

    async def astep(self, key: Hashable, x: Any) -> Any:
        """`submit`, for the tasks of an event loop: waits for room and for the answer without blocking it.

        A task that is cancelled while its request waits has asked for nothing; once it is being answered, the step is done.
        """
        import asyncio  # here: it takes as long to import as all the rest of this package

        owned = own_step(self._graph, key, x)
        self._after_fork()
        return await asyncio.wrap_future(await self._batcher.asubmit(key, owned))

    @within_memory
    def generate(
        self, key: Hashable, prompt: str, max_new_tokens: int = 256, **options: Unpack[GenerateOptions]
    ) -> Generation:
        """`Stream.generate` with a stream of this pool: those that are iterated in several threads are stepped together.

        Raises:
            InputError: as `Stream.generate`.
        """
        writing, tokens = start_writing(self._graph, prompt, max_new_tokens, options)
        self._batcher.check_open()
        answer = self.feed({key: self._graph.text_codec().rows(tokens)})[key]
        logits = self._graph.logits(answer)
        writing.begin(tokens, logits[-1] if logits.ndim == 2 else logits)
        return self._generation(key, writing)

    @within_memory
    def resume(self, key: Hashable, checkpoint: bytes, *, on_token: OnToken | None = None) -> Generation:
        """`Stream.resume` with a stream of this pool, which joins where it is new.

        Raises:
            StateError, InputError: as `Stream.resume`.
        """
        writing, state = Writing.from_bytes(self._graph, checkpoint, on_token)
        fitting = self._fitting(state)
        with self._turn():
            self._held.settle()
            self._rows.put(key, fitting)
        return self._generation(key, writing)

    def measure(self, deadline_ms: float | None = None) -> Stats:
        """Write down from now on how long each call takes; before, that costs nothing.

        Args:
            deadline_ms: count the calls that take longer.

        Raises:
            InputError: `deadline_ms` is not above 0.
        """
        self._stats = Stats(deadline_ms)
        return self._stats

    def close(self) -> None:
        """Cancel the requests that are waiting, and take no more; `step`, `feed` and the states stay as they are."""
        self._after_fork()
        self._closed = True
        self._batcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a pool cannot be copied or pickled; keep its streams' states, and let them join another pool")

    def _generation(self, key: Hashable, writing: Writing) -> Generation:
        graph = self._graph
        asked: dict[int, Future[Any]] = {}  # by position: of a request whose answer nobody waited for

        def read(token: int, position: int) -> NDArray[Any]:
            future = asked.get(position)
            if future is None or not (self._batcher.is_waiting(key) or future.done()):
                check_unmoved(position, self._position(key))
                asked.clear()
                asked[position] = future = Future()
                self._submit(key, graph.symbol(token)[0], None, future)
            return graph.logits(future.result())

        return Generation(writing, read, lambda: self.state(key), self._position(key))

    def _position(self, key: Hashable) -> int:
        with self._turn():
            return self._rows.position(key) + (self._held.steps if key in self._held else 0)

    def _count(self, started: float, steps: int) -> None:
        if self._stats is not None:
            self._stats.add((time.perf_counter() - started) * 1e3, steps)

    def _fitting(self, state: State) -> State:
        self._graph.check_state(state)
        if state.batch != 1:
            raise StateError(f"a stream of a pool is one row, the state has a batch of {state.batch}")
        check_finite(state)
        return state

    @contextmanager
    def _joining(self, keys: Sequence[Hashable]) -> Iterator[None]:
        """A turn for these streams. Those that are new join, and leave again where the call fails."""
        with self._turn():
            new = self._rows.missing(keys)
            try:
                if new:
                    self._engine.open()
                    begin = self._engine.initial_state(1, {})  # refused where it is computed: such streams must join
                    self._rows.put_all(dict.fromkeys(new, begin))
                yield
            except BaseException:
                self._held.settle()
                for key in new:
                    if key in self._rows:
                        self._rows.drop(key)
                raise

    def _most(self, rows: int) -> int:
        """How many rows go into one call, where there are so many."""
        return self._engine.best_batch(rows) if self._max_batch is None else self._max_batch

    def _parts(self, keys: Sequence[Hashable]) -> list[Sequence[Hashable]]:
        """So many streams as go into one call."""
        most = self._most(len(keys))
        return [keys[first : first + most] for first in range(0, len(keys), most)]

    def _turn(self) -> threading.RLock:
        self._after_fork()
        return self._lock

    def _after_fork(self) -> None:
        if self._forks != self._engine.forks:
            self._forks = self._engine.forks
            self._forget_threads()

    def _forget_threads(self) -> None:
        """Begin without any: those of a parent process are not here."""
        self._lock = threading.RLock()
        # Looked up at each call: `measure` puts another one in its place.
        self._batcher = Batcher(lambda xs: self.step(xs), self._max_batch or _USUAL, self._max_wait, self._max_queue)  # noqa: PLW0108
        if self._closed:
            self._batcher.close()
