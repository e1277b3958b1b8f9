"""A clock that a test moves."""


class Clock:
    """Stands for the module `time` in a module under test, and moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def perf_counter(self) -> float:
        return self.now
