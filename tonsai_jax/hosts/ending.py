"""The end of a process whose main thread may never come back: one line, an exit code, and only one thread that does it."""

import os
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

SPEAK_SECONDS = 2.0  # for which a line is waited for

_first = threading.Lock()


def claim_end() -> None:
    """Returns in the first thread that ends this process; any later one waits here until the process is gone."""
    _first.acquire()


def end_process(line: str, code: int) -> NoReturn:
    """Prints `line` on stderr and ends the process at once, without Python's own end, which waits for the main thread.

    The caller has claimed the end.
    """
    within(
        SPEAK_SECONDS, lambda: os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"error: {line}\n".encode())
    )
    os._exit(code)


def within(seconds: float, work: Callable[[], Any]) -> None:
    """Does `work` in a thread, and waits for it only so long: a full pipe, a dead disk or a dead host can block it for ever."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
