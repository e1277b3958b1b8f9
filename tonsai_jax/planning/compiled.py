"""The training step compiled by XLA for a GPU that this machine does not have: its memory and its collectives, no times."""

import dataclasses
import functools
import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from tonsai_jax.config import loss_settings, micro_batch
from tonsai_jax.data.manifest import dtype_for
from tonsai_jax.planning.collectives import Collectives, read_collectives
from tonsai_jax.planning.described_gpu import cudnn_attention_without_a_gpu, described_mesh
from tonsai_jax.planning.program import Program, read_program
from tonsai_jax.planning.step_plan import StepPlan
from tonsai_jax.planning.traffic import Kernel, read_kernels
from tonsai_jax.runtime.hardware import Gpu
from tonsai_jax.runtime.xla import set_optimization_level
from tonsai_jax.training.mesh import BATCH_AXES
from tonsai_jax.training.state import abstract_state, model_graph
from tonsai_jax.training.step import LossSettings, make_train_step


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """What the compiled program needs on each GPU.

    Attributes:
      state_bytes: the inputs, mostly parameters and moments; the new state reuses their memory.
      scratch_bytes: everything else that the program allocates: activations, gradients, workspace.
      text: of the optimized program.
      seconds: the time that compiling took.
    """

    state_bytes: int
    scratch_bytes: int
    text: str
    seconds: float

    @property
    def collectives(self) -> Mapping[str, Collectives]:
        """The collectives of one step, by kind."""
        return read_collectives(self._program)

    @property
    def kernels(self) -> list[Kernel]:
        """The kernels of one step."""
        return read_kernels(self._program)

    @functools.cached_property
    def _program(self) -> Program:
        return read_program(self.text)

    @property
    def peak_bytes(self) -> int:
        """The memory of a GPU that the step needs."""
        return self.state_bytes + self.scratch_bytes


def compile_step(plan: StepPlan, gpu: Gpu) -> CompiledStep:
    """Compiles the step that `tonsai_jax.train` runs. It takes seconds with scanned layers, minutes with unrolled ones.

    Needs JAX's CUDA plugin (see `described_gpu.why_not_compiled`), but no driver and no GPU. On a real GPU, XLA measures several
    GPU kernels and takes the fastest; here it cannot, so the scratch memory may differ.
    """
    begin = time.monotonic()
    mesh = described_mesh(gpu, plan.mesh_sizes)
    step = make_train_step(
        model_graph(plan.model_config, plan.attention_backend, mesh, plan.lora),
        plan.optimizer,
        lambda step: jnp.float32(plan.config.optimizer.learning_rate),  # its value changes no array
        mesh,
        loss=LossSettings(**loss_settings(plan.config)),
        end_of_text_id=0,
        dropout_key=jax.random.key(0),
        clip_norm=plan.config.optimizer.clip_norm,
        micro_batch=micro_batch(plan.config),
    )
    by_row = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    rows, dtype = plan.stage.global_batch_size, dtype_for(plan.model_config.vocab_size)
    batch = {
        "tokens": jax.ShapeDtypeStruct((rows, plan.stage.seq_len + 1), dtype, sharding=by_row),
        "valid": jax.ShapeDtypeStruct((rows,), np.int32, sharding=by_row),
        "stop": jax.ShapeDtypeStruct((rows,), np.int32, sharding=by_row),
    }
    level = jax.config.jax_optimization_level  # type: ignore[attr-defined]  # options are added at run time
    set_optimization_level(plan.config.runtime.optimization_level, "gpu", mesh.size)
    try:
        with cudnn_attention_without_a_gpu():
            state = abstract_state(plan.model_config, plan.optimizer, mesh, plan.lora)
            compiled = step.lower(state, batch).compile()  # type: ignore[attr-defined]  # it is jitted
    finally:
        jax.config.update("jax_optimization_level", level)
    memory = compiled.memory_analysis()
    return CompiledStep(
        state_bytes=memory.argument_size_in_bytes,
        scratch_bytes=memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        text=compiled.as_text() or "",
        seconds=time.monotonic() - begin,
    )
