"""Input that cannot be read: stop at the first, or count what is left out."""

from collections import Counter
from typing import Literal

from tonsai_jax.errors import UserError

Errors = Literal["strict", "skip"]


class Faults:
    """What to do with input that cannot be read: "strict" raises at the first, "skip" counts them by kind."""

    def __init__(self, errors: Errors = "strict"):
        self.errors = errors
        self.counts: Counter[str] = Counter()

    def report(self, kind: str, message: str) -> None:
        if self.errors == "strict":
            raise UserError(f"{message}; put it right, or pass --errors skip to leave such documents out")
        self.counts[kind] += 1
