"""A run that does not fit on its devices ends with one line: what needs the memory, and which micro-batch size would fit."""

import contextlib
from collections.abc import Iterator

import jax
import psutil
from ml_collections import ConfigDict

from tonsai_jax.data.manifest import read_manifest
from tonsai_jax.errors import UserError
from tonsai_jax.reporting.numbers import count_of

GIB = 2**30


@contextlib.contextmanager
def explain_out_of_memory(config: ConfigDict) -> Iterator[None]:
    """Turns an out-of-memory error of XLA, while compiling or in a step, into a `UserError` with `out_of_memory_advice`."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        # On a CPU the status is INTERNAL where the step was already dispatched; only the message says "Out of memory".
        if not any(words in str(error) for words in ("RESOURCE_EXHAUSTED", "Out of memory")):
            raise
        device = jax.local_devices()[0]
        vocab_size = config.model.vocab_size or read_manifest(config.data.dir).vocab_size
        usable = (device.memory_stats() or {}).get("bytes_limit", psutil.virtual_memory().total)
        advice = out_of_memory_advice(config, vocab_size, jax.device_count(), jax.default_backend(), usable)
        raise UserError(f"out of memory on {device.device_kind}, {usable / GIB:.1f} GiB usable: {advice}") from error


def out_of_memory_advice(config: ConfigDict, vocab_size: int, num_devices: int, backend: str, usable_bytes: int) -> str:
    """One line: the memory that the step of the fullest stage needs, by part, and what to set.

    Args:
      vocab_size: of the tokenizer, for a config with `model.vocab_size=0`.
      backend: of JAX: "gpu" or "cpu".
      usable_bytes: memory of one device that the run can use.
    """
    from tonsai_jax.planning.step_plan import plan_steps  # imported here: a run that fits never needs it

    plans = plan_steps(config, vocab_size=vocab_size, num_devices=num_devices, backend=backend)
    plan = max(plans, key=lambda each: sum(each.memory().values()))
    parts = plan.memory()
    listed = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items() if size >= GIB / 20)
    needs = (
        f"a step with {count_of(plan.micro_batch_size, 'sequence')} of {plan.stage.seq_len} tokens at once needs about "
        f"{sum(parts.values()) / GIB:.1f} GiB ({listed})"
    )
    fits = plan.largest_micro_batch_size(usable_bytes)
    if fits >= plan.micro_batch_size:
        return (
            f"{needs}, which should fit; look whether another program uses the memory (nvidia-smi), let JAX take more "
            f"of it (runtime.memory_fraction=0.95), or set micro_batch_size to less than "
            f"{plan.config_micro_batch_size(plan.micro_batch_size)}"
        )
    if fits:
        return (
            f"{needs}; set micro_batch_size={plan.config_micro_batch_size(fits)}, which needs about "
            f"{sum(plan.memory(fits).values()) / GIB:.1f} GiB"
        )
    return f"{needs}; not even one sequence fits; set model.remat=full, a larger mesh.fsdp or a smaller seq_len"
