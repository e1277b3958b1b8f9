"""Records, which are rows with named fields, from json, jsonl, csv, tsv and parquet files."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.formats import WITH_FIELDS, file_format
from tonsai_jax.corpus.sources.json_file import BrokenJsonError, LongValueError, json_values
from tonsai_jax.corpus.sources.lines import BUFFER_BYTES, TooLong, lines
from tonsai_jax.corpus.sources.opening import EmptyFileError, decode, file_faults, open_file
from tonsai_jax.corpus.sources.records import Reading, Record, report_too_long
from tonsai_jax.errors import UserError

MAX_DOCUMENT_BYTES = 100 * 10**6
_DELIMITERS = ",;\t|"  # in use for tables; those read here are a comma in .csv and a tab in .tsv
_BATCH_BYTES = 16 << 20  # of parquet, estimated from the mean size of a row

LocatedRecord = tuple[int, str, Record]
"""Position of a record in the file, its name in messages ("line 3"), the record."""


def read_records(
    path: Path,
    faults: Faults,
    *,
    reading: Reading | None = None,
    limit: int = MAX_DOCUMENT_BYTES,
    start: int = 0,
    end: int | None = None,
) -> Iterator[LocatedRecord]:
    """Gives the records of a json, jsonl, csv, tsv or parquet file, or of a part of it, in order.

    Args:
      faults: receives what is wrong with records and with the file.
      reading: the fields that are needed; None needs all. Other fields are not read where that is faster.
      limit: the greatest number of bytes of a line or field.
      start, end: as in `read_span`.

    Raises:
      UserError: a field that is needed does not exist.
    """
    ending = file_format(path)
    with file_faults(path, faults):
        if ending == ".parquet":
            if path.stat().st_size == 0:
                raise EmptyFileError
            yield from _parquet_records(path, reading, faults, start, end)
            return
        with open_file(path, start) as stream:
            if ending == ".json":
                yield from _json_file_records(path, stream, faults, limit)
            elif ending in (".jsonl", ".ndjson"):
                yield from _json_records(path, stream, faults, limit, start, end)
            else:
                delimiter = "\t" if ending == ".tsv" else ","
                yield from _csv_records(path, stream, reading, delimiter, faults, limit)


def first_record(path: Path) -> Record | None:
    """The first record of a file, to guess from; None if there is none or the file has no fields.

    In parquet, a null in a text column becomes "", because the schema says that the column is text.
    """
    if file_format(path) not in WITH_FIELDS:
        return None
    # Faults are skipped here: they are reported when the file is read.
    _, _, record = next(read_records(path, Faults("skip")), (0, "", None))
    if record is None or file_format(path) != ".parquet":
        return record
    types = {field.name: field.type for field in pq.read_schema(path)}
    return {
        name: ""
        if value is None and (pa.types.is_string(types[name]) or pa.types.is_large_string(types[name]))
        else value
        for name, value in record.items()
    }


def _json_file_records(path: Path, stream: IO[bytes], faults: Faults, limit: int) -> Iterator[LocatedRecord]:
    number = 0
    try:
        for number, (record, written) in enumerate(json_values(stream, limit), start=1):
            label = f"record {number}"
            if not written.isascii() and any("\udc80" <= character <= "\udcff" for character in written):
                faults.report("not_utf8", f"{path}: {label} is not UTF-8")
            elif isinstance(record, dict):
                yield number - 1, label, record
            else:
                faults.report("broken", f"{path}: {label} is not a JSON object with fields")
    except BrokenJsonError as error:
        faults.report(
            "broken", f"{path}: record {number + 1} is not JSON ({error}); the file cannot be read from there on"
        )
    except LongValueError as error:
        report_too_long(f"{path}: record {number + 1}, after which the file cannot be read", error.size, limit, faults)


def _json_records(
    path: Path, stream: IO[bytes], faults: Faults, limit: int, start: int, end: int | None
) -> Iterator[LocatedRecord]:
    for number, (offset, raw) in enumerate(lines(stream, limit, start, end), start=1):
        if not isinstance(raw, TooLong) and not raw.strip():
            continue
        line = decode(raw, path, offset, limit, faults)
        if line is None:
            continue
        label = f"line at byte {offset}" if start else f"line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            faults.report("broken", f"{path}: {label} is not JSON ({error})")
            continue
        if isinstance(record, dict):
            yield offset, label, record
        else:
            faults.report("broken", f"{path}: {label} is not a JSON object with fields")


def _csv_records(
    path: Path, stream: IO[bytes], reading: Reading | None, delimiter: str, faults: Faults, limit: int
) -> Iterator[LocatedRecord]:
    is_damaged = False

    def decoded() -> Iterator[str]:
        nonlocal is_damaged
        for offset, raw in lines(stream, limit):
            line = decode(raw, path, offset, limit, faults)
            is_damaged = is_damaged or line is None
            # A record may span several lines. The quotes of a line that is left out are kept, so that the quotes of its record
            # still close; then that whole record is left out.
            if line is not None:
                yield line
            elif isinstance(raw, TooLong):
                yield '"\n' if raw.quotes % 2 else "\n"
            else:
                yield raw.decode("utf-8", "replace")

    rows = csv.reader(decoded(), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        is_damaged, number = False, rows.line_num + 1
        csv.field_size_limit(limit)  # otherwise 128 kB; and a quote that never closes must not swallow the whole file
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            kind = "too_long" if "field limit" in str(error) else "broken"
            faults.report(kind, f"{path}: the record at line {number} is not valid {path.suffix[1:]} ({error})")
            continue
        if header is None:
            header = row
            other = next((sign for sign in _DELIMITERS if sign in header[0]), None) if len(header) == 1 else None
            if other:
                raise UserError(
                    f"{path}: the first line has {other!r} between its fields; a {file_format(path)} file needs {delimiter!r}"
                )
            if reading is not None:
                reading.check(path, header, " (the first line of the file must name the columns)")
        elif is_damaged or not row:
            continue
        elif len(row) != len(header):
            faults.report("broken", f"{path}: line {number} has {len(row)} fields, the first line {len(header)}")
        else:
            yield number, f"line {number}", dict(zip(header, row, strict=True))


def _parquet_records(
    path: Path, reading: Reading | None, faults: Faults, start: int, end: int | None
) -> Iterator[LocatedRecord]:
    with pq.ParquetFile(path, buffer_size=BUFFER_BYTES) as file:
        names = list(file.schema_arrow.names)
        if reading is not None:
            reading.check(path, names)
            if reading.fields:
                names = [name for name in names if name in reading.fields]
        metadata = file.metadata
        row = sum(metadata.row_group(group).num_rows for group in range(start))
        for group in range(start, metadata.num_row_groups if end is None else end):
            described = metadata.row_group(group)
            row_bytes = described.total_byte_size // max(described.num_rows, 1)
            rows = min(max(_BATCH_BYTES // max(row_bytes, 1), 1), 1024)
            for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=names):
                for values in zip(*batch.columns, strict=True):
                    row += 1
                    record = _parquet_record(path, row, names, values, faults)
                    if record is not None:
                        yield row - 1, f"row {row}", record


def _parquet_record(path: Path, row: int, names: list[str], values: tuple[Any, ...], faults: Faults) -> Record | None:
    record: dict[str, Any] = {}
    for name, value in zip(names, values, strict=True):
        try:
            record[name] = value.as_py()
        except UnicodeDecodeError as error:
            faults.report("not_utf8", f"{path}: row {row}: not UTF-8 at byte {error.start} of column {name!r}")
            return None
    return record
