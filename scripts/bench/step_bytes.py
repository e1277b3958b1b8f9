"""What the step of a config computes and moves on a GPU that need not be there: read from the program that XLA compiles for it.

The step has one micro-batch, and no time is measured. The roofline adds the times of its parts at the speeds of an H200: the
products at 0.82 of what a large product reached (788 TFLOP/s; the share is assumed), fused attention at 280 TFLOP/s (assumed)
and all other kernels at 4.0 TB/s (a copy reached 4.3). Another GPU has the same shares of its peak. Needs JAX's CUDA plugin
(uv sync --inexact --extra cuda13), no driver and no GPU.
"""

import argparse
import dataclasses
import os
import re
import sys
from pathlib import Path
from typing import Any

from tonsai_jax.errors import UserError, run_command
from tonsai_jax.files import write_json

EXAMPLE = """examples:
  python scripts/bench/step_bytes.py --config configs/gpt2_500m.py --gpu h200
  python scripts/bench/step_bytes.py --config configs/moe_1b.py --gpu h200 --config.model.remat=qkv_mlp --kernels 30
"""
PRODUCTS_SHARE = 0.82 * 788 / 989  # of the peak
ATTENTION_SHARE = 280 / 989  # of the peak
COPY_SHARE = 4.0 / 4.8  # of the bandwidth
PER_STEP = "kernels", "num_bytes", "recomputed_bytes", "flops"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "--config", required=True, metavar="FILE", help="config file of the run; its keys as --config.section.key=value"
    )
    add("--gpu", default="h200", metavar="NAME", help="h100 or h200 (default: h200)")
    add("--num-gpus", type=int, default=1, metavar="N", help="GPUs of one machine; figures are of each (default: 1)")
    add(
        "--experts",
        choices=("batched", "grouped"),
        default="batched",
        help="products of experts that drop nothing (default: batched); grouped are the kernels that a Hopper can use",
    )
    add("--kernels", type=int, default=0, metavar="N", help="also list the N groups of kernels with the most bytes")
    add("--program", type=Path, metavar="FILE", help="also write the text of the program to this file")
    add("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    args, keys = parser.parse_known_args()
    os.environ["JAX_PLATFORMS"] = "cpu"  # leaves a GPU of this machine alone
    from tonsai_jax.cli import parse_flags
    from tonsai_jax.planning.compiled import compile_step
    from tonsai_jax.planning.described_gpu import why_not_compiled
    from tonsai_jax.planning.step_plan import plan_steps, usable_bytes
    from tonsai_jax.runtime.hardware import gpu_named
    from tonsai_jax.runtime.libraries import quiet_libraries

    quiet_libraries()
    if args.num_gpus < 1:
        raise UserError(f"--num-gpus {args.num_gpus} must be at least 1")
    gpu = gpu_named(args.gpu)
    if obstacle := why_not_compiled(gpu):
        raise UserError(f"--gpu {args.gpu}: the step cannot be compiled: {obstacle}")
    config, _, _ = parse_flags([sys.argv[0], f"--config={args.config}", *keys], "")
    if not config.model.vocab_size:
        raise UserError("model.vocab_size=0 takes the tokenizer's; add --config.model.vocab_size=50000")
    if not config.micro_batch_size:
        raise UserError("micro_batch_size=0 is the whole batch; add --config.micro_batch_size=16")
    config.global_batch_size = config.micro_batch_size * args.num_gpus
    config.stages = ()
    config.steps = config.steps or 1
    sizes = {
        "vocab_size": config.model.vocab_size,
        "num_devices": args.num_gpus,
        "usable_bytes": usable_bytes(config, gpu),
    }
    (plan,) = plan_steps(config, **sizes, backend="gpu")
    plan = dataclasses.replace(plan, experts_backend=args.experts)
    step = compile_step(plan, gpu)
    figures = step_figures(plan, step, gpu)
    print(as_text(figures))
    if args.kernels:
        print(kernels_as_text(step, args.kernels))
    if args.program:
        args.program.write_text(step.text, encoding="utf-8")
    if args.json:
        write_json(args.json, figures)


def step_figures(plan: Any, step: Any, gpu: Any) -> dict[str, Any]:
    """The figures of one step on each GPU: bytes, FLOPs and seconds."""
    from tonsai_jax.planning.roofline import flops_by_part
    from tonsai_jax.planning.traffic import FUSED_ATTENTION, PRODUCTS, traffic_by_kind

    by_kind = traffic_by_kind(step.kernels)
    tokens = plan.sequences_per_device * plan.stage.seq_len
    parts = flops_by_part(plan.model_config, plan.stage.seq_len, plan.lora)
    other_bytes = sum(each.num_bytes for kind, each in by_kind.items() if kind not in (PRODUCTS, FUSED_ATTENTION))
    flops = sum(each.flops for each in by_kind.values())
    seconds = {
        "products": flops / (gpu.peak_flops * PRODUCTS_SHARE),
        "attention": tokens * (parts["attention"] + parts["outside_window"]) / (gpu.peak_flops * ATTENTION_SHARE),
        "other": other_bytes / (gpu.memory_bandwidth * COPY_SHARE),
    }
    rate = tokens / sum(seconds.values())
    return {
        "gpu": gpu.name,
        "tokens": tokens,
        "mesh": dict(plan.mesh_sizes),
        "kinds": {kind: {name: getattr(each, name) for name in PER_STEP} for kind, each in by_kind.items()},
        "product_flops": flops,
        "other_bytes": other_bytes,
        "kernels": sum(each.kernels for each in by_kind.values()),
        "peak_bytes": step.peak_bytes,
        "compile_seconds": step.seconds,
        "seconds": seconds,
        "tokens_per_second": rate,
        "mfu": rate * plan.model_config.flops_per_token(plan.stage.seq_len) / gpu.peak_flops,
    }


def as_text(figures: dict[str, Any]) -> str:
    from tonsai_jax.reporting.tables import Table, as_text

    heads = ["", "kernels", "GB", "recomputed GB", "TFLOP"]
    rows = [
        [
            kind,
            f"{each['kernels']:,}",
            *(f"{each[name] / 1e9:.1f}" for name in PER_STEP[1:3]),
            f"{each['flops'] / 1e12:.1f}",
        ]
        for kind, each in figures["kinds"].items()
    ]
    seconds = ", ".join(f"{name} {1e3 * value:.0f}" for name, value in figures["seconds"].items())
    lines = [
        f"products {figures['product_flops'] / 1e12:.1f} TFLOP, other traffic {figures['other_bytes'] / 1e9:.0f} GB "
        f"(neither products nor fused attention), {figures['kernels']:,} kernels, peak {figures['peak_bytes'] / 2**30:.1f} GiB",
        f"roofline, not a measurement: {1e3 * sum(figures['seconds'].values()):.0f} ms ({seconds}), "
        f"{figures['tokens_per_second']:,.0f} tokens/s, MFU {figures['mfu']:.1%}",
    ]
    title = f"A step of {figures['tokens']:,} tokens on each {figures['gpu']}, compiled in {figures['compile_seconds']:.0f} s"
    return "\n".join([as_text(Table(title, heads, rows, "lrrrr")), *lines])


def kernels_as_text(step: Any, count: int) -> str:
    """The groups of alike kernels with the most bytes: those of the layers are one group."""
    from collections import defaultdict

    from tonsai_jax.reporting.tables import Table, as_text

    groups: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for each in step.kernels:
        groups[each.kind, re.sub(r"jit\(train_step\)/|\d+", "", each.op_name)].append(each)
    total = {group: sum(each.times * each.num_bytes for each in kernels) for group, kernels in groups.items()}
    largest = sorted(groups, key=lambda group: -total[group])[:count]
    rows = [
        [group[0], f"{total[group] / 1e9:.2f}", f"{sum(each.times for each in groups[group]):,}", group[1][:90]]
        for group in largest
    ]
    return as_text(Table("Kernels with the most bytes", ["", "GB", "kernels", "from"], rows, "lrrl"))


if __name__ == "__main__":
    run_command(main)
