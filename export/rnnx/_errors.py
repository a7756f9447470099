"""Everything the exporter raises on purpose, beside the errors of the runtime.

RnnxError (rnnx_runtime)
└── ExportError       RuntimeError   the module cannot be exported
├── LiftError                    its state or its axes cannot be made explicit
│   └── NothingFoundError        one reading of it sees no state
└── ParityError                  the exported model does not compute what the eager module computes
"""

from rnnx_runtime import RnnxError


class ExportError(RnnxError, RuntimeError):
    """The module cannot be exported."""


class LiftError(ExportError):
    """The module's state or its axes cannot be made explicit."""


class NothingFoundError(LiftError):
    """One reading of the module sees no state, and another one may; caught inside."""


class ParityError(ExportError):
    """The exported model does not compute what the eager module computes. The message holds the table of differences."""
