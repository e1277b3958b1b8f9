"""Conversations: what a record of a file says, as messages of a system, a user and an assistant.

The usual forms are read without settings: a list of messages ({role, content}, or {from, value} as ShareGPT has them), an
instruction with its output (Alpaca), a question with its answer, a prompt with its response.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tonsai_jax.errors import did_you_mean

Record = Mapping[str, Any]
ROLES = ("system", "user", "assistant")
LISTS = ("messages", "conversations", "conversation")
# The other forms: the fields of the user's message in their order, of which the first is needed, and those of the answer.
ASKED = (("instruction", "input", "context"), ("question", "context"), ("prompt", "input"), ("query", "context"))
ANSWERS = ("output", "response", "answer", "completion")
_SYSTEM = ("system", "system_prompt")
# Names of roles in other files. A role that is not here is refused: it may be a tool, whose words are neither side's.
_ROLE_NAMES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


class BadRecordError(Exception):
    """A record is not a conversation; the message says why."""


@dataclass(frozen=True)
class Message:
    """What one side says. `role` is "system", "user" or "assistant"."""

    role: str
    content: str


Conversation = tuple[Message, ...]


def conversation_of(record: Record) -> Conversation:
    """The conversation of a record.

    Raises `BadRecordError` if the record has none of the known forms, a role is missing or not known, a text is missing or
    empty, or no answer follows a user's message.
    """
    first = system_of(record)
    name = next((name for name in LISTS if record.get(name) is not None), None)
    if name is not None:
        return checked((*first, *messages_of(record[name], name)))
    answer = _field(record, ANSWERS)
    asked = next((fields for fields in ASKED if fields[0] == _field(record, [each[0] for each in ASKED])), None)
    if answer is None or asked is None:
        raise BadRecordError(
            f"no conversation in its fields ({', '.join(record) or 'none'}); a record has {', '.join(LISTS)}, or one of "
            f"{', '.join(fields[0] for fields in ASKED)} with one of {', '.join(ANSWERS)}"
        )
    if isinstance(record[answer], list):  # a prompt and its completion can be lists of messages too
        return checked((*first, *messages_of(record[asked[0]], asked[0]), *messages_of(record[answer], answer)))
    parts = [text_of(record[field], field) for field in asked if field == asked[0] or not _is_blank(record.get(field))]
    if asked[0] == "question":
        parts.reverse()  # a text comes before the question about it
    question = Message("user", "\n\n".join(parts))
    return checked((*first, question, Message("assistant", text_of(record[answer], answer))))


def system_of(record: Record) -> Conversation:
    """The system message in a field of its own, or no message; raises `BadRecordError` if it is no text."""
    system = next((record[name] for name in _SYSTEM if not _is_blank(record.get(name))), None)
    return (Message("system", text_of(system, "system")),) if system else ()


def messages_of(value: Any, field: str) -> Conversation:
    """The messages of a list of {role, content} or {from, value}; raises `BadRecordError` as `conversation_of` does."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise BadRecordError(f"its {field} is not a list of messages")
    messages = []
    for number, item in enumerate(value, start=1):
        where = f"message {number} of its {field}"
        if not isinstance(item, Mapping):
            raise BadRecordError(f"{where} is not an object with role and content")
        given = item.get("role", item.get("from"))
        if given is None:
            raise BadRecordError(f"{where} has no role")
        role = _ROLE_NAMES.get(given, given) if isinstance(given, str) else None
        if role not in ROLES:
            raise BadRecordError(f"{where} has the role {given!r}{did_you_mean(str(given), (*ROLES, *_ROLE_NAMES))}")
        if role == "system" and _is_blank(item.get("content", item.get("value"))):
            continue
        messages.append(Message(role, text_of(item.get("content", item.get("value")), f"content of {where}")))
    return tuple(messages)


def text_of(value: Any, field: str) -> str:
    """The text of a field, without white space around it; raises `BadRecordError` if it is missing, empty or no text."""
    if isinstance(value, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in value):
        value = "\n\n".join(str(part.get("text", "")) for part in value)  # parts, which in other files can be images
    if value is None:
        raise BadRecordError(f"the {field} is missing")
    if not isinstance(value, str):
        raise BadRecordError(f"the {field} is not text")
    if not value.strip():
        raise BadRecordError(f"the {field} is empty")
    return value.strip()


def _field(record: Record, names: Sequence[str]) -> str | None:
    """The first of the names that the record has, with a value if one has: tables that were put together have empty columns."""
    there = [name for name in names if name in record]
    return next((name for name in there if record[name] is not None), there[0] if there else None)


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def checked(messages: Conversation) -> Conversation:
    """The same messages; raises `BadRecordError` unless they are: at most one system message, then user and assistant by turns.

    A user's message at the end, which has no answer, is refused as well.
    """
    turns = messages[1:] if messages[:1] and messages[0].role == "system" else messages
    for number, message in enumerate(turns):
        wanted = ("user", "assistant")[number % 2]
        if message.role != wanted:
            place = f"message {number + 1 + len(messages) - len(turns)}"
            raise BadRecordError(
                f"{place} is of the {message.role}, where one of the {wanted} must be: user and assistant take turns"
            )
    if len(turns) % 2 or not turns:
        raise BadRecordError("it does not end with an answer of the assistant")
    return messages
