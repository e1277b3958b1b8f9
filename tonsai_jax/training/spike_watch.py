"""What a run does about spikes: it prints and writes them, marks checkpoints as sane, and says when it must go back or end."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tonsai_jax.data.order import DataOrder, Window
from tonsai_jax.errors import UserError
from tonsai_jax.files import disk_errors
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.training.spikes import Spike, SpikeDetector, SpikeSettings

SPIKES_FILE = "spikes.jsonl"
_ROWS_IN_A_LINE = 3


class SpikeWatch:
    """Watches the steps of a run from one step on, in one order of its rows.

    Args:
      order: of the rows; a spike is printed with those of its batch.
      state: `state()` of the checkpoint that the run goes on from, if it has one.
      saved_step: the step of that checkpoint; 0 for none.
      mark_sane: is called with the step of a checkpoint when the steps after it were sane.
      sane_step: the step of the newest sane checkpoint, or None.
    """

    def __init__(
        self,
        settings: SpikeSettings,
        workdir: Path,
        order: DataOrder,
        state: Mapping[str, Any] | None,
        *,
        saved_step: int,
        say: Callable[[str], None],
        mark_sane: Callable[[int], None],
        sane_step: Callable[[], int | None],
    ) -> None:
        self.settings = settings
        self.detector = SpikeDetector(settings, state)
        if saved_step and saved_step == sane_step():
            self.detector.end_episode()  # one that this checkpoint was saved in: the steps after it were sane
        self._path = workdir / SPIKES_FILE
        self._order = order
        self._unconfirmed = [saved_step] if saved_step else []
        self._say = say
        self._mark_sane = mark_sane
        self._sane_step = sane_step
        self._said_lost = self.detector.is_lost

    @property
    def must_go_back(self) -> bool:
        """Whether the run has to go on from an earlier checkpoint."""
        return self.settings.action == "roll_back" and self.detector.is_lost

    def limits(self, step: int, sequences: int) -> dict[str, np.ndarray]:
        """What the batch of `step` needs for its gradient norm to be limited, by sequence; nothing for the action "warn"."""
        if self.settings.action == "warn":
            return {}
        limit = self.detector.skip_limit(step, self._kind(step))
        return {"grad_limit": np.full(sequences, limit, np.float32)}

    def saved(self, step: int) -> None:
        """Takes note of a checkpoint, which is sane if the steps after it are."""
        self._unconfirmed.append(step)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Takes the metrics of a step. Raises `UserError` where the action is "skip" and too many in a row were skipped."""
        if self.must_go_back:
            return  # the step was under way when this was known; it will be taken again
        detector = self.detector
        episode, first = bool(detector.episode), detector.episode[0][0] if detector.episode else step
        spike = detector.add(step, values["loss"], values["grad_norm"], self._kind(step))
        if spike is not None:
            self._unconfirmed = []
            self._write(spike)
            if not episode:
                self._say(f"step {step + 1}: spike: {spike.describe()}; rows {_some(self.rows(step))}")
            if detector.is_lost and not self._said_lost:
                self._said_lost = True
                self._say(
                    f"step {step + 1}: no recovery from the spike of step {first + 1}, {detector.in_a_row} in a row: "
                    f"{spike.describe()}; {self.last_sane()}"
                )
            if self.settings.action == "skip" and detector.in_a_row >= self.settings.max_in_a_row:
                raise UserError(
                    f"step {step + 1}: {spike.describe()}: {count_of(detector.in_a_row, 'step')} in a row were spikes "
                    f"(spikes.max_in_a_row), so the run was stopped; {self.last_sane()}. "
                    "Check the rows of these steps, or lower optimizer.learning_rate"
                )
        elif episode and detector.has_recovered():
            self._said_lost = False
            self._say(f"step {step + 1}: the spike of step {first + 1} is over, loss {values['loss']:.4f}")
        self._confirm(step + 1, self.settings.calm_steps)

    def end(self, step: int, *, complete: bool) -> None:
        """Ends this part of the run after `step` steps.

        Raises `UserError` where the last losses are above their limit and the run is complete, or is ruined and does not go back
        by itself. A run that was only stopped can still recover when it goes on: for that one a line is enough.
        """
        if (diverged := self.detector.divergence()) is not None:
            loss, limit = diverged
            above = f"above the limit of {limit:.4g} that its sane steps give"
            if math.isinf(limit):
                above = "and no step since its stage began was sane"
            found = f"the median of the last losses is {loss:.4g}, {above}; {self.last_sane()}"
            goes_back = self.settings.action == "roll_back"
            if complete or (self.detector.is_ruined() and not goes_back):
                raise UserError(
                    f"step {step}: the run has diverged: {found}. Lower optimizer.learning_rate and go on from there (delete the "
                    f"later folders in checkpoints){'' if goes_back else ', or set spikes.action=roll_back'}"
                )
            self._say(f"step {step}: stopped in a spike: {found}")
        if complete and self.detector.has_recovered():
            self._confirm(step, 0)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return self.detector.state()

    def rows(self, step: int) -> list[Window]:
        """The windows in the batch of `step`; none of a step before those that the order knows."""
        return self._order.batch(step) if step >= self._order.segments[0].first_step else []

    def last_sane(self) -> str:
        """'the last sane checkpoint is that of step 500', or 'no checkpoint is sane yet'."""
        step = self._sane_step()
        return "no checkpoint is sane yet" if step is None else f"the last sane checkpoint is that of step {step}"

    def _confirm(self, done: int, steps: int) -> None:
        """Marks the checkpoints that `steps` sane steps follow, of `done` steps."""
        if self.detector.calm >= steps:
            for saved in self._unconfirmed:
                if done - saved >= steps:
                    self._mark_sane(saved)
            self._unconfirmed = [saved for saved in self._unconfirmed if done - saved < steps]

    def _kind(self, step: int) -> str:
        return self._order.segments[self._order.segment_number(step)].describe()

    def _write(self, spike: Spike) -> None:
        """One line of JSON, while the episode is not longer than one that can recover."""
        if jax.process_index() != 0 or len(self.detector.episode) >= self.settings.recover_steps:
            return
        record = {
            "step": spike.step + 1,
            "time": round(time.time(), 3),
            "loss": str(spike.loss),
            "limit": str(spike.limit),
            "grad_norm": str(spike.grad_norm),
            "grad_limit": str(spike.grad_limit),
            "rows": [window[:3] for window in self.rows(spike.step)],
        }
        with disk_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _some(windows: Sequence[Window]) -> str:
    """'km 12/0, en 3/1 and 14 more in spikes.jsonl': source, row and part of the first ones."""
    named = ", ".join(f"{window.source} {window.row}/{window.part}" for window in windows[:_ROWS_IN_A_LINE])
    left = len(windows) - _ROWS_IN_A_LINE
    return f"{named} and {left} more in {SPIKES_FILE}" if left > 0 else named
