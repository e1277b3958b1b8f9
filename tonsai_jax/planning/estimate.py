"""What a config will need and how long it will take on GPUs that nobody has rented yet: the figures."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from tonsai_jax.config import stages_of
from tonsai_jax.data.manifest import RowsManifest, read_manifest
from tonsai_jax.data.order import DataOrder
from tonsai_jax.errors import UserError
from tonsai_jax.planning.collectives import KINDS, least_bytes, seconds_on_the_wire
from tonsai_jax.planning.compiled import CompiledStep, compile_step
from tonsai_jax.planning.described_gpu import no_plugin_reason
from tonsai_jax.planning.memory import described_state, local_parameters
from tonsai_jax.planning.roofline import flops_by_part, run_cost, seconds_by_part
from tonsai_jax.planning.step_plan import StepPlan, plan_steps
from tonsai_jax.runtime.hardware import Gpu
from tonsai_jax.stages import Stage


def estimate(
    config: ConfigDict,
    gpu: Gpu,
    num_gpus: int,
    *,
    tokens: float | None = None,
    price: float | None = None,
    compiles: bool = True,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """The figures, as plain values for JSON; bytes, seconds and FLOPs are those of one GPU and one step.

    Args:
      tokens: of the whole run, instead of the config's steps; stages keep their shares.
      price: of one GPU for one hour, in any currency.
      compiles: whether to compile the step too, where the GPU and JAX's CUDA plugin allow it.
      say: is told what takes long, and what cannot be told.

    Raises `UserError` for a config that cannot run on these GPUs.
    """
    if num_gpus < 1:
        raise UserError(f"--num-gpus {num_gpus}: must be at least 1")
    if tokens is not None and not 0 < tokens < math.inf:
        raise UserError(f"--tokens {tokens:g}: must be above 0")
    if price is not None and not 0 <= price < math.inf:
        raise UserError(f"--price {price:g}: must be 0 or more")
    manifest = read_manifest(config.data.dir) if config.data.dir and not config.data.sample_corpus else None
    if manifest is None and not config.model.vocab_size:
        raise UserError("model.vocab_size is the tokenizer's, which is not known: add --data DIR (token rows), or "
                        "--config.model.vocab_size=50000")  # fmt: skip
    vocab_size = manifest.vocab_size if manifest else config.model.vocab_size
    plans = plan_steps(config, vocab_size=vocab_size, num_devices=num_gpus, backend="gpu")
    if gpu.flops_for(plans[0].shape.dtype) == 0:
        raise UserError(f"{gpu.name} has no {plans[0].shape.dtype}; add --config.model.dtype=float32")
    obstacle = no_plugin_reason(gpu) if compiles else "not asked for"
    if obstacle:
        say(f"not compiled ({obstacle}): no figures of the real program, its memory and its collectives")
    stages = _stages(stages_of(config), tokens)
    figures = [_stage(plan, gpu, None if obstacle else _compile(plan, gpu, say)) for plan in plans]
    total_tokens = [stage.steps * stage.global_batch_size * stage.seq_len for stage in stages]
    costs = [
        run_cost(n, each["tokens_per_second"], num_gpus, price) for n, each in zip(total_tokens, figures, strict=True)
    ]
    shape, longest = plans[0].shape, max(plan.stage.seq_len for plan in plans)
    return {
        "gpu": dataclasses.asdict(gpu),
        "num_gpus": num_gpus,
        "mesh": dict(plans[0].mesh_sizes),
        "usable_bytes": plans[0].usable_bytes(gpu),
        "parameters": shape.num_parameters,
        "active_parameters": shape.num_active_parameters,
        "dtype": shape.dtype,
        "attention": plans[0].kernel,
        "flops_per_token": flops_by_part(shape, longest),
        "stages": figures,
        "run": {
            "tokens": sum(total_tokens),
            "steps": sum(stage.steps for stage in stages),
            **{key: sum(cost[key] for cost in costs) for key in costs[0]},
        },
        "epochs": _epochs(manifest, config.seed, stages) if manifest else None,
        "not_compiled": obstacle,
    }


def _compile(plan: StepPlan, gpu: Gpu, say: Callable[[str], None]) -> CompiledStep:
    how = "scanned" if plan.shape.scan_layers else f"{plan.shape.num_layers} unrolled"
    say(f"compiling the step for {gpu.name} ({how} layers): seconds to minutes")
    return compile_step(plan, gpu)


def _stage(plan: StepPlan, gpu: Gpu, compiled: CompiledStep | None) -> dict[str, Any]:
    usable, memory = plan.usable_bytes(gpu), plan.memory()
    devices = math.prod(plan.mesh_sizes.values())
    state = described_state(plan.shape, plan.optimizer, plan.mesh_sizes)
    least = least_bytes(state, plan.mesh_sizes, plan.accumulation, plan.shape.dtype)
    tokens = plan.share * plan.stage.seq_len
    seconds = seconds_by_part(
        plan.shape,
        gpu,
        tokens=tokens,
        seq_len=plan.stage.seq_len,
        local_parameters=local_parameters(state),
        wire_seconds=seconds_on_the_wire(least, devices, gpu.link_bandwidth),
    )
    step_seconds = sum(seconds.values())
    rate = tokens * devices / step_seconds
    flops = plan.shape.flops_per_token(plan.stage.seq_len)
    return {
        "seq_len": plan.stage.seq_len,
        "global_batch_size": plan.stage.global_batch_size,
        "micro_batch": plan.micro_batch,
        "accumulation": plan.accumulation,
        "memory": memory,
        "fits": sum(memory.values()) <= usable,
        "largest_micro_batch": plan.largest_batch_of_any_size(usable),
        "micro_batch_size": plan.micro_batch_size(plan.largest_micro_batch(usable)),
        "seconds": seconds,
        "tokens_per_second": rate,
        "mfu": rate / devices * flops / gpu.peak_flops,
        "scaling": (step_seconds - seconds["collectives"]) / step_seconds,
        "least_bytes": least,
        "compiled": compiled and _of_compiled(compiled, step_seconds - seconds["collectives"], devices, gpu),
    }


def _of_compiled(compiled: CompiledStep, busy_seconds: float, devices: int, gpu: Gpu) -> dict[str, Any]:
    found = compiled.collectives
    waits = {kind: each.num_bytes - each.overlapped_bytes for kind, each in found.items()}
    wire = seconds_on_the_wire(waits, devices, gpu.link_bandwidth)
    return {
        "state_bytes": compiled.state_bytes,
        "scratch_bytes": compiled.scratch_bytes,
        "peak_bytes": compiled.peak_bytes,
        "collectives": {kind: dataclasses.asdict(found[kind]) for kind in KINDS if kind in found},
        "scaling": busy_seconds / (busy_seconds + wire),
        "compile_seconds": compiled.seconds,
    }


def _stages(stages: Sequence[Stage], tokens: float | None) -> tuple[Stage, ...]:
    """The stages with as many steps as make `tokens`, or with their own."""
    if tokens is None:
        return tuple(stages)
    factor = tokens / sum(stage.steps * stage.global_batch_size * stage.seq_len for stage in stages)
    return tuple(dataclasses.replace(stage, steps=max(1, round(stage.steps * factor))) for stage in stages)


def _epochs(manifest: RowsManifest, seed: int, stages: Sequence[Stage]) -> Mapping[str, float]:
    return DataOrder(manifest, seed=seed, stages=stages).epochs()
