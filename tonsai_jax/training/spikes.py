"""Spikes of the loss and of the gradient norm: steps far above what the steps before them lead one to expect.

A spike lies above the median of the last sane steps by more than their noise explains. Both are robust: the noise is the median
absolute difference of neighbouring steps, which a few wild values do not move and which a falling loss does not raise. What is
not finite and what spikes never enters the window. Only what is too large counts: a loss that falls fast is no spike.

Everything here is plain Python on the values that the host has read. All hosts read the same values, so they decide alike.
"""

import dataclasses
import math
from collections.abc import Mapping
from statistics import median
from typing import Any, Literal

import numpy as np

# The median absolute difference of two draws of a normal distribution, divided by its standard deviation: sqrt(2) * 0.6745.
_DIFFERENCE_TO_DEVIATION = 0.9539
_TINY = 1e-30  # a gradient norm of 0 has no logarithm
_LARGEST_LOG = 80.0  # of a limit: e^80 is still a float32
_RUIN = 10  # times the limit of the loss
_FIRST_RISE = 10  # before the window knows the noise, a loss may rise by this multiple of the first one


@dataclasses.dataclass(frozen=True)
class SpikeSettings:
    """When a step is a spike, and when a spike is over; `config.spikes` describes each key.

    A step is a spike where its loss is above

      median + max(loss_rise, deviations * noise)

    of the last `window` sane steps, or above an earlier such limit: a loss that climbs slowly, and takes its window with it, is
    found too. Its gradient norm must stay below median * max(grad_factor, e^(deviations * noise of the logarithm)).
    """

    action: Literal["warn", "skip", "roll_back"] = "warn"
    window: int = 100
    deviations: float = 10.0
    loss_rise: float = 1.0
    grad_factor: float = 10.0
    calm_steps: int = 20
    max_in_a_row: int = 10
    recover_steps: int = 50
    max_roll_backs: int = 3

    @property
    def thresholds(self) -> list[float]:
        """The settings that the limits depend on."""
        return [self.window, self.deviations, self.loss_rise, self.grad_factor]

    @property
    def known_from(self) -> int:
        """Steps from which the noise is known."""
        return max(5, self.window // 5)


@dataclasses.dataclass
class _Window:
    """The last sane values of one metric."""

    size: int
    values: list[float] = dataclasses.field(default_factory=list)

    def add(self, value: float) -> None:
        self.values = [*self.values, value][-self.size :]

    def median(self) -> float:
        return median(self.values) if self.values else math.nan

    def noise(self) -> float:
        """The standard deviation of the noise, from the differences of neighbours."""
        differences = [abs(after - before) for before, after in zip(self.values, self.values[1:], strict=False)]
        return median(differences) / _DIFFERENCE_TO_DEVIATION if differences else 0.0


@dataclasses.dataclass(frozen=True)
class Spike:
    """A step with a spike.

    Attributes:
      median, limit: of the loss before this step, and above which it is a spike; both infinite for a step that is not finite.
      grad_median, grad_limit: the same of the gradient norm.
    """

    step: int
    loss: float
    grad_norm: float
    median: float
    limit: float
    grad_median: float
    grad_limit: float

    def describe(self) -> str:
        """'loss 9.3214 (median 2.3110, limit 3.3110)', and the same of the gradient norm where that is the spike."""
        parts = []
        if _is_above(self.loss, self.limit):
            parts.append(f"loss {self.loss:.4f} (median {self.median:.4f}, limit {self.limit:.4f})")
        if _is_above(self.grad_norm, self.grad_limit):
            parts.append(
                f"gradient norm {self.grad_norm:.3g} (median {self.grad_median:.3g}, limit {self.grad_limit:.3g})"
            )
        return ", ".join(parts)


class SpikeDetector:
    """Finds spikes in the values of one step after the other.

    An episode begins with a spike, and is over when `calm_steps` steps in a row had none.

    Args:
      state: what `state()` returned at an earlier step, from which it goes on; of other thresholds only the count is taken.

    Attributes:
      spikes: steps with a spike so far.
      episode: the first `recover_steps` spikes of the episode now, as (step, loss, gradient norm); empty where there is none.
      is_lost: whether the episode has had too many spikes in a row, or has gone on for too long.
      in_a_row, calm: spikes in a row up to now, and steps without one since the last.
      next_step: the step after the last one; None before the first.
    """

    def __init__(self, settings: SpikeSettings, state: Mapping[str, Any] | None = None) -> None:
        self.settings = settings
        saved = dict(state or {})
        self.spikes: int = saved.get("spikes", 0)
        if saved.get("thresholds") != settings.thresholds:
            saved = {}  # a limit that was too low must not stay
        self.in_a_row: int = saved.get("in_a_row", 0)
        self.calm: int = saved.get("calm", 0)
        self.episode: list[tuple[int, float, float]] = [
            (step, float(loss), float(grad_norm)) for step, loss, grad_norm in saved.get("episode", ())
        ]
        self.is_lost: bool = saved.get("is_lost", False)
        self._kind: str = saved.get("kind", "")
        self._losses = _Window(settings.window, list(saved.get("losses", ())))
        self._grad_norms = _Window(settings.window, list(saved.get("grad_norms", ())))  # their logarithms
        self._recent = _Window(settings.calm_steps, [*map(float, saved.get("recent", ()))])  # losses, sane or not
        self._limit = float(saved.get("limit", math.inf))  # of the loss, the lowest so far
        # Of the gradient norm: after the step before the last one, and after the last one.
        self._grad_limits = [*map(float, saved.get("grad_limits", (math.inf, math.inf)))]
        self.next_step: int | None = saved.get("next")

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: small JSON, the same on every host."""
        return {
            "spikes": self.spikes,
            "thresholds": self.settings.thresholds,
            "is_lost": self.is_lost,
            "in_a_row": self.in_a_row,
            "calm": self.calm,
            "episode": [[step, *_json([loss, grad_norm])] for step, loss, grad_norm in self.episode],
            "kind": self._kind,
            "losses": self._losses.values,
            "grad_norms": self._grad_norms.values,
            "recent": _json(self._recent.values),
            "limit": _json([self._limit])[0],
            "grad_limits": _json(self._grad_limits),
            "next": self.next_step,
        }

    def add(self, step: int, loss: float, grad_norm: float, kind: str = "") -> Spike | None:
        """Takes the values of a step; returns the spike, where it is one.

        Args:
          kind: of the batch, such as its sequence length and mix. Where it changes, the window starts again, but not before an
            episode is over: until then the loss is judged by the limit that the episode began with.
        """
        if kind != self._kind and self.has_recovered():
            self._restart(kind)
        limit, grad_limit = self._limit, self.skip_limit(step, kind)
        grad_median = math.exp(self._grad_norms.median()) if self._grad_norms.values else math.nan
        found = Spike(step, loss, grad_norm, self._losses.median(), limit, grad_median, grad_limit)
        is_spike = _is_above(loss, limit) or _is_above(grad_norm, grad_limit)
        self._recent.add(loss if math.isfinite(loss) else math.inf)
        if is_spike:
            self._count(found)
        else:
            self._accept(loss, grad_norm)
        self.next_step = step + 1
        self._grad_limits = [self._grad_limits[1], self._grad_limit()]
        return found if is_spike else None

    def skip_limit(self, step: int, kind: str = "") -> float:
        """The gradient norm, a float32, above which `step` is a spike. It depends on the steps up to `step` - 2.

        Those are the steps that every run has read when it dispatches `step`; after a save it has read one more.
        """
        if kind != self._kind:
            return math.inf
        return self._grad_limits[0] if step == self.next_step else self._grad_limits[1]

    def has_recovered(self) -> bool:
        """Whether there is no episode now."""
        return not self.episode

    def divergence(self) -> tuple[float, float] | None:
        """The median of the last losses and the limit that it is above; None where the loss is sane.

        A median that is not finite is above every limit, also above the infinite one of a stage without a sane step.
        """
        now = self._recent.median()
        return (now, self._limit) if now > self._limit or math.isinf(now) else None

    def is_ruined(self) -> bool:
        """Whether the median of the last losses is more than 10 times the limit, or not finite: no spike recovers from there.

        Never where there is no limit: a few steps at the beginning of a stage say too little.
        """
        return self._recent.median() > _RUIN * max(self._limit, self.settings.loss_rise)

    def end_episode(self) -> None:
        """Forgets the episode that a checkpoint was saved in, where it is known to have ended well."""
        self.episode, self.is_lost, self.in_a_row = [], False, 0

    def _restart(self, kind: str) -> None:
        self._kind = kind
        self._losses.values, self._grad_norms.values, self._recent.values = [], [], []
        self._limit, self._grad_limits = math.inf, [math.inf, math.inf]
        self.calm = 0

    def _count(self, spike: Spike) -> None:
        self.spikes += 1
        self.in_a_row += 1
        self.calm = 0
        if len(self.episode) < self.settings.recover_steps:
            self.episode.append((spike.step, spike.loss, spike.grad_norm))
        length = spike.step + 1 - self.episode[0][0]
        self.is_lost |= self.in_a_row >= self.settings.max_in_a_row or length >= self.settings.recover_steps

    def _accept(self, loss: float, grad_norm: float) -> None:
        self._losses.add(loss)
        self._grad_norms.add(math.log(max(grad_norm, _TINY)))
        self.in_a_row = 0
        self.calm += 1
        if self.calm >= self.settings.calm_steps:
            self.episode, self.is_lost = [], False
        if len(self._losses.values) >= self.settings.known_from:
            rise = max(self.settings.loss_rise, self.settings.deviations * self._losses.noise())
            self._limit = min(self._limit, self._losses.median() + rise)
        elif len(self._losses.values) == 1:
            self._limit = loss + _FIRST_RISE * max(self.settings.loss_rise, abs(loss))

    def _grad_limit(self) -> float:
        if len(self._grad_norms.values) < self.settings.known_from:
            return math.inf
        rise = max(math.log(self.settings.grad_factor), self.settings.deviations * self._grad_norms.noise())
        return float(np.float32(math.exp(min(self._grad_norms.median() + rise, _LARGEST_LOG))))


def _is_above(value: float, limit: float) -> bool:
    """Whether a value is above its limit or not finite."""
    return not math.isfinite(value) or value > limit


def _json(values: list[float]) -> list[float | str]:
    """What JSON has no number for as text, which `float` reads."""
    return [value if math.isfinite(value) else str(value) for value in values]
