"""How long steps take: the median, by which a hang is told from a slow step, and the slowest since it was last asked for."""

from collections import deque
from statistics import median

_KEPT = 100  # steps, of which the median is taken
_ENOUGH = 5  # steps before one can stand out
_OUTLIER_FACTOR = 5.0  # times the median
_OUTLIER_SECONDS = 1.0  # and this much more: short steps vary by more than this factor


class StepTimes:
    """Wall-clock seconds of the last steps, waiting for data included; not of steps that compile, nor of evaluations or saves."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=_KEPT)
        self._slowest: tuple[float, int] | None = None

    def add(self, step: int, seconds: float) -> None:
        if self._times:  # the first one still loads, or waits for others that compile
            self._slowest = max(self._slowest or (0.0, 0), (seconds, step))
        self._times.append(seconds)

    def median(self) -> float | None:
        """None before the first step."""
        return median(self._times) if self._times else None

    def take_slowest(self) -> tuple[float, str] | None:
        """Seconds of the slowest step since the last call, and a line about it if it stands out; None where there was no step."""
        if self._slowest is None:
            return None
        (seconds, step), self._slowest = self._slowest, None
        usual = median(self._times)
        stands_out = seconds > max(_OUTLIER_FACTOR * usual, usual + _OUTLIER_SECONDS) and len(self._times) >= _ENOUGH
        line = f"step {step + 1}: took {seconds:.1f} s, {seconds / usual:.0f} times the median of {usual:.2f} s"
        return seconds, line if stands_out else ""
