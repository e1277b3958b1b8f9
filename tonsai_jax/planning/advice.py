"""What a person should know of a run that does not suit its devices or its text: before it starts, and when memory runs out."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import jax
from ml_collections import ConfigDict

from tonsai_jax.config import LENGTH_KEYS
from tonsai_jax.data.manifest import read_manifest
from tonsai_jax.errors import UserError
from tonsai_jax.reporting.numbers import count_of, format_count, format_seconds
from tonsai_jax.runtime.hardware import MATMUL_SHARE, cpu_count, gpu_of
from tonsai_jax.runtime.memory import SMALL_PARAMETERS, host_memory_limit, is_out_of_memory
from tonsai_jax.saved_config import copy_of
from tonsai_jax.stages import flops_between, total_steps
from tonsai_jax.training.setup import Setup

GIB = 2**30
SLOW_STEP_SECONDS = 60.0
CORE_FLOPS = 150e9  # float32 FLOP/s of a CPU core in products of matrices; docs/performance.md has what one reached
# Text read up to 4 times teaches about as much as new text; read some 40 times, a further time teaches nothing
# (Muennighoff et al. 2023, arXiv:2305.16264).
FEW_EPOCHS, MANY_EPOCHS = 4, 40


def warnings_before(
    config: ConfigDict,
    setup: Setup,
    *,
    tokenizer_vocab_size: int,
    epochs: Mapping[str, float],
    is_new: bool,
    hosts: Sequence[int] = (),
) -> Iterator[str]:
    """Yields a line for everything worth knowing; most runs get none.

    Args:
      tokenizer_vocab_size: ids of the tokenizer.
      epochs: how often the whole run reads each source.
      is_new: whether the run has no checkpoint yet, so that its model can still be another.
      hosts: the host of each device, see `hosts.processes.hosts_of_devices`.
    """
    yield from _slow(setup)
    yield from _too_large(config, setup)
    if is_new:
        yield from _unused_ids(setup, tokenizer_vocab_size)
    yield from _repeated(config, epochs)
    yield from mesh_across_hosts(config, setup.mesh.shape, hosts, setup.model_config.vocab_size, usable_bytes())


def _slow(setup: Setup) -> Iterator[str]:
    model, stages = setup.model_config, setup.stages
    device = jax.devices()[0]
    if device.platform == "cpu":
        rate = CORE_FLOPS * cpu_count() * jax.process_count()
    elif gpu := gpu_of(device.device_kind):
        rate = gpu.flops_for(model.dtype) * MATMUL_SHARE * setup.mesh.size
    else:
        return
    steps = total_steps(stages)
    run_seconds = flops_between(stages, 0, steps, setup.flops_per_token) / rate
    if run_seconds / steps < SLOW_STEP_SECONDS:
        return
    yield (
        f"warning: a step of this config takes at least {format_seconds(run_seconds / steps)} on these devices, and all "
        f"{steps:,} steps at least {format_seconds(run_seconds)} (at {format_count(rate / 1e9)} GFLOP/s, "
        f"more than they are expected to reach); {_smaller(device.platform)}"
    )


def _too_large(config: ConfigDict, setup: Setup) -> Iterator[str]:
    if setup.model_config.num_parameters < SMALL_PARAMETERS:
        return
    from tonsai_jax.planning.step_plan import plan_steps  # imported here: most first runs never need it

    device, usable = jax.local_devices()[0], usable_bytes()
    vocab_size = setup.model_config.vocab_size
    plans = plan_steps(
        config,
        vocab_size=vocab_size,
        num_devices=jax.device_count(),
        backend=jax.default_backend(),
        usable_bytes=usable,
        attention_backend=setup.attention_backend,
    )
    if max(plan.peak_bytes() for plan in plans) <= usable:
        return
    advice = out_of_memory_advice(config, vocab_size, jax.device_count(), jax.default_backend(), usable)
    yield (
        f"warning: this run does not fit in the {usable / GIB:.1f} GiB of {device.device_kind}: {advice}; "
        f"or {_smaller(device.platform)}"
    )


def mesh_across_hosts(
    config: ConfigDict, mesh: Mapping[str, int], hosts: Sequence[int], vocab_size: int, usable_bytes: int
) -> Iterator[str]:
    """Yields a line where parameters are split over hosts although they could be split inside each host.

    Args:
      mesh: devices along each axis.
      hosts: the host of each device, in the order of the mesh.
      usable_bytes: memory of one device that the run can use.
    """
    inner = mesh["fsdp"] * mesh["expert"]
    groups = [hosts[start : start + inner] for start in range(0, len(hosts), inner)]
    if all(len(set(group)) == 1 for group in groups):
        return
    per_host = min(Counter(hosts).values())
    if per_host % inner == 0:
        yield (
            f"note: mesh.fsdp={mesh['fsdp']} is spread over hosts although a host has {per_host} devices, because the processes "
            "of a host are not numbered in a row; start them host by host (Slurm: --distribution=block)"
        )
        return
    inside = [fsdp for fsdp in range(1, mesh["fsdp"]) if per_host % (fsdp * mesh["expert"]) == 0]
    if not inside:
        return
    from tonsai_jax.planning.step_plan import plan_steps  # imported here: only a few runs on several hosts need it

    changed = copy_of(config)
    changed.mesh.data, changed.mesh.fsdp = -1, inside[-1]
    plans = plan_steps(
        changed,
        vocab_size=vocab_size,
        num_devices=len(hosts),
        backend=jax.default_backend(),
        usable_bytes=usable_bytes,
    )
    if max(plan.peak_bytes() for plan in plans) <= usable_bytes:
        yield (
            f"note: mesh.fsdp={mesh['fsdp']} is spread over hosts, so every micro-batch sends all parameters over the network; "
            f"mesh.fsdp={inside[-1]} with mesh.data=-1 fits too, keeps them inside a host, and sends gradients once per step"
        )


def _unused_ids(setup: Setup, tokenizer_vocab_size: int) -> Iterator[str]:
    model = setup.model_config
    unused = model.vocab_size - tokenizer_vocab_size
    if unused <= 0:
        return
    parameters = unused * model.d_model * (1 if model.tie_embeddings else 2)
    flops = 6.0 * unused * model.d_model / model.flops_per_token(max(stage.seq_len for stage in setup.stages))
    yield (
        f"note: model.vocab_size={model.vocab_size:,} is larger than the tokenizer's {tokenizer_vocab_size:,} ids; the other "
        f"{unused:,} are never used and cost {format_count(parameters)} parameters and {flops:.0%} of each step; "
        "model.vocab_size=0 takes the tokenizer's"
    )


def _repeated(config: ConfigDict, epochs: Mapping[str, float]) -> Iterator[str]:
    for source, count in epochs.items():
        if count > MANY_EPOCHS:
            flags = {key: 0 for key in LENGTH_KEYS if config[key]} | {"epochs": FEW_EPOCHS, "epochs_of": source}
            command = " ".join(f"--config.{key}={value}" for key, value in flags.items())
            shorter = "the stages shorter" if config.stages else f"the run shorter ({command})"
            yield (
                f"warning: this run reads source {source!r} {count:,.0f} times; after about {MANY_EPOCHS} times the same text "
                f"teaches nothing more (arXiv:2305.16264). Make {shorter}, give the source a smaller weight, or add text"
            )
    often = [f"{source!r} {count:.1f}" for source, count in epochs.items() if FEW_EPOCHS < count <= MANY_EPOCHS]
    if often:
        yield (
            f"note: times that this run reads a source: {', '.join(often)}; beyond {FEW_EPOCHS} times the same text teaches "
            "less and less (arXiv:2305.16264)"
        )


def _smaller(platform: str) -> str:
    variant, device = ("", "a CPU") if platform == "cpu" else (":gpu", "one small GPU")
    return f"configs/small.py{variant} is made for {device}"


def usable_bytes() -> int:
    """The memory that JAX can use on a device of this process: all of the machine's on a CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", host_memory_limit())


