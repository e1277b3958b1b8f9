"""A run that learns from other models next to its text: knowledge distillation from the ensemble of its teachers.

A learned token costs (1 - weight) * cross-entropy + weight * KL(teachers || student), as in arXiv:2308.02019, but without its
temperature. The teachers' distribution is that of `ensemble.py`. Neither their logits nor the student's are ever held for a whole
batch, see `loss.py`. Names: B batch, T sequence, N tokens of a chunk, D model width, V padded vocabulary.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from tonsai_jax.model.attention import choose_attention_backend
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.transformer import Transformer, output_table
from tonsai_jax.training.ensemble import hidden_states, mean_logits
from tonsai_jax.training.loss import Sums, in_chunks, softmax_parts, unchunked, with_ready_gradients, without_padding
from tonsai_jax.training.state import model_graph
from tonsai_jax.training.step import Batch, LossSettings, chunk_of, sequences_of


@dataclasses.dataclass(frozen=True)
class Distillation:
    """The loss of a run with teachers, for `make_train_step`.

    Attributes:
      graphs: of the teachers, from `model_graph`.
      weight: share of the teachers in the loss, 0 to 1.
      end_of_text_id: of the token rows.
    """

    graphs: tuple[nnx.GraphDef, ...]
    weight: float
    end_of_text_id: int

    def loss(
        self,
        teachers: Sequence[Any],
        model: Transformer,
        params: Any,
        x_BxTxD: jax.Array,
        batch: Batch,
        weight: jax.Array,
        settings: LossSettings,
        mesh: Mesh | None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss to minimize and the metrics: sums over the learned targets of a batch, times `weight`.

        Among the metrics `loss` is the cross-entropy and `distillation` the divergence.

        Args:
          teachers: `TrainState.teachers`; on a mesh of several devices with a copy of their tables for each.
          model, params, x_BxTxD: the student, its parameters and its hidden states.
        """
        sequences = sequences_of(batch)
        hidden = hidden_states(self.graphs, teachers, sequences, self.end_of_text_id)
        total, (nll, divergence) = distilled_cross_entropy(
            x_BxTxD,
            output_table(params),
            sequences.targets_BxT,
            sequences.learned_BxT * weight,
            hidden,
            [output_table(each) for each in teachers],
            vocab_size=model.config.vocab_size,
            chunk=chunk_of(sequences.targets_BxT, settings, mesh),
            share=self.weight,
            z_loss=settings.z_loss,
            mesh=mesh,
        )
        return total, {"loss": nll, "distillation": divergence}


def make_distillation(
    teachers: Sequence[ModelConfig], weight: float, end_of_text_id: int, seq_lens: Sequence[int]
) -> Distillation:
    """The loss of a run with these teachers, whose sequences have these lengths. Documents that are kept apart get a mask."""
    backends = [choose_attention_backend(teacher, jax.default_backend(), seq_lens)[0] for teacher in teachers]
    graphs = tuple(model_graph(teacher, backend) for teacher, backend in zip(teachers, backends, strict=True))
    return Distillation(graphs, weight, end_of_text_id)


