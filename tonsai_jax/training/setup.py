"""What a run needs before its first step: the checks that can refuse it, and its compiled steps."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tonsai_jax.config import lora_settings, loss_settings, micro_batch, model_config, optimizer_settings
from tonsai_jax.config_checks import check_schedule
from tonsai_jax.hosts.processes import gather_texts
from tonsai_jax.model.attention import choose_attention_backend, reason_for_mask
from tonsai_jax.model.config import Lora, ModelConfig
from tonsai_jax.runtime.hardware import check_dtype
from tonsai_jax.stages import Stage, total_steps
from tonsai_jax.training.mesh import make_mesh
from tonsai_jax.training.optimizer import learning_rate_schedule, make_optimizer, mask_of
from tonsai_jax.training.state import TrainState, abstract_state, model_graph
from tonsai_jax.training.step import LossSettings, TrainStep, make_eval_step, make_score_step, make_train_step


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run that its config, its data and the devices allow.

    Attributes:
      attention_reason, experts_reason: why this backend was chosen.
      abstract_state: shapes, dtypes and shardings of the state; no memory behind them.
      teachers: of a distilled run, with its ways to compute.
    """

    stages: Sequence[Stage]
    mesh: Mesh
    model_config: ModelConfig
    attention_backend: str
    attention_reason: str
    experts_backend: str
    experts_reason: str
    lora: Lora | None
    optimizer: optax.GradientTransformation
    abstract_state: TrainState
    teachers: tuple[ModelConfig, ...] = ()

    def flops_per_token(self, seq_len: int) -> float:
        """FLOPs per token of one training step, see `ModelConfig.flops_per_token`; of a teacher the forward pass, a third."""
        forward = sum(teacher.flops_per_token(seq_len) for teacher in self.teachers) / 3
        if self.lora is None:
            return forward + self.model_config.flops_per_token(seq_len)
        return forward + self.lora.flops_per_token(self.model_config, seq_len)


def check_run(config: ConfigDict, stages: Sequence[Stage], vocab_size: int, *, has_packed_rows: bool = False) -> Setup:
    """Checks a valid config against the devices and the tokenizer; writes nothing.

    It computes only on a GPU: there it tries the kernels for documents that are kept apart, and those for experts.

    Args:
      vocab_size: rows that the tokenizer's ids need.
      has_packed_rows: whether rows hold several conversations, which are kept apart without `model.document_mask` too.

    Raises `UserError` for everything that would fail later: a schedule longer than the run, axes of the mesh and batches
    that do not divide, a vocabulary that is too small, an attention backend or a dtype
    that the devices do not have, a parameter that `optimizer.rate_of` or `optimizer.frozen_except` names and the model lacks.
    """
    check_schedule(config, total_steps(stages))
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.expert, num_experts=config.model.num_experts)
    for stage in stages:
        micro_batch(config).accumulation_steps(mesh.size, stage.global_batch_size, stage.seq_len)
    model = model_config(config, vocab_size)
    device = jax.devices()[0]
    check_dtype(model.dtype, device.device_kind, getattr(device, "compute_capability", None))
    seq_lens = [stage.seq_len for stage in stages]
    attention_backend, attention_reason = choose_attention_backend(
        model, jax.default_backend(), seq_lens, has_documents=model.document_mask or has_packed_rows
    )
    if attention_backend == "cudnn_packed":
        from tonsai_jax.model.document_attention import difference_on_this_gpu  # imported here: few runs have documents

        # Every process asks the others: all must run the same program.
        if differences := [text for text in gather_texts(difference_on_this_gpu(model) or "") if text]:
            attention_backend, attention_reason = "cudnn", reason_for_mask(differences[0])
    experts_backend, experts_reason = "batched", "a dense model has none"
    if model.num_experts:
        from tonsai_jax.model.grouped import choose_experts_backend  # imported here: most models are dense

        experts_backend, experts_reason = choose_experts_backend(model, jax.default_backend(), mesh.shape["expert"])
        obstacle = "" if experts_backend == "grouped" else experts_reason
        if obstacles := [text for text in gather_texts(obstacle) if text]:
            experts_backend, experts_reason = "batched", obstacles[0]
    optimizer = make_optimizer(**optimizer_settings(config))
    lora = lora_settings(config)
    state = abstract_state(model, optimizer, mesh, lora)
    if config.optimizer.frozen_steps:
        mask_of(state.params, config.optimizer.frozen_except)  # only for its error
    return Setup(
        stages,
        mesh,
        model,
        attention_backend,
        attention_reason,
        experts_backend,
        experts_reason,
        lora,
        optimizer,
        state,
    )


def make_steps(
    config: ConfigDict, setup: Setup, *, end_of_text_id: int, token_bytes: np.ndarray, prefix_bytes: int = 0
) -> tuple[TrainStep, Callable[..., Any]]:
    """The training step and the evaluation step of a run, compiled when they are first called.

    The latter is from `make_eval_step`, or from `make_score_step` for a run with preferences.

    Args:
      end_of_text_id: of the token rows.
      token_bytes: int32 [vocab_size], UTF-8 bytes of each id.
      prefix_bytes: bytes that the tokenizer puts before every text.
    """
    graph = model_graph(setup.model_config, setup.attention_backend, setup.mesh, setup.lora, setup.experts_backend)
    loss = LossSettings(**loss_settings(config))
    schedule = learning_rate_schedule(
        config.optimizer.schedule,
        peak=config.optimizer.learning_rate,
        total_steps=total_steps(setup.stages),
        warmup_steps=config.optimizer.warmup_steps,
        decay_steps=config.optimizer.decay_steps,
        final_ratio=config.optimizer.final_ratio,
    )
    objective = None
    if config.loss.objective != "next_token":
        from tonsai_jax.training.objectives import Preference  # imported here: most runs learn the next token

        objective = Preference(config.loss.objective, config.loss.beta)
    distillation = None
    if setup.teachers:
        from tonsai_jax.training.distillation import make_distillation  # imported here: most runs have no teachers

        seq_lens = [stage.seq_len for stage in setup.stages]
        distillation = make_distillation(setup.teachers, config.distill.weight, end_of_text_id, seq_lens).loss
    train_step = make_train_step(
        graph,
        setup.optimizer,
        schedule,
        setup.mesh,
        loss=loss,
        end_of_text_id=end_of_text_id,
        dropout_key=jax.random.key(config.seed + 1),
        clip_norm=config.optimizer.clip_norm,
        objective=objective,
        distillation=distillation,
        micro_batch=micro_batch(config),
        frozen_steps=config.optimizer.frozen_steps,
        frozen_except=config.optimizer.frozen_except,
        deterministic=config.runtime.deterministic,
        layer_norms=config.layer_norms_every > 0,
    )
    if objective is not None:
        return train_step, make_score_step(graph, setup.mesh, loss=loss, end_of_text_id=end_of_text_id)
    eval_step = make_eval_step(
        graph,
        setup.mesh,
        loss=loss,
        end_of_text_id=end_of_text_id,
        token_bytes=jnp.asarray(token_bytes),
        prefix_bytes=prefix_bytes,
    )
    return train_step, eval_step
