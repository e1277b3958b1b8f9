"""Special tokens, which stand for no text: their names, their ids, and how a conversation is written with them.

In every tokenizer they have the first ids, in the order of `SPECIAL_TOKENS`, so data, checkpoints and exported models can rely on
them. Special tokens cannot be added to a tokenizer later, so some are reserved.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tonsai_jax.errors import UserError

END_OF_TEXT = "<|endoftext|>"  # always id 0; comes before every document
PAD = "<pad>"
UNKNOWN = "<unk>"  # required by the file formats of Unigram; no text needs it, because every byte has a piece
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
END_OF_TURN = "<|end|>"

SPECIAL_TOKENS = (
    END_OF_TEXT,
    "<bos>",
    "<eos>",
    PAD,
    "<nl>",
    "<lang_en>",
    "<lang_km>",
    "<lang_xx>",
    "<translate>",
    "<copy>",
    "<sep>",
    *ROLES,
    END_OF_TURN,
    *(f"<|reserved_{number}|>" for number in range(16)),
)

# The assistant's words are in a generation block, so that a trainer can find them.
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant'] -%}
{{- raise_exception('role ' ~ message['role'] ~ ' is not one of: system, user, assistant') -}}
{%- endif -%}
{{- '<|' ~ message['role'] ~ '|>' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}
{{- message['content'] | trim ~ '<|end|>' -}}
{%- endgeneration -%}
{%- else -%}
{{- message['content'] | trim ~ '<|end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>' -}}
{%- endif -%}
"""


@dataclass(frozen=True)
class SpecialIds:
    """The ids of a tokenizer that stand for no text.

    Attributes:
      end_of_text: separates documents.
      eos: ends a text, by the tokenizer's own files.
      bos: begins a text, by the tokenizer's own files; None if there is none.
      pad: for padding; None if there is none.
      ends: every id that ends a generated text.
      first: put before a text by the tokenizer itself, as transformers uses it; None if it puts none.
    """

    end_of_text: int
    eos: int
    bos: int | None
    pad: int | None
    ends: tuple[int, ...]
    first: int | None = None


def token_named(config: Any, key: str) -> str | None:
    """A token of tokenizer_config.json; None if it has no such key, or something else there."""
    token = config.get(key) if isinstance(config, dict) else None
    # transformers can write a token as a dict with its properties
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def read_special_tokens(path: str | Path) -> tuple[str, ...]:
    """Reads a YAML list of special tokens; raises `UserError` if the file or a token in it is not valid."""
    try:
        value = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(value, list) or not all(isinstance(token, str) for token in value):
        raise UserError(
            f"{path}: not a list of strings; write a list of special tokens such as [{END_OF_TEXT!r}, '<pad>']"
        )
    try:
        return check_special_tokens(value)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def check_special_tokens(tokens: Sequence[str]) -> tuple[str, ...]:
    """Returns the tokens; raises `UserError` if one is empty, repeated or could be text, or if the first is not end-of-text."""
    if not tokens or tokens[0] != END_OF_TEXT:
        raise UserError(
            f"special tokens: the first must be {END_OF_TEXT!r}, which comes before every document; put it first"
        )
    for token in tokens:
        if not token.strip():
            raise UserError("special tokens: one of them is empty; remove it")
        if tokens.count(token) > 1:
            raise UserError(f"special tokens: {token!r} is in the list {tokens.count(token)} times; keep one")
        if token == UNKNOWN or re.fullmatch("<0x[0-9A-Fa-f]{2}>", token):
            raise UserError(f"special tokens: {token!r} is already used by the tokenizer formats; choose another name")
        # Training never makes a token of letters or digits between signs, so no text token can have the same spelling.
        if token[0].isalnum() or token[-1].isalnum() or not any(map(str.isalnum, token)):
            raise UserError(f"special tokens: {token!r} could be text; write it as a word between signs, like {PAD!r}")
    return tuple(tokens)