@jax.named_scope("loss")
def distilled_cross_entropy(
    x_BxTxD: jax.Array,
    table_VxD: jax.Array,
    targets_BxT: jax.Array,
    weights_BxT: jax.Array,
    teacher_xs_BxTxD: Sequence[jax.Array],
    teacher_tables_VxD: Sequence[jax.Array],
    *,
    vocab_size: int,
    chunk: int,
    share: float,
    z_loss: float = 0.0,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The loss to minimize, and (cross-entropy, divergence) to report: weighted sums over the batch, float32 scalars in nats.

    The loss is (1 - share) * cross-entropy + share * KL(teachers || student) + z_loss * log(Z)^2. Only the loss has gradients,
    and only to `x` and `table`.

    Args:
      teacher_xs_BxTxD, teacher_tables_VxD: hidden states and output table of each teacher, which has a width of its own; on a
        mesh of several devices tables have a copy for each, as `table_VxD`.
      share: of the teachers in the loss, 0 to 1.
      The others are those of `loss.cross_entropy`.
    """
    local = partial(_local, vocab_size=vocab_size, chunk=chunk, share=share, z_loss=z_loss)
    arrays = (x_BxTxD, table_VxD, targets_BxT, weights_BxT, *teacher_xs_BxTxD, *teacher_tables_VxD)
    return with_ready_gradients(local, arrays, mesh)


def _local(
    x_BxTxD: jax.Array,
    table_VxD: jax.Array,
    targets_BxT: jax.Array,
    weights_BxT: jax.Array,
    *teachers: jax.Array,
    vocab_size: int,
    chunk: int,
    share: float,
    z_loss: float,
    with_gradients: bool,
    with_table: bool,
) -> Sums:
    """The work of one device; `teachers` are their hidden states, then their tables."""
    B, T, _ = x_BxTxD.shape
    table = table_VxD.astype(x_BxTxD.dtype)
    ids_V = jnp.arange(table.shape[0])
    hidden, stored_tables = teachers[: len(teachers) // 2], teachers[len(teachers) // 2 :]
    # That of a device is [1, V, D] on a mesh of several.
    tables = [each.reshape(each.shape[-2:]).astype(x.dtype) for each, x in zip(stored_tables, hidden, strict=True)]
    stored_dtype = x_BxTxD.dtype if with_gradients else jnp.float32  # as in `loss._local`

    def one_chunk(carry, inputs):  # type: ignore[no-untyped-def]  # a scan body
        loss, nll, divergence, dtable_VxD = carry
        x_NxD, target_N, weight_N, teacher_xs_NxD = inputs
        stored_NxV = jnp.einsum("nd,vd->nv", x_NxD, table, preferred_element_type=stored_dtype)
        logits_NxV = without_padding(stored_NxV.astype(jnp.float32), vocab_size)
        max_N, sum_N = softmax_parts(logits_NxV)
        log_z_N = max_N + jnp.log(sum_N)
        nll_N = log_z_N - jnp.take_along_axis(stored_NxV, target_N[:, None], axis=-1)[:, 0]
        log_q_NxV = jax.nn.log_softmax(mean_logits(teacher_xs_NxD, tables, vocab_size))
        q_NxV = jnp.exp(log_q_NxV)
        # sum of q (log q - log p), where log p = logit - log Z; an id with q = 0 adds 0, also where it is padding
        divergence_N = log_z_N + jnp.sum(jnp.where(q_NxV > 0, q_NxV * (log_q_NxV - logits_NxV), 0), axis=-1)
        nll += jnp.sum(weight_N * nll_N)
        divergence += jnp.sum(weight_N * divergence_N)
        loss += jnp.sum(weight_N * ((1 - share) * nll_N + share * divergence_N + z_loss * log_z_N**2))
        if not with_gradients:
            return (loss, nll, divergence, None), None
        # d loss / d logits = weight * (p * (1 + 2 z log Z) - (1 - share) * onehot - share * q), p = exp / sum
        p_scale_N = weight_N * (1 + 2 * z_loss * log_z_N) / sum_N
        is_target_NxV = ids_V == target_N[:, None]
        exp_NxV = jnp.exp(logits_NxV - max_N[:, None])
        wanted_NxV = jnp.where(is_target_NxV, (1 - share) * weight_N[:, None], 0) + share * weight_N[:, None] * q_NxV
        dlogits_NxV = (exp_NxV * p_scale_N[:, None] - wanted_NxV).astype(x_NxD.dtype)
        dx_NxD = jnp.einsum("nv,vd->nd", dlogits_NxV, table)
        if with_table:
            dtable_VxD += jnp.einsum("nv,nd->vd", dlogits_NxV, x_NxD, preferred_element_type=jnp.float32)
        return (loss, nll, divergence, dtable_VxD), dx_NxD

    zero = jnp.zeros((), dtype=jnp.float32)
    start = (zero, zero, zero, jnp.zeros(table.shape, dtype=jnp.float32) if with_table else None)
    inputs = tuple(in_chunks(each, chunk) for each in (x_BxTxD, targets_BxT, weights_BxT))
    chunks = (*inputs, [in_chunks(each, chunk) for each in hidden])
    (loss, nll, divergence, dtable_VxD), dx = jax.lax.scan(one_chunk, start, chunks)
    return loss, (nll, divergence), None if dx is None else unchunked(dx, B, T), dtable_VxD
