"""torch and onnxscript talk while they export; none of it is for our users."""

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back warnings, and log records below an error.

    For the whole process, while it lasts: torch gives its loggers new handlers in the middle of an export, so no single
    logger can be asked.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
