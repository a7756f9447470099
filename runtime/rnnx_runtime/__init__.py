"""Runs and streams the artifacts that `rnnx` exports, with numpy and ONNX Runtime only.

    model = load("model.onnx")          # immutable, shared by all streams
    stream = model.stream()             # one sequence in progress
    logits = stream.step([token])       # (B, V): one step, the state is carried

Importing this package opens nothing, and sets one thing: ORT_DISABLE_TELEMETRY in the environment, unless it is set already.
ONNX Runtime itself is imported by the first `load`.
"""

from importlib.metadata import version

from rnnx_runtime._errors import (
    ArtifactError,
    ArtifactNotFoundError,
    ExecutionError,
    InputError,
    RnnxError,
    StateError,
)
from rnnx_runtime._model import Model, load
from rnnx_runtime._state import State
from rnnx_runtime._stream import Stream

__version__ = version("rnnx-runtime")

__all__ = [
    "ArtifactError",
    "ArtifactNotFoundError",
    "ExecutionError",
    "InputError",
    "Model",
    "RnnxError",
    "State",
    "StateError",
    "Stream",
    "load",
]
