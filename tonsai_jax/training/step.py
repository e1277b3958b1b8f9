"""One training step and one evaluation step: pure functions of state and batch, compiled once per batch shape."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from tonsai_jax.data.marks import ANSWER, BEGIN
from tonsai_jax.model.experts import Routing
from tonsai_jax.model.lora import join_adapters
from tonsai_jax.model.transformer import Transformer, output_table
from tonsai_jax.runtime.xla import compiler_options
from tonsai_jax.stages import MicroBatch
from tonsai_jax.training.accumulation import sum_over_devices, sum_over_micro_batches
from tonsai_jax.training.layer_norms import group_norms
from tonsai_jax.training.loss import chunk_length, cross_entropy, target_log_probabilities
from tonsai_jax.training.loss_scale import next_scale
from tonsai_jax.training.mesh import shardings, with_table_copies
from tonsai_jax.training.optimizer import Schedule, mask_of
from tonsai_jax.training.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
WHOLE_SHARE = MicroBatch()
DistilledLoss = Callable[..., tuple[jax.Array, Metrics]]  # `distillation.Distillation.loss`
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """How the loss is computed.

    Attributes:
      chunk_tokens: tokens per device whose logits are in memory at once.
      z_loss: coefficient of the z-loss that is added to the cross-entropy.
      load_balance, router_z: coefficients of the routers' losses in a mixture of experts, which are means over layers.
    """

    chunk_tokens: int
    z_loss: float
    load_balance: float = 0.0
    router_z: float = 0.0


class Sequences(NamedTuple):
    """A batch as the model and the loss take it.

    Attributes:
      inputs_BxT, targets_BxT: int32 ids.
      learned_BxT: bool, the targets that count in the loss: those that are no padding and, in conversations, part of an answer.
      segments_BxT: int32 number of the segment of each input, or None in a batch without marks.
    """

    inputs_BxT: jax.Array
    targets_BxT: jax.Array
    learned_BxT: jax.Array
    segments_BxT: jax.Array | None


def sequences_of(batch: Batch) -> Sequences:
    """The inputs and targets of a batch of the loader."""
    tokens_BxT1 = batch["tokens"].astype(jnp.int32)
    inputs_BxT, targets_BxT = tokens_BxT1[:, :-1], tokens_BxT1[:, 1:]
    learned_BxT = jnp.arange(inputs_BxT.shape[1]) < batch["valid"][:, None]
    if "marks" not in batch:
        return Sequences(inputs_BxT, targets_BxT, learned_BxT, None)
    marks_BxT1 = batch["marks"]
    learned_BxT &= (marks_BxT1[:, 1:] & ANSWER) != 0
    segments_BxT = jnp.cumsum((marks_BxT1[:, :-1] & BEGIN) != 0, axis=1, dtype=jnp.int32)
    return Sequences(inputs_BxT, targets_BxT, learned_BxT, segments_BxT)


class Objective(Protocol):
    """Something to minimize other than the cross-entropy of the next token: a function of the targets' log-probabilities.

    It is a mean over units, such as pairs of answers. It gives sums, which the step divides by the units of the whole batch, so
    that micro-batches add up to the batch.
    """

    def units(self, batch: Batch) -> jax.Array:
        """How many units a batch has; integer scalar."""
        ...

    def sums(self, logp_BxT: jax.Array, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The value and the metrics, `loss` among them, summed over the units; float32 scalars.

        Args:
          logp_BxT: float32, log-probabilities of the targets in nats.
        """
        ...


def _summed_loss(
    model: Transformer,
    params: Any,
    x_BxTxD: jax.Array,
    targets_BxT: jax.Array,
    weights_BxT: jax.Array,
    loss: LossSettings,
    mesh: Mesh | None,
) -> tuple[jax.Array, jax.Array]:
    """`cross_entropy` of the hidden states of a model; returns the loss to minimize and the nats to report."""
    chunk, table_VxD, vocab_size = chunk_of(targets_BxT, loss, mesh), output_table(params), model.config.vocab_size
    return cross_entropy(x_BxTxD, table_VxD, targets_BxT, weights_BxT, vocab_size, chunk, loss.z_loss, mesh)


