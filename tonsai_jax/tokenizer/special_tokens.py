"""Tokens that stand for no text: what they are, their ids, and how a conversation is written with them.

They have the first ids of every tokenizer, in the order in which they are declared, whatever its kind: data, checkpoints and
exported models may count on them. A tokenizer cannot be given more of them later, so some are kept in reserve.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from tonsai_jax.errors import UserError

END_OF_TEXT = "<|endoftext|>"  # always id 0; opens every document
PAD = "<pad>"
UNKNOWN = "<unk>"  # of Unigram: never comes out, for every byte has its piece; the formats ask for it
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

# What the assistant says stands in a generation block, so that a trainer can ask where it is.
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


def read_special_tokens(path: str | Path) -> tuple[str, ...]:
    """The tokens in a YAML file, a list; raises `UserError` where there is none, or `check` does."""
    try:
        value = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(value, list) or not all(isinstance(token, str) for token in value):
        raise UserError(f"{path}: must be a list of special tokens, such as [{END_OF_TEXT!r}, '<pad>']")
    try:
        return check_special_tokens(value)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def check_special_tokens(tokens: Sequence[str]) -> tuple[str, ...]:
    """Returns them; raises `UserError` where one is empty, twice there or may be text, or the first does not open documents."""
    if not tokens or tokens[0] != END_OF_TEXT:
        raise UserError(f"special tokens: the first must be {END_OF_TEXT!r}, which opens every document")
    for token in tokens:
        if not token.strip():
            raise UserError("special tokens: one of them is empty")
        if tokens.count(token) > 1:
            raise UserError(f"special tokens: {token!r} is declared {tokens.count(token)} times; once is enough")
        if token == UNKNOWN or re.fullmatch("<0x[0-9A-Fa-f]{2}>", token):
            raise UserError(f"special tokens: {token!r} cannot be one, it has a meaning of its own; choose another")
        # No piece of text is letters or digits between signs, so none can be learnt that is spelt like it.
        if token[0].isalnum() or token[-1].isalnum() or not any(map(str.isalnum, token)):
            raise UserError(
                f"special tokens: {token!r} cannot be told from text; write a word between signs, as {PAD!r}"
            )
    return tuple(tokens)
