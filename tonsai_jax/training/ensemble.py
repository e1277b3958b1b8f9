"""Several models as one: the mean of their log-probabilities, normalized again.

That is the softmax of the mean of their logits, the ensemble of arXiv:2509.14786 and the teacher of arXiv:2308.02019: the
probability of a token is proportional to the geometric mean of those that the models give it. The log-loss of the ensemble on a
text is never above the mean of the models' log-losses: the geometric means of all tokens add up to at most 1, so to normalize
them can only raise them. Names: B batch, T sequence, N tokens of a chunk, D model width (each model has its own), V padded
vocabulary.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tonsai_jax.model.transformer import output_table
from tonsai_jax.runtime.xla import compiler_options
from tonsai_jax.training.loss import chunk_length, in_chunks, logits_of, unchunked
from tonsai_jax.training.reference import ScoreStep
from tonsai_jax.training.step import Batch, Sequences, sequences_of


def make_ensemble_score_step(
    graphs: Sequence[nnx.GraphDef], *, vocab_size: int, chunk_tokens: int, end_of_text_id: int
) -> ScoreStep:
    """The compiled function (parameters of each model, batch) -> log-probabilities of the targets, nats, float32 [B, T].

    It is for one device. Of one model it gives what `step.make_score_step` gives.

    Args:
      graphs: of the models, from `model_graph`.
      vocab_size: of each of them.
      chunk_tokens: tokens whose logits are in memory at once.
    """

    @partial(jax.jit, compiler_options=compiler_options())
    def score_step(params: Sequence[Any], batch: Batch) -> jax.Array:
        sequences = sequences_of(batch)
        B, T = sequences.targets_BxT.shape
        hidden = hidden_states(graphs, params, sequences, end_of_text_id)
        tables = [output_table(each).astype(x.dtype) for each, x in zip(params, hidden, strict=True)]
        chunk = chunk_length(B, T, chunk_tokens)

        def one_chunk(chunks: tuple[Sequence[jax.Array], jax.Array]) -> jax.Array:
            xs_NxD, target_N = chunks
            logits_NxV = mean_logits(xs_NxD, tables, vocab_size)
            target_logit_N = jnp.take_along_axis(logits_NxV, target_N[:, None], axis=-1)[:, 0]
            return target_logit_N - jax.nn.logsumexp(logits_NxV, axis=-1)

        chunks = ([in_chunks(x, chunk) for x in hidden], in_chunks(sequences.targets_BxT, chunk))
        return unchunked(jax.lax.map(one_chunk, chunks), B, T)

    return score_step


def hidden_states(
    graphs: Sequence[nnx.GraphDef], params: Sequence[Any], sequences: Sequences, end_of_text_id: int
) -> list[jax.Array]:
    """What each model makes of a batch, [B, T, D] in its compute dtype; without dropout, and without a gradient."""
    return [
        jax.lax.stop_gradient(
            nnx.merge(graph, each)(
                sequences.inputs_BxT, end_of_text_id=end_of_text_id, segments_BxT=sequences.segments_BxT
            )[0]
        )
        for graph, each in zip(graphs, params, strict=True)
    ]


def mean_logits(xs_NxD: Sequence[jax.Array], tables_VxD: Sequence[jax.Array], vocab_size: int) -> jax.Array:
    """The mean of the models' logits, float32 [N, V]; -inf for the padding of the vocabulary."""
    total_NxV = logits_of(xs_NxD[0], tables_VxD[0], vocab_size)
    for x_NxD, table_VxD in zip(xs_NxD[1:], tables_VxD[1:], strict=True):
        total_NxV += logits_of(x_NxD, table_VxD, vocab_size)
    return total_NxV / len(xs_NxD)
