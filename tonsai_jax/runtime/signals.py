"""SIGTERM, SIGHUP, SIGUSR1 and Ctrl-C: a run saves first, then ends; a second Ctrl-C ends it within seconds, whatever it does."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Literal

import psutil

from tonsai_jax.interrupts import name_of, set_handlers

GRACE_SECONDS = 2.0  # between the end that a second signal asks for and the end that it gets
SPEAK_SECONDS = 1.0  # for which a line is waited for


class StopRequest:
    """Context manager that turns the first signal that asks a run to end (`ENDING_SIGNALS`) into a request to save and end.

    Python runs a signal's handler only between two of its own instructions, and a compilation by XLA is a single one that can
    take minutes. So a thread reads the signals as well, from a socket that Python writes them to at once: it confirms the
    request, and ends the process where the handler has not ended it in time.

    Before `saves_first()` there is nothing to save: a signal ends the process, with exit code 130 for Ctrl-C and 143 for SIGTERM.
    After `all_is_saved()` Ctrl-C does; the others are ignored until the process has ended, since what is left may fit into the
    time that a job system gives.

    Args:
      say: prints a line and flushes it; called in another thread.
      max_hours: after so many hours since the process started, a run is asked to save and end; None for no limit.
    """

    def __init__(self, say: Callable[[str], None], max_hours: float | None = None) -> None:
        self._say = say
        self._signal: str | None = None
        self._max_hours = max_hours
        if max_hours is not None:
            age = time.time() - psutil.Process().create_time()
            self._deadline = time.monotonic() + max_hours * 3600 - age
        self._ending: int | None = None
        self._phase: Literal["before", "training", "after"] = "before"

    def __enter__(self) -> "StopRequest":
        self._handlers = set_handlers(self._handle)
        self._ours, self._pythons = socket.socketpair()
        self._pythons.setblocking(False)  # as set_wakeup_fd demands
        self._fd = signal.set_wakeup_fd(self._pythons.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._ending is not None:
            self._end(self._ending)  # not as Python ends, which takes seconds to free the arrays of a large model
        signal.set_wakeup_fd(self._fd)
        for number, handler in self._handlers.items():
            # A job system repeats its signal. Python, too, leaves one that is ignored as it is when it ends.
            is_repeated = self._phase == "after" and number != signal.SIGINT
            signal.signal(number, signal.SIG_IGN if is_repeated else handler)
        self._pythons.close()  # ends the thread

    @property
    def name(self) -> str | None:
        """What asked the run to end: "SIGTERM", "Ctrl-C", "--max_hours=5"; None while nothing did."""
        if self._signal is None and self._max_hours is not None and time.monotonic() >= self._deadline:
            return f"--max_hours={self._max_hours:g}"
        return self._signal

    def saves_first(self) -> None:
        """From now on the first signal is a request; the run looks at `name` after every step."""
        self._phase = "training"

    def all_is_saved(self) -> None:
        """From now on the process can end at any moment."""
        self._phase = "after"

    def _ends(self, number: int, is_first: bool) -> bool:
        """Whether a signal ends the process. A second one that is not Ctrl-C does not: job systems repeat it."""
        if self._phase == "training":
            return number == signal.SIGINT and not is_first
        return number == signal.SIGINT or self._phase == "before"

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Runs in the main thread, when that is back in Python."""
        is_first = self._signal is None
        self._signal = self._signal or name_of(number)
        if self._ends(number, is_first):
            self._ending = number
            raise KeyboardInterrupt  # leaves the block, whatever it does, and then the process ends

    def _watch(self) -> None:
        """Runs in a thread of its own, and sees every signal at once."""
        is_first = True
        with contextlib.suppress(OSError), self._ours:
            while received := self._ours.recv(1):
                number = received[0]
                if number not in self._handlers:
                    continue
                if self._ends(number, is_first):
                    time.sleep(GRACE_SECONDS)
                    self._end(number)  # the main thread is still busy
                if is_first and self._phase == "training":
                    again = " again" if number == signal.SIGINT else ""
                    self._speak(
                        f"{name_of(number)}: saving after this step, then the run ends; Ctrl-C{again} ends it now"
                    )
                is_first = False

    def _end(self, number: int) -> None:
        """Ends the process. What has its final name on disk is whole at every moment."""
        try:
            self._speak(f"stopped by {name_of(number)}; earlier checkpoints are complete")
        finally:
            os._exit(128 + number)

    def _speak(self, line: str) -> None:
        """Prints a line, but waits for it only a moment: where nobody reads a full pipe (`| less`), printing never ends."""
        speaker = threading.Thread(target=self._say, args=(line,), daemon=True)
        speaker.start()
        speaker.join(SPEAK_SECONDS)
