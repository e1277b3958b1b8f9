"""The decompressed bytes of a file as lines or paragraphs of bounded size, so that no file can fill the memory."""

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa

Boundary = Literal["line", "paragraph", "file"]

COMPRESSIONS = (".gz", ".zst")
BUFFER_BYTES = 1 << 20
_STEP_BYTES = 4096  # per read: a decompressor gives nothing at all of a read that meets damage


@dataclass(frozen=True)
class TooLong:
    """Stands for `size` bytes that were skipped because they were too many; `quotes` of them were `"`."""

    size: int
    quotes: int


def open_bytes(path: Path, start: int = 0) -> io.BufferedReader:
    """Opens a file at byte `start`. Files named .gz or .zst are decompressed; for those, `start` is 0.

    Where compressed data is truncated or damaged, a read raises `OSError` after all bytes before the damage were read.
    """
    if path.suffix.lower() in COMPRESSIONS:
        return io.BufferedReader(_Decompressed(path), BUFFER_BYTES)
    stream: io.BufferedReader = io.BufferedReader(io.FileIO(path), BUFFER_BYTES)
    stream.seek(start)
    return stream


class _Decompressed(io.RawIOBase):
    # With pyarrow, because it is faster than gzip and, unlike zstandard, notices a truncated file.

    def __init__(self, path: Path):
        self._path = path
        self._stream = self._open()
        self._position = 0
        self._damage: Exception | None = None

    def _open(self) -> Any:
        return pa.input_stream(str(self._path), compression="detect", buffer_size=BUFFER_BYTES)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._stream.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        filled = 0
        while filled < len(buffer):
            if self._damage is not None:
                if filled:
                    break
                raise self._damage
            try:
                piece = self._stream.read(min(_STEP_BYTES, len(buffer) - filled))
            except (OSError, pa.ArrowException) as error:
                self._damage = error
                piece = self._before_damage(len(buffer) - filled)
            if not piece:
                if self._damage is not None:
                    continue
                break
            buffer[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._position += len(piece)
        return filled

    def _before_damage(self, limit: int) -> bytes:
        """The last bytes before the damage: reads the file again up to there, then byte by byte."""
        good = bytearray()
        try:
            with self._open() as stream:
                left = self._position
                while left:
                    left -= len(stream.read(min(_STEP_BYTES, left)))
                while len(good) < limit and (byte := stream.read(1)):
                    good += byte
        except (OSError, pa.ArrowException):
            pass  # the damage that `readinto` has met
        return bytes(good)


def lines(
    stream: IO[bytes], limit: int, start: int = 0, end: int | None = None
) -> Iterator[tuple[int, bytes | TooLong]]:
    """Gives (byte offset, line with its line end) of the lines that begin in [`start`, `end`).

    A line of more than `limit` bytes is skipped and given as `TooLong`. A byte order mark at the start of the file is removed.
    `stream` must be at `start`.
    """
    offset = start
    while end is None or offset < end:
        raw = stream.readline(limit + 1)
        if not raw:
            return
        size = len(raw)
        if size > limit and not raw.endswith(b"\n"):
            quotes = raw.count(b'"')
            while (more := stream.readline(BUFFER_BYTES)) and size:
                size += len(more)
                quotes += more.count(b'"')
                if more.endswith(b"\n"):
                    break
            yield offset, TooLong(size, quotes)
        elif offset == 0 and raw.startswith(b"\xef\xbb\xbf"):
            yield 3, raw[3:]
        else:
            yield offset, raw
        offset += size


def blocks(
    stream: IO[bytes], boundary: Boundary, limit: int, start: int = 0, end: int | None = None
) -> Iterator[tuple[int, bytes | TooLong]]:
    """Gives (byte offset, bytes) of the documents of a text file: its lines, its paragraphs, or the whole file.

    Blank lines are not documents. A document of more than `limit` bytes is given as `TooLong`.
    """
    if boundary == "paragraph":
        yield from _paragraphs(lines(stream, limit, start, end), limit)
    elif boundary == "line":
        yield from ((offset, raw) for offset, raw in lines(stream, limit, start, end) if not _is_blank(raw))
    else:
        raw = stream.read(limit + 1).removeprefix(b"\xef\xbb\xbf")
        size = len(raw)
        if size > limit:
            del raw
            while more := stream.read(BUFFER_BYTES):
                size += len(more)
            yield 0, TooLong(size, 0)
        else:
            yield 0, raw


def _paragraphs(numbered: Iterator[tuple[int, bytes | TooLong]], limit: int) -> Iterator[tuple[int, bytes | TooLong]]:
    start = size = 0
    block: list[bytes] = []

    def finished() -> bytes | TooLong:
        return TooLong(size, 0) if size > limit else b"".join(block)

    for offset, raw in numbered:
        if not _is_blank(raw):
            start = start if size else offset
            size += raw.size if isinstance(raw, TooLong) else len(raw)
            if size > limit:
                block = []
            elif isinstance(raw, bytes):
                block.append(raw)
        elif size:
            yield start, finished()
            block, size = [], 0
    if size:
        yield start, finished()


def _is_blank(raw: bytes | TooLong) -> bool:
    return isinstance(raw, bytes) and not raw.strip()


def cut_points(path: Path, boundary: Boundary, target_bytes: int) -> list[int]:
    """Byte offsets, 0 first, that cut an uncompressed text file into pieces of about `target_bytes`.

    A line or a paragraph begins at each offset, so no document is cut.
    """
    size = path.stat().st_size
    count = -(-size // target_bytes)
    points = [0]
    with path.open("rb", buffering=BUFFER_BYTES) as stream:
        for number in range(1, count):
            if size * number // count <= points[-1]:
                continue  # inside a document that is longer than a piece
            point = _next_start(stream, size * number // count, boundary)
            if point >= size:
                break
            points.append(point)
    return points


def _next_start(stream: IO[bytes], offset: int, boundary: Boundary) -> int:
    """The byte offset of the first document that begins at `offset` or later."""
    stream.seek(offset - 1)
    while (part := stream.readline(BUFFER_BYTES)) and not part.endswith(b"\n"):
        pass
    if boundary == "paragraph":
        fresh, blank = True, True  # at the start of a line; only white space in it so far
        while part := stream.readline(BUFFER_BYTES):
            blank = (fresh or blank) and not part.strip()
            fresh = part.endswith(b"\n")
            if fresh and blank:
                break
    return stream.tell()


def expansion(path: Path) -> float:
    """By how much a compressed file grows when it is read, measured on its first MiB. Raises `OSError` if it is damaged there."""
    with path.open("rb") as file:
        head = file.read(BUFFER_BYTES)
    codec = "gzip" if path.suffix.lower() == ".gz" else "zstd"
    size = 0
    with (
        contextlib.suppress(OSError, pa.ArrowException),
        pa.CompressedInputStream(pa.BufferReader(head), codec) as stream,
    ):
        while piece := stream.read(_STEP_BYTES):  # until the end of the head, which is not the end of the data
            size += len(piece)
    return max(size / max(len(head), 1), 1.0)


def file_size(path: Path | str) -> int:
    """The size of a file in bytes; 0 if it cannot be accessed. Reading it will report why."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
