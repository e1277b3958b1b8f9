"""Input that cannot be read: stop at the first, or count what is left out."""

from collections import Counter
from typing import Literal

from tonsai_jax.errors import UserError

OnError = Literal["stop", "skip"]


class Faults:
    """What to do with input that cannot be read: "stop" raises at the first, "skip" counts them by kind."""

    def __init__(self, on_error: OnError = "stop"):
        self.on_error = on_error
        self.counts: Counter[str] = Counter()

    def report(self, kind: str, message: str) -> None:
        if self.on_error == "stop":
            raise UserError(f"{message}; put it right, or pass --on-error skip to leave such documents out")
        self.counts[kind] += 1
