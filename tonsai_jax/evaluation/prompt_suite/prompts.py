"""The prompts of a suite: those of this project in khmer.jsonl, or a user's own file in the same format."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from tonsai_jax.errors import UserError, did_you_mean
from tonsai_jax.text.languages import check_language

SUITE = Path(__file__).with_name("khmer.jsonl")


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One prompt, a line of a suite's file.

    Attributes:
      id: its name, which no other prompt of the suite has.
      kind: what it asks for: "question", "translation", ...
      language: the language that the continuation should have, a BCP-47 code.
      prompt: the text.
      prompt_language: the language of the text; None where it is not given.
      also: other languages that belong to a good continuation, for code-switching.
      min_characters: a continuation that the model itself ends with fewer characters than these is too short.
      max_new_tokens: most tokens of its continuation; None takes those of all prompts.
    """

    id: str
    kind: str
    language: str
    prompt: str
    prompt_language: str | None = None
    also: tuple[str, ...] = ()
    min_characters: int = 10
    max_new_tokens: int | None = None


_KEYS = {
    field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(Prompt)
}  # whether it must be there


def read_suite(path: Path = SUITE) -> list[Prompt]:
    """The prompts of a JSONL file, one object a line with the keys of `Prompt`; empty lines are left out.

    Raises `UserError`, with file and line, for a line that is no prompt, and for a file without prompts.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    prompts: dict[str, Prompt] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        prompt = _prompt_of(line, where)
        if prompt.id in prompts:
            raise UserError(f"{where}: the id {prompt.id!r} is that of an earlier prompt; give each its own")
        prompts[prompt.id] = prompt
    if not prompts:
        raise UserError(f"{path}: holds no prompts; a line is an object with the keys {', '.join(_KEYS)}")
    return list(prompts.values())


def _prompt_of(line: str, where: str) -> Prompt:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON (column {error.colno}: {error.msg})") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: not an object with the keys {', '.join(_KEYS)}")
    for key in value:
        if key not in _KEYS:
            raise UserError(f"{where}: no such key {key!r}{did_you_mean(key, _KEYS)}")
    for key, is_needed in _KEYS.items():
        if is_needed and key not in value:
            raise UserError(
                f"{where}: the key {key!r} is missing; a line is an object with the keys {', '.join(_KEYS)}"
            )
        if is_needed and not _is_text(value[key]):
            raise UserError(f"{where}: {key} is {value.get(key)!r}; it must be a text of at least one character")
    for key, least in (("min_characters", 0), ("max_new_tokens", 1)):
        if key in value and (type(value[key]) is not int or value[key] < least):
            raise UserError(f"{where}: {key} is {value[key]!r}; it must be a whole number of at least {least}")
    also = value.get("also", [])
    if not isinstance(also, list) or not all(map(_is_text, also)):
        raise UserError(f"{where}: also is {also!r}; it must be a list of languages such as ['en']")
    for language in (value["language"], value.get("prompt_language", value["language"]), *also):
        check_language(str(language), where)
    return Prompt(**value | {"also": tuple(also)})


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
