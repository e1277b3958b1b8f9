"""One training step and one evaluation step: pure functions of state and batch, compiled once per batch shape."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tonsai_jax.training.loss import chunk_length, cross_entropy
from tonsai_jax.training.mesh import BATCH_AXES, accumulation_steps
from tonsai_jax.training.optimizer import Schedule
from tonsai_jax.training.runtime import compiler_options
from tonsai_jax.training.state import TrainState

Batch = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """How the loss is computed: tokens per device whose logits exist at a time, and the z-loss coefficient."""

    chunk_tokens: int
    z_loss: float


def _targets(batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """inputs [B, T], targets [B, T] (int32) and which targets are real [B, T] (bool) of a batch of windows."""
    tokens_BxT1 = batch["tokens"].astype(jnp.int32)
    inputs_BxT, targets_BxT = tokens_BxT1[:, :-1], tokens_BxT1[:, 1:]
    return inputs_BxT, targets_BxT, jnp.arange(inputs_BxT.shape[1]) < batch["valid"][:, None]


def make_train_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    mesh: Mesh,
    *,
    loss: LossSettings,
    end_of_text_id: int,
    dropout_key: jax.Array,
    clip_norm: float,
    device_batch_size: int = 0,
) -> TrainStep:
    """The compiled step: (state, batch) -> (new state, metrics). The old state's memory is reused; do not touch it again.

    Args:
      graph: from `model_graph`.
      loss, end_of_text_id: see `LossSettings` and `Transformer`.
      dropout_key: key of the run; each step folds its number in.
      clip_norm: longest gradient, 0 for any length.
      device_batch_size: sequences a device holds at a time, 0 for all of its share; the gradients of the parts add up
        to those of the whole batch.

    A step whose loss or gradient is not finite leaves parameters and moments as they were. Metrics are scalars on the
    device: loss and grad_norm (before clipping) in nats, learning_rate, tokens, skipped (0 or 1), and stop (the largest
    of the batch's `stop` marks, by which all hosts agree to end).
    """

    def loss_of(params: Any, part: Batch, weight: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        inputs_BxT, targets_BxT, real_BxT = _targets(part)
        model = nnx.merge(graph, params)
        x_BxTxD = model(inputs_BxT, end_of_text_id=end_of_text_id, dropout_key=key)
        B, T = targets_BxT.shape
        chunk = chunk_length(max(1, B // mesh.size), T, loss.chunk_tokens)
        return cross_entropy(
            x_BxTxD,
            params["token_embedding"],
            targets_BxT,
            real_BxT * weight,
            model.config.vocab_size,
            chunk,
            loss.z_loss,
            mesh,
        )

    @partial(jax.jit, donate_argnums=0, compiler_options=compiler_options())
    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        batch = dict(batch)
        stop = jnp.max(batch.pop("stop"))
        tokens = jnp.sum(batch["valid"])
        weight = 1.0 / jnp.maximum(tokens, 1).astype(jnp.float32)
        key = jax.random.fold_in(dropout_key, state.step)
        gradient_of = jax.grad(loss_of, has_aux=True)
        accumulation = accumulation_steps(mesh, batch["valid"].shape[0], device_batch_size)

        if accumulation == 1:
            gradients, nll = gradient_of(state.params, batch, weight, key)
        else:

            def add_part(total: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, total, gradient_of(state.params, part[0], weight, part[1])), None

            parts = jax.tree.map(lambda rows: _cut(rows, accumulation, mesh), batch)
            start = (jax.tree.map(jnp.zeros_like, state.params), jnp.zeros((), jnp.float32))
            (gradients, nll), _ = jax.lax.scan(add_part, start, (parts, jax.random.split(key, accumulation)))

        grad_norm = optax.tree.norm(gradients)
        if clip_norm:
            scale = jnp.minimum(1.0, clip_norm / (grad_norm + 1e-6))
            gradients = jax.tree.map(lambda gradient: gradient * scale, gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        learning_rate = schedule(state.step)
        params = jax.tree.map(lambda param, update: param - learning_rate * update, state.params, updates)

        # Select, do not multiply: 0 x NaN is NaN.
        finite = jnp.isfinite(nll) & jnp.isfinite(grad_norm)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), (params, opt_state), (state.params, state.opt_state)
        )
        metrics = {
            "loss": nll,
            "grad_norm": grad_norm,
            "learning_rate": learning_rate,
            "tokens": tokens,
            "skipped": 1 - finite.astype(jnp.int32),
            "stop": stop,
        }
        return TrainState(state.step + 1, params, opt_state), metrics

    return train_step


def make_eval_step(
    graph: nnx.GraphDef, mesh: Mesh, *, loss: LossSettings, end_of_text_id: int, token_bytes: jax.Array
) -> Callable[[Any, Batch], dict[str, jax.Array]]:
    """The compiled evaluation: (params, batch) -> nats, tokens and UTF-8 bytes of the batch's text, as sums.

    End-of-text targets count for nothing: they stand for no byte of the text.

    Args:
      token_bytes: int32 [vocab_size], UTF-8 bytes of each id.
    """

    @partial(jax.jit, compiler_options=compiler_options())
    def eval_step(params: Any, batch: Batch) -> dict[str, jax.Array]:
        inputs_BxT, targets_BxT, real_BxT = _targets(batch)
        real_BxT &= targets_BxT != end_of_text_id
        model = nnx.merge(graph, params)
        x_BxTxD = model(inputs_BxT, end_of_text_id=end_of_text_id)
        B, T = targets_BxT.shape
        chunk = chunk_length(max(1, B // mesh.size), T, loss.chunk_tokens)
        _, nll = cross_entropy(
            x_BxTxD,
            params["token_embedding"],
            targets_BxT,
            real_BxT.astype(jnp.float32),
            model.config.vocab_size,
            chunk,
            0.0,
            mesh,
        )
        return {
            "nats": nll,
            "tokens": jnp.sum(real_BxT),
            "bytes": jnp.sum(token_bytes[targets_BxT] * real_BxT),
        }

    return eval_step


def _cut(rows_Bx: jax.Array, parts: int, mesh: Mesh) -> jax.Array:
    """[B, ...] -> [parts, B / parts, ...] such that every device keeps the rows that it holds."""
    cut = rows_Bx.reshape(mesh.size, parts, -1, *rows_Bx.shape[1:]).swapaxes(0, 1)
    cut = cut.reshape(parts, -1, *rows_Bx.shape[1:])
    return jax.lax.with_sharding_constraint(cut, NamedSharding(mesh, P(None, BATCH_AXES)))
