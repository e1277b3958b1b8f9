"""What both workers of gpu.py share: how a result is told to the parent, how calls are timed, which tokens are trained on."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

RESULT = "RESULT "  # opens each line of a worker's output that is one; libraries print there too
SAMPLES = 5


def emit(**row: Any) -> None:
    """Tells the parent a result; what was told stays told when the worker is stopped."""
    print(RESULT + json.dumps(row), flush=True)


def attempt(measure: Callable[[], dict[str, Any]], **row: Any) -> None:
    """Emits `row` with what `measure` returns, or with why it failed: the next measurement goes on."""
    try:
        emit(**row, **measure())
    except Exception as error:
        emit(**row, failed=one_line(f"{type(error).__name__}: {error}"))


def one_line(text: str) -> str:
    """The first line that says something, cut to 200 characters, safe inside a Markdown table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines or ["no message"])[0].replace("|", "/")[:200]


def time_calls(run: Callable[[int], None], sample_seconds: float = 0.1) -> list[float]:
    """Seconds a call, one figure a sample; `run(n)` calls n times and returns when the device has done all of it."""
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
    """uint16 ids [B, T + 1], the same for every library; low ids are frequent, so that there is something to learn."""
    rng = np.random.default_rng(step)
    return (vocab_size * rng.random((batch_size, seq_len + 1)) ** 6).astype(np.uint16)


def serve(tasks: dict[str, Callable[..., None]]) -> None:
    """Runs the task that the command line names, with its arguments as JSON."""
    tasks[sys.argv[1]](**json.loads(sys.argv[2]))
