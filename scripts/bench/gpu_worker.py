"""What both workers of gpu.py share: printing a result for the parent process, the GPU, timing calls, and the training tokens."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

RESULT = "RESULT "  # begins each line of output that is a result; libraries print other lines
SAMPLES = 5
NEEDS_GPU = "GPU_BENCH_NEEDS_GPU"  # environment variable: "1" unless gpu.py runs with --toy


def emit(**row: Any) -> None:
    """Prints a result at once, so the parent has it even if the worker is killed later."""
    print(RESULT + json.dumps(row), flush=True)


def require_gpu(found: bool, library: str) -> None:
    """Raises `RuntimeError` where a library would measure its CPU instead of a GPU."""
    if os.environ.get(NEEDS_GPU) and not found:
        raise RuntimeError(f"{library} finds no GPU")


def nvidia_smi(fields: Sequence[str]) -> dict[str, str]:
    """What nvidia-smi says now about the GPU of this process, such as {"memory.used": "812 MiB"}."""
    card = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    query = ["nvidia-smi", "-i", card, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    printed = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    return dict(zip(fields, (word.strip() for word in printed.splitlines()[0].split(",")), strict=True))


def attempt(measure: Callable[[], dict[str, Any]], **row: Any) -> None:
    """Emits `row` with the result of `measure`, or with its error; so one failure does not stop the next measurement."""
    try:
        emit(**row, **measure())
    except Exception as error:
        emit(**row, failed=one_line(f"{type(error).__name__}: {error}"))


def one_line(text: str) -> str:
    """The first line that is not blank, cut to 200 characters and safe inside a Markdown table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines or ["no message"])[0].replace("|", "/")[:200]


def time_calls(run: Callable[[int], None], sample_seconds: float = 0.1) -> list[float]:
    """Seconds per call, one for each sample; `run(n)` makes n calls and returns when the device has finished them."""
    run(2)  # compiles, loads, autotunes
    start = time.perf_counter()
    run(1)
    count = max(1, min(500, round(sample_seconds / (time.perf_counter() - start))))
    samples = []
    for _ in range(SAMPLES):
        start = time.perf_counter()
        run(count)
        samples.append((time.perf_counter() - start) / count)
    return samples


def training_tokens(step: int, batch_size: int, seq_len: int, vocab_size: int) -> np.ndarray:
    """uint16 ids [B, T + 1], the same for every library. Low ids are more frequent, so there is something to learn."""
    rng = np.random.default_rng(step)
    return (vocab_size * rng.random((batch_size, seq_len + 1)) ** 6).astype(np.uint16)


def serve(tasks: dict[str, Callable[..., None]]) -> None:
    """Runs the task that the command line names, with its arguments as JSON."""
    tasks[sys.argv[1]](**json.loads(sys.argv[2]))
