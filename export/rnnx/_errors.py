"""Everything the exporter raises on purpose, beside the errors of the runtime.

RnnxError (rnnx_runtime)
├── AdoptError        ValueError     somebody else's file cannot be adopted
├── QuantizeError     ValueError     an artifact cannot be quantised, or becomes too much worse by it
└── ExportError       RuntimeError   the module cannot be exported
├── LiftError                    its state or its axes cannot be made explicit
│   └── NothingFoundError        one reading of it sees no state
└── ParityError                  the exported model does not compute what the eager module computes
"""

from typing import TYPE_CHECKING

from rnnx_runtime import RnnxError

if TYPE_CHECKING:
    from rnnx._parity.report import ParityReport


class AdoptError(RnnxError, ValueError):
    """Somebody else's file cannot be adopted."""


class QuantizeError(RnnxError, ValueError):
    """An artifact cannot be quantised, or becomes worse by it than is allowed."""


class ExportError(RnnxError, RuntimeError):
    """The module cannot be exported."""


class LiftError(ExportError):
    """The module's state or its axes cannot be made explicit."""


class NothingFoundError(LiftError):
    """One reading of the module sees no state, and another one may; caught inside."""


class ParityError(ExportError):
    """The exported model does not compute what the eager module computes. The message holds the table of differences.

    Attributes:
        report: all comparisons.
    """

    def __init__(self, message: str, report: "ParityReport") -> None:
        super().__init__(message)
        self.report = report

    def __reduce__(self) -> tuple[type["ParityError"], tuple[str, "ParityReport"]]:
        return type(self), (str(self), self.report)
