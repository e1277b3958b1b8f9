"""The records of a task: from a file that a person has downloaded, or from the Hub."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from tonsai_jax.errors import UserError

Record = Mapping[str, Any]
Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class HubData:
    """A split of a dataset on the Hub."""

    name: str
    subset: str | None
    split: str

    def __str__(self) -> str:
        return f"{self.name} {self.subset or ''}".rstrip() + f", split {self.split}"


class RecordError(Exception):
    """A record is not what its task needs; the message says why, without the place."""


def field(record: Record, name: str, kind: type | tuple[type, ...] = str) -> Any:
    """A field of a record; raises `RecordError` where it is missing or of another kind."""
    if name not in record:
        raise RecordError(f"has no field {name!r}; its fields are {', '.join(map(repr, record)) or 'none'}")
    value = record[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise RecordError(f"field {name!r} is {value!r}, which is of the wrong type")
    return value


def texts(record: Record, name: str) -> list[str]:
    """A field of a record that is a list of texts; raises `RecordError` where it is anything else."""
    values = field(record, name, list)
    for value in values:
        if not isinstance(value, str):
            raise RecordError(f"field {name!r} has {value!r}; each of its values must be a text")
    return list(values)


def read_items(
    file: str, data_dir: Path | None, hub: HubData | None, read: Callable[[Record], Item], limit: int | None
) -> list[Item]:
    """The items of a task, at most `limit`, the first ones.

    Args:
      file: the name of the local file, "belebele_km.jsonl".
      data_dir: where the file is, if a person has one; a task without a file there is read from the Hub.
      hub: where the records are on the Hub; None for a task that only has a local file.
      read: one record to an item; raises `RecordError`.

    Raises `UserError` in one line: no file and no network, a file without records, a record that is not what the task needs.
    """
    path = None if data_dir is None else data_dir / file
    if path is not None and path.exists():
        records: Iterator[tuple[str, Record]] = _local_records(path)
        where = str(path)
    elif hub is not None:
        records, where = _hub_records(hub, file, data_dir), f"Hugging Face dataset {hub}"
    else:
        raise UserError(
            f"{path or file}: no such file; this task has no data on the Hub, so put its records there, one JSON object a "
            "line" + ("" if path else ", in the folder of `tonsai tasks --data`")
        )
    items = []
    for place, record in islice(records, limit):
        try:
            items.append(read(record))
        except RecordError as error:
            raise UserError(f"{place}: the record {error}") from None
    if not items:
        raise UserError(f"{where}: there are no records; download it again, or leave the task out")
    return items


def _local_records(path: Path) -> Iterator[tuple[str, Record]]:
    number = 0
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise UserError(f"{path}, line {number}: not a JSON object; a record has fields, as on the Hub")
                yield f"{path}, line {number}", record
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {number}: not valid JSON ({error.msg})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}, after line {number}: not UTF-8 text") from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); it must be a file with a JSON object a line"
        ) from None


def _hub_records(hub: HubData, file: str, data_dir: Path | None) -> Iterator[tuple[str, Record]]:
    from tonsai_jax.corpus.sources.hub import HubSplit  # imported here: local files need neither it nor `datasets`

    try:
        for label, record in HubSplit(hub.name, hub.subset, hub.split).records():
            yield f"Hugging Face dataset {hub}, {label}", record
    except UserError as error:
        raise UserError(
            f"{hub} cannot be read from the Hub; download it, write its records as JSON lines to "
            f"{(data_dir or Path('DIR')) / file} and give `tonsai tasks --data {data_dir or 'DIR'}` ({error})"
        ) from None
