"""rnnx takes any recurrent PyTorch module to the edge.

    import rnnx
    rnnx.export(net, (tokens,), "artifacts/model.onnx")
    rnnx.verify("artifacts/model.onnx", net, (tokens,))

What needs torch or onnx is imported when it is first asked for; without them this package still gives the `rnnx` command and,
through `rnnx_runtime`, everything that runs an artifact.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from rnnx._errors import AdoptError, ExportError, LiftError, ParityError, QuantizeError

if TYPE_CHECKING:
    from rnnx._adopt import Adopted, adopt
    from rnnx._bench import Bench, bench
    from rnnx._diff import Difference, diff
    from rnnx._export import export
    from rnnx._exported import Exported
    from rnnx._lint import LintReport, lint
    from rnnx._quantize import Quantized, quantize
    from rnnx._verify import Verification, verify

__version__ = version("rnnx")

__all__ = [
    "AdoptError",
    "Adopted",
    "Bench",
    "Difference",
    "ExportError",
    "Exported",
    "LiftError",
    "LintReport",
    "ParityError",
    "QuantizeError",
    "Quantized",
    "Verification",
    "adopt",
    "bench",
    "diff",
    "export",
    "lint",
    "quantize",
    "verify",
]

_MODULES: Final = {
    "Adopted": "_adopt",
    "Bench": "_bench",
    "Difference": "_diff",
    "Exported": "_exported",
    "LintReport": "_lint",
    "Quantized": "_quantize",
    "Verification": "_verify",
    "adopt": "_adopt",
    "bench": "_bench",
    "diff": "_diff",
    "export": "_export",
    "lint": "_lint",
    "quantize": "_quantize",
    "verify": "_verify",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'rnnx' has no attribute {name!r}")
    try:
        return getattr(import_module(f"rnnx.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        raise ExportError(missing_package(error)) from None


def missing_package(error: ModuleNotFoundError) -> str:
    """What to install where a package of an extra is missing."""
    extra = "export" if error.name in ("safetensors", "torch") else "onnx"
    return f"this needs {error.name}, which is not installed: pip install 'rnnx[{extra}]'"
