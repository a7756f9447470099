"""rnnx takes any recurrent PyTorch module to the edge.

    import rnnx
    rnnx.export(net, (tokens,), "artifacts/model.onnx")

`export` needs torch and is imported when it is first asked for; without torch this package still gives the `rnnx` command and,
through `rnnx_runtime`, everything that runs an artifact.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from rnnx._errors import ExportError, LiftError, ParityError

if TYPE_CHECKING:
    from rnnx._export import export
    from rnnx._exported import Exported

__version__ = version("rnnx")

__all__ = ["ExportError", "Exported", "LiftError", "ParityError", "export"]


def __getattr__(name: str) -> Any:
    if name not in ("Exported", "export"):
        raise AttributeError(f"module 'rnnx' has no attribute {name!r}")
    try:
        return getattr(import_module("rnnx._export"), name)
    except ModuleNotFoundError as error:
        raise ExportError(missing_package(error)) from None


def missing_package(error: ModuleNotFoundError) -> str:
    """What to install where a package of the extra `export` is missing."""
    return f"exporting needs {error.name}, which is not installed: pip install 'rnnx[export]'"
