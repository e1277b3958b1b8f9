"""Questions without answers, from JSONL and the other files of records: what a model practices on in reinforcement learning."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tonsai_jax.chat.conversation import LISTS, BadRecordError, Conversation, Message, messages_of, system_of, text_of
from tonsai_jax.chat.template import ChatTemplate, TemplateError
from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.formats import find_files
from tonsai_jax.corpus.sources.record_files import read_records
from tonsai_jax.errors import UserError
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.tokenizer.loading import Tokenizer

_QUESTIONS = ("prompt", "question", "instruction", *LISTS)


@dataclass(frozen=True)
class Prompt:
    """A conversation that waits for an answer.

    Attributes:
      ids: its tokens, with what the chat template writes before an answer.
      record: the record that it was read from, with all its fields; a reward reads them.
    """

    ids: tuple[int, ...]
    record: Mapping[str, Any]


def read_prompts(
    location: str, tokenizer: Tokenizer, *, max_prompt_tokens: int, needed: Sequence[str] = ()
) -> list[Prompt]:
    """Reads every prompt of a .json, .jsonl, .csv, .tsv or .parquet file, or of a folder of them.

    A record has a `prompt` or `question`, a text or a list of messages, or `messages`, whose last answer is left out.

    Args:
      max_prompt_tokens: the most tokens of a prompt.
      needed: fields that the reward reads.

    Raises `UserError`, with file and line, for a record that is none of these or too long, and for a file without records.
    """
    template = ChatTemplate.of(tokenizer)
    prompts = []
    for where, record in _records(location):
        try:
            messages = _question(record)
            for field in needed:
                text_of(None if record.get(field) is None else str(record[field]), field)
            ids = template.prompt([Message(each.role, tokenizer.normalize_prompt(each.content)) for each in messages])
        except (BadRecordError, TemplateError) as error:
            raise UserError(f"{where}: not a prompt: {error}") from None
        if len(ids) > max_prompt_tokens:
            raise UserError(
                f"{where}: this prompt has {count_of(len(ids), 'token')}, and with an answer only {max_prompt_tokens} fit into "
                "the model's context; leave it out, or lower --max-new-tokens"
            )
        prompts.append(Prompt(tuple(ids), record))
    if not prompts:
        raise UserError(f"{location}: holds no prompts")
    return prompts


def _records(location: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every record with its place, such as "prompts.jsonl: line 3"."""
    for path in find_files(location):
        for _, label, record in read_records(path, Faults(can_skip=False)):
            yield f"{path}: {label}", record


def _question(record: Mapping[str, Any]) -> Conversation:
    name = next((name for name in _QUESTIONS if record.get(name) is not None), None)
    if name is None:
        raise BadRecordError(f"it has none of the fields {', '.join(_QUESTIONS)}")
    if not isinstance(record[name], list):
        return (*system_of(record), Message("user", text_of(record[name], name)))
    messages = messages_of(record[name], name)
    if messages[-1].role == "assistant":
        messages = messages[:-1]
    if not messages or messages[-1].role != "user":
        raise BadRecordError(f"its {name} has no message of the user that an answer could follow")
    return (*system_of(record), *messages)
