"""The signals that ask a process to end, and what they do while a command still loads its modules.

Python's own handler of Ctrl-C raises KeyboardInterrupt wherever the program stands. While modules load, that is often a place
where Python or a library drops it: a `__del__`, a callback of the garbage collector, an `except:`. The command would then go on
as if nobody had pressed it. So until it begins, a signal ends it at once instead.
"""

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

# Ctrl-C; a job system; a terminal or an SSH connection that was closed; Slurm's warning before its time limit.
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

_handlers_before: dict[signal.Signals, Any] = {}


def set_handlers(handle: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Any]:
    """Makes `handle` the handler of the ending signals; returns the handlers of before.

    A SIGHUP or SIGUSR1 that is ignored stays so: that is what `nohup` asks for.
    """
    before = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    for number in (signal.SIGHUP, signal.SIGUSR1):
        if before[number] == signal.SIG_IGN:
            del before[number]
    for number in before:
        signal.signal(number, handle)
    return before


def end_at_signals() -> None:
    """From now on an ending signal ends the process, with one line and exit code 128 + its number (130 for Ctrl-C)."""
    before = set_handlers(_end)
    if not _handlers_before:
        _handlers_before.update(before)


def raise_at_ctrl_c() -> None:
    """From now on the handlers of before `end_at_signals` act again: a command can remove what it has half written."""
    for number, handler in _handlers_before.items():
        signal.signal(number, handler)
    _handlers_before.clear()


def name_of(number: int) -> str:
    """The name of a signal for a person: "Ctrl-C" or "SIGTERM"."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def _end(number: int, frame: FrameType | None) -> None:
    try:
        os.write(2, f"stopped by {name_of(number)}; nothing half-written was left under a final name\n".encode())
    finally:
        os._exit(128 + number)
