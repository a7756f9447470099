"""The engine: one ONNX Runtime session, run by names on both sides."""

import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from rnnx_runtime._buffers import Buffer, DeviceBuffer, HostBuffer
from rnnx_runtime._errors import ExecutionError, ProviderError, printable
from rnnx_runtime._memory import REMEDY, ROOM, check_room
from rnnx_runtime._providers import (
    PROVIDERS,
    Availability,
    Placement,
    Requested,
    add_to,
    check_placement,
    forget_registering,
    placed,
    select,
)

# ONNX Runtime reads this when it is first imported: without it, a thread, a database in the user's cache folder, and
# forked children that hang when they end.
_TELEMETRY: Final = "ORT_DISABLE_TELEMETRY"
_too_late = "onnxruntime" in sys.modules and _TELEMETRY not in os.environ
os.environ.setdefault(_TELEMETRY, "1")

_NO_MEMORY: Final = (
    "bad_alloc",
    "Failed to allocate memory",
    "failed to map segment",
)  # as ONNX Runtime and the loader say it

_sessions: Final[WeakSet[Any]] = WeakSet()  # ONNX Runtime's
_creating = threading.Lock()  # ONNX Runtime's own initialisation is not safe from several threads at once


@dataclass(frozen=True)
class Options:
    """How a graph is run."""

    providers: Requested
    strict: bool
    threads: int
    profile: str | None = None  # the path that ONNX Runtime's trace is written to, less its ending
    refuse_wrong: bool = True  # a provider that computes something else than was exported; a self-test shows by how much
    half: bool = False  # the graph has float16 in it

    @property
    def reduced_precision(self) -> bool:
        """Whether a provider is asked to compute with fewer bits than the artifact has."""
        return any(
            given.get("precision", "f32") != "f32" or "1" in (given.get("use_tf32"), given.get("trt_fp16_enable"))
            for given in self.providers.values()
        )


@final
class Session:
    """A loaded graph. Any number of threads may run it.

    Raises:
        ProviderError: an execution provider is not available, or left nodes to another that was not asked for.
        ExecutionError: ONNX Runtime cannot load the graph.
    """

    def __init__(self, data: bytes, options: Options) -> None:
        because = ""
        _check_whole()
        found = select(options.providers, options.strict)
        try:
            self._session = _opened(data, options, found)
        except ProviderError as error:
            if options.strict:
                raise
            # Not by ONNX Runtime's own fallback, which prints, and later leaves a run that fails to another provider.
            found, because = [], str(error)
            self._session = _opened(data, options, found)
        _sessions.add(self._session)
        self._largest = 0  # bytes that a call of `run` was given
        nodes = placed(self._session)
        granted = tuple(dict.fromkeys(node.provider for node in nodes))
        self.placement = Placement(tuple(options.providers), granted, nodes, because)
        if options.strict:
            running = self._session.get_providers()
            for one in found:
                if one.provider.ort not in running:
                    raise ProviderError(
                        f"provider {one.provider.name} is installed but does not start here; it needs {one.provider.needs}"
                    )
            check_placement(self.placement)
        # Kept bindings are used where every node shares one memory; elsewhere ONNX Runtime copies what is bound, once.
        memories = {PROVIDERS[name].memory if name in PROVIDERS else None for name in granted} or {"cpu"}
        self._memory = memories.pop() if len(memories) == 1 else None
        devices = {int(options.providers.get(name, {}).get("device_id", 0)) for name in granted} or {0}
        self._device_id = devices.pop()
        if devices:
            self._memory = None

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One call with arrays made for it.

        Raises:
            ProviderError, ExecutionError: it fails, on another provider than the CPU's or on that.
        """
        size = sum(array.nbytes for array in inputs.values())
        if size > self._largest:  # ONNX Runtime keeps what a call took: one as small needs nothing new
            check_room(ROOM + size)
        try:
            found = dict(zip(outputs, self._session.run(outputs, inputs), strict=True))
        except Exception as error:
            raise self._failure(error) from error
        self._largest = max(self._largest, size)
        return found

    @property
    def on_device(self) -> bool:
        """Whether `bind` keeps tensors in the memory of a device."""
        return self._memory not in (None, "cpu")

    def forget_bindings(self) -> None:
        """Hand everything over at each call from now on."""
        self._memory = None

    def buffer(self, array: NDArray[Any]) -> Buffer:
        """A tensor with these values, that stays where this session's provider has it at hand."""
        if self.on_device:
            return DeviceBuffer(array, str(self._memory), self._device_id)
        return HostBuffer(np.array(array, order="C"))

    def bind(
        self,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Mapping[str, NDArray[Any]],
        states: Mapping[str, Buffer],
        following: Mapping[str, Buffer],
    ) -> Callable[[], None]:
        """A call with everything prepared: it reads `inputs` and `states`, and writes `outputs` and `following`, in place.

        The arrays must be C-ordered. All live as long as the callable, which belongs to one thread at a time.
        """
        check_room(ROOM)
        if self._memory is None:
            return self._unbound(inputs, outputs, states, following)
        try:
            return self._bound(inputs, outputs, states, following)
        except Exception as error:
            raise self._failure(error) from error

    def _bound(
        self,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Mapping[str, NDArray[Any]],
        states: Mapping[str, Buffer],
        following: Mapping[str, Buffer],
    ) -> Callable[[], None]:
        given = {name: HostBuffer(array) for name, array in inputs.items()}
        staged = {name: self.buffer(array) for name, array in inputs.items()} if self.on_device else {}
        binding = self._session.io_binding()
        for name, buffer in {**given, **staged, **states}.items():
            buffer.bind_input(binding, name)
        for name, buffer in {**{name: HostBuffer(array) for name, array in outputs.items()}, **following}.items():
            buffer.bind_output(binding, name)
        # ONNX Runtime keeps bare pointers; and its session is kept whole, so that `leave_to_parent` finds it.
        held = (self._session, given, dict(outputs), dict(states), dict(following))

        # Below the public method, whose checks are for WebGPU: they take as long as the rest of a step's Python.
        def call(
            run: Any = self._session._sess.run_with_iobinding, bound: Any = binding._iobinding, _held: Any = held
        ) -> None:
            try:
                run(bound, None)
            except Exception as error:
                raise self._failure(error) from error

        if not staged:
            return call

        def stage_and_call() -> None:
            for name, buffer in staged.items():
                buffer.write(inputs[name])
            call()

        return stage_and_call

    def _unbound(
        self,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Mapping[str, NDArray[Any]],
        states: Mapping[str, Buffer],
        following: Mapping[str, Buffer],
    ) -> Callable[[], None]:
        names = [*outputs, *following]

        def call() -> None:
            found = self.run(names, {**inputs, **{name: buffer.read() for name, buffer in states.items()}})
            for name, array in outputs.items():
                np.copyto(array, as_declared(name, found[name], array.dtype, array.shape))
            for name, buffer in following.items():
                kept = buffer.read()
                buffer.write(as_declared(name, found[name], kept.dtype, kept.shape))

        return call

    def _failure(self, error: Exception) -> ProviderError | ExecutionError:
        """What a call that failed becomes."""
        others = ", ".join(name for name in self.placement.granted if name != "cpu")
        if others:
            return ProviderError(f"{others} failed: {_reason(error)}; load the model with another provider to go on")
        return ExecutionError(f"ONNX Runtime failed: {_reason(error)}")

    def end_profile(self) -> str:
        """Stop ONNX Runtime's profile; the path of the trace that it wrote."""
        path: str = self._session.end_profiling()
        return path


