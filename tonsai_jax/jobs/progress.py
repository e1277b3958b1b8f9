"""The progress of a stage: how many of its tasks are done, how much of the others, and how long they will take."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tonsai_jax.reporting.progress_bar import SECONDS_BETWEEN_UPDATES, progress_bar

_SECONDS_BETWEEN_REPORTS = 1.0
_REPORT = ".amount"


class TaskProgress:
    """How much of its text a task has read, written once a second to the file `path`.amount for the process that waits.

    Args:
      path: the path without a suffix that the engine gives to the task.
    """

    def __init__(self, path: Path):
        self._path = path.with_suffix(_REPORT)
        self._amount = 0
        self._reported = time.monotonic()

    def add(self, size: int) -> None:
        """Counts `size` more bytes of text."""
        self._amount += size
        if time.monotonic() - self._reported < _SECONDS_BETWEEN_REPORTS:
            return
        self._reported = time.monotonic()
        partial = self._path.with_name(f".{self._path.name}")
        with contextlib.suppress(OSError):  # what a task computes does not depend on this
            partial.write_text(str(self._amount))
            os.replace(partial, self._path)


def remove_report(folder: Path, key: str) -> None:
    """Removes what a task has reported."""
    for name in (f"{key}{_REPORT}", f".{key}{_REPORT}"):
        (folder / name).unlink(missing_ok=True)


def reports(folder: Path) -> dict[str, int]:
    """What the tasks that run now have reported: {key: bytes of text}."""
    amounts = {}
    for path in folder.glob(f"*{_REPORT}"):
        with contextlib.suppress(OSError, ValueError):  # the task has just ended
            amounts[path.stem] = int(path.read_text())
    return amounts


@contextlib.contextmanager
def stage_progress(
    name: str | None,
    keys: Sequence[str],
    is_done: Callable[[str], bool],
    sizes: Mapping[str, int],
    running: Callable[[], Mapping[str, int]] = dict,
) -> Iterator[None]:
    """Shows the progress until the block ends, if `name` is given.

    Args:
      name: what the stage is called.
      keys: the tasks.
      is_done: whether a task has its result.
      sizes: bytes of text of each task; with them bytes are counted, else tasks. May be empty.
      running: bytes of text that the tasks that run have read so far.
    """
    total = sum(sizes[key] for key in keys) if sizes else len(keys)
    left = set(keys)
    read: dict[str, int] = {}  # of tasks without a known size, those that are done too
    ended = threading.Event()
    started = time.monotonic()

    def look() -> None:
        left.difference_update([key for key in left if is_done(key)])
        amounts = {key: amount for key, amount in running().items() if key in left}
        done = len(keys) - len(left)
        note = f"{done} of {len(keys)} parts"
        if sizes:
            finished = sum(sizes[key] for key in keys if key not in left)
            bar.update(finished + sum(min(amount, sizes[key]) for key, amount in amounts.items()) - bar.n)
        else:
            read.update(amounts)
            bar.update(done - bar.n)
            if read:
                megabytes = sum(read.values()) / 1e6
                note += f", {megabytes:,.1f} MB, {megabytes / (time.monotonic() - started):,.1f} MB/s"
        bar.set_postfix_str(note)

    def watch() -> None:
        while not ended.wait(SECONDS_BETWEEN_UPDATES):
            look()

    with progress_bar(name or "", unit="B" if sizes else "", total=total, wanted=name is not None) as bar:
        if bar.disable:
            yield
            return
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
