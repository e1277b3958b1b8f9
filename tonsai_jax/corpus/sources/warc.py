"""Web archives: the plain text of WET files, and the text of the pages in WARC files (ISO 28500).

Specification: https://iipc.github.io/warc-specifications/. trafilatura, an optional dependency, extracts the text of pages.
"""

import contextlib
import gzip
import http.client
import io
import logging
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.lines import BUFFER_BYTES
from tonsai_jax.corpus.sources.records import report_too_long
from tonsai_jax.errors import UserError

_PAGES = ("text/html", "application/xhtml+xml")
_LONGEST_HEADER = 1 << 20


def read_warc(path: Path, stream: IO[bytes], limit: int, faults: Faults) -> Iterator[tuple[int, str]]:
    """Gives (byte offset, text) of the documents of a web archive: extracted texts, and web pages with HTTP status 200.

    Other records (requests, metadata, images) are skipped. A page without text gives "".
    Raises `OSError` if the file is damaged, `UserError` if there are pages and trafilatura is not installed.
    """
    extract: Callable[[bytes, str | None], str] | None = None
    for offset, headers, body in _records(path, stream, limit, faults):
        where = f"{path}: record at byte {offset}"
        if headers.get("warc-type") == "conversion":
            try:
                yield offset, body.decode("utf-8")
            except UnicodeDecodeError as error:
                faults.report("not_utf8", f"{where}: not UTF-8 at its byte {error.start}")
        else:
            try:
                page = _page(body)
            except (http.client.HTTPException, OSError, EOFError, ValueError, zlib.error) as error:
                faults.report("broken", f"{where}: not an HTTP response ({error.__class__.__name__}: {error})")
                continue
            if page is not None:
                extract = extract or _extractor(path)
                yield offset, extract(*page)


def _records(path: Path, stream: IO[bytes], limit: int, faults: Faults) -> Iterator[tuple[int, dict[str, str], bytes]]:
    """Gives (byte offset, headers by lower-case name, body) of the records that can be documents."""
    offset = 0
    while True:
        line = stream.readline(_LONGEST_HEADER)
        start, offset = offset, offset + len(line)
        if not line:
            return
        if not line.strip():
            continue
        if not line.startswith(b"WARC/"):
            raise OSError(f"no WARC record at byte {start}")
        headers: dict[str, str] = {}
        while (line := stream.readline(_LONGEST_HEADER)).strip():
            offset += len(line)
            name, _, value = line.decode("utf-8", "replace").partition(":")
            headers[name.strip().lower()] = value.strip()
        offset += len(line)
        length = headers.get("content-length", "")
        if not length.isdecimal():
            raise OSError(f"the WARC record at byte {start} has no Content-Length")
        size = left = int(length)
        kept = headers.get("warc-type") in ("conversion", "response")
        body = bytearray()
        while left:
            part = stream.read(min(left, BUFFER_BYTES))
            if not part:
                raise OSError(f"the file ends inside the WARC record at byte {start}")
            left -= len(part)
            if kept and size <= limit:
                body += part
        offset += size
        if kept and size > limit:
            report_too_long(f"{path}: record at byte {start}", size, limit, faults)
        elif kept:
            yield start, headers, bytes(body)


class _ResponseSocket:
    """The part of a socket that `http.client` uses to read a response."""

    def __init__(self, raw: bytes):
        self._raw = raw

    def makefile(self, mode: str) -> IO[bytes]:
        return io.BytesIO(self._raw)


def _page(raw: bytes) -> tuple[bytes, str | None] | None:
    """The HTML of a response and the character set that the server names; None if the response is not a web page."""
    response = http.client.HTTPResponse(_ResponseSocket(raw))  # type: ignore[arg-type]  # it only calls makefile
    response.begin()
    kind = response.headers.get_content_type()
    if response.status != 200 or kind not in _PAGES:
        return None
    html = response.read()
    coding = response.headers.get("Content-Encoding", "").lower()
    if coding in ("gzip", "x-gzip") and html.startswith(b"\x1f\x8b"):  # archives often store it decompressed
        html = gzip.decompress(html)
    return html, response.headers.get_content_charset()


def _extractor(path: Path) -> Callable[[bytes, str | None], str]:
    try:
        import trafilatura
    except ImportError as error:
        raise UserError(
            f"{path}: web pages need trafilatura, which is not installed; install it with: uv sync --inexact --extra web "
            "(WET files hold plain text and do not need it)"
        ) from error
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # it logs a line for each page without text

    def extract(html: bytes, charset: str | None) -> str:
        page: bytes | str = html
        if charset is not None:
            # Servers often name a wrong one; then trafilatura detects it.
            with contextlib.suppress(LookupError, UnicodeDecodeError):
                page = html.decode(charset)
        return trafilatura.extract(page, include_comments=False) or ""

    return extract
