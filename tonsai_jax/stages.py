"""A run as a list of stages: stretches of steps that share a sequence length, a batch size and a mix of sources."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stage:
    """A stretch of a run: `weights` maps source to weight; empty means the weights in the rows' manifest."""

    steps: int
    seq_len: int
    global_batch_size: int
    weights: Mapping[str, float] = field(default_factory=dict)
