"""Which checkpoints of a run stay."""

import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class KeepPolicy:
    """Which checkpoints stay: the newest `last`, multiples of `every` steps, the `best` with the lowest scores, and the newest
    of the `sane` ones.

    One whose step is in `temporary` stays only while it is the newest of all, and takes no place of the newest `last`.
    """

    last: int = 1
    every: int = 0
    best: int = 0
    scores: dict[int, float] = dataclasses.field(default_factory=dict)
    sane: set[int] = dataclasses.field(default_factory=set)
    temporary: set[int] = dataclasses.field(default_factory=set)

    def keeps(self, steps: Sequence[int]) -> set[int]:
        """The steps, of those given in rising order, whose checkpoints stay."""
        return {step for kept in self.reasons(steps).values() for step in kept}

    def reasons(self, steps: Sequence[int]) -> dict[str, set[int]]:
        """The steps, of those given in rising order, that stay for each reason."""
        permanent = [step for step in steps if step not in self.temporary]
        scored = sorted((step for step in permanent if step in self.scores), key=lambda step: self.scores[step])
        return {
            "newest": set(steps[-1:]),
            f"last {self.last}": set(permanent[-self.last :]),
            f"every {self.every}": {step for step in permanent if self.every and step % self.every == 0},
            f"best {self.best}": set(scored[: self.best]),
            "sane": set(sorted(self.sane & set(steps))[-1:]),
        }

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Orbax's question, asked when a save is done."""
        kept = self.keeps([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in kept for checkpoint in checkpoints]
