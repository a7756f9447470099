"""The engine: one ONNX Runtime session, run by names on both sides.

The only file that knows ONNX Runtime.
"""

import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

from numpy.typing import NDArray

from rnnx_runtime._errors import ExecutionError, printable

# ONNX Runtime reads this when it is first imported: without it, a thread, a database in the user's cache folder, and
# forked children that hang when they end.
_TELEMETRY: Final = "ORT_DISABLE_TELEMETRY"
_too_late = "onnxruntime" in sys.modules and _TELEMETRY not in os.environ
os.environ.setdefault(_TELEMETRY, "1")


@final
class Session:
    """A loaded graph. Any number of threads may run it."""

    def __init__(self, data: bytes, threads: int) -> None:
        import onnxruntime  # here, so that importing this package opens nothing and costs nothing

        _warn_of_telemetry()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # fatal: errors reach the caller as exceptions
        for key, value in {
            "session.intra_op.allow_spinning": "0",  # a waiting thread sleeps instead of burning its core
            "session.inter_op.allow_spinning": "0",
            "session.load_model_format": "ONNX",  # bytes that look like another format are not sent to its loader
        }.items():
            options.add_session_config_entry(key, value)
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no base of their own
            raise ExecutionError(f"ONNX Runtime cannot load the model: {_first_line(error)}") from error

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One call with arrays made for it."""
        try:
            return dict(zip(outputs, self._session.run(outputs, inputs), strict=True))
        except Exception as error:
            raise ExecutionError(f"ONNX Runtime failed: {_first_line(error)}") from error

    def bind(self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
        """A call that reads and writes these arrays in place, with nothing left to prepare.

        The arrays must be C-ordered; they live as long as the callable. One binding belongs to one thread at a time.
        """
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        held = (dict(inputs), dict(outputs))  # ONNX Runtime keeps bare pointers

        def call(run: Any = self._session.run_with_iobinding, binding: Any = binding, _held: Any = held) -> None:
            try:
                run(binding)
            except Exception as error:
                raise ExecutionError(f"ONNX Runtime failed: {_first_line(error)}") from error

        return call


def as_declared(name: str, array: NDArray[Any], dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """What the graph gave, if it is what the manifest declares."""
    if array.shape != shape or array.dtype != dtype:
        raise ExecutionError(f"{name}: the artifact declares {dtype} {shape}, its graph gave {array.dtype} {array.shape}")
    return array


def _warn_of_telemetry() -> None:
    """Once, where somebody else imported ONNX Runtime before this package could set the switch."""
    global _too_late  # noqa: PLW0603
    if _too_late:
        _too_late = False
        warnings.warn(
            f"onnxruntime was imported before rnnx_runtime, so its telemetry may be on; set {_TELEMETRY}=1, "
            "or import rnnx_runtime first",
            RuntimeWarning,
            stacklevel=4,  # the caller of load
        )


def _first_line(error: Exception) -> str:
    """What ONNX Runtime says, without the place in its own source that it begins with."""
    line = str(error).strip().split("\n", 1)[0]
    return printable(re.sub(r"/\S*onnxruntime\S*:\d+ .*?\) (?=\S)", "", line))
