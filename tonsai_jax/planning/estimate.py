"""The figures of a run before it starts: memory, speed, hours and cost of a config on given GPUs."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from tonsai_jax.config import stages_of
from tonsai_jax.data.manifest import RowsManifest, read_manifest
from tonsai_jax.data.order import DataOrder
from tonsai_jax.errors import UserError
from tonsai_jax.planning.collectives import KINDS, Links, least_bytes, seconds_on_the_wire
from tonsai_jax.planning.compiled import CompiledStep, compile_step
from tonsai_jax.planning.described_gpu import why_not_compiled
from tonsai_jax.planning.memory import described_state, local_parameters
from tonsai_jax.planning.roofline import flops_by_part, run_cost, seconds_by_part
from tonsai_jax.planning.step_plan import StepPlan, plan_steps, usable_bytes
from tonsai_jax.runtime.hardware import Gpu
from tonsai_jax.stages import Stage, tokens_between, total_steps


def estimate(
    config: ConfigDict,
    gpu: Gpu,
    num_gpus: int,
    *,
    gpus_per_host: int = 8,
    network_gbit: float = 400.0,
    tokens: float | None = None,
    price: float | None = None,
    compiles: bool = True,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """The figures as plain values for JSON; bytes, seconds and FLOPs are those of one GPU in one step.

    Args:
      gpus_per_host: GPUs of a machine; more GPUs are several machines.
      network_gbit: Gb/s of one GPU to other machines in one direction.
      tokens: length of the whole run, in place of the config's steps; stages keep their shares.
      price: of one GPU for one hour, in any currency.
      compiles: whether to also compile the step, where the GPU and JAX's CUDA plugin allow it.
      say: prints a line about what takes long and what is missing in the figures.

    Raises `UserError` for a config that cannot run on these GPUs.
    """
    if num_gpus < 1:
        raise UserError(f"--num-gpus {num_gpus} must be at least 1")
    if gpus_per_host < 1:
        raise UserError(f"--gpus-per-host {gpus_per_host} must be at least 1")
    if num_gpus > gpus_per_host and num_gpus % gpus_per_host:
        raise UserError(
            f"--num-gpus {num_gpus} is no multiple of --gpus-per-host {gpus_per_host}; give the GPUs of one machine there"
        )
    if not 0 < network_gbit < math.inf:
        raise UserError(f"--network-gbit {network_gbit:g} must be above 0")
    if tokens is not None and not 0 < tokens < math.inf:
        raise UserError(f"--tokens {tokens:g} must be above 0")
    if price is not None and not 0 <= price < math.inf:
        raise UserError(f"--price {price:g} must be at least 0")
    if config.distill.teachers:
        say(
            f"not counted: config.distill.teachers ({len(config.distill.teachers)}); each adds its parameters to the memory, and "
            "its forward pass to a step, a third of a step that trains it"
        )
    manifest = read_manifest(config.data.dir) if _has_rows(config) else None
    if manifest is None and not config.model.vocab_size:
        raise UserError(
            "model.vocab_size=0 takes the size of the tokenizer, which is not known without token rows; "
            "add --data DIR (token rows), or --config.model.vocab_size=50000"
        )
    # A model to continue from has its own size, and need not have a row for every special token of its tokenizer.
    vocab_size = manifest.vocab_size if manifest and not config.init_from else config.model.vocab_size
    usable = usable_bytes(config, gpu)
    plans = plan_steps(config, vocab_size=vocab_size, num_devices=num_gpus, backend="gpu", usable_bytes=usable)
    model_config = plans[0].model_config
    if gpu.flops_for(model_config.dtype) == 0:
        raise UserError(f"{gpu.name} has no {model_config.dtype}; add --config.model.dtype=float16")
    obstacle = why_not_compiled(gpu) if compiles else "--no-compile"
    if obstacle:
        say(f"not compiled ({obstacle}): memory and collectives of the real program are missing")
    planned = stages_of(config, manifest.train_sizes() if manifest else None)
    if tokens is not None and len(planned) == 1:
        planned = (dataclasses.replace(planned[0], steps=1),)  # `tokens` replaces the length
    if not all(stage.steps for stage in planned):
        ways = "--data DIR, the token rows"
        if len(planned) == 1:
            ways = f"--tokens N, the tokens of the whole run, or {ways}"
        raise UserError(f"the length is in epochs of token rows, which are not there ({config.data.dir}); add {ways}")
    stages = _stages(planned, tokens)
    links = Links(gpu.link_bandwidth, network_gbit * 1e9 / 8, gpus_per_host, plans[0].mesh_sizes)
    figures = [_stage(plan, gpu, links, None if obstacle else _compile(plan, gpu, say)) for plan in plans]
    total_tokens = [stage.steps * stage.tokens_per_step for stage in stages]
    costs = [
        run_cost(n, each["tokens_per_second"], num_gpus, price) for n, each in zip(total_tokens, figures, strict=True)
    ]
    longest = max(plan.stage.seq_len for plan in plans)
    return {
        "gpu": dataclasses.asdict(gpu),
        "num_gpus": num_gpus,
        "hosts": max(1, num_gpus // gpus_per_host),
        "network_gbit": network_gbit,
        "mesh": dict(plans[0].mesh_sizes),
        "usable_bytes": usable,
        "parameters": model_config.num_parameters,
        "trained_parameters": plans[0].lora and plans[0].lora.num_parameters(model_config),
        "active_parameters": model_config.num_active_parameters,
        "dtype": model_config.dtype,
        "attention": plans[0].attention_backend,
        "remat": model_config.remat,
        "scan_layers": model_config.scan_layers,
        "flops_per_token": flops_by_part(model_config, longest, plans[0].lora),
        "stages": figures,
        "run": {
            "tokens": sum(total_tokens),
            "steps": total_steps(stages),
            **{key: sum(cost[key] for cost in costs) for key in costs[0]},
        },
        "epochs": _epochs(manifest, config.seed, stages) if manifest else None,
        "not_compiled": obstacle,
    }


def _has_rows(config: ConfigDict) -> bool:
    """Whether there are token rows: an estimate needs none, so the folder of a config may be absent."""
    is_made_by_run = config.data.sample_corpus or config.data.sample_questions
    return bool(config.data.dir) and not is_made_by_run and Path(config.data.dir).is_dir()


def _compile(plan: StepPlan, gpu: Gpu, say: Callable[[str], None]) -> CompiledStep:
    layers = "scanned" if plan.model_config.scan_layers else f"{plan.model_config.num_layers} unrolled"
    say(f"compiling the step for {gpu.name} ({layers} layers), which takes seconds to minutes")
    return compile_step(plan, gpu)


def _stage(plan: StepPlan, gpu: Gpu, links: Links, compiled: CompiledStep | None) -> dict[str, Any]:
    usable, memory = usable_bytes(plan.config, gpu), plan.memory()
    devices = math.prod(plan.mesh_sizes.values())
    state = described_state(plan.model_config, plan.optimizer, plan.mesh_sizes, plan.lora)
    least = least_bytes(state, plan.mesh_sizes, plan.accumulation_steps, plan.model_config.dtype)
    tokens = plan.sequences_per_device * plan.stage.seq_len
    seconds = seconds_by_part(
        plan.model_config,
        gpu,
        tokens=tokens,
        seq_len=plan.stage.seq_len,
        local_parameters=local_parameters(state),
        wire_seconds=seconds_on_the_wire(least, devices, links),
        lora=plan.lora,
    )
    step_seconds = sum(seconds.values())
    rate = tokens * devices / step_seconds
    parts = flops_by_part(plan.model_config, plan.stage.seq_len, plan.lora)
    flops = parts["gemm"] + parts["head"] + parts["attention"]
    return {
        "seq_len": plan.stage.seq_len,
        "global_batch_size": plan.stage.global_batch_size,
        "micro_batch": plan.micro_batch_size,
        "accumulation": plan.accumulation_steps,
        "memory": memory,
        "fits": sum(memory.values()) <= usable,
        "largest_micro_batch": plan.largest_micro_batch_size_of_any_batch(usable),
        "micro_batch_size": plan.config_micro_batch_size(plan.largest_micro_batch_size(usable)),
        "seconds": seconds,
        "tokens_per_second": rate,
        "mfu": rate / devices * flops / gpu.peak_flops,
        "scaling": (step_seconds - seconds["collectives"]) / step_seconds,
        "least_bytes": least,
        "compiled": compiled and _compiled_figures(compiled, step_seconds - seconds["collectives"], devices, links),
    }


def _compiled_figures(compiled: CompiledStep, compute_seconds: float, devices: int, links: Links) -> dict[str, Any]:
    found = compiled.collectives
    exposed_bytes = {kind: each.num_bytes - each.overlapped_bytes for kind, each in found.items()}
    exposed_seconds = seconds_on_the_wire(exposed_bytes, devices, links)
    return {
        "state_bytes": compiled.state_bytes,
        "scratch_bytes": compiled.scratch_bytes,
        "peak_bytes": compiled.peak_bytes,
        "collectives": {kind: dataclasses.asdict(found[kind]) for kind in KINDS if kind in found},
        "scaling": compute_seconds / (compute_seconds + exposed_seconds),
        "compile_seconds": compiled.seconds,
    }


def _stages(stages: Sequence[Stage], tokens: float | None) -> tuple[Stage, ...]:
    """The stages with the number of steps that makes `tokens`, or with their own steps where that is None."""
    if tokens is None:
        return tuple(stages)
    factor = tokens / tokens_between(stages, 0, total_steps(stages))
    return tuple(dataclasses.replace(stage, steps=max(1, round(stage.steps * factor))) for stage in stages)


def _epochs(manifest: RowsManifest, seed: int, stages: Sequence[Stage]) -> Mapping[str, float]:
    return DataOrder(manifest, seed=seed, stages=stages).epochs()
