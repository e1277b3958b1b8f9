"""Cutting files into spans of about equal size that can be read in parallel. No document is in two spans."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tonsai_jax.corpus.sources.formats import file_format
from tonsai_jax.corpus.sources.lines import COMPRESSIONS, Boundary, cut_points, expansion, file_size
from tonsai_jax.corpus.sources.wrapping import Wrapping, find_wrapping


@dataclass(frozen=True)
class Span:
    """A part of a file: bytes of a text file, or row groups of parquet, from `start` to before `end` (None: to its end)."""

    file: int  # number among the files of the source
    path: str
    start: int = 0
    end: int | None = None
    size: int = 0  # bytes on disk; estimated for a part of a file
    boundary: Boundary = "line"  # what a document of a txt file is
    wrapping: Wrapping | None = None  # how the lines of its documents are joined; None: not at all


def whole_files(files: Sequence[Path], document: Boundary | None) -> Iterator[Span]:
    """Gives one span for each of `files`. If `document` is None, a txt file decides itself what its documents are."""
    for number, path in enumerate(files):
        wrapping = find_wrapping(path) if document is None and file_format(path) == ".txt" else None
        boundary = document or (wrapping.boundary if wrapping else "line")
        yield Span(number, str(path), size=file_size(path), boundary=boundary, wrapping=wrapping)


def spans_of(files: Sequence[Path], document: Boundary | None, target_bytes: int) -> Iterator[Span]:
    """Gives the spans of `files` in order. Files that can be cut have spans of about `target_bytes`.

    A file that cannot be accessed or parsed is one span; reading it will report why.
    """
    for whole in whole_files(files, document):
        points: list[int] = []
        if whole.size > target_bytes:
            with contextlib.suppress(OSError, pa.ArrowException):
                points = _cuts(Path(whole.path), whole.boundary, target_bytes)
        if len(points) < 2:
            yield whole
            continue
        for start, end in pairwise([*points, None]):
            assert start is not None
            yield replace(whole, start=start, end=end, size=whole.size // len(points))


def groups(spans: Iterable[Span], target_bytes: int) -> Iterator[tuple[Span, ...]]:
    """Joins neighbouring spans up to `target_bytes`, so that small files share a task."""
    group: list[Span] = []
    size = 0
    for span in spans:
        if group and size + span.size > target_bytes:
            yield tuple(group)
            group, size = [], 0
        group.append(span)
        size += span.size
    if group:
        yield tuple(group)


def text_bytes(spans: Sequence[Span]) -> int:
    """About how many bytes of text some spans hold: what they have on disk, times how far the first file is compressed."""
    path = Path(spans[0].path)
    with contextlib.suppress(OSError, pa.ArrowException):
        if path.suffix.lower() in COMPRESSIONS:
            return int(sum(span.size for span in spans) * expansion(path))
        if file_format(path) == ".parquet":
            return sum(_parquet_bytes(span) for span in spans)
    return sum(span.size for span in spans)


def _parquet_bytes(span: Span) -> int:
    metadata = pq.read_metadata(span.path)
    end = metadata.num_row_groups if span.end is None else span.end
    return sum(metadata.row_group(group).total_byte_size for group in range(span.start, end))


def _cuts(path: Path, boundary: Boundary, target_bytes: int) -> list[int]:
    """Where a file is cut, 0 first; empty, or 0 alone, if it is not cut."""
    ending = file_format(path)
    if ending == ".parquet":
        return _row_group_cuts(path, target_bytes)
    if path.suffix.lower() != ending or ending not in (".txt", ".jsonl", ".ndjson"):
        return []  # compressed, or a format where documents can only be found by reading from the start
    if ending == ".txt" and boundary == "file":
        return []
    return cut_points(path, boundary if ending == ".txt" else "line", target_bytes)


def _row_group_cuts(path: Path, target_bytes: int) -> list[int]:
    with pq.ParquetFile(path) as file:
        metadata = file.metadata
        cuts, size = [0], 0
        for group in range(metadata.num_row_groups):
            described = metadata.row_group(group)
            own = sum(described.column(column).total_compressed_size for column in range(described.num_columns))
            if size and size + own > target_bytes:
                cuts.append(group)
                size = 0
            size += own
    return cuts
