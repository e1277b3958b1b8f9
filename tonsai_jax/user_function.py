"""Functions of a user, named on a command line as MODULE:FUNCTION: rewards, classifiers of texts."""

import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tonsai_jax.errors import UserError


def user_function(flag: str, name: str, what: str) -> Callable[..., float]:
    """A user's function from a text (and whatever else it takes) to a number; modules in the current folder are found.

    It is checked at every call: it must give a finite number.

    Args:
      flag, name: as given on the command line: "--reward", "my_rewards:score". Messages begin with them.
      what: what the texts are, for messages: "answer".

    Raises `UserError` where there is no such function, and when it is called, where it fails.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        raise UserError(f"{flag}={name}: write MODULE:FUNCTION, the module as Python imports it in this folder")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # the module is a program: anything can go wrong in it
        raise UserError(f"{flag}={name}: cannot be loaded ({type(error).__name__}: {error})") from error

    def checked(text: str, *others: Any) -> float:
        try:
            value = float(found(text, *others))
        except Exception as error:
            raise UserError(
                f"{flag}={name}: failed for the {what} {text!r} ({type(error).__name__}: {error})"
            ) from error
        if not math.isfinite(value):
            raise UserError(f"{flag}={name}: gave {value} for the {what} {text!r}; it must give a finite number")
        return value

    return checked
