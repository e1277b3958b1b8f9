"""From a record, which is a row with named fields, to one text: which fields are read, and how they are joined.

The result is plain text for pretraining, without role markers. A chat becomes its turns in order, the system's included; an
instruction becomes the instruction, its input and the output; a question becomes its context, the question and the first
answer. A blank line separates the parts; empty and missing parts are left out.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.errors import UserError

Record = Mapping[str, Any]
Position = TypeVar("Position")

_CHATS = ("messages", "conversations", "conversation")
_TURN_TEXTS = ("content", "value")  # {role, content} as most write it; {from, value} as ShareGPT does
_GROUPS = {
    ("instruction", "input", "output"): "an instruction with its output",
    ("instruction", "context", "response"): "an instruction with its response",
    ("context", "question", "answer"): "a question with its answer",
    ("context", "question", "answers"): "a question with its answers",
}
_OPTIONAL = ("input", "context")
_USUAL_NAMES = ("article", "body", "content", "document", "passage", "raw_content", "sentence", "story")
_TITLES = ("title", "headline")
_METADATA = ("author", "category", "date", "id", "label", "lang", "language", "license", "source", "timestamp")
_MORE_METADATA = ("description", "filename", "path", "subset", "tags", "topic", "type", "uri", "url")


class MissingFieldError(Exception):
    """A record lacks a field that a template or a reading needs."""


class _NotTextError(Exception):
    pass


@dataclass(frozen=True)
class Reading:
    """How the records of one source become texts.

    Attributes:
      fields: joined in this order, if there is no template.
      why: why these fields were chosen, for messages and the manifest.
      template: a Jinja template that writes the text.
    """

    fields: tuple[str, ...]
    why: str
    template: str | None = None

    def __str__(self) -> str:
        return f"reads {'a template' if self.template else ', '.join(self.fields)}: {self.why}"

    def check(self, where: object, there: Iterable[str], hint: str = "") -> None:
        """Raises `UserError` if a field that is needed is not among the fields `there`. `hint` ends the message."""
        names = list(there)
        for field in self.fields:
            is_optional = len(self.fields) > 1 and field.lower() in _OPTIONAL + _TITLES
            if field not in names and not is_optional:
                no_such_column(where, field, names, hint)

    def text(self, record: Record, where: str, faults: Faults, limit: int) -> str | None:
        """The text of one record, "" if it has none; None after reporting a fault.

        `limit` is the greatest number of UTF-8 bytes. Raises `MissingFieldError` if a template uses a field that is missing.
        """
        try:
            if self.template is not None:
                text = compiled(self.template)(record)
            elif len(self.fields) == 1:
                text = _as_text(self.fields[0], record.get(self.fields[0]))
            else:
                parts = (_as_text(field, record.get(field)).strip() for field in self.fields)
                text = "\n\n".join(part for part in parts if part)
        except _NotTextError as error:
            faults.report("not_text", f"{where}: {error}")
            return None
        # "surrogatepass": JSON can contain lone surrogates, which cleaning removes later.
        if 4 * len(text) > limit and (size := len(text.encode("utf-8", "surrogatepass"))) > limit:
            report_too_long(where, size, limit, faults)
            return None
        return text


def texts_of(
    records: Iterable[tuple[Position, str, Record]], reading: Reading | None, where: object, faults: Faults, limit: int
) -> Iterator[tuple[Position, str]]:
    """Gives (position, text) of the records of one file or dataset.

    Args:
      records: (position, its name in messages, record).
      reading: None guesses one from the first record.
      where: the file or dataset, for messages.
      limit: the greatest number of UTF-8 bytes of a text.

    Raises:
      UserError: the first record lacks a field. In a later record, this is a fault.
    """
    first = True
    for position, label, record in records:
        if first:
            reading = reading or guess_reading(record, where)
            reading.check(where, record)
        assert reading is not None
        try:
            text = reading.text(record, f"{where}: {label}", faults, limit)
        except MissingFieldError as error:
            if first:
                raise UserError(f"{where}: {label}: {error}; set `template` in the sources file") from error
            faults.report("missing_field", f"{where}: {label}: {error}")
            continue
        first = False
        if text is not None:
            yield position, text


def report_too_long(where: str, size: int, limit: int, faults: Faults) -> None:
    """Reports a document of `size` bytes, more than `limit`."""
    faults.report(
        "too_long",
        f"{where}: one document of {size / 1e6:,.1f} MB, the limit is {limit / 1e6:,.1f} MB; "
        "raise `max_document_mb` in the sources file, or set `document` to line or paragraph for txt files",
    )


def no_such_column(where: object, column: str, there: Iterable[str], hint: str = "") -> NoReturn:
    """Raises the `UserError` for a missing field; `there` are the fields that exist."""
    raise UserError(
        f"{where}: no column {column!r}; {_there(there)}; set `text_column` (in the sources file; "
        f"`tonsai train-tokenizer --text-column`){hint}"
    )


def chosen_reading(text_column: str | None, template: str | None) -> Reading | None:
    """The reading that a sources file sets; None if it sets neither, so that the fields are guessed.

    Raises `UserError` if both are set or the template is not valid.
    """
    if template is not None:
        if text_column is not None:
            raise UserError("give either `text_column` or `template`, not both")
        compiled(template)
        return Reading((), "`template` is set", template)
    return None if text_column is None else Reading((text_column,), "`text_column` is set")


def guess_reading(record: Record, where: object) -> Reading:
    """Guesses from the first record of a source which fields hold its text, if only one choice is possible.

    This is `text` if it exists; else the fields of a known kind of record (chat, instruction, question); else the only field
    that holds text and is not metadata by its name, after the title if there is one. Raises `UserError`, which names the fields,
    if several choices are possible or none.
    """
    if "text" in record:
        return Reading(("text",), "`text` is there")
    found = [
        Reading((name,), f"`{name}` holds the turns of a chat")
        for name in _CHATS
        if isinstance(record.get(name), list) and all(_is_turn(turn) for turn in record[name])
    ]
    for fields, kind in _GROUPS.items():
        if all(field in record or field in _OPTIONAL for field in fields):
            found.append(Reading(fields, f"each record is {kind}"))
    texts = [name for name, value in record.items() if isinstance(value, str) and _may_be_text(name, value)]
    if found:
        texts = [name for name in texts if name in _USUAL_NAMES]
    titles = [name for name, value in record.items() if isinstance(value, str) and name.lower() in _TITLES]
    found += [_only_text(name, titles, record) for name in texts]
    if len(found) == 1:
        return found[0]
    way_out = "set `text_column`, or a `template` such as '{{ field }}', in the sources file"
    if not found:
        within = [name for name, value in record.items() if _are_records(value)]
        if within:
            raise UserError(
                f"{where}: a record whose field {within[0]!r} is a list of records; write that list to a file of its own, "
                "as an array in a .json file or one record per line in a .jsonl file"
            )
        raise UserError(f"{where}: cannot tell which field holds the text; {_there(record)}; {way_out}")
    names = " or ".join(" + ".join(name for name in reading.fields if name in record) for reading in found)
    raise UserError(f"{where}: cannot tell which field holds the text: {names}; {way_out}")


def _may_be_text(name: str, value: str) -> bool:
    """Whether a field may hold the text of a document: by its name, or because its value is more than one ASCII word."""
    if name.lower() in _USUAL_NAMES:
        return True
    return not _is_key(value) and name.lower() not in _TITLES + _METADATA + _MORE_METADATA


def _only_text(name: str, titles: list[str], record: Record) -> Reading:
    """The reading of the only field that may be the text, after the title. Its reason names the other fields with words."""
    fields = (*titles[:1], name)
    others = [other for other, value in record.items() if other not in fields and not _is_key(value)]
    if not titles and not others:
        return Reading(fields, f"`{name}` is the only field that holds text")
    why = f"`{titles[0]}` is the title of `{name}`" if titles else f"`{name}` holds the text"
    return Reading(fields, why + (f" (not {', '.join(others)}: a `template` can read more)" if others else ""))


def _is_key(value: Any) -> bool:
    """Whether a value cannot be prose: it is no text, or one ASCII word."""
    return not isinstance(value, str) or (value.isascii() and len(value.split()) <= 1)


def _are_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) and len(each) > 1 for each in value)


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and any(name in value for name in _TURN_TEXTS)


def _as_text(field: str, value: Any) -> str:
    if field == "answers":  # a list, or SQuAD's {"text": [...], "answer_start": [...]}
        value = value.get("text") if isinstance(value, dict) else value
        value = value[0] if isinstance(value, list) and value else value or ""
    if value is None:
        return ""  # dropped later, and counted as an empty document
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(_is_turn(turn) for turn in value):
        return "\n\n".join(text for turn in value if (text := _turn_text(field, turn).strip()))
    raise _NotTextError(f"column {field!r} holds {value.__class__.__name__}, not text")


def _turn_text(field: str, turn: dict[str, Any]) -> str:
    value = next(turn[name] for name in _TURN_TEXTS if name in turn)
    if value is None:  # a turn that only calls a tool has no text
        return ""
    if not isinstance(value, str):
        raise _NotTextError(f"a turn in column {field!r} holds {value.__class__.__name__}, not text")
    return value


def _there(names: Iterable[str]) -> str:
    return f"there are: {', '.join(str(name)[:40] for name in names)}"


@functools.cache
def compiled(template: str) -> Callable[[Record], str]:
    """Compiles a Jinja template to a function from a record to its text. The template runs in Jinja's sandbox.

    The fields of the record are the variables of the template. `record` is the whole record, for fields whose names are not
    identifiers: `{{ record["warc-date"] }}`. A null is written as "". The function raises `MissingFieldError` for a field that
    does not exist. Raises `UserError` if the template is not valid.
    """
    import jinja2  # here, because only sources with a template need it
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Missing(jinja2.StrictUndefined):
        @property
        def _undefined_message(self) -> str:
            holder = self._undefined_obj
            return f"no field {self._undefined_name!r}; " + (_there(holder) if isinstance(holder, Mapping) else "")

    def written(value: Any) -> Any:
        if value is None:
            return ""
        if isinstance(value, str | int | float | jinja2.Undefined):
            return value
        raise _NotTextError(f"the template writes a {value.__class__.__name__}, not text")

    environment = ImmutableSandboxedEnvironment(undefined=Missing, finalize=written, keep_trailing_newline=True)
    try:
        ready = environment.from_string(template)
    except jinja2.TemplateError as error:
        raise UserError(f"template {template!r}: {error}; see https://jinja.palletsprojects.com/templates") from error

    def render(record: Record) -> str:
        try:
            return ready.render({"record": record, **record})
        except jinja2.UndefinedError as error:
            message = str(error)
            raise MissingFieldError(message + _there(record) if message.endswith("; ") else message) from error
        except _NotTextError:
            raise
        except Exception as error:  # a template is a program, so it can raise anything
            raise _NotTextError(f"the template fails: {error.__class__.__name__}: {error}") from error

    return render
