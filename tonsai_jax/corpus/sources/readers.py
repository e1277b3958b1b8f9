"""Texts from local files: txt, json, jsonl, csv, tsv, wet, warc (each also .gz or .zst) and parquet.

Everything is streamed: a reader keeps one line, one paragraph or one batch of rows in memory, however large the file is. Each
text comes with its position in the file, which does not depend on where reading began: a byte offset (in the decompressed
file), a row number in parquet, a line number in csv, the number of the record in json.
"""

from collections.abc import Iterator
from pathlib import Path

from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.formats import WITH_FIELDS, file_format
from tonsai_jax.corpus.sources.lines import Boundary, blocks
from tonsai_jax.corpus.sources.opening import decode, file_faults, open_file
from tonsai_jax.corpus.sources.record_files import MAX_DOCUMENT_BYTES, read_records
from tonsai_jax.corpus.sources.records import Reading, texts_of
from tonsai_jax.corpus.sources.warc import read_warc
from tonsai_jax.corpus.sources.wrapping import Wrapping, unwrap


def read_file(path: Path, *, text_column: str, boundary: Boundary, faults: Faults) -> Iterator[str]:
    """Gives the texts of one file in order: the field `text_column`, or the documents of a txt file by `boundary`.

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
    wrapping: Wrapping | None = None,
    limit: int = MAX_DOCUMENT_BYTES,
    start: int = 0,
    end: int | None = None,
) -> Iterator[tuple[int, str]]:
    """Gives (position, text) of the documents of one file, or of a part of it, in order.

    Args:
      reading: which fields to read; None guesses from the first record.
      boundary: what a document of a txt file is.
      faults: receives what is wrong with a document, and with a file that is empty (`empty_file`) or cannot be read to its
        end (`damaged_file`; the documents before the damage are given).
      wrapping: how a txt file is wrapped, to join its lines; None leaves them.
      limit: the greatest number of bytes of a document.
      start, end: the part of the file. Byte offsets from `cut_points` for uncompressed text files, numbers of row groups for
        parquet; other files cannot be read in parts.

    Raises:
      UserError: a field does not exist.
    """
    ending = file_format(path)
    if ending in WITH_FIELDS:
        records = read_records(path, faults, reading=reading, limit=limit, start=start, end=end)
        yield from texts_of(records, reading, path, faults, limit)
        return
    with file_faults(path, faults), open_file(path, start) as stream:
        if ending in (".wet", ".warc"):
            yield from read_warc(path, stream, limit, faults)
        else:
            for offset, raw in blocks(stream, boundary, limit, start, end):
                text = decode(raw, path, offset, limit, faults)
                if text is not None:
                    yield offset, unwrap(text, wrapping) if wrapping else text
