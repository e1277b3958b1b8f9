"""Reading texts from local files: txt, jsonl, csv, tsv (each also .gz or .zst) and parquet.

Everything is streamed: a reader holds one line, one paragraph or one batch of rows, however large the file.
"""

import csv
import glob
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from tonsai_jax.errors import UserError

Boundary = Literal["line", "paragraph", "file"]
Errors = Literal["strict", "skip"]

FORMATS = (".txt", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
COMPRESSIONS = (".gz", ".zst")
FORMATS_IN_WORDS = ".txt, .jsonl, .csv, .tsv (each also .gz or .zst) and .parquet"


class Faults:
    """What to do with input that cannot be read: "strict" raises at the first, "skip" counts them by kind."""

    def __init__(self, errors: Errors = "strict"):
        self.errors = errors
        self.counts: Counter[str] = Counter()

    def report(self, kind: str, message: str) -> None:
        if self.errors == "strict":
            raise UserError(f"{message}; put it right, or pass --errors skip to leave such documents out")
        self.counts[kind] += 1


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
    """Gives the texts of one file in order.

    `text_column` names the field of jsonl, csv, tsv and parquet; `boundary` says what one document of a txt
    file is.
    Raises `UserError` for an empty, damaged or unreadable file and a column that is not there; what is
    wrong with single documents goes to `faults`.
    """
    ending = file_format(path)
    try:
        if path.stat().st_size == 0:
            faults.report("empty_file", f"{path}: the file is empty")
        elif ending == ".parquet":
            yield from _read_parquet(path, text_column, faults)
        else:
            with _open(path) as stream:
                if not stream.peek(1):
                    faults.report("empty_file", f"{path}: the file is empty")
                elif ending == ".txt":
                    yield from _read_txt(path, stream, boundary, faults)
                elif ending in (".jsonl", ".ndjson"):
                    yield from _read_jsonl(path, stream, text_column, faults)
                else:
                    yield from _read_csv(path, stream, text_column, "\t" if ending == ".tsv" else ",", faults)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read ({error.__class__.__name__}: {error})") from error


def _open(path: Path) -> io.BufferedReader:
    # pyarrow's decompression, because it is four times as fast as gzip's and, unlike zstandard's, notices a
    # cut-off file.
    stream: Any = pa.input_stream(str(path), compression="detect", buffer_size=1 << 20)
    return io.BufferedReader(stream, 1 << 20)


def _decode(raw: bytes, path: Path, offset: int, faults: Faults) -> str | None:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        faults.report("not_utf8", f"{path}: not UTF-8 at byte {offset + error.start} (0x{raw[error.start]:02x})")
        return None


def _lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Pairs of (byte offset, line), the byte order mark that some editors write first taken off."""
    offset = 0
    for raw in stream:
        if offset == 0 and raw.startswith(b"\xef\xbb\xbf"):
            yield 3, raw[3:]
        else:
            yield offset, raw
        offset += len(raw)


def _read_txt(path: Path, stream: IO[bytes], boundary: Boundary, faults: Faults) -> Iterator[str]:
    if boundary == "file":
        blocks = iter([(0, stream.read())])
    elif boundary == "paragraph":
        blocks = _paragraphs(stream)
    else:
        blocks = ((offset, raw) for offset, raw in _lines(stream) if raw.strip())
    for offset, raw in blocks:
        text = _decode(raw, path, offset, faults)
        if text is not None:
            yield text


def _paragraphs(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    start = 0
    block: list[bytes] = []
    for offset, raw in _lines(stream):
        if raw.strip():
            start = start if block else offset
            block.append(raw)
        elif block:
            yield start, b"".join(block)
            block = []
    if block:
        yield start, b"".join(block)


def _read_jsonl(path: Path, stream: IO[bytes], column: str, faults: Faults) -> Iterator[str]:
    first = True
    for number, (offset, raw) in enumerate(_lines(stream), start=1):
        if not raw.strip():
            continue
        line = _decode(raw, path, offset, faults)
        if line is None:
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            faults.report("broken", f"{path}: line {number} is not JSON ({error})")
            continue
        if not isinstance(record, dict):
            faults.report("broken", f"{path}: line {number} is not a JSON object with fields")
        elif column not in record and first:
            no_such_column(path, column, record)
        else:
            first = False
            yield from as_text(record.get(column), f"{path}: line {number}", column, faults)


def _read_csv(path: Path, stream: IO[bytes], column: str, delimiter: str, faults: Faults) -> Iterator[str]:
    csv.field_size_limit(sys.maxsize)  # a document may well be longer than the 128 kB that `csv` expects of a field
    damaged = False

    def decoded() -> Iterator[str]:
        nonlocal damaged
        for offset, raw in _lines(stream):
            line = _decode(raw, path, offset, faults)
            damaged = damaged or line is None
            # A record may span lines: the line goes on, so that its quotes still close, and the record is
            # left out.
            yield raw.decode("utf-8", "replace") if line is None else line

    rows = csv.reader(decoded(), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        damaged, number = False, rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            faults.report("broken", f"{path}: the record at line {number} is not valid {path.suffix[1:]} ({error})")
            continue
        if header is None:
            header = row
            if column not in header:
                no_such_column(path, column, header, " (the first line of the file must name the columns)")
        elif damaged or not row:
            continue
        elif len(row) != len(header):
            faults.report("broken", f"{path}: line {number} has {len(row)} fields, the first line {len(header)}")
        else:
            yield row[header.index(column)]


def _read_parquet(path: Path, column: str, faults: Faults) -> Iterator[str]:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        if column not in schema.names:
            no_such_column(path, column, schema.names)
        row = 0
        for batch in file.iter_batches(batch_size=1024, columns=[column]):
            for value in batch.column(0):
                row += 1
                try:
                    text = value.as_py()
                except UnicodeDecodeError as error:
                    faults.report(
                        "not_utf8", f"{path}: row {row}: not UTF-8 at byte {error.start} of column {column!r}"
                    )
                    continue
                yield from as_text(text, f"{path}: row {row}", column, faults)


def as_text(value: Any, where: str, column: str, faults: Faults) -> Iterator[str]:
    """Gives the value of a text column if it is text; none is an empty text, anything else is a fault."""
    if value is None:
        yield ""  # dropped later as an empty document, and counted with those
    elif isinstance(value, str):
        yield value
    else:
        faults.report("not_text", f"{where}: column {column!r} holds {value.__class__.__name__}, not text")


def no_such_column(where: Path | str, column: str, there: Iterable[str], hint: str = "") -> NoReturn:
    """Raises the `UserError` for a text column that is not there; `there` are the columns that are."""
    names = ", ".join(str(name)[:40] for name in there)
    raise UserError(f"{where}: no column {column!r}; there are: {names}; set `text_column` in the sources file{hint}")
