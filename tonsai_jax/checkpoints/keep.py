"""Which checkpoints of a run stay."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class KeepPolicy:
    """Which checkpoints stay: the newest `last`, multiples of `every` steps, the `best` with the lowest scores, and the newest
    of the `sane` ones.

    Whether one is sane is known `judged_after` steps later. Until then the oldest one after the newest sane one stays too, else
    none would ever become sane where checkpoints are closer than that; 0 for a run that does not go back to them.

    One whose step is in `temporary` stays only while it is the newest of all, and takes no place of the newest `last`.
    """

    last: int = 1
    every: int = 0
    best: int = 0
    judged_after: int = 0
    scores: dict[int, float] = dataclasses.field(default_factory=dict)
    sane: set[int] = dataclasses.field(default_factory=set)
    temporary: set[int] = dataclasses.field(default_factory=set)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "KeepPolicy":
        """The policy of a run's config, or of what an earlier version has written of it, without some keys."""
        checkpoint, spikes = config.get("checkpoint", {}), config.get("spikes", {})
        names = {"last": "keep_last", "every": "keep_every", "best": "keep_best"}
        settings = {name: checkpoint[key] for name, key in names.items() if key in checkpoint}
        goes_back = spikes.get("action") == "roll_back"
        return cls(**settings, judged_after=spikes["calm_steps"] if goes_back else 0)

    def keeps(self, steps: Sequence[int]) -> set[int]:
        """The steps, of those given in rising order, whose checkpoints stay."""
        return {step for kept in self.reasons(steps).values() for step in kept}

    def reasons(self, steps: Sequence[int]) -> dict[str, set[int]]:
        """The steps, of those given in rising order, that stay for each reason."""
        permanent = [step for step in steps if step not in self.temporary]
        scored = sorted((step for step in permanent if step in self.scores), key=lambda step: self.scores[step])
        sane = sorted(self.sane & set(steps))[-1:]
        judged = max([*sane, *(step - self.judged_after for step in steps[-1:])], default=0)
        return {
            "newest": set(steps[-1:]),
            f"last {self.last}": set(permanent[-self.last :]),
            f"every {self.every}": {step for step in permanent if self.every and step % self.every == 0},
            f"best {self.best}": set(scored[: self.best]),
            "sane": set(sane),
            "not judged yet": set([step for step in permanent if step > judged][:1] if self.judged_after else ()),
        }

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Orbax's question, asked when a save is done."""
        kept = self.keeps([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in kept for checkpoint in checkpoints]
