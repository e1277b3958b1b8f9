"""The training step of `tonsai_jax.train` without a config file or data; the benchmarks in this folder time it."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from tonsai_jax.model.attention import choose_attention_backend
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.training.mesh import make_mesh, put_batch
from tonsai_jax.training.optimizer import learning_rate_schedule, make_optimizer
from tonsai_jax.training.state import TrainState, init_state, model_graph
from tonsai_jax.training.step import Batch, LossSettings, TrainStep, make_train_step


def make_step(
    model_config: ModelConfig, *, chunk_tokens: int, learning_rate: float = 3e-4
) -> tuple[TrainState, TrainStep, Mesh]:
    """An initial state, its compiled step (AdamW, constant learning rate, clipping at 1) and the mesh of all devices."""
    mesh = make_mesh(-1, 1)
    optimizer = make_optimizer("adamw", beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1)
    schedule = learning_rate_schedule(
        "cosine", peak=learning_rate, total_steps=1, warmup_steps=0, decay_steps=0, final_ratio=1.0
    )
    step = make_train_step(
        model_graph(model_config, choose_attention_backend(model_config, jax.default_backend())[0]),
        optimizer,
        schedule,
        mesh,
        loss=LossSettings(chunk_tokens=chunk_tokens, z_loss=0.0),
        end_of_text_id=0,
        dropout_key=jax.random.key(0),
        clip_norm=1.0,
    )
    return init_state(model_config, optimizer, mesh, seed=0), step, mesh


def compiled_with(step: TrainStep, state: TrainState, batch: Batch, options: dict[str, Any]) -> TrainStep:
    """The step of `make_step`, compiled for such a batch with more options of the XLA compiler than its own."""
    compiled: TrainStep = step.lower(state, batch).compile(compiler_options=options)  # type: ignore[attr-defined]  # it is jitted
    return compiled


def device_batch(tokens_BxT1: np.ndarray, mesh: Mesh) -> Batch:
    """The batch of a step on the devices, from uint16 tokens [B, T + 1] that are all valid."""
    B, T1 = tokens_BxT1.shape
    rows = {"tokens": tokens_BxT1, "valid": np.full(B, T1 - 1, np.int32), "stop": np.zeros(B, np.int32)}
    return put_batch(rows, mesh)
