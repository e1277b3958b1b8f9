"""Rewards: a rule that says how good an answer is. It is a function of the answer's text and of the prompt's record."""

from collections.abc import Callable, Mapping
from typing import Any

from tonsai_jax.errors import unknown_name
from tonsai_jax.user_function import user_function

Reward = Callable[[str, Mapping[str, Any]], float]


def contains(text: str, record: Mapping[str, Any]) -> float:
    """1 if the text contains the record's `answer`, else 0."""
    return float(str(record["answer"]).strip() in text)


def equals(text: str, record: Mapping[str, Any]) -> float:
    """1 if the text is the record's `answer`, else 0; white space around both does not count."""
    return float(text.strip() == str(record["answer"]).strip())


BUILT_IN: dict[str, Reward] = {"contains": contains, "equals": equals}


def reward_of(name: str) -> Reward:
    """A rule by its name, or the function of a module, "module:function", see `user_function`.

    Raises `UserError` where there is none, or the module fails.
    """
    if ":" not in name:
        if name not in BUILT_IN:
            raise unknown_name("--reward", name, (*BUILT_IN, "module:function"))
        return BUILT_IN[name]
    return user_function("--reward", name, "answer")
