"""A clock that stands still while this process does."""

import time


class AwakeClock:
    """Seconds during which this process ran. `tick` is called more often than each `longest` seconds by a thread.

    A process that was stopped (Ctrl-Z, a suspended machine, a paused container) does not count the time that it was away, so
    nothing looks late to it when it goes on.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._seconds = 0.0
        self._last = time.monotonic()

    def tick(self) -> None:
        now = time.monotonic()
        self._seconds += min(now - self._last, self._longest)
        self._last = now

    def now(self) -> float:
        """The time of the last tick."""
        return self._seconds
