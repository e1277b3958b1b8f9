"""Damaged rows during training: skipped up to a limit, else the run ends before the first one, with its state saved."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tonsai_jax.data.rows import DamagedRowError
from tonsai_jax.errors import UserError

# A request to stop is seen one step late (train.py), so it is made two steps before the one that must not be taken.
_AHEAD = 2
SKIPPED = -1  # `valid` of a window whose row is damaged: none of its targets is learned


class DamagedRows:
    """The damaged rows that this process meets, and what becomes of the run.

    The thread that reads windows reports here instead of raising, and gives a window without targets in place of each that it
    cannot read. So the batches of all steps keep their places, the same on any number of processes.

    Args:
      limit: how many damaged rows a process skips, from its start; the next one ends the run.
      say: prints the name of a row that is skipped.

    Attributes:
      stops: whether the run must end after the step that follows the batch that was given last.
      error: what ended the run; None while nothing did.
    """

    def __init__(self, limit: int, say: Callable[[str], None]) -> None:
        self.stops = False
        self.error: UserError | None = None
        self._limit = limit
        self._say = say
        self._reports: deque[UserError] = deque()  # in the order of the windows, which one thread reads
        self._rows: set[str] = set()

    def report(self, error: UserError) -> np.int32:
        """Notes a window that cannot be read; returns its `valid`."""
        self._reports.append(error)
        return np.int32(SKIPPED)

    def watch(
        self, batches: Iterator[dict[str, np.ndarray]], start_step: int, end_step: int
    ) -> Iterator[dict[str, np.ndarray]]:
        """The same batches, from `start_step` to before `end_step`, read two steps ahead.

        Raises `UserError` at the batch that cannot be trained on, if the run has not ended before it.
        """
        ahead: deque[Any] = deque()
        for step in range(start_step, end_step):
            while len(ahead) <= _AHEAD and self.error is None and step + len(ahead) < end_step:
                batch = next(batches, None)
                if batch is None:
                    break
                self._count(int(np.count_nonzero(batch["valid"] == SKIPPED)))
                ahead.append(batch)
            if self.error is not None:
                self.stops = True
                # The last batch read is the one that must not be trained on, and none of the first two can be announced.
                if len(ahead) == 1 or (step == start_step and len(ahead) == _AHEAD):
                    raise self.error
            if not ahead:
                return
            yield ahead.popleft()

    @property
    def count(self) -> int:
        """How many damaged rows this process has met."""
        return len(self._rows)

    def raise_error(self, saved_step: int) -> None:
        """Raises `UserError` where the run had to end, once it is saved at `saved_step`."""
        if self.error is not None:
            raise UserError(
                f"{self.error}; the run is saved at step {saved_step} and continues from there; to go on without such rows, "
                f"add --config.data.max_damaged_rows={self._limit + 1} or more"
            )

    def _count(self, windows: int) -> None:
        for _ in range(windows):
            error = self._reports.popleft()
            if str(error) in self._rows:
                continue  # another window of the same row
            self._rows.add(str(error))
            if len(self._rows) > self._limit or not isinstance(error, DamagedRowError):
                self.error = self.error or error
            else:
                self._say(f"warning: {error}: skipped, number {len(self._rows)} of at most {self._limit}")
