"""The training step of each stage of a config, on devices that need not exist."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import optax
from ml_collections import ConfigDict

from tonsai_jax.config import lora_settings, micro_batch, model_config, optimizer_settings, stages_of
from tonsai_jax.config_checks import validate
from tonsai_jax.model.attention import choose_attention_backend
from tonsai_jax.model.config import Lora, ModelConfig
from tonsai_jax.planning.memory import largest_micro_batch_size, memory_by_part
from tonsai_jax.runtime.hardware import Gpu
from tonsai_jax.runtime.memory import SMALL_PARAMETERS
from tonsai_jax.stages import Stage
from tonsai_jax.training.mesh import mesh_sizes
from tonsai_jax.training.optimizer import make_optimizer

# What `remat="auto"` tries, the fastest first by the bytes of the compiled steps (docs/performance.md): a scan copies all that is
# kept into stacks and out of them, so there it is faster to keep less. And the share of the memory that the estimate may fill:
# it is up to 11 % too low on several GPUs (docs/estimate.md).
REMAT_BY_SPEED = {"unrolled": ("none", "qkv_mlp", "full"), "scanned": ("qkv_mlp", "full")}
FILLED_SHARE = 0.9


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """The training step of one stage.

    Attributes:
      attention_backend: from `choose_attention_backend`; documents are packed where a run would pack them, unless its GPU fails
        the comparison at the start.
      lora: the adapters, where only they are trained.
      mesh_sizes: devices along each axis of the mesh.
      sequences_per_device: sequences of a step that one device processes.
      accumulation_steps: micro-batches in which it processes them, one after the other.
      experts_backend: see `mixture_of_experts`. What a GPU can run is only known there, so plans are "batched".
    """

    config: ConfigDict
    stage: Stage
    model_config: ModelConfig
    optimizer: optax.GradientTransformation
    attention_backend: str
    lora: Lora | None
    mesh_sizes: Mapping[str, int]
    sequences_per_device: int
    accumulation_steps: int
    experts_backend: str = "batched"

    @property
    def micro_batch_size(self) -> int:
        """Sequences of this stage that a device processes at once."""
        return self.sequences_per_device // self.accumulation_steps

    def memory(self, micro_batch_size: int | None = None) -> dict[str, int]:
        """Bytes on a device by part, see `memory_by_part`; `micro_batch_size` replaces that of the config."""
        size = micro_batch_size or self.micro_batch_size
        return memory_by_part(**self._settings(), micro_batch_size=size, accumulates=size < self.sequences_per_device)

    def peak_bytes(self) -> int:
        """The sum of `memory`."""
        return sum(self.memory().values())

    def largest_micro_batch_size(self, usable_bytes: int) -> int:
        """The largest micro-batch that fits and divides `sequences_per_device`; 0 where one sequence does not fit."""
        return largest_micro_batch_size(
            usable_bytes, sequences_per_device=self.sequences_per_device, **self._settings()
        )

    def largest_micro_batch_size_of_any_batch(self, usable_bytes: int) -> int:
        """The most sequences that fit at once, whatever the batch size; 0 where one sequence does not fit."""
        return largest_micro_batch_size(usable_bytes, **self._settings())

    def config_micro_batch_size(self, micro_batch_size: int) -> int:
        """The value of the config key `micro_batch_size` for this many sequences of the stage.

        The key counts sequences of `config.seq_len` tokens; those of the stage may have another length.
        """
        if micro_batch_size == 0:
            return 0
        return max(1, micro_batch_size * self.stage.seq_len // self.config.seq_len)

    def _settings(self) -> dict[str, Any]:
        return {
            "model_config": self.model_config,
            "optimizer": self.optimizer,
            "attention_backend": self.attention_backend,
            "mesh_sizes": self.mesh_sizes,
            "lora": self.lora,
            "seq_len": self.stage.seq_len,
            "chunk_tokens": self.config.loss.chunk_tokens,
        }


def usable_bytes(config: ConfigDict, gpu: Gpu) -> int:
    """The bytes of a GPU's memory that JAX allocates."""
    return int(gpu.memory_bytes * config.runtime.memory_fraction)


def plan_steps(
    config: ConfigDict,
    *,
    vocab_size: int,
    num_devices: int,
    backend: str,
    usable_bytes: float,
    attention_backend: str = "",
) -> tuple[StepPlan, ...]:
    """The training step of each stage.

    Args:
      vocab_size: of the tokenizer, for a config with `model.vocab_size=0`.
      backend: of JAX: "gpu" or "cpu"; it decides which attention backend and which remat "auto" is.
      usable_bytes: memory of one device that the run can use; only "auto" needs it.
      attention_backend: of a run that has chosen it already; "" chooses it here, without a look at rows and devices.

    Raises `UserError` for a config that cannot be trained on this number of devices.
    """
    validate(config)
    model = model_config(config, vocab_size)
    attention_backend = (
        attention_backend
        or choose_attention_backend(
            model, backend, [stage.seq_len for stage in stages_of(config)], has_documents=model.document_mask
        )[0]
    )
    if model.remat != "auto":
        return _plans(config, model, num_devices, attention_backend)
    if backend == "cpu" or model.num_parameters < SMALL_PARAMETERS:
        return _plans(config, dataclasses.replace(model, remat="none"), num_devices, attention_backend)
    for remat in REMAT_BY_SPEED["scanned" if model.scan_layers else "unrolled"]:
        plans = _plans(config, dataclasses.replace(model, remat=remat), num_devices, attention_backend)
        if max(plan.peak_bytes() for plan in plans) <= FILLED_SHARE * usable_bytes:
            break
    return plans


def _plans(config: ConfigDict, model: ModelConfig, num_devices: int, attention_backend: str) -> tuple[StepPlan, ...]:
    stages = stages_of(config)
    axes = config.mesh
    sizes = mesh_sizes(axes.data, axes.fsdp, axes.expert, count=num_devices, num_experts=model.num_experts)
    optimizer = make_optimizer(**optimizer_settings(config))
    return tuple(
        StepPlan(
            config=config,
            stage=stage,
            model_config=model,
            optimizer=optimizer,
            attention_backend=attention_backend,
            lora=lora_settings(config),
            mesh_sizes=sizes,
            accumulation_steps=micro_batch(config).accumulation_steps(
                num_devices, stage.global_batch_size, stage.seq_len
            ),
            sequences_per_device=stage.global_batch_size // num_devices,
        )
        for stage in stages
    )
