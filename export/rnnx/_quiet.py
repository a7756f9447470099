"""torch and onnxscript talk while they export; none of it is for our users."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back warnings, log records below an error, and what is printed to standard error.

    For the whole process, while it lasts: torch gives its loggers new handlers in the middle of an export, so no single
    logger can be asked.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
