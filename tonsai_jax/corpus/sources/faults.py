"""Input that cannot be read: either the first such error stops the run, or the errors are counted."""

from collections import Counter
from typing import Literal

from tonsai_jax.errors import UserError

OnError = Literal["stop", "skip"]


class Faults:
    """What happens to input that cannot be read: "stop" raises the first fault, "skip" counts them by kind in `counts`.

    `can_skip`: whether the user can choose "skip"; only then the error says so.
    """

    def __init__(self, on_error: OnError = "stop", *, can_skip: bool = True):
        self.on_error = on_error
        self._can_skip = can_skip
        self.counts: Counter[str] = Counter()

    def report(self, kind: str, message: str) -> None:
        """Raises `UserError` with `message`, or counts one fault of this kind."""
        if self.on_error == "stop":
            other = ", or leave such documents out with --on-error skip" if self._can_skip else ""
            raise UserError(f"{message}; repair the input{other}")
        self.counts[kind] += 1
