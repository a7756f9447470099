"""Runs and streams the artifacts that `rnnx` exports, with numpy and ONNX Runtime only.

    model = load("model.onnx")          # immutable, shared by all streams
    stream = model.stream()             # one sequence in progress
    logits = stream.step([token])       # (B, V): one step, the state is carried

Importing this package opens nothing, and sets one thing: ORT_DISABLE_TELEMETRY in the environment, unless it is set already.
ONNX Runtime itself is imported by the first `load`.
"""

import typing

from rnnx_runtime._errors import (
    ArtifactError,
    ArtifactNotFoundError,
    BusyError,
    ExecutionError,
    InputError,
    ProviderError,
    RnnxError,
    StateError,
)
from rnnx_runtime._model import Model, load, selftest
from rnnx_runtime._providers import Placement
from rnnx_runtime._state import State
from rnnx_runtime._stats import Stats
from rnnx_runtime._stream import Stream

if typing.TYPE_CHECKING:
    from rnnx_runtime._generation import Generation
    from rnnx_runtime._pool import Pool
    from rnnx_runtime._score import Hypothesis
    from rnnx_runtime._selftest import SelfTest, TensorDifference
    from rnnx_runtime._trials import ProviderReport, list_providers

    __version__: str

__all__ = [
    "ArtifactError",
    "ArtifactNotFoundError",
    "BusyError",
    "ExecutionError",
    "Generation",
    "Hypothesis",
    "InputError",
    "Model",
    "Placement",
    "Pool",
    "ProviderError",
    "ProviderReport",
    "RnnxError",
    "SelfTest",
    "State",
    "StateError",
    "Stats",
    "Stream",
    "TensorDifference",
    "list_providers",
    "load",
    "selftest",
]

# Imported when it is first asked for: a process that only steps starts sooner without.
_MODULES: typing.Final = {
    "Generation": "_generation",
    "Hypothesis": "_score",
    "Pool": "_pool",
    "ProviderReport": "_trials",
    "SelfTest": "_selftest",
    "TensorDifference": "_selftest",
    "list_providers": "_trials",
}


def __getattr__(name: str) -> typing.Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("rnnx-runtime")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(f"rnnx_runtime.{_MODULES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
