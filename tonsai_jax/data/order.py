"""The order in which a run reads its sources: step -> windows, a pure function.

  step -> the windows of its batch                                            (`Segment`)
  window of the run -> a source, and the number of the window in that source  (`Segment.source_of`: the mix)
  number of the window in the source -> epoch, row, part of the row           (`SourceOrder`: the shuffle)

A batch depends only on its step. So a run resumes at any step without reading what came before it, on any number
of processes.

A run is a list of segments: stretches of steps with one sequence length, one batch size and one mix. Each segment
starts where the one before it left every source. It does not matter whether the config planned the change (the
next stage) or a user edited the config between two runs. So a new mix reads no window again before its source is
used up. This is why the mix is not Grain's: Grain's `mix` starts every dataset at its beginning.
"""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from tonsai_jax.data.manifest import RowsManifest
from tonsai_jax.data.rows import check_seq_len
from tonsai_jax.data.source_order import Position, SourceOrder
from tonsai_jax.errors import UserError, did_you_mean
from tonsai_jax.stages import Stage, total_steps

STATE_VERSION = 1

# The sum of the shares of a mix. Shares are whole numbers, so the mix is exact: the same on every machine.
_WHOLE = 2**24


class Window(NamedTuple):
    """Where a window lies: the ids part*seq_len ... (part+1)*seq_len of a row, of which `valid` targets are real."""

    source: str
    row: int
    part: int
    valid: int


@dataclass(frozen=True)
class Segment:
    """The steps from `first_step` on that share a sequence length, a batch size and a mix.

    Attributes:
      shares: weight of each source as a whole number, largest first.
      positions: where each source stood at `first_step`.
    """

    first_step: int
    seq_len: int
    global_batch_size: int
    shares: dict[str, int]
    positions: dict[str, Position]

    def source_of(self, number: int) -> tuple[str, int]:
        """Returns the source of window `number` of the segment, and how many windows of it come before."""
        left, total = number, sum(self.shares.values())
        for name, share in self.shares.items():
            rest = _rest(left, share, total)
            if _rest(left + 1, share, total) == rest:
                return name, left - rest
            left, total = rest, total - share
        raise AssertionError("unreachable: the last source takes every window that is left")

    def positions_at(self, step: int) -> dict[str, Position]:
        """Returns where each source stands before `step`."""
        counts = source_counts((step - self.first_step) * self.global_batch_size, self.shares)
        return {
            name: Position(position.seq_len, position.windows + counts.get(name, 0))
            for name, position in self.positions.items()
        }

    def describe(self) -> str:
        """'8 sequences of 256 tokens, km 60.0%, en 40.0%'."""
        total = sum(self.shares.values())
        mix = ", ".join(f"{name} {share / total:.1%}" for name, share in self.shares.items())
        return f"{self.global_batch_size} sequences of {self.seq_len} tokens, {mix}"

    def same_batches(self, stage: Stage, shares: dict[str, int]) -> bool:
        """Whether a stage with these shares only continues this segment."""
        ours = (self.seq_len, self.global_batch_size, self.shares)
        return ours == (stage.seq_len, stage.global_batch_size, shares)


def source_counts(number: int, shares: Mapping[str, int]) -> dict[str, int]:
    """Counts the windows of each source among the first `number` windows of a segment.

    The first source takes its share of the windows, rounded to a whole number. The second takes its share of the
    rest, and so on. When `number` grows by one, exactly one count does. With the largest share first, a count is
    within half a window of its exact share for two sources, and within one for three. In tests with twenty sources
    it was never further off than 1.4 windows.

    Args:
      shares: weight of each source as a whole number, largest first.
    """
    counts, total = {}, sum(shares.values())
    for name, share in shares.items():
        rest = _rest(number, share, total)
        counts[name] = number - rest
        number, total = rest, total - share
    return counts


def _rest(number: int, share: int, total: int) -> int:
    """What is left of `number` windows when a source has taken `share` parts of `total`, rounded."""
    return (number * (total - share) + total // 2) // total


def _largest_first(shares: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))


