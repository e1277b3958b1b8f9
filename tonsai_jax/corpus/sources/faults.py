"""Input that cannot be read: either the first such error stops the run, or the errors are counted."""

from collections import Counter
from typing import Literal

from tonsai_jax.errors import UserError

OnError = Literal["stop", "skip"]


class Faults:
    """What happens to input that cannot be read: "stop" raises the first fault, "skip" counts them by kind in `counts`."""

    def __init__(self, on_error: OnError = "stop"):
        self.on_error = on_error
        self.counts: Counter[str] = Counter()

    def report(self, kind: str, message: str) -> None:
        """Raises `UserError` with `message`, or counts one fault of this kind."""
        if self.on_error == "stop":
            raise UserError(f"{message}; repair the input, or leave such documents out with --on-error skip")
        self.counts[kind] += 1
