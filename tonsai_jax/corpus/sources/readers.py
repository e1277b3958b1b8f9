"""Reading texts from local files: txt, jsonl, csv, tsv, wet, warc (each also .gz or .zst) and parquet.

Everything is streamed: a reader holds one line, one paragraph or one batch of rows, however large the file. Each text
comes with its position in the file, which does not depend on where reading began: the byte offset (of what is in a
packed file), the row number of parquet, the line number of csv.
"""

import contextlib
import csv
import glob
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tonsai_jax.corpus.sources.faults import Faults, OnError
from tonsai_jax.corpus.sources.lines import BUFFER_BYTES, COMPRESSIONS, Boundary, TooLong, blocks, lines, open_bytes
from tonsai_jax.corpus.sources.records import Reading, Record, report_too_long, texts_of
from tonsai_jax.corpus.sources.warc import read_warc
from tonsai_jax.errors import UserError

__all__ = [
    "COMPRESSIONS",
    "Boundary",
    "Faults",
    "OnError",
    "file_format",
    "find_files",
    "read_file",
    "read_span",
    "records",
]

WITH_FIELDS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
FORMATS = (".txt", ".wet", ".warc", *WITH_FIELDS)
FORMATS_IN_WORDS = ".txt, .jsonl, .csv, .tsv, .wet, .warc (each also .gz or .zst) and .parquet"
MAX_DOCUMENT_BYTES = 100 * 10**6
_DELIMITERS = ",;\t|"  # that tables are written with; those read here are , in .csv and a tab in .tsv
_BATCH_BYTES = 16 << 20  # of parquet, as far as its averages tell

Located = tuple[int, str, Record]  # position, its name in a message, the record


def find_files(location: str) -> list[Path]:
    """Lists, sorted, the files to read at a path: a file, a folder (searched to the bottom) or a glob.

    Hidden files and folders are left out. Raises `UserError` where there is nothing to read.
    """
    path = Path(location).expanduser()
    if path.is_dir():
        found = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
        visible = [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        files = [file for file in visible if file_format(file)]
        if not files:
            raise UserError(f"{location}: no file here that can be read; known are {FORMATS_IN_WORDS}")
    elif path.exists():
        files = [path]
    elif glob.has_magic(location):
        files = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]
        if not files:
            raise UserError(f"{location}: no file matches this pattern")
    else:
        raise UserError(f"{location}: no such file or folder")
    for file in files:
        if not file_format(file):
            raise UserError(f"{file}: unknown kind of file; known are {FORMATS_IN_WORDS}")
    return sorted(files)


def file_format(path: Path) -> str | None:
    """The ending that says how to read a file, such as ".jsonl" for `a.jsonl.gz`; None if it is not known."""
    name = path.name.lower()
    inner = name.removesuffix(".gz").removesuffix(".zst")
    ending = Path(inner).suffix
    if ending not in FORMATS or (ending == ".parquet" and inner != name):
        return None
    return ending


def read_file(path: Path, *, text_column: str, boundary: Boundary, faults: Faults) -> Iterator[str]:
    """Gives the texts of one file in order: of the field `text_column`, or of the txt file's documents by `boundary`.

    Raises and reports what `read_span` does.
    """
    reading = Reading((text_column,), "`text_column` is set")
    return (text for _, text in read_span(path, reading=reading, boundary=boundary, faults=faults))


def read_span(
    path: Path,
    *,
    reading: Reading | None,
    boundary: Boundary,
    faults: Faults,
    limit: int = MAX_DOCUMENT_BYTES,
    start: int = 0,
    end: int | None = None,
) -> Iterator[tuple[int, str]]:
    """Gives (position, text) of the documents of one file in order, or of a part of it.

    `start` and `end` are byte offsets from `cut_points` for text files that are not packed, numbers of row groups for
    parquet; no other file has parts. `reading` says which fields to read (None: a guess on the first record),
    `limit` how many bytes a document may have.
    Raises `UserError` for a field that is not there. To `faults` goes what is wrong with single documents, and a file
    that is empty (`empty_file`) or cannot be read to its end (`damaged_file`), what comes before the damage given.
    """
    ending = file_format(path)
    if ending in WITH_FIELDS:
        located = records(path, faults, reading=reading, limit=limit, start=start, end=end)
        yield from texts_of(located, reading, path, faults, limit)
        return
    with _file_faults(path, faults), _opened(path, start) as stream:
        if ending in (".wet", ".warc"):
            yield from read_warc(path, stream, limit, faults)
        else:
            for offset, raw in blocks(stream, boundary, limit, start, end):
                text = _decode(raw, path, offset, limit, faults)
                if text is not None:
                    yield offset, text


