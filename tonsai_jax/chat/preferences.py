"""Preferences: what a record says about two answers to the same question, of which one is better.

The usual forms of the Hub are read without settings: `chosen` and `rejected` are texts or lists of messages, after a prompt that
is a text, a list of messages, or part of both conversations.
"""

from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from tonsai_jax.chat.conversation import (
    BadRecordError,
    Conversation,
    Message,
    Record,
    checked,
    messages_of,
    system_of,
    text_of,
)

_PROMPTS = ("prompt", "question", "instruction")


@dataclass(frozen=True)
class Pair:
    """Two conversations that begin alike and differ from one answer on; people prefer `chosen`."""

    chosen: Conversation
    rejected: Conversation

    @property
    def shared(self) -> int:
        """How many messages both conversations begin with."""
        both = zip(self.chosen, self.rejected, strict=False)
        return sum(1 for _ in takewhile(lambda messages: messages[0] == messages[1], both))


def pair_of(record: Record) -> Pair:
    """The pair of a record.

    Raises `BadRecordError` if `chosen`, `rejected` or the prompt is missing or empty, if one of the two is not a conversation
    (see `conversation_of`), or if they do not differ as `check_pair` wants it.
    """
    prompt = _prompt_of(record)
    pair = Pair(*(_side(record.get(side), side, prompt, system_of(record)) for side in ("chosen", "rejected")))
    check_pair(pair)
    return pair


def check_pair(pair: Pair) -> None:
    """Raises `BadRecordError` where both conversations are the same, or begin to differ in a message that is no answer."""
    if pair.chosen == pair.rejected:
        raise BadRecordError("its chosen and rejected are the same")
    if pair.shared == min(len(pair.chosen), len(pair.rejected)):
        raise BadRecordError("one of its chosen and rejected is only the beginning of the other")
    first = pair.chosen[pair.shared]
    if first.role != "assistant" or pair.rejected[pair.shared].role != "assistant":
        raise BadRecordError(
            f"its chosen and rejected differ in message {pair.shared + 1}, which is no answer: both must answer the same question"
        )


def _prompt_of(record: Record) -> Conversation:
    """The messages before the answers; empty where the record has none of its own."""
    name = next((name for name in _PROMPTS if record.get(name) is not None), None)
    if name is None:
        return ()
    if isinstance(record[name], list):
        return messages_of(record[name], name)
    fields = [name, *(["input"] if record.get("input") else [])]  # of an instruction
    return (Message("user", "\n\n".join(text_of(record[field], field) for field in fields)),)


def _side(value: Any, side: str, prompt: Conversation, system: Conversation) -> Conversation:
    """One of the conversations; its own beginning, where it has one, stands for the prompt."""
    if isinstance(value, list):
        messages = messages_of(value, side)
        if messages[0].role != "assistant":
            prompt = ()
    else:
        messages = (Message("assistant", text_of(value, side)),)
    if messages[0].role == "assistant" and not prompt:
        raise BadRecordError(f"it has no prompt ({', '.join(_PROMPTS)}), and its {side} begins with the answer")
    try:
        return checked((*system, *prompt, *messages))
    except BadRecordError as error:
        raise BadRecordError(f"its {side}: {error}") from None
