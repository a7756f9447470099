"""torch and onnxscript talk while they export; none of it is for our users."""

import contextlib
import io
import logging
import threading
import warnings
from collections.abc import Iterator

_ONE_AT_A_TIME = threading.RLock()  # what is held back belongs to the whole process


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back warnings, log records below an error, and what is printed to standard error.

    For the whole process, while it lasts: torch gives its loggers new handlers in the middle of an export, so no single
    logger can be asked.
    """
    with _ONE_AT_A_TIME, warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)