def records(
    path: Path,
    faults: Faults,
    *,
    reading: Reading | None = None,
    limit: int = MAX_DOCUMENT_BYTES,
    start: int = 0,
    end: int | None = None,
) -> Iterator[Located]:
    """Gives (position, its name in a message, record) of a jsonl, csv, tsv or parquet file in order, or of a part of it.

    `reading` says which fields are needed (None: all): only these are read where that is faster. `limit` is of the bytes
    of a line or field. Otherwise as `read_span`.
    """
    ending = file_format(path)
    with _file_faults(path, faults):
        if ending == ".parquet":
            if path.stat().st_size == 0:
                raise _EmptyFileError
            yield from _parquet_records(path, reading, faults, start, end)
            return
        with _opened(path, start) as stream:
            if ending in (".jsonl", ".ndjson"):
                yield from _json_records(path, stream, faults, limit, start, end)
            else:
                delimiter = "\t" if ending == ".tsv" else ","
                yield from _csv_records(path, stream, reading, delimiter, faults, limit)


def first_record(path: Path) -> Record | None:
    """The first record of a file, to guess from; None where there is none, or the file has no fields.

    In parquet a text that is null there counts as an empty one: the schema says that it is a text.
    """
    if file_format(path) not in WITH_FIELDS:
        return None
    _, _, record = next(records(path, Faults("skip")), (0, "", None))  # reading tells of the faults
    if record is None or file_format(path) != ".parquet":
        return record
    types = {field.name: field.type for field in pq.read_schema(path)}
    return {
        name: ""
        if value is None and (pa.types.is_string(types[name]) or pa.types.is_large_string(types[name]))
        else value
        for name, value in record.items()
    }


class _EmptyFileError(Exception):
    pass


def _opened(path: Path, start: int) -> io.BufferedReader:
    stream = open_bytes(path, start)
    if not stream.peek(1):
        stream.close()
        raise _EmptyFileError
    return stream


@contextlib.contextmanager
def _file_faults(path: Path, faults: Faults) -> Iterator[None]:
    """Reports a file that is empty, or that cannot be read to its end."""
    try:
        yield
    except _EmptyFileError:
        faults.report("empty_file", f"{path}: the file is empty")
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        faults.report("damaged_file", f"{path}: cannot be read ({error.__class__.__name__}: {reason})")


def _decode(raw: bytes | TooLong, path: Path, offset: int, limit: int, faults: Faults) -> str | None:
    if isinstance(raw, TooLong):
        report_too_long(f"{path}: at byte {offset}", raw.size, limit, faults)
    elif b"\0" in raw:
        where = offset + raw.index(b"\0")
        faults.report("nul_bytes", f"{path}: a NUL byte at byte {where}: damage, or UTF-16 instead of UTF-8")
    else:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            faults.report("not_utf8", f"{path}: not UTF-8 at byte {offset + error.start} (0x{raw[error.start]:02x})")
    return None


def _json_records(
    path: Path, stream: IO[bytes], faults: Faults, limit: int, start: int, end: int | None
) -> Iterator[Located]:
    for number, (offset, raw) in enumerate(lines(stream, limit, start, end), start=1):
        if not isinstance(raw, TooLong) and not raw.strip():
            continue
        line = _decode(raw, path, offset, limit, faults)
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
) -> Iterator[Located]:
    damaged = False

    def decoded() -> Iterator[str]:
        nonlocal damaged
        for offset, raw in lines(stream, limit):
            line = _decode(raw, path, offset, limit, faults)
            damaged = damaged or line is None
            # A record may span lines: a line that is left out leaves its quotes, so that they still close, and the
            # record is left out with it.
            if line is not None:
                yield line
            elif isinstance(raw, TooLong):
                yield '"\n' if raw.quotes % 2 else "\n"
            else:
                yield raw.decode("utf-8", "replace")

    rows = csv.reader(decoded(), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        damaged, number = False, rows.line_num + 1
        csv.field_size_limit(limit)  # otherwise 128 kB; a quote that never closes must not take in the whole file
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
                    f"{path}: the first line has {other!r} between its fields; "
                    f"in a {file_format(path)} file it must be {delimiter!r}"
                )
            if reading is not None:
                reading.check(path, header, " (the first line of the file must name the columns)")
        elif damaged or not row:
            continue
        elif len(row) != len(header):
            faults.report("broken", f"{path}: line {number} has {len(row)} fields, the first line {len(header)}")
        else:
            yield number, f"line {number}", dict(zip(header, row, strict=True))


def _parquet_records(
    path: Path, reading: Reading | None, faults: Faults, start: int, end: int | None
) -> Iterator[Located]:
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
