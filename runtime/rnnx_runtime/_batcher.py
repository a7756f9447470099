"""Micro-batching: requests of many threads, answered together.

One request per stream and call, the streams in turn: whoever has asked for much does not keep the others waiting.
"""

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final, NamedTuple, final
from weakref import WeakSet

from rnnx_runtime._errors import BusyError, ExecutionError, InputError
from rnnx_runtime._memory import check_room

_IDLE_SECONDS: Final = 1.0  # after which the thread ends; the next request starts another

_THREAD_ROOM: Final = 32 << 20  # bytes: the stack of a thread, and what ONNX Runtime takes in each

_PATIENCE_SECONDS: Final = 0.05  # between two looks whether a task that waits for room was cancelled


class _Request(NamedTuple):
    future: Future[Any]
    x: Any
    arrived: float


@final
class Batcher:
    """A bounded queue, and a thread that empties it."""

    def __init__(
        self,
        answer: Callable[[Mapping[Hashable, Any]], Mapping[Hashable, Any]],
        max_batch: int,
        max_wait_seconds: float,
        max_queue: int,
    ) -> None:
        self._answer = answer
        self._max_batch = max_batch
        self._max_wait = max_wait_seconds
        self._max_queue = max_queue
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._work = threading.Condition(self._lock)
        self._queues: dict[Hashable, deque[_Request]] = {}  # in the order of their turns
        self._answering: dict[Hashable, _Request] = {}
        self._waiting = 0
        self._worker: threading.Thread | None = None
        self._closed = False
        _batchers.add(self)

    def submit(self, key: Hashable, x: Any, timeout: float | None, future: Future[Any] | None = None) -> Future[Any]:
        """See `Pool.submit`; what is answered goes into `future`."""
        request = _Request(Future() if future is None else future, x, time.monotonic())
        if threading.current_thread() is self._worker:
            timeout = 0  # a callback of a future: only its own thread could make room
        with self._lock:
            if not self._room.wait_for(lambda: self._closed or self._waiting < self._max_queue, timeout):
                raise BusyError(
                    f"{self._waiting} requests are waiting, and max_queue is {self._max_queue}; "
                    "ask again later, or give more time"
                )
            self.check_open()
            if self._worker is None:
                self._start()
            queue, begun = self._queues.get(key), deque([request])
            # From here until it is counted and in the queue no call returns: nothing can interrupt it.
            if queue is None:
                self._queues[key] = begun
                self._waiting += 1
            else:
                self._waiting += 1
                queue.append(request)
            self._work.notify()
        return request.future

    def _start(self) -> None:
        """Start the thread, for a caller that has the lock."""
        check_room(_THREAD_ROOM)  # without, Python waits for ever for a thread that could not begin
        worker = threading.Thread(target=self._run, name="rnnx-pool", daemon=True)
        self._worker = worker
        try:
            worker.start()
        except BaseException as error:
            self._worker = None  # where it did start, it finds that it is not the one
            if isinstance(error, RuntimeError):
                raise ExecutionError(f"the pool's thread cannot be started: {error}") from error
            raise

    async def asubmit(self, key: Hashable, x: Any) -> Future[Any]:
        """`submit`, where waiting for room must not block an event loop: a cancelled task has asked for nothing."""
        import asyncio

        cancelled = threading.Event()
        submitted: list[Future[Any]] = []

        def wait() -> Future[Any]:
            while not cancelled.is_set():
                try:
                    future = self.submit(key, x, _PATIENCE_SECONDS)
                except BusyError:
                    continue
                submitted.append(future)
                if cancelled.is_set():
                    future.cancel()
                return future
            raise BusyError("the task that asked was cancelled")

        try:
            return self.submit(key, x, 0)
        except BusyError:
            pass
        try:
            return await asyncio.get_running_loop().run_in_executor(None, wait)
        except asyncio.CancelledError:
            cancelled.set()
            for future in submitted:
                future.cancel()
            raise

    def check_open(self) -> None:
        """Raises InputError where nothing is taken any more."""
        if self._closed:
            raise InputError("this pool is closed; make another one with Model.pool")

    def is_waiting(self, key: Hashable) -> bool:
        """Whether a request of this stream is in the queue, or being answered."""
        with self._lock:
            return key in self._answering or any(not one.future.cancelled() for one in self._queues.get(key, ()))

    def close(self) -> None:
        """Cancel what is waiting; nothing can be submitted from now on."""
        with self._lock:
            self._closed = True
            cancelled = [request.future for queue in self._queues.values() for request in queue]
            self._queues.clear()
            self._waiting = 0
            self._room.notify_all()
            self._work.notify_all()
        for future in cancelled:
            future.cancel()

    def end(self) -> None:
        """Before the interpreter ends: a thread inside ONNX Runtime would take the process down with it."""
        self.close()
        if (worker := self._worker) is not None and worker is not threading.current_thread():
            worker.join()

    def _run(self) -> None:
        try:
            while (batch := self._next()) is not None:
                running = {key: one for key, one in batch.items() if one.future.set_running_or_notify_cancel()}
                if running:
                    self._serve(running)
                with self._lock:
                    self._answering = {}
        except BaseException as error:  # of this thread itself: no memory, for one
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        """Let nobody wait for a thread that is no more."""
        with self._lock:
            left = [*self._answering.values(), *(request for queue in self._queues.values() for request in queue)]
            self._queues, self._answering, self._waiting, self._worker = {}, {}, 0, None
            self._room.notify_all()
        for request in left:
            if not request.future.done():
                with suppress(BaseException):
                    request.future.set_exception(
                        ExecutionError(f"the pool's thread ended: {str(error) or type(error).__name__}")
                    )

    def _next(self) -> dict[Hashable, _Request] | None:
        """The requests that are answered together next; None to end."""
        with self._lock:
            if self._worker is not threading.current_thread():
                return None
            if not self._work.wait_for(lambda: self._closed or self._queues, _IDLE_SECONDS) or self._closed:
                self._worker = None
                return None
            until = min(queue[0].arrived for queue in self._queues.values()) + self._max_wait
            while len(self._queues) < self._max_batch and (left := until - time.monotonic()) > 0 and not self._closed:
                self._work.wait(left)
            batch: dict[Hashable, _Request] = {}
            for key in list(self._queues)[: self._max_batch]:
                queue = self._queues.pop(key)
                batch[key] = queue.popleft()
                if queue:
                    self._queues[key] = queue  # behind the others
            self._waiting -= len(batch)
            self._answering = batch
            self._room.notify(len(batch))
            return batch

    def _serve(self, batch: dict[Hashable, _Request]) -> None:
        try:
            answers = self._answer({key: request.x for key, request in batch.items()})
        except Exception as error:
            if len(batch) == 1:
                with suppress(BaseException):  # of somebody's callback, which must not end this thread
                    next(iter(batch.values())).future.set_exception(error)
            else:  # find the one that fails: the others have nothing to do with it
                for key, request in batch.items():
                    self._serve({key: request})
            return
        for key, request in batch.items():
            with suppress(BaseException):
                request.future.set_result(answers[key])


_batchers: Final[WeakSet[Batcher]] = WeakSet()


@atexit.register
def _end_all() -> None:
    for batcher in list(_batchers):
        batcher.end()
