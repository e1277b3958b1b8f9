"""A line on the terminal for work that goes through text: documents, MB, MB/s, and time left where the end is known."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

_SECONDS_BETWEEN = 0.5


class TextProgress:
    """A context manager; shows nothing where stderr is no terminal, and wipes its line at the end.

    Args:
      name: of what is read.
      wanted: False shows nothing anywhere.
      total_bytes: UTF-8 bytes of all the text, where that is known.
    """

    def __init__(self, name: str, *, wanted: bool, total_bytes: int | None = None) -> None:
        self._name = name
        self._shown = wanted and sys.stderr.isatty()
        self._total_bytes = total_bytes
        self._documents = self._bytes = 0
        self._start = self._last = time.monotonic()

    def add(self, documents: int, text_bytes: int) -> None:
        """Counts documents and their UTF-8 bytes."""
        self._documents += documents
        self._bytes += text_bytes
        now = time.monotonic()
        if not self._shown or now - self._last < _SECONDS_BETWEEN:
            return
        self._last = now
        rate = self._bytes / (now - self._start)
        line = f"{self._name}: {self._documents:,} documents, {self._bytes / 1e6:,.1f}"
        if self._total_bytes is not None:
            left = int((self._total_bytes - self._bytes) / rate)
            line += f" of {self._total_bytes / 1e6:,.1f} MB, {rate / 1e6:.1f} MB/s, {left // 60}:{left % 60:02d} left"
        else:
            line += f" MB, {rate / 1e6:.1f} MB/s"
        print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@contextmanager
def counting(name: str, *, wanted: bool, total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function that shows how many of `total` are done; nothing where stderr is no terminal, or `wanted` is False."""
    shown = wanted and sys.stderr.isatty()
    last = time.monotonic()

    def show(done: int) -> None:
        nonlocal last
        if shown and time.monotonic() - last >= _SECONDS_BETWEEN:
            last = time.monotonic()
            print(f"\r{name}: {done:,} of {total:,}\x1b[K", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