@contextlib.contextmanager
def explain_out_of_memory(config: ConfigDict) -> Iterator[None]:
    """Turns an out-of-memory error of XLA, while compiling or in a step, into a `UserError` with `out_of_memory_advice`."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        device = jax.local_devices()[0]
        vocab_size = config.model.vocab_size or read_manifest(config.data.dir).vocab_size
        usable = usable_bytes()
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

    plans = plan_steps(
        config, vocab_size=vocab_size, num_devices=num_devices, backend=backend, usable_bytes=usable_bytes
    )
    plan = max(plans, key=lambda each: each.peak_bytes())
    parts = plan.memory()
    listed = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items() if size >= GIB / 20)
    needs = (
        f"a step with {count_of(plan.micro_batch_size, 'sequence')} of {plan.stage.seq_len} tokens at once needs about "
        f"{sum(parts.values()) / GIB:.1f} GiB ({listed})"
    )
    fits = plan.largest_micro_batch_size(usable_bytes)
    less_remat = "" if plan.model_config.recomputes else "model.remat=qkv_mlp, or "
    if fits >= plan.micro_batch_size:
        return (
            f"{needs}, which should fit; look whether another program uses the memory (nvidia-smi), let JAX take more "
            f"of it (runtime.memory_fraction=0.95), or set {less_remat}micro_batch_size to less than "
            f"{plan.config_micro_batch_size(plan.micro_batch_size)}"
        )
    if fits:
        return (
            f"{needs}; set micro_batch_size={plan.config_micro_batch_size(fits)}, which needs about "
            f"{sum(plan.memory(fits).values()) / GIB:.1f} GiB"
        )
    ways = "" if plan.model_config.remat == "full" else "model.remat=full, "
    return f"{needs}; not even one sequence fits; set {ways}a larger mesh.fsdp or a smaller seq_len"
