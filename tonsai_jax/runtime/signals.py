"""SIGTERM and Ctrl-C: a run saves a checkpoint first, then ends."""

import signal
from types import FrameType


class StopRequest:
    """Turns the first SIGTERM or SIGINT of this process into a request to save and end; a second SIGINT ends it at once.

    Attributes:
      name: of the signal, such as "SIGTERM"; None while no signal came.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.name is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
