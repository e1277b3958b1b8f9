"""The terminal of a run shows the lines of this project, not the warnings of the libraries under it."""

import logging
import sys
import warnings
from typing import Any


def quiet_libraries() -> None:
    """Keeps the warnings of libraries off the terminal. Their errors still reach it, as exceptions."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
    for name in ("jax", "orbax", "grain", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Orbax raises a failed save as an exception, and also logs it with a stack trace from each of its threads.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.unraisablehook = _show_unraisable


def _show_unraisable(unraisable: Any) -> None:
    # After a failed save, Orbax closes the event loop while TensorStore still writes other arrays. Each of those then reports
    # this error; the failure itself is raised as an exception.
    if not (unraisable.exc_type is RuntimeError and str(unraisable.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(unraisable)
