"""Where memory runs out: found out before ONNX Runtime is, and said as every other error."""

import mmap
from collections.abc import Callable
from functools import wraps
from typing import Final, ParamSpec, TypeVar

from rnnx_runtime._errors import ExecutionError

# ONNX Runtime ends the process where memory runs out in the middle of its own bookkeeping: seen with less than 2.5 MB left.
ROOM: Final = 4 << 20  # bytes
REMEDY: Final = "give shorter chunks or fewer rows, or more memory"
_NONE_AT_ALL: Final = f"there is not enough memory; {REMEDY}"

_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")


def check_room(size: int) -> None:
    """Raises ExecutionError where this process cannot get so many bytes; they are not touched, and given back at once."""
    try:
        mmap.mmap(-1, size).close()
    except (OSError, ValueError, MemoryError, OverflowError):
        raise ExecutionError(f"there is not enough memory: {size} bytes are needed and cannot be had; {REMEDY}") from None


def out_of_memory(error: MemoryError) -> ExecutionError:
    """What a failure to get memory becomes: numpy says how much, Python does not."""
    error.__traceback__ = None  # which holds all that the call had
    try:
        return ExecutionError(f"there is not enough memory: {str(error) or 'nothing more can be had'}; {REMEDY}")
    except MemoryError:
        return ExecutionError(_NONE_AT_ALL)


def within_memory(call: Callable[_Given, _Answer]) -> Callable[_Given, _Answer]:
    """A call that raises ExecutionError where there is not enough memory for it."""

    @wraps(call)
    def guarded(*args: _Given.args, **kwargs: _Given.kwargs) -> _Answer:
        try:
            return call(*args, **kwargs)
        except MemoryError as error:
            raise out_of_memory(error) from None

    return guarded
