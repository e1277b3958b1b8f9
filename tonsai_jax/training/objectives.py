"""What a run can minimize other than next-token cross-entropy: functions of the targets' log-probabilities.

They are implementations of `step.Objective`. Names: B batch, T sequence, S segments (conversations) in a row, P pairs in a row.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from tonsai_jax.training.step import Batch, sequences_of


@dataclasses.dataclass(frozen=True)
class Preference:
    """Raises the probability of the chosen answer of a pair against that of the rejected one.

    The margin of a pair is log(pi(chosen) / ref(chosen)) - log(pi(rejected) / ref(rejected)), with the model pi, the reference
    ref (the model before the first step) and the probability of the whole answer. A pair costs
      dpo: -log sigmoid(beta * margin), equation 7 of arXiv:2305.18290;
      ipo: (margin - 1 / (2 * beta))^2, equation 17 of arXiv:2310.12036, which calls beta tau.

    Segments 2p and 2p + 1 of a row are the chosen and the rejected conversation of pair p. A batch also has `reference`,
    float32 [B, S]: the log-probabilities under the reference of the answers of each segment; S is even, and any number for which
    every pair has a place.

    Among the metrics, rewards are beta * log(pi / ref), and the margin is the difference of two rewards. `accuracy` is the share
    of pairs with a margin above 0; a margin of 0 counts half.

    Attributes:
      kind: "dpo" or "ipo".
      beta: strength of the pull towards the reference; the larger, the closer the model stays to it.
    """

    kind: str
    beta: float

    def units(self, batch: Batch) -> jax.Array:
        return jnp.sum(self._is_pair(batch))

    def sums(self, logp_BxT: jax.Array, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        ratio_BxS = _by_segment(logp_BxT, batch, self._segments(batch)) - batch["reference"]
        is_pair_BxP = self._is_pair(batch)
        chosen_BxP, rejected_BxP = ratio_BxS[:, ::2], ratio_BxS[:, 1::2]
        margin_BxP = chosen_BxP - rejected_BxP

        def over_pairs(value_BxP: jax.Array) -> jax.Array:
            return jnp.sum(jnp.where(is_pair_BxP, value_BxP, 0))

        loss = over_pairs(self.loss(margin_BxP))
        return loss, {
            "loss": loss,
            "margin": over_pairs(self.beta * margin_BxP),
            "accuracy": over_pairs(jnp.heaviside(margin_BxP, 0.5)),
            "reward_chosen": over_pairs(self.beta * chosen_BxP),
            "reward_rejected": over_pairs(self.beta * rejected_BxP),
        }

    def loss(self, margins: jax.Array) -> jax.Array:
        """What pairs with these margins cost, element by element."""
        if self.kind == "dpo":
            return -jax.nn.log_sigmoid(self.beta * margins)
        return (margins - 1 / (2 * self.beta)) ** 2

    def _is_pair(self, batch: Batch) -> jax.Array:
        """Which places hold a pair, bool [B, P]: those with an answer."""
        count_BxS = _by_segment(jnp.ones(batch["tokens"][:, 1:].shape), batch, self._segments(batch))
        return count_BxS[:, ::2] > 0

    def _segments(self, batch: Batch) -> int:
        return batch["reference"].shape[1]


@dataclasses.dataclass(frozen=True)
class GroupRelative:
    """Group relative policy optimization (GRPO): raises the probability of answers better than the others of their group.

    An answer costs the mean over its tokens of -(min(r * A, clip(r, 1 - clip, 1 + clip) * A) - beta * KL), with A its advantage,
    r = pi / old and KL = ref / pi - log(ref / pi) - 1: equations 3 and 4 of arXiv:2402.03300. The batch is a row for each
    answer, with its prompt before it, and has three more arrays:
      advantages: float32 [B].
      old: float32 [B, T], log-probabilities of the targets under the model that wrote the answers.
      reference: float32 [B, T], those under the model before the first step.

    Attributes:
      clip: how far the ratio r counts from 1, one way.
      beta: coefficient of the divergence from the reference.
    """

    clip: float
    beta: float

    def units(self, batch: Batch) -> jax.Array:
        return jnp.sum(sequences_of(batch).learned_BxT.any(axis=1))

    def sums(self, logp_BxT: jax.Array, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        is_answer_BxT = sequences_of(batch).learned_BxT
        length_B = jnp.maximum(jnp.sum(is_answer_BxT, axis=1), 1)

        def over_answers(value_BxT: jax.Array) -> jax.Array:
            """The mean over the tokens of each answer, summed over the answers."""
            return jnp.sum(jnp.where(is_answer_BxT, value_BxT, 0).sum(axis=1) / length_B)

        def difference(log_BxT: jax.Array, other_BxT: jax.Array) -> jax.Array:
            # Other targets have log-probabilities of any size: their exponential could be infinite, its gradient NaN.
            return jnp.where(is_answer_BxT, log_BxT - other_BxT, 0)

        ratio_BxT = jnp.exp(difference(logp_BxT, batch["old"]))
        advantage_Bx1 = batch["advantages"][:, None]
        clipped_BxT = jnp.clip(ratio_BxT, 1 - self.clip, 1 + self.clip)
        gain_BxT = jnp.minimum(ratio_BxT * advantage_Bx1, clipped_BxT * advantage_Bx1)
        from_reference_BxT = difference(batch["reference"], logp_BxT)
        kl_BxT = jnp.exp(from_reference_BxT) - from_reference_BxT - 1
        loss = over_answers(self.beta * kl_BxT - gain_BxT)
        return loss, {
            "loss": loss,
            "kl": over_answers(kl_BxT),
            "clipped": over_answers((clipped_BxT * advantage_Bx1 < ratio_BxT * advantage_Bx1).astype(jnp.float32)),
        }


def _by_segment(value_BxT: jax.Array, batch: Batch, segments: int) -> jax.Array:
    """Sums over the answers of each segment, [B, S]. Segments from S on are padding and are left out."""
    _, _, learned_BxT, segments_BxT = sequences_of(batch)
    assert segments_BxT is not None
    summed = jax.vmap(partial(jax.ops.segment_sum, num_segments=segments))
    return summed(jnp.where(learned_BxT, value_BxT, 0), segments_BxT - 1)  # they count from 1
