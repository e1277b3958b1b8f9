"""Rewards: a rule that says how good an answer is. It is a function of the answer's text and of the prompt's record."""

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tonsai_jax.errors import UserError, unknown_name

Reward = Callable[[str, Mapping[str, Any]], float]


def contains(text: str, record: Mapping[str, Any]) -> float:
    """1 if the text contains the record's `answer`, else 0."""
    return float(str(record["answer"]).strip() in text)


def equals(text: str, record: Mapping[str, Any]) -> float:
    """1 if the text is the record's `answer`, else 0; white space around both does not count."""
    return float(text.strip() == str(record["answer"]).strip())


BUILT_IN: dict[str, Reward] = {"contains": contains, "equals": equals}


def reward_of(name: str) -> Reward:
    """A rule by its name, or the function of a module, "module:function"; modules in the current folder are found.

    The function of a module is checked at every call: it must give a finite number.

    Raises `UserError` where there is none, or the module fails.
    """
    if ":" not in name:
        if name not in BUILT_IN:
            raise unknown_name("--reward", name, (*BUILT_IN, "module:function"))
        return BUILT_IN[name]
    module, _, function = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # the module is a program: anything can go wrong in it
        raise UserError(f"--reward={name}: cannot be loaded ({type(error).__name__}: {error})") from error

    def checked(text: str, record: Mapping[str, Any]) -> float:
        try:
            reward = float(found(text, record))
        except Exception as error:
            raise UserError(
                f"--reward={name}: failed for the answer {text!r} ({type(error).__name__}: {error})"
            ) from error
        if not math.isfinite(reward):
            raise UserError(f"--reward={name}: gave {reward} for the answer {text!r}; a reward is a finite number")
        return reward

    return checked
