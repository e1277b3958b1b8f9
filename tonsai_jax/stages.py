"""A run as a list of stages, and all arithmetic on them: stage of a step, tokens, FLOPs, micro-batches, length.

A stage is a stretch of steps with one sequence length, one batch size and one mix of sources. Everything here is pure:
no device, no file. Steps are counted from 0, and "after n steps" means that steps 0 to n - 1 are done.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tonsai_jax.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Stage:
    """A stretch of a run.

    Attributes:
      steps: optimizer steps; 0 where the length is in epochs and the sizes of the sources are not known yet.
      seq_len: tokens in a sequence.
      global_batch_size: sequences in a step, over all devices.
      weights: {source: weight}; empty means the weights in the manifest of the token rows.
    """

    steps: int
    seq_len: int
    global_batch_size: int
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a whole batch, padding included."""
        return self.seq_len * self.global_batch_size


def total_steps(stages: Sequence[Stage]) -> int:
    """Steps of the whole run."""
    return sum(stage.steps for stage in stages)


def stage_at(stages: Sequence[Stage], step: int) -> Stage:
    """The stage of step number `step`; the last stage for a step past the end."""
    for stage in stages:
        if step < stage.steps:
            return stage
        step -= stage.steps
    return stages[-1]


def steps_between(stages: Sequence[Stage], first: int, end: int) -> Iterator[tuple[Stage, int]]:
    """Yields every stage with the number of its steps among the steps `first` to `end` - 1."""
    start = 0
    for stage in stages:
        yield stage, max(0, min(start + stage.steps, end) - max(start, first))
        start += stage.steps


def tokens_between(stages: Sequence[Stage], first: int, end: int) -> int:
    """Tokens in the batches of the steps `first` to `end` - 1, padding included."""
    return sum(steps * stage.tokens_per_step for stage, steps in steps_between(stages, first, end))


def flops_between(stages: Sequence[Stage], first: int, end: int, flops_per_token: Callable[[int], float]) -> float:
    """Model FLOPs of the steps `first` to `end` - 1.

    Args:
      flops_per_token: FLOPs of a training step per token, as a function of the sequence length.
    """
    return sum(
        steps * stage.tokens_per_step * flops_per_token(stage.seq_len)
        for stage, steps in steps_between(stages, first, end)
    )


@dataclass(frozen=True)
class SourceSize:
    """The size of a source: its weight in the manifest, and the tokens of its training rows that can be predicted."""

    weight: float
    tokens: int


def tokens_by_source(stages: Sequence[Stage], sources: Mapping[str, SourceSize]) -> dict[str, float]:
    """The tokens that a run reads of each source with a weight, padding included."""
    tokens: dict[str, float] = {}
    for stage in stages:
        weights = stage.weights or {name: source.weight for name, source in sources.items()}
        total = sum(weights.values())
        for name, weight in weights.items():
            tokens[name] = tokens.get(name, 0.0) + weight / total * stage.steps * stage.tokens_per_step
    return tokens


@dataclass(frozen=True)
class Length:
    """How long a stage is: exactly one of `steps`, `tokens` and `epochs` is above 0.

    Attributes:
      epochs_of: the source whose epochs count; empty counts epochs of the whole mixture, that is, as many tokens as its
        sources with a weight above 0 hold together.
    """

    steps: int = 0
    tokens: float = 0.0
    epochs: float = 0.0
    epochs_of: str = ""

    def to_steps(
        self, tokens_per_step: int, weights: Mapping[str, float], sources: Mapping[str, SourceSize] | None
    ) -> int:
        """The length in steps, rounded up; 0 for epochs where `sources` is None.

        Args:
          weights: of the stage; empty takes those of `sources`.

        Raises `UserError` where `epochs_of` is not a source with a weight above 0.
        """
        if self.steps:
            return self.steps
        if self.tokens:
            return math.ceil(self.tokens / tokens_per_step)
        if sources is None:
            return 0
        weights = weights or {name: source.weight for name, source in sources.items()}
        used = {name: weights[name] for name in weights if weights[name] > 0 and name in sources}
        if not self.epochs_of:
            epoch = float(sum(sources[name].tokens for name in used))
        elif self.epochs_of in used:
            epoch = sources[self.epochs_of].tokens * sum(used.values()) / used[self.epochs_of]
        else:
            raise UserError(
                f"epochs_of={self.epochs_of!r} is not a source with a weight above 0{did_you_mean(self.epochs_of, used)}"
            )
        return max(1, math.ceil(self.epochs * epoch / tokens_per_step))


@dataclass(frozen=True)
class MicroBatch:
    """The part of a batch that a device processes at once: `size` sequences of `seq_len` tokens.

    Of longer or shorter sequences it holds the same number of tokens.

    Attributes:
      size: 0 is a device's whole share of the batch.
      seq_len: the length that `size` counts; 0 counts sequences of any length.
    """

    size: int = 0
    seq_len: int = 0

    def sequences(self, seq_len: int) -> int:
        """Sequences of `seq_len` tokens in a micro-batch; 0 is a device's whole share of the batch."""
        return max(1, self.size * self.seq_len // seq_len) if self.size and self.seq_len else self.size

    def accumulation_steps(self, num_devices: int, global_batch_size: int, seq_len: int) -> int:
        """The number of micro-batches in a step.

        Raises `UserError` unless every device gets the same number of sequences, in micro-batches of one size.
        """
        share, rest = divmod(global_batch_size, num_devices)
        if rest:
            raise UserError(
                f"global_batch_size={global_batch_size} is not divisible by the {num_devices} devices; "
                f"choose a multiple of {num_devices}"
            )
        size = self.sequences(seq_len)
        if size == 0 or share <= size:
            return 1
        if share % size:
            raise UserError(
                f"micro_batch_size={size} does not divide a device's share of the batch, {share} "
                f"(global_batch_size={global_batch_size}, devices: {num_devices}); choose a divisor of {share}"
            )
        return share // size
