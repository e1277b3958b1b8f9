"""The training step that a config asks for, stage by stage, on GPUs that need not be there."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import optax
from ml_collections import ConfigDict

from tonsai_jax.config import micro_batch, model_config, optimizer_settings, stages_of, validate
from tonsai_jax.model.attention import choose_attention_backend
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.planning.memory import largest_micro_batch, memory_by_part
from tonsai_jax.runtime.hardware import Gpu
from tonsai_jax.stages import Stage
from tonsai_jax.training.mesh import mesh_sizes
from tonsai_jax.training.optimizer import make_optimizer


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """One stage's step.

    Attributes:
      mesh_sizes: devices along each axis of the mesh.
      share: sequences of a GPU in a step.
      accumulation: parts in which it does them.
    """

    config: ConfigDict
    stage: Stage
    shape: ModelConfig
    optimizer: optax.GradientTransformation
    kernel: str
    mesh_sizes: Mapping[str, int]
    share: int
    accumulation: int

    @property
    def micro_batch(self) -> int:
        """Sequences that a GPU holds at a time."""
        return self.share // self.accumulation

    def memory(self, micro_batch: int | None = None) -> dict[str, int]:
        """`memory_by_part`, with this many sequences at a time or with the config's."""
        size = micro_batch or self.micro_batch
        return memory_by_part(**self._settings(), micro_batch=size, accumulates=size < self.share)

    def largest_micro_batch(self, usable_bytes: int) -> int:
        """The most sequences at a time that fit and divide a GPU's share of the batch; 0 where not even one does."""
        return largest_micro_batch(usable_bytes, share=self.share, **self._settings())

    def micro_batch_size(self, micro_batch: int) -> int:
        """The config's key for so many of this stage's sequences at a time: it counts sequences of `config.seq_len`."""
        if micro_batch == 0:
            return 0
        return max(1, micro_batch * self.stage.seq_len // self.config.seq_len)

    def largest_batch_of_any_size(self, usable_bytes: int) -> int:
        """The most sequences that fit at a time, whatever the batch; 0 where not even one does."""
        return largest_micro_batch(usable_bytes, **self._settings())

    def usable_bytes(self, gpu: Gpu) -> int:
        """The part of a GPU's memory that JAX takes."""
        return int(gpu.memory_bytes * self.config.runtime.memory_fraction)

    def _settings(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "optimizer": self.optimizer,
            "kernel": self.kernel,
            "mesh_sizes": self.mesh_sizes,
            "seq_len": self.stage.seq_len,
            "chunk_tokens": self.config.loss.chunk_tokens,
        }


def plan_steps(config: ConfigDict, *, vocab_size: int, num_devices: int, backend: str) -> tuple[StepPlan, ...]:
    """The step of each stage.

    Args:
      vocab_size: the tokenizer's, for a config that does not set one.
      backend: "gpu" or "cpu"; it decides which attention kernel "auto" is.

    Raises `UserError` for a config that cannot be trained on so many devices.
    """
    validate(config)
    shape = model_config(config, vocab_size)
    kernel, _ = choose_attention_backend(shape, backend, [stage.seq_len for stage in stages_of(config)])
    axes = config.mesh
    sizes = mesh_sizes(axes.data, axes.fsdp, axes.expert, count=num_devices, num_experts=shape.num_experts)
    optimizer = make_optimizer(**optimizer_settings(config))
    return tuple(
        StepPlan(
            config=config,
            stage=stage,
            shape=shape,
            optimizer=optimizer,
            kernel=kernel,
            mesh_sizes=sizes,
            accumulation=micro_batch(config).accumulation_steps(num_devices, stage.global_batch_size, stage.seq_len),
            share=stage.global_batch_size // num_devices,
        )
        for stage in stages_of(config)
    )
