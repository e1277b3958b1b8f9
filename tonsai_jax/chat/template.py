"""The chat template of a tokenizer: a conversation becomes token ids, and each token is part of an answer or not.

A template is a program in Jinja that comes with the tokenizer: ours, or that of an open model. It writes special tokens as text.
Here they become ids only where the template wrote them: a message that spells out "<|end|>" gets the ids of these letters.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tonsai_jax.chat.conversation import Message
from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json
from tonsai_jax.tokenizer.loading import Tokenizer

# Characters that no text has, since Unicode reserves them for a program's own use.
_ANSWER, _ANSWER_END, _LETTERS = "\ufdd0", "\ufdd1", "\ufdd2"
_MARKS = re.compile(f"[{_ANSWER}{_ANSWER_END}{_LETTERS}]")


class TemplateError(Exception):
    """The template refuses a conversation, such as one with a system message; the message says why."""


@dataclass(frozen=True)
class Encoded:
    """A conversation as tokens.

    Attributes:
      ids: the token ids.
      answers: for each of them, whether it is part of an answer, to which the token that ends it belongs too.
    """

    ids: list[int]
    answers: list[bool]


class ChatTemplate:
    """Writes conversations as the model of `tokenizer` reads them.

    Args:
      source: the template.
      tokenizer: writes the text between special tokens.
    """

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.globals["raise_exception"] = _refuse
        environment.filters["tojson"] = _to_json
        self._tokenizer = tokenizer
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise UserError(f"{tokenizer.folder}: its chat template is not valid Jinja ({error})") from None
        self._special = {**tokenizer.special_tokens}
        names = sorted(self._special, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, names)))
        self._splits = re.compile(f"({self._names.pattern}|{_ANSWER}|{_ANSWER_END})")
        config = read_json(file) if (file := tokenizer.folder / "tokenizer_config.json").exists() else {}
        self._tokens = {
            key: token["content"] if isinstance(token, dict) else token
            for key, token in config.items()
            if key in ("bos_token", "eos_token", "pad_token", "unk_token") and token is not None
        }

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "ChatTemplate":
        """The template in the tokenizer's folder; raises `UserError` if there is none, or one that cannot be used."""
        source = tokenizer.chat_template
        if source is None:
            raise UserError(
                f"{tokenizer.folder}: this tokenizer has no chat template; take the tokenizer of a chat model, or one of "
                "`tonsai train-tokenizer`, or write the template to chat_template.jinja there"
            )
        return cls(source, tokenizer)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation so far, with what the template writes before an answer.

        Raises `TemplateError` for messages that the template refuses.
        """
        return self._encode(self._render(messages, add_generation_prompt=True)).ids

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """The ids of a whole conversation, and which of them are answers.

        Answers are encoded by themselves, since the model also writes them by themselves.
        Raises `TemplateError` for messages that the template refuses, or where it writes no special token after an answer.
        """
        return self._encode(self._render(messages, add_generation_prompt=False))

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        plain = [{"role": each.role, "content": self._marked(each)} for each in messages]
        try:
            # Without thinking, which templates of reasoning models would else leave to the model. Without `strftime_now`, which
            # transformers has: rows would depend on the day, and templates that ask for it have a date of their own.
            return self._template.render(
                messages=plain, add_generation_prompt=add_generation_prompt, enable_thinking=False, **self._tokens
            )
        except Exception as error:  # a program of somebody else: it can raise anything
            kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
            raise TemplateError(f"{kind}{error}") from None

    def _marked(self, message: Message) -> str:
        """The text of a message. An answer is marked; a special token that the text spells out is broken up, so it stays text."""
        text = _MARKS.sub("", message.content)
        text = self._names.sub(lambda found: f"{found[0][0]}{_LETTERS}{found[0][1:]}", text)
        return f"{_ANSWER}{text}{_ANSWER_END}" if message.role == "assistant" else text

    def _encode(self, text: str) -> Encoded:
        ids: list[int] = []
        answers: list[bool] = []
        in_answer = ends = follows_text = False
        for part in self._splits.split(text):
            if part == _ANSWER:
                in_answer = ends = True
            elif part == _ANSWER_END:
                in_answer = False
            elif part in self._special:
                ids.append(self._special[part])
                answers.append(ends)
                ends = follows_text = False
            elif part := _MARKS.sub("", part):
                if ends and not in_answer and not part.isspace():
                    break  # the next message begins, and the answer has no end
                new = self._tokenizer.encode(part, with_prefix=not follows_text)
                ids += new
                answers += [ends] * len(new)  # also white space before the token that ends the answer
                follows_text = True
        if ends:
            raise TemplateError(
                "the chat template writes no special token after an answer, so the model would not learn to end"
            )
        return Encoded(ids, answers)


class _Generation(Extension):
    """Lets a template mark answers with {% generation %}; we mark them ourselves, which works with every template."""

    tags = {"generation"}  # noqa: RUF012  # the name and kind that jinja2 wants

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
