"""How far a long job is: a live bar on a terminal; elsewhere (a log file, a notebook's pipe) a line every ten seconds.

A job that ends within ten seconds prints no line.
"""

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar

from tonsai_jax.reporting.numbers import format_seconds

if TYPE_CHECKING:
    from tqdm import tqdm

SECONDS_BETWEEN_UPDATES = 0.5
SECONDS_BETWEEN_LINES = 10.0
# Jobs that follow each other this closely are one job to the person who waits: their times add up to the ten seconds.
_SECONDS_OF_A_PAUSE = 3.0


class Progress:
    """Context manager that shows how far a job is, on stderr. A bar is removed at the end of the block, lines stay.

    The figures are renewed by a thread, so that a job whose library reports nothing still shows that it runs, and for how long.

    Attributes:
      total: how much there is to do; None where nobody knows.
      disable: whether nothing is shown.
      in_view: whether the live view of a run shows the jobs of this process, which then need no bar of their own.
    """

    in_view: ClassVar[bool] = False

    # Of all jobs of this process, so that the time between two lines is right where one job follows another or contains it.
    _open: ClassVar[list["Progress"]] = []  # the innermost is the last; only this one prints lines
    _quiet_since: ClassVar[float] = float("-inf")
    _ended: ClassVar[float] = float("-inf")

    def __init__(self, name: str, unit: str, total: float | None, wanted: bool):
        self.total = total
        self.disable = not wanted
        self.n = 0.0
        self._name, self._unit = name, unit
        self._note = ""
        self._bar: tqdm | None = None
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "Progress":
        if self.disable:
            return self
        self._start = time.monotonic()
        if sys.stderr.isatty() and not Progress.in_view:
            from tqdm import tqdm  # imported here because most commands show no bar

            self._bar = tqdm(
                desc=self._name,
                total=self.total,
                unit=self._unit,
                unit_scale=True,
                file=sys.stderr,
                leave=False,
                dynamic_ncols=True,
                mininterval=SECONDS_BETWEEN_UPDATES,
                bar_format=None if self._unit or self.total else "{desc}: {elapsed}",
            )
        if not Progress._open and self._start - Progress._ended > _SECONDS_OF_A_PAUSE:
            Progress._quiet_since = self._start
        Progress._open.append(self)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.disable:
            return
        self._leaving.set()
        self._thread.join()
        Progress._open.remove(self)
        Progress._ended = time.monotonic()
        if self._bar is not None:
            self._bar.close()

    def update(self, count: float) -> None:
        """Adds `count` to what is done."""
        self.n += count
        if self._bar is not None:
            self._bar.update(count)

    @classmethod
    def innermost(cls) -> str:
        """How far the job is that runs now, in a line; empty where none does."""
        jobs = cls._open[-1:]
        return f"{jobs[0]._name}: {jobs[0]._line(time.monotonic() - jobs[0]._start)}" if jobs else ""

    def set_postfix_str(self, note: str) -> None:
        """Shows another figure next to the others."""
        self._note = note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)

    def _renew(self) -> None:
        while not self._leaving.wait(SECONDS_BETWEEN_UPDATES):
            now = time.monotonic()
            if self._bar is not None:
                self._bar.refresh()
            elif Progress.in_view and sys.stderr.isatty():
                continue
            elif Progress._open[-1:] == [self] and now - Progress._quiet_since >= SECONDS_BETWEEN_LINES:
                Progress._quiet_since = now
                print(f"{self._name}: {self._line(now - self._start)}", file=sys.stderr, flush=True)

    def _line(self, seconds: float) -> str:
        parts = [self._note] if self._note else []
        rate = self.n / max(seconds, 1e-9)
        if self.total and self._unit:
            of_total = f"{self._amount(self.n)} of {self._amount(self.total)}{self._word}"
            parts.append(f"{of_total} ({self.n / self.total:.0%})")
        elif self.n and self._unit:
            parts.append(f"{self._amount(self.n)}{self._word}")
        if self.n and self._unit == "B":
            parts.append(f"{self._amount(rate)}/s")
        parts.append(f"{format_seconds(seconds)} so far")
        if self.n and self.total:
            parts.append(f"about {format_seconds(max(self.total - self.n, 0) / rate)} left")
        return ", ".join(parts)

    def _amount(self, count: float) -> str:
        return f"{count / 1e6:,.1f} MB" if self._unit == "B" else f"{count:,.0f}"

    @property
    def _word(self) -> str:
        return "" if self._unit == "B" else self._unit


def progress_bar(name: str, *, unit: str = "", total: float | None = None, wanted: bool = True) -> Progress:
    """Shows how far a job is, in a `with` block: `update(count)` adds, `set_postfix_str` shows one more figure.

    Args:
      name: what is being done.
      unit: what is counted: "B" for bytes, or a word that starts with a space; "" if nothing is counted.
      total: how much there is to do; with it the time left is shown.
      wanted: False shows nothing.
    """
    return Progress(name, unit, total, wanted)
