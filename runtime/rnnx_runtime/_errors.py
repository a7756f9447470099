"""Everything rnnx raises on purpose.

    RnnxError
    ├── ArtifactError            ValueError         the file is not a whole, valid artifact
    │   └── ArtifactNotFoundError  FileNotFoundError
    ├── InputError               ValueError         a value given to step, feed, run or infer
    ├── StateError               ValueError         a state that does not fit the model
    ├── ProviderError            RuntimeError       an execution provider is unknown, missing, or left nodes to another
    ├── BusyError                TimeoutError       a pool's queue stayed full
    └── ExecutionError           RuntimeError       ONNX Runtime failed

Each message gives the rule, the value that broke it and what to do instead, on one line.
"""


def printable(text: str) -> str:
    """`text` with everything escaped that a terminal might obey: what comes out of files may hold control characters."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class RnnxError(Exception):
    """Base of every error that rnnx raises on purpose."""


class ArtifactError(RnnxError, ValueError):
    """The file is not a whole, valid artifact."""


class ArtifactNotFoundError(ArtifactError, FileNotFoundError):
    """There is no file at the path given."""


class InputError(RnnxError, ValueError):
    """A value given to the model breaks the artifact's contract."""


class StateError(RnnxError, ValueError):
    """A state does not fit the model or the batch."""


class ProviderError(RnnxError, RuntimeError):
    """An execution provider is unknown or not on this machine, or did not take what it was asked to."""


class BusyError(RnnxError, TimeoutError):
    """A pool's queue had no room in time."""


class ExecutionError(RnnxError, RuntimeError):
    """ONNX Runtime could not load or run the model."""
