"""Tokens per second of the training step on this machine, compared with a plain PyTorch GPT-2 of the same size.

Both train in float32 on random tokens, with AdamW and clipping. Each variant has its own process. The processes take turns: one
runs a few steps while the others sleep, so that a change in the speed of the machine affects all of them equally.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tonsai_jax.errors import UserError, run_command
from tonsai_jax.runtime.memory import keep_freed_memory, return_freed_memory

EXAMPLE = """example:
  python scripts/bench/train_step.py --shape small large --rounds 8 --json train_step.json
PyTorch comes with the `hf` extra; without it, add --no-torch.
"""
SHAPES = {
    "small": {"num_layers": 4, "d_model": 128, "num_heads": 4, "seq_len": 256, "batch": 16, "vocab_size": 8192},
    "large": {"num_layers": 6, "d_model": 384, "num_heads": 6, "seq_len": 256, "batch": 8, "vocab_size": 50304},
}
OURS = ("ours, scanned", "ours, unrolled")
TORCH = ("torch eager", "torch compile", "torch compile + fused AdamW")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shape", nargs="+", choices=SHAPES, default=list(SHAPES), help="sizes of model and batch (default: both)")
    add("--rounds", type=int, default=8, help="turns per variant (default: 8)")
    add("--steps", type=int, default=3, help="steps per turn; their mean is one sample (default: 3)")
    add("--no-torch", action="store_true", help="do not run PyTorch")
    add("--torch-huge-pages", action="store_true", help="also put the memory of PyTorch on huge pages, as ours (glibc)")
    add("--json", type=Path, metavar="FILE", help="also write the figures here")
    add("--worker", nargs=2, metavar=("SHAPE", "VARIANT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(*args.worker)
        return
    if args.torch_huge_pages:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"  # our variants ask for huge pages themselves
    figures = {}
    for shape in args.shape:
        figures[shape] = compare(shape, OURS + (() if args.no_torch else TORCH), args.rounds, args.steps)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def compare(shape: str, variants: tuple[str, ...], rounds: int, steps: int) -> dict[str, float]:
    """Median tokens per second of each variant."""
    tokens = SHAPES[shape]["batch"] * SHAPES[shape]["seq_len"]
    workers = {variant: start_worker(shape, variant) for variant in variants}
    rates: dict[str, list[float]] = {variant: [] for variant in variants}
    try:
        for _ in range(rounds):
            for variant, worker in workers.items():
                time.sleep(0.3)  # until the threads of the variant before stop spinning
                rates[variant].append(steps * tokens / ask(worker, variant, steps))
    finally:
        for worker in workers.values():
            worker.kill()
    medians = {variant: statistics.median(samples) for variant, samples in rates.items()}
    print(f"\n{shape}: {SHAPES[shape]}, load {os.getloadavg()[0]:.1f}")
    best_torch = max((medians[variant] for variant in variants if variant in TORCH), default=None)
    for variant, samples in rates.items():
        ratio = "" if best_torch is None else f"   {medians[variant] / best_torch:.2f} x the best PyTorch"
        print(
            f"  {variant:<28}{medians[variant]:>8,.0f} tokens/s  ({min(samples):,.0f} to {max(samples):,.0f}){ratio}",
            flush=True,
        )
    return medians


def start_worker(shape: str, variant: str) -> subprocess.Popen[str]:
    """A process that has compiled its step and waits for the number of steps to run."""
    command = [sys.executable, __file__, "--worker", shape, variant]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if worker.stdout is None or worker.stdout.readline().strip() != "ready":
        raise UserError(f"{variant!r} did not start; PyTorch comes with the `hf` extra, --no-torch runs without it")
    return worker


def ask(worker: subprocess.Popen[str], variant: str, steps: int) -> float:
    """Seconds that the worker takes for `steps` steps."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        worker.stdin.write(f"{steps}\n")
        worker.stdin.flush()
    except BrokenPipeError:
        pass  # then there is no answer, which is handled below
    answer = worker.stdout.readline()
    if not answer:
        raise UserError(f"{variant!r} ended with exit code {worker.wait()} (-9 may be out of memory); run it again")
    return float(answer)


def work(shape: str, variant: str) -> None:
    """Compiles the step, prints "ready", then times the number of steps that each line of stdin gives."""
    sizes = SHAPES[shape]
    rng = np.random.default_rng(0)
    step = our_step(sizes, unrolled="unrolled" in variant) if variant in OURS else torch_step(variant, sizes)

    def batch() -> np.ndarray:
        return rng.integers(0, sizes["vocab_size"], (sizes["batch"], sizes["seq_len"] + 1)).astype(np.uint16)

    for _ in range(2):
        step(batch())
    if variant in OURS:
        return_freed_memory()  # of the compiler, as train.py does
    print("ready", flush=True)
    for line in sys.stdin:
        batches = [batch() for _ in range(int(line))]
        start = time.perf_counter()
        for tokens in batches:
            step(tokens)
        print(time.perf_counter() - start, flush=True)


def torch_step(variant: str, sizes: dict[str, int]) -> Callable[[np.ndarray], float]:
    import torch_gpt2

    return torch_gpt2.make_step(variant, sizes)


def our_step(sizes: dict[str, int], *, unrolled: bool) -> Callable[[np.ndarray], float]:
    """The complete training step of `tonsai_jax.train`."""
    from our_step import device_batch, make_step

    from tonsai_jax.model.config import ModelConfig

    keep_freed_memory()
    config = ModelConfig(
        vocab_size=sizes["vocab_size"],
        context_length=sizes["seq_len"],
        num_layers=sizes["num_layers"],
        num_heads=sizes["num_heads"],
        d_model=sizes["d_model"],
        d_ff=4 * sizes["d_model"],
        dtype="float32",
        scan_layers=not unrolled,
    )
    state, train_step, mesh = make_step(config, chunk_tokens=512)

    def step(tokens: np.ndarray) -> float:
        nonlocal state
        state, metrics = train_step(state, device_batch(tokens, mesh))
        return float(metrics["loss"])

    return step


if __name__ == "__main__":
    run_command(main)