def _check_whole() -> None:
    """Raises ExecutionError where ONNX Runtime cannot be imported."""
    try:
        import onnxruntime  # noqa: F401  # here, so that importing this package opens nothing and costs nothing
    except Exception as error:
        raise ExecutionError(f"ONNX Runtime cannot be imported: {_reason(error)}") from error


def _opened(data: bytes, options: Options, found: Sequence[Availability]) -> Any:
    """ONNX Runtime's session of a graph, on these providers and the CPU.

    Raises:
        ProviderError: one of the providers cannot load it.
        ExecutionError: ONNX Runtime cannot.
    """
    import onnxruntime

    check_room(ROOM + 2 * len(data))
    which = ", ".join(one.provider.name for one in found if one.provider.name != "cpu")
    try:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 4  # fatal: errors reach the caller as exceptions
        for key, value in {
            "session.intra_op.allow_spinning": "0",  # a waiting thread sleeps instead of burning its core
            "session.inter_op.allow_spinning": "0",
            "session.load_model_format": "ONNX",  # bytes that look like another format are not sent to its loader
            "session.record_ep_graph_assignment_info": "1",
        }.items():
            settings.add_session_config_entry(key, value)
        if options.half:  # at a MatMul behind a Transpose it ends the process: seen in ONNX Runtime 1.32
            settings.add_session_config_entry("optimization.disable_specified_optimizers", "NchwcTransformer")
        if options.profile is not None:
            settings.enable_profiling = True
            settings.profile_file_prefix = options.profile
        for one in found:
            add_to(settings, one, options.providers[one.provider.name], options.threads)
        with _creating:
            return onnxruntime.InferenceSession(data, settings, enable_fallback=0)
    except ProviderError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions have no base of their own
        if which:
            raise ProviderError(f"{which} cannot load the model: {_reason(error)}") from error
        raise ExecutionError(f"ONNX Runtime cannot load the model: {_reason(error)}") from error


def as_declared(name: str, array: NDArray[Any], dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """What the graph gave, if it is what the manifest declares."""
    if array.shape != shape or array.dtype != dtype:
        raise ExecutionError(f"{name}: the artifact declares {dtype} {shape}, its graph gave {array.dtype} {array.shape}")
    return array


def leave_to_parent() -> None:
    """In a process forked off: no session of before is ever destroyed, for that waits for threads that are not here; and a
    thread that held a lock is no more.
    """
    global _creating  # noqa: PLW0603
    _creating = threading.Lock()
    forget_registering()
    import ctypes

    for session in list(_sessions):
        for held in (session, session._sess):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))


def warn_of_telemetry() -> None:
    """Once, where somebody else imported ONNX Runtime before this package could set the switch."""
    global _too_late  # noqa: PLW0603
    if _too_late:
        _too_late = False
        warnings.warn(
            f"onnxruntime was imported before rnnx_runtime, so its telemetry may be on; set {_TELEMETRY}=1, "
            "or import rnnx_runtime first",
            RuntimeWarning,
            stacklevel=4,  # the caller of load, which is guarded
        )


def _reason(error: Exception) -> str:
    """Why, and where memory ran out, what to do about it."""
    said = _first_line(error)
    return f"{said}; {REMEDY}" if isinstance(error, MemoryError) or any(word in said for word in _NO_MEMORY) else said


def _first_line(error: Exception) -> str:
    """What ONNX Runtime says, without the place in its own source that it begins with."""
    lines = [line.strip() for line in str(error).split("\n") if line.strip()] or [""]
    line = " ".join(lines[: 3 if lines[0].endswith(":") else 1])
    return printable(re.sub(r"/\S*onnxruntime\S*:\d+ .*?\) (?=\S)", "", line))
