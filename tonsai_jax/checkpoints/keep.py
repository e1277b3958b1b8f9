"""Which checkpoints of a run stay."""

import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class KeepPolicy:
    """Which checkpoints stay: the newest `last`, multiples of `every` steps, the `best` with the lowest scores, and the newest
    of the `sane` ones."""

    last: int = 1
    every: int = 0
    best: int = 0
    scores: dict[int, float] = dataclasses.field(default_factory=dict)
    sane: set[int] = dataclasses.field(default_factory=set)

    def keeps(self, steps: Sequence[int]) -> set[int]:
        """The steps, of those given in rising order, whose checkpoints stay."""
        scored = sorted((step for step in steps if step in self.scores), key=lambda step: self.scores[step])
        return (
            set(steps[-self.last :])
            | {step for step in steps if self.every and step % self.every == 0}
            | set(scored[: self.best])
            | set(sorted(self.sane & set(steps))[-1:])
        )

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Orbax's question, asked when a save is done."""
        kept = self.keeps([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in kept for checkpoint in checkpoints]
