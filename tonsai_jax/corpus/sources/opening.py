"""Opening a file and decoding its bytes; what is wrong with them goes to `Faults`."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.lines import TooLong, open_bytes
from tonsai_jax.corpus.sources.records import report_too_long


class EmptyFileError(Exception):
    """A file has no bytes."""


def open_file(path: Path, start: int = 0) -> io.BufferedReader:
    """Opens a file, decompressed, at byte `start`. Raises `EmptyFileError` if nothing is there."""
    stream = open_bytes(path, start)
    if not stream.peek(1):
        stream.close()
        raise EmptyFileError
    return stream


@contextlib.contextmanager
def file_faults(path: Path, faults: Faults) -> Iterator[None]:
    """Reports that a file is empty, or cannot be read to its end, while the block reads it."""
    try:
        yield
    except EmptyFileError:
        faults.report("empty_file", f"{path}: the file is empty")
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        faults.report("damaged_file", f"{path}: cannot be read ({error.__class__.__name__}: {reason})")


def decode(raw: bytes | TooLong, path: Path, offset: int, limit: int, faults: Faults) -> str | None:
    """The text of the bytes at `offset` in a file; None after reporting that they are too long or not UTF-8 text."""
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
