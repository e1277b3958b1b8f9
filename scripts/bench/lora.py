"""What LoRA saves in a training step: time, FLOPs and memory, next to a step that trains all parameters of the same model.

Both steps are compiled in this process and take turns on the same random tokens, a few steps each, so that a change in the speed
of the machine affects both. The state is that of a run: parameters, AdamW's moments, the frozen base in the compute dtype.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from our_step import device_batch

from tonsai_jax.errors import run_command
from tonsai_jax.files import write_json
from tonsai_jax.model.attention import choose_attention_backend
from tonsai_jax.model.config import LORA_TARGETS, Lora, ModelConfig
from tonsai_jax.runtime.memory import keep_freed_memory
from tonsai_jax.training.mesh import make_mesh
from tonsai_jax.training.optimizer import learning_rate_schedule, make_optimizer
from tonsai_jax.training.state import init_state, model_graph
from tonsai_jax.training.step import LossSettings, make_train_step

EXAMPLE = """example:
  python scripts/bench/lora.py --rounds 8 --json lora.json
  python scripts/bench/lora.py --layers 24 --width 1024 --seq-len 1024 --batch 16 --dtype bfloat16   # a GPU
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--layers", type=int, default=6, help="layers of the GPT-2 (default: 6)")
    add("--width", type=int, default=384, help="its width, a multiple of 64 (default: 384)")
    add("--vocab-size", type=int, default=16384, help="its ids (default: 16384)")
    add("--seq-len", type=int, default=256, help="tokens in a sequence (default: 256)")
    add("--batch", type=int, default=8, help="sequences in a step (default: 8)")
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help="compute dtype (default: float32)")
    add("--rank", type=int, default=16, help="of the adapters, on all matrices of the layers (default: 16)")
    add("--dropout", type=float, default=0.0, help="of the adapters (default: 0)")
    add("--rounds", type=int, default=8, help="turns of each step (default: 8)")
    add("--steps", type=int, default=2, help="steps per turn; their mean is one sample (default: 2)")
    add("--json", type=Path, metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    keep_freed_memory()
    config = ModelConfig(
        vocab_size=args.vocab_size,
        context_length=args.seq_len,
        num_layers=args.layers,
        num_heads=args.width // 64,
        d_model=args.width,
        d_ff=4 * args.width,
        dtype=args.dtype,
        scan_layers=False,
    )
    lora = Lora(args.rank, alpha=16.0, dropout=args.dropout, targets=LORA_TARGETS)
    rng = np.random.default_rng(0)
    shape = (args.batch, args.seq_len + 1)

    def tokens() -> np.ndarray:
        return rng.integers(0, args.vocab_size, shape).astype(np.uint16)

    figures, runs = {}, {}
    for name, adapters in (("full", None), ("lora", lora)):
        figures[name], runs[name] = prepare(config, adapters, tokens())
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            seconds[name].append(run([tokens() for _ in range(args.steps)]))
    for name, samples in seconds.items():
        figures[name]["seconds"] = statistics.median(samples)
        figures[name]["fastest"], figures[name]["slowest"] = min(samples), max(samples)
    ratios = {key: figures["lora"][key] / figures["full"][key] for key in figures["full"]}
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    print(
        f"{config.num_parameters / 1e6:.1f} M parameters, {args.dtype}, {args.batch} x {args.seq_len} tokens, rank ",
        end="",
    )
    print(f"{args.rank} ({lora.num_parameters(config) / 1e6:.2f} M), {device}, load {os.getloadavg()[0]:.1f}")
    print(f"{'':<18}{'full':>10}{'LoRA':>10}{'ratio':>8}")
    rows = [("seconds", "step, s", 1.0), ("flops", "GFLOP", 1e9), ("parameter_bytes", "parameters, MB", 1e6)]
    rows += [("optimizer_bytes", "optimizer, MB", 1e6), ("scratch_bytes", "scratch, MB", 1e6)]
    for key, title, unit in rows:
        full, ours = figures["full"][key] / unit, figures["lora"][key] / unit
        print(f"{title:<18}{full:>10.3f}{ours:>10.3f}{ratios[key]:>8.3f}")
    for name in figures:
        print(f"{name}: {figures[name]['fastest']:.3f} to {figures[name]['slowest']:.3f} s")
    if args.json:
        settings = {name: value for name, value in vars(args).items() if name != "json"}
        write_json(args.json, settings | {"device": device, "figures": figures, "ratios": ratios})


def prepare(
    config: ModelConfig, lora: Lora | None, tokens: np.ndarray
) -> tuple[dict[str, float], Callable[[list[np.ndarray]], float]]:
    """The figures of a compiled step, and a function that times it: seconds of a step, mean over some batches."""
    mesh = make_mesh(-1, 1)
    optimizer = make_optimizer("adamw", beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1)
    schedule = learning_rate_schedule(
        "cosine", peak=3e-4, total_steps=1, warmup_steps=0, decay_steps=0, final_ratio=1.0
    )
    backend, _ = choose_attention_backend(config, jax.default_backend())
    step = make_train_step(
        model_graph(config, backend, lora=lora),
        optimizer,
        schedule,
        mesh,
        loss=LossSettings(chunk_tokens=512 if jax.default_backend() == "cpu" else 4096, z_loss=0.0),
        end_of_text_id=0,
        dropout_key=jax.random.key(0),
        clip_norm=1.0,
    )
    state = init_state(config, optimizer, mesh, 0, lora)
    compiled = step.lower(state, device_batch(tokens, mesh)).compile()  # type: ignore[attr-defined]  # it is jitted
    figures = {
        "flops": compiled.cost_analysis()["flops"],
        "parameter_bytes": _bytes((state.params, state.frozen)),
        "optimizer_bytes": _bytes(state.opt_state),
        "scratch_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }

    def seconds(batches: list[np.ndarray]) -> float:
        nonlocal state
        start = time.perf_counter()
        for tokens in batches:
            state, metrics = compiled(state, device_batch(tokens, mesh))
            float(metrics["loss"])
        return (time.perf_counter() - start) / len(batches)

    seconds([tokens])
    return figures, seconds


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


if __name__ == "__main__":
    run_command(main)