def _log_probabilities(
    model: Transformer, params: Any, x_BxTxD: jax.Array, targets_BxT: jax.Array, loss: LossSettings, mesh: Mesh | None
) -> jax.Array:
    """`target_log_probabilities` of the hidden states of a model."""
    chunk, table_VxD, vocab_size = chunk_of(targets_BxT, loss, mesh), output_table(params), model.config.vocab_size
    return target_log_probabilities(x_BxTxD, table_VxD, targets_BxT, vocab_size, chunk, mesh)


def chunk_of(targets_BxT: jax.Array, loss: LossSettings, mesh: Mesh | None) -> int:
    """Positions whose logits are in memory at once."""
    B, T = targets_BxT.shape
    devices = 1 if mesh is None else mesh.size
    return chunk_length(max(1, B // devices), T, loss.chunk_tokens)


def _objective_loss(
    objective: Objective,
    model: Transformer,
    params: Any,
    x_BxTxD: jax.Array,
    batch: Batch,
    weight: jax.Array,
    loss: LossSettings,
    mesh: Mesh | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """A loss with the gradient of `objective`, and its metrics, both times `weight`.

    The gradient of f(logp) is that of the cross-entropy in which target i has the weight -df/dlogp_i. So the hidden states are
    computed once, and neither of the two passes over the vocabulary holds all logits.
    """
    targets_BxT = sequences_of(batch).targets_BxT
    logp_BxT = _log_probabilities(model, params, x_BxTxD, targets_BxT, loss, mesh)
    slope_BxT, metrics = jax.grad(objective.sums, has_aux=True)(logp_BxT, batch)
    without_z_loss = dataclasses.replace(loss, z_loss=0.0)
    total, _ = _summed_loss(model, params, x_BxTxD, targets_BxT, -weight * slope_BxT, without_z_loss, mesh)
    return total, jax.tree.map(lambda value: weight * value, metrics)


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
    objective: Objective | None = None,
    distillation: DistilledLoss | None = None,
    micro_batch: MicroBatch = WHOLE_SHARE,
    frozen_steps: int = 0,
    frozen_except: Sequence[str] = (),
    deterministic: bool = False,
    layer_norms: bool = False,
) -> TrainStep:
    """The compiled step: (state, batch) -> (new state, metrics). It reuses the memory of the old state, which is gone then.

    Args:
      graph: from `model_graph`.
      loss, end_of_text_id: see `LossSettings` and `Transformer`.
      dropout_key: random key of the run; each step folds its number in.
      clip_norm: gradients with a larger norm are scaled down to it; 0 never scales.
      objective: what to minimize; None is the cross-entropy of the next token. The batch has what the objective reads.
      distillation: the loss of a run with teachers; None learns from the text alone. Not together with an objective.
      micro_batch: the most that a device processes at once; the gradients of the micro-batches add up to those of the
        whole batch.
      frozen_steps, frozen_except: in the first `frozen_steps` steps only the parameters with these names change, see `mask_of`.
      layer_norms: adds the metric `norms`, float32 [3, groups]: `group_norms` of the parameters before the step, of the gradients
        before clipping, and of what the step adds to the parameters.
      deterministic: the same bits each time on a GPU too, see `runtime.xla.DETERMINISTIC`.

    A batch has tokens [B, T + 1], valid int32 [B] (how many of the T targets are real), stop int32 [B] and, where a source is
    packed, marks uint8 [B, T + 1] (`data.marks`). It can have grad_limit float32 [B], the largest norm of the gradient with which
    the step is taken. The loss is a mean over all learned targets of the batch. A step whose loss or gradient is not finite, or
    whose gradient is above the limit, leaves parameters and moments unchanged. Metrics are scalars on the device: loss and
    grad_norm (before clipping) in nats, learning_rate, tokens, skipped (0 or 1), and stop (the maximum of the batch's `stop`
    marks, so that all hosts stop at the same step); a mixture of experts adds `router/...`, float16 the loss_scale.
    """

    def loss_of(
        params: Any,
        frozen: Any,
        teachers: Any,
        weight: jax.Array,
        share: Any,
        sequences: Batch,
        key: jax.Array,
        mesh: Mesh | None,
    ) -> tuple[jax.Array, Metrics]:
        """Loss and metrics of one micro-batch, scaled so that their sums over micro-batches are those of the whole batch."""
        inputs_BxT, targets_BxT, learned_BxT, segments_BxT = sequences_of(sequences)
        params = join_adapters(params, frozen)
        model = nnx.merge(graph, params)
        x_BxTxD, routing = model(
            inputs_BxT, end_of_text_id=end_of_text_id, segments_BxT=segments_BxT, dropout_key=key, dropless=False
        )
        if distillation is not None:
            total, metrics = distillation(teachers, model, params, x_BxTxD, sequences, weight, loss, mesh)
        elif objective is None:
            total, nll = _summed_loss(model, params, x_BxTxD, targets_BxT, learned_BxT * weight, loss, mesh)
            metrics = {"loss": nll}
        else:
            total, metrics = _objective_loss(objective, model, params, x_BxTxD, sequences, weight, loss, mesh)
        if routing is not None:
            balance, z = routing.load_balance.mean(), routing.z.mean()
            total += share * (loss.load_balance * balance + loss.router_z * z)
            metrics |= jax.tree.map(lambda value: share * value, _router_metrics(routing))
        return total, metrics

    @partial(jax.jit, donate_argnums=0, compiler_options=compiler_options(deterministic))
    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        batch = dict(batch)
        stop = jnp.max(batch.pop("stop"))
        grad_limit = jnp.min(batch.pop("grad_limit")) if "grad_limit" in batch else None
        tokens = jnp.sum(sequences_of(batch).learned_BxT)
        units = tokens if objective is None else objective.units(batch)
        weight = 1.0 / jnp.maximum(units, 1).astype(jnp.float32)
        accumulation = micro_batch.accumulation_steps(mesh.size, *sequences_of(batch).inputs_BxT.shape)
        share: Any = 1.0 / accumulation
        if state.loss_scale:
            weight, share = weight * state.loss_scale["scale"], share * state.loss_scale["scale"]
        key = jax.random.fold_in(dropout_key, state.step)

        def gradient(mesh: Mesh | None, batch: Batch, key: jax.Array, *inputs: Any) -> tuple[Any, Metrics]:
            of_one = partial(jax.grad(partial(loss_of, mesh=mesh), has_aux=True), *inputs)
            return sum_over_micro_batches(of_one, batch, key, accumulation, mesh)

        # The routers' losses are means over all devices.
        alone = mesh.shape["data"] == mesh.size and "router" not in state.model_params["blocks"]
        if accumulation > 1 and mesh.size > 1 and alone:
            # Otherwise the compiler would sum the gradients over devices in each micro-batch.
            inputs = (state.params, state.frozen, state.teachers, weight, share)
            gradients, sums = sum_over_devices(partial(gradient, None), batch, key, inputs, mesh)
        else:
            params, sum_over_copies = jax.vjp(partial(with_table_copies, mesh=mesh), state.params)
            frozen = with_table_copies(state.frozen, mesh)
            teachers = [with_table_copies(each, mesh) for each in state.teachers]
            gradients, sums = gradient(mesh, batch, key, params, frozen, teachers, weight, share)
            (gradients,) = sum_over_copies(gradients)

        if state.loss_scale:
            gradients, sums = jax.tree.map(lambda leaf: leaf / state.loss_scale["scale"], (gradients, sums))
        grad_norm = optax.tree.norm(gradients)
        norms = [group_norms(state.params), group_norms(gradients)] if layer_norms else []
        if clip_norm:
            scale = jnp.minimum(1.0, clip_norm / (grad_norm + 1e-6))
            gradients = jax.tree.map(lambda gradient: gradient * scale, gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        if frozen_steps:
            thawed = (state.step >= frozen_steps).astype(jnp.float32)
            updates = jax.tree.map(
                lambda update, moves: update if moves else update * thawed,
                updates,
                mask_of(state.params, frozen_except),
            )
        learning_rate = schedule(state.step)
        params = jax.tree.map(lambda param, update: param - learning_rate * update, state.params, updates)

        # Select, do not multiply: 0 x NaN is NaN.
        finite = jnp.isfinite(sums["loss"]) & jnp.isfinite(grad_norm)
        taken = finite if grad_limit is None else finite & (grad_norm <= grad_limit)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(taken, new, old), (params, opt_state), (state.params, state.opt_state)
        )
        metrics = {
            **sums,
            "grad_norm": grad_norm,
            "learning_rate": learning_rate,
            "tokens": tokens,
            "skipped": 1 - taken.astype(jnp.int32),
            "stop": stop,
        }
        if layer_norms:
            metrics["norms"] = jnp.stack([*norms, learning_rate * group_norms(updates)])
        loss_scale = {}
        if state.loss_scale:
            metrics["loss_scale"] = state.loss_scale["scale"]
            loss_scale = next_scale(state.loss_scale, finite)
        # Keep the sharding of the input: XLA may choose another one, and the next call would compile again for it.
        state = TrainState(state.step + 1, params, opt_state, state.frozen, loss_scale, state.teachers)
        return jax.lax.with_sharding_constraint(state, shardings(state, mesh)), metrics

    return train_step


def make_eval_step(
    graph: nnx.GraphDef,
    mesh: Mesh,
    *,
    loss: LossSettings,
    end_of_text_id: int,
    token_bytes: jax.Array,
    prefix_bytes: int = 0,
) -> Callable[[Any, Batch], dict[str, jax.Array]]:
    """The compiled evaluation: (params, batch) -> sums of nats, tokens and UTF-8 bytes over the batch.

    End-of-text targets are left out of all three: they stand for no byte of the text. Of conversations only answers count; the
    token that ends an answer counts too, though it has no bytes.

    Args:
      token_bytes: int32 [vocab_size], UTF-8 bytes of each id.
      prefix_bytes: how many bytes the tokenizer puts before every text (`Tokenizer.prefix`): the first token of a document
        has them, but the text does not.
    """

    @partial(jax.jit, compiler_options=compiler_options())
    def eval_step(params: Any, batch: Batch) -> dict[str, jax.Array]:
        params = with_table_copies(params, mesh)
        inputs_BxT, targets_BxT, scored_BxT, segments_BxT = sequences_of(batch)
        scored_BxT &= targets_BxT != end_of_text_id
        model = nnx.merge(graph, params)
        x_BxTxD, _ = model(inputs_BxT, end_of_text_id=end_of_text_id, segments_BxT=segments_BxT)
        _, nll = _summed_loss(model, params, x_BxTxD, targets_BxT, scored_BxT.astype(jnp.float32), loss, mesh)
        bytes_BxT = token_bytes[targets_BxT] - prefix_bytes * (inputs_BxT == end_of_text_id)
        return {"nats": nll, "tokens": jnp.sum(scored_BxT), "bytes": jnp.sum(bytes_BxT * scored_BxT)}

    return eval_step


def make_score_step(
    graph: nnx.GraphDef, mesh: Mesh, *, loss: LossSettings, end_of_text_id: int
) -> Callable[[Any, Batch], jax.Array]:
    """The compiled function (params, batch) -> log-probabilities of the batch's targets in nats, float32 [B, T]."""

    @partial(jax.jit, compiler_options=compiler_options())
    def score_step(params: Any, batch: Batch) -> jax.Array:
        params = with_table_copies(params, mesh)
        inputs_BxT, targets_BxT, _, segments_BxT = sequences_of(batch)
        model = nnx.merge(graph, params)
        x_BxTxD, _ = model(inputs_BxT, end_of_text_id=end_of_text_id, segments_BxT=segments_BxT)
        return _log_probabilities(model, params, x_BxTxD, targets_BxT, loss, mesh)

    return score_step


def _router_metrics(routing: Routing) -> dict[str, jax.Array]:
    """Means over layers. `expert_N` is the share of the choices that expert N got; `busiest` is the largest share of an
    expert in any layer, divided by the even share 1 / E."""
    load_E = routing.load_E.mean(axis=0)
    return {
        "router/load_balance": routing.load_balance.mean(),
        "router/dropped": routing.dropped.mean(),
        "router/entropy": routing.entropy.mean(),
        "router/busiest": load_E.size * routing.load_E.max(),
        **{f"router/expert_{number}": share for number, share in enumerate(load_E)},
    }
