"""A record, that is a row with named fields, as one text: which fields are read, and how they are put together.

What comes out is plain text for pretraining, without marks for roles: a chat is its turns as they come (the system's
too); an instruction is the instruction, its input, the output; a question is its context, the question, the first of
the answers. One blank line stands between two of them, and what is empty or missing is left out.
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
_DESCRIPTIONS = ("author", "category", "date", "id", "label", "lang", "language", "license", "source", "timestamp")
_MORE_DESCRIPTIONS = ("description", "filename", "path", "subset", "tags", "title", "topic", "type", "uri", "url")


class MissingFieldError(Exception):
    """A field that a template or a reading asks for is not in the record."""


class _NotTextError(Exception):
    pass


@dataclass(frozen=True)
class Reading:
    """How the records of one source become texts; `dataclasses.asdict` of it goes into a manifest.

    A `template` says it all; without one, `fields` are put together in this order.
    """

    fields: tuple[str, ...]
    why: str
    template: str | None = None

    def __str__(self) -> str:
        return f"reads {'a template' if self.template else ', '.join(self.fields)}: {self.why}"

    def check(self, where: object, there: Iterable[str], hint: str = "") -> None:
        """Raises `UserError` where a field that is needed is not among those that are there."""
        names = list(there)
        for field in self.fields:
            if field not in names and (len(self.fields) == 1 or field not in _OPTIONAL):
                no_such_column(where, field, names, hint)

    def text(self, record: Record, where: str, faults: Faults, limit: int) -> str | None:
        """The text of one record, "" where there is none; None once a fault has been reported for it.

        `limit` is the greatest number of UTF-8 bytes. Raises `MissingFieldError` from a template.
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
        # Halves of surrogate pairs, which JSON can hold and cleaning takes out, count like any character.
        if 4 * len(text) > limit and (size := len(text.encode("utf-8", "surrogatepass"))) > limit:
            report_too_long(where, size, limit, faults)
            return None
        return text


def texts_of(
    records: Iterable[tuple[Position, str, Record]], reading: Reading | None, where: object, faults: Faults, limit: int
) -> Iterator[tuple[Position, str]]:
    """Gives (position, text) of records, that come as (position, its name in a message, record) from one place, `where`.

    Without a `reading`, one is guessed on the first record. A field that is not there raises `UserError`, in a later
    record than the first it is a fault. `limit` is the greatest number of UTF-8 bytes of a text.
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
    """Reports a document of `size` bytes, which is more than `limit`."""
    faults.report(
        "too_long",
        f"{where}: one document of {size / 1e6:,.1f} MB, the limit is {limit / 1e6:,.1f} MB; "
        "raise `max_document_mb` in the sources file, or for txt files set `document` to line or paragraph",
    )


def no_such_column(where: object, column: str, there: Iterable[str], hint: str = "") -> NoReturn:
    """Raises the `UserError` for a field that is not there; `there` are those that are."""
    raise UserError(
        f"{where}: no column {column!r}; {_there(there)}; set `text_column` (in the sources file, or --text-column){hint}"
    )


def chosen_reading(text_column: str | None, template: str | None) -> Reading | None:
    """The reading that a sources file asks for; None where it leaves that to a guess.

    Raises `UserError` where it asks for two, or for a template that is none.
    """
    if template is not None:
        if text_column is not None:
            raise UserError("give either `text_column` or `template`, not both")
        compiled(template)
        return Reading((), "`template` is set", template)
    return None if text_column is None else Reading((text_column,), "`text_column` is set")


def guess_reading(record: Record, where: object) -> Reading:
    """Tells from the first record of a source where its text is, if there can be no doubt.

    `text` is taken where it is there; else a known kind of record (chat, instruction, question); else the one field
    that holds text. Raises `UserError`, naming the fields, where two would do or none.
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
    found += [Reading((name,), f"`{name}` is the only field that holds text") for name in texts]
    if len(found) == 1:
        return found[0]
    way_out = "set `text_column`, or a `template` such as '{{ field }}', in the sources file"
    if not found:
        raise UserError(f"{where}: no field that is surely text; {_there(record)}; {way_out}")
    names = " or ".join(" + ".join(name for name in reading.fields if name in record) for reading in found)
    raise UserError(f"{where}: cannot tell which field holds the text: {names}; {way_out}")


def _may_be_text(name: str, value: str) -> bool:
    """Whether a field can be meant to be read: what is called so, and what is more than one ASCII word, as a key is."""
    if name.lower() in _USUAL_NAMES:
        return True
    is_key = value.isascii() and len(value.split()) == 1
    return not is_key and name.lower() not in _DESCRIPTIONS + _MORE_DESCRIPTIONS


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and any(name in value for name in _TURN_TEXTS)


def _as_text(field: str, value: Any) -> str:
    if field == "answers":  # a list, or SQuAD's {"text": [...], "answer_start": [...]}
        value = value.get("text") if isinstance(value, dict) else value
        value = value[0] if isinstance(value, list) and value else value or ""
    if value is None:
        return ""  # dropped later as an empty document, and counted with those
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(_is_turn(turn) for turn in value):
        return "\n\n".join(text for turn in value if (text := _turn_text(field, turn).strip()))
    raise _NotTextError(f"column {field!r} holds {value.__class__.__name__}, not text")


def _turn_text(field: str, turn: dict[str, Any]) -> str:
    value = next(turn[name] for name in _TURN_TEXTS if name in turn)
    if value is None:  # a turn that calls a tool says nothing
        return ""
    if not isinstance(value, str):
        raise _NotTextError(f"a turn in column {field!r} holds {value.__class__.__name__}, not text")
    return value


def _there(names: Iterable[str]) -> str:
    return f"there are: {', '.join(str(name)[:40] for name in names)}"


@functools.cache
def compiled(template: str) -> Callable[[Record], str]:
    """A function from a record to the text of a Jinja template, run in its sandbox.

    The fields are the template's variables; `record` is the whole, for names that are no identifiers:
    `{{ record["warc-date"] }}`. What is null is written as nothing. The function raises `MissingFieldError` for a field
    that is not there. Raises `UserError` for a template with a mistake in it.
    """
    import jinja2  # only sources with a template need it
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
        except Exception as error:  # a template is a program: it can fail in any way
            raise _NotTextError(f"the template fails: {error.__class__.__name__}: {error}") from error

    return render