class DataOrder:
    """Which windows of which rows make up each batch of a run.

    Args:
      manifest: the token rows.
      seed: determines the shuffle; a run keeps it for life.
      stages: the stages of the run, as `config.stages_of` has checked them.
      state: the data state of the checkpoint that the run resumes from (see `state`). If `stages` has another
        sequence length, batch size or mix at that step than the checkpoint, the batches change from that step on.
        Otherwise they are exactly those of a run that never stopped.

    Attributes:
      manifest, seed: as given.
      total_steps: steps of all stages together.
      segments: the segments from the one that `state` was saved in, or from step 0, to the end of the run.

    Raises:
      UserError: a seq_len does not divide the rows; a source is unknown or has no rows; all weights are 0; the rows or
        the seed differ from those in `state`.
    """

    def __init__(
        self,
        manifest: RowsManifest,
        *,
        seed: int,
        stages: Sequence[Stage],
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.manifest = manifest
        self.seed = seed
        self.total_steps = total_steps(stages)
        self._splits = {name: source.splits["train"] for name, source in manifest.sources.items()}
        self._sources = {
            name: SourceOrder(name, info.targets, manifest.row_tokens, seed) for name, info in self._splits.items()
        }
        self.segments = self._plan(stages, state)
        self._resumed_step = None if state is None else state["step"]

    def window(self, segment: Segment, number: int) -> Window:
        """Finds window `number` of a segment; batch b of the segment holds numbers b*B ... (b+1)*B - 1."""
        name, before = segment.source_of(number)
        return Window(name, *self._sources[name].window(segment.positions[name].windows + before, segment.seq_len))

    def segment_number(self, step: int) -> int:
        """Returns the index in `segments` of the segment of `step`; raises IndexError for a step before the first."""
        number = bisect.bisect_right(self.segments, step, key=lambda segment: segment.first_step) - 1
        if number < 0:
            raise IndexError(f"step {step} is before step {self.segments[0].first_step}, where this order starts")
        return number

    def state(self, step: int) -> dict[str, Any]:
        """Returns what a checkpoint written before `step` must keep: small JSON, the same on every process."""
        return {
            "version": STATE_VERSION,
            "seed": self.seed,
            "step": step,
            "rows": {name: self.manifest.identity(name) for name in self._splits},
            "segment": asdict(self.segments[self.segment_number(step)]),
        }

    def batch(self, step: int) -> list[Window]:
        """Returns the windows in the global batch of `step`; raises IndexError for a step before the first."""
        segment = self.segments[self.segment_number(step)]
        first = (step - segment.first_step) * segment.global_batch_size
        return [self.window(segment, first + number) for number in range(segment.global_batch_size)]

    def positions(self, step: int) -> dict[str, Position]:
        """Returns where each source stands before `step`."""
        return self._positions_at(self.segments[self.segment_number(step)], step)

    def state_after_jump(self, step: int, positions: Mapping[str, Position]) -> dict[str, Any]:
        """Returns the `state` of a run that goes on at `step` with the batches of that step, but with other rows.

        Args:
          positions: where each source stands then, such as `positions` of a later step: the rows between are jumped over.
        """
        segment = self.segments[self.segment_number(step)]
        moved = {
            name: self._sources[name].move(position, segment.seq_len) if name in segment.shares else position
            for name, position in positions.items()
        }
        return self.state(step) | {"segment": asdict(replace(segment, first_step=step, positions=moved))}

    def change_at_resume(self) -> str:
        """Says how the batches differ from those before the step that the run resumes at; "" where they do not."""
        new = next((segment for segment in self.segments[1:] if segment.first_step == self._resumed_step), None)
        return "" if new is None else f"{new.describe()}; before: {self.segments[0].describe()}"

    def epochs(self, step: int | None = None) -> dict[str, float]:
        """Returns how many times each source has been read before `step`; without one, how many times the whole run reads it."""
        segment = self.segments[-1 if step is None else self.segment_number(step)]
        positions = self._positions_at(segment, max(self.total_steps, segment.first_step) if step is None else step)
        # A source that was added to the rows after the checkpoint has no position yet.
        epochs = dict.fromkeys(self._sources, 0.0)
        for name, position in positions.items():
            epochs[name] = position.windows / max(1, self._sources[name].windows(position.seq_len))
        return epochs

    def check_max_epochs(self, max_epochs: float) -> None:
        """Raises UserError if a source would be read more than `max_epochs` times (0 = no limit).

        The last batch may pass the limit: a run has whole steps.
        """
        last = self.segments[-1]
        for name, epochs in self.epochs().items():
            batch = last.global_batch_size / max(1, self._sources[name].windows(last.seq_len))
            if max_epochs and epochs - batch > max_epochs:
                raise UserError(
                    f"source {name!r} would be read {epochs:.4g} times in this run, but data.max_epochs "
                    f"is {max_epochs:g}; lower its weight, take fewer steps, or raise data.max_epochs "
                    "(0 = no limit)"
                )

    def _plan(self, stages: Sequence[Stage], state: Mapping[str, Any] | None) -> list[Segment]:
        segments = [] if state is None else [self._saved_segment(state)]
        resumed_step = 0 if state is None else state["step"]
        first_step = 0
        for number, stage in enumerate(stages):
            shares = self._checked_shares(stage, f"stage {number}")
            begin = max(first_step, resumed_step)
            first_step += stage.steps
            if begin >= first_step or (segments and segments[-1].same_batches(stage, shares)):
                continue
            positions = {name: Position(stage.seq_len, 0) for name in self._sources}
            if segments:
                positions |= self._positions_at(segments[-1], begin)
            positions |= {name: self._sources[name].move(positions[name], stage.seq_len) for name in shares}
            segments.append(Segment(begin, stage.seq_len, stage.global_batch_size, shares, positions))
        return segments

    def _positions_at(self, segment: Segment, step: int) -> dict[str, Position]:
        """The positions before `step`, of the sources that the rows still have."""
        return {name: position for name, position in segment.positions_at(step).items() if name in self._sources}

    def _checked_shares(self, stage: Stage, where: str) -> dict[str, int]:
        check_seq_len(stage.seq_len, self.manifest.row_tokens)
        weights = stage.weights or {name: source.weight for name, source in self.manifest.sources.items()}
        for name, weight in weights.items():
            if name not in self._splits:
                raise UserError(
                    f"{where}: weights name source {name!r}, which the token rows do not have"
                    f"{did_you_mean(name, self._splits)}"
                )
            if weight > 0 and self._splits[name].rows == 0:
                raise UserError(f"{where}: source {name!r} has no train rows; give it weight 0, or more text")
            if weight > 0 and self.manifest.sources[name].is_packed and stage.seq_len != self.manifest.row_tokens:
                raise UserError(
                    f"{where}: seq_len {stage.seq_len}, but the {self.manifest.sources[name].kind} of source {name!r} are packed "
                    f"in rows of {self.manifest.row_tokens} tokens, which are not cut; set seq_len={self.manifest.row_tokens}, "
                    f"or pack them with --row-tokens {stage.seq_len}"
                )
        total = sum(weights.values())
        if total == 0:
            raise UserError(f"{where}: every weight is 0; give at least one source a weight above 0")
        return _largest_first(
            {name: max(1, round(weight / total * _WHOLE)) for name, weight in weights.items() if weight > 0}
        )

    def _saved_segment(self, state: Mapping[str, Any]) -> Segment:
        if state["version"] != STATE_VERSION:
            raise UserError(
                f"the checkpoint's data state has version {state['version']}, but this program reads version "
                f"{STATE_VERSION}; resume with the program that wrote the checkpoint, or start a new run"
            )
        if state["seed"] != self.seed:
            raise UserError(
                f"the data seed was {state['seed']} when the checkpoint was written and is {self.seed} now, "
                f"so rows would be read again; set the seed back to {state['seed']}, or start a new run"
            )
        for name, identity in state["rows"].items():
            if name in self._splits and self.manifest.identity(name) != identity:
                raise UserError(
                    f"{self.manifest.directory}: the token rows of source {name!r} are not those the "
                    "checkpoint was trained on; use those, or start a new run"
                )
        segment = state["segment"]
        return Segment(
            first_step=segment["first_step"],
            seq_len=segment["seq_len"],
            global_batch_size=segment["global_batch_size"],
            shares=_largest_first(segment["shares"]),
            positions={name: Position(**position) for name, position in segment["positions"].items()},
        )
