"""Printing never stops a run: not where the reader has gone (`| head`), does not read (`| less`), or the disk is full.

Whoever prints only puts text into a queue. A thread writes it. Text that cannot be written is dropped, and where writing works
again, a line says how much is missing: what matters of a run is in its files.
"""

import contextlib
import io
import os
import queue
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

LINES = 10_000  # that wait in the queue
FLUSH_SECONDS = 1.0  # for which a line is waited for, unless the one before it still waits
END_SECONDS = 5.0  # the same at the end of a run


class Output(io.TextIOBase):
    """A text stream that writes to another one, and neither fails nor blocks for longer than a second.

    Args:
      stream: where the text goes; None, as Python has it for a stream that was closed (`>&-`), drops everything.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._fd = _descriptor(stream)
        self._lines: queue.Queue[str | None] = queue.Queue(LINES)  # None is the last
        self._written = threading.Event()  # all of it
        self._written.set()
        self._begun = ""  # a line that has no end yet: `print` writes its words one by one
        self._is_stuck = False
        self._num_dropped = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._write_lines, name="output", daemon=True).start()

    def write(self, text: str) -> int:
        with self._lock:
            self._begun += text
            if "\n" in text:
                self._put()
        return len(text)

    def flush(self) -> None:
        """Waits until everything is written, so that the lines of two streams keep their order; at most a second."""
        with self._lock:
            if self._begun:
                self._put()
        self.wait(0.0 if self._is_stuck else FLUSH_SECONDS)

    def wait(self, seconds: float) -> None:
        """Waits up to so many seconds until everything is written."""
        self._is_stuck = not self._written.wait(seconds)

    def end(self) -> None:
        """Waits a last time, and ends the thread."""
        self.flush()
        self.wait(END_SECONDS)
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        if self._fd is None:
            raise io.UnsupportedOperation("fileno")
        return self._fd

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]  # the base class has an attribute
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]  # as above
        return getattr(self._stream, "errors", None) or "backslashreplace"

    def _put(self) -> None:
        text, self._begun = self._begun, ""
        try:
            self._lines.put_nowait(text)
            self._written.clear()
        except queue.Full:
            self._num_dropped += text.count("\n")

    def _write_lines(self) -> None:
        while (text := self._lines.get()) is not None:
            with self._lock:
                num_dropped, self._num_dropped = self._num_dropped, 0
            note = f"({num_dropped} lines are missing here: they could not be written)\n" if num_dropped else ""
            try:
                self._write_now(note + text)
            except (OSError, ValueError):  # a closed stream raises ValueError
                with self._lock:
                    self._num_dropped += num_dropped + text.count("\n")
            with self._lock:
                if self._lines.empty():
                    self._written.set()

    def _write_now(self, text: str) -> None:
        if self._fd is None:
            if self._stream is not None:
                self._stream.write(text)
            return
        # Not through the stream: Python flushes that at its end, and would wait there for the same reader.
        rest = memoryview(text.encode(self.encoding, self.errors))
        while rest:
            rest = rest[os.write(self._fd, rest) :]


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """In the block, `sys.stdout` and `sys.stderr` are an `Output` each."""
    before = sys.stdout, sys.stderr
    for stream in filter(None, before):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    outputs = [Output(stream) for stream in before]
    sys.stdout, sys.stderr = outputs  # type: ignore[assignment]  # a TextIO in all that is used of it
    try:
        yield
    finally:
        for output in outputs:
            output.end()
        sys.stdout, sys.stderr = before


def _descriptor(stream: TextIO | None) -> int | None:
    """The file descriptor of a stream; None for one that has none, such as a `StringIO`."""
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError):
        return None
