"""How long a checkpoint holds up the loop, with the wait that it causes in the next step, and the memory it takes.

Saves with checksums and without take turns, so that what else the machine does is the same for both.

The state has the layout of a real one (parameters and two moments); the step reuses its memory as the training step
does. Every save is asynchronous, as in training; "whole" is the time until it has its final name.
"""

import argparse
import statistics
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from tonsai_jax.errors import run_command

EXAMPLE = """example:
  python scripts/bench/checkpoint.py --gigabytes 1.2 --saves 8 --dir /fast/disk --json checkpoint.json
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--gigabytes", type=float, default=1.2, help="size of the state (default: 1.2)")
    add("--saves", type=int, default=8, help="saves of each kind to time, after two that are not (default: 8)")
    add("--dir", type=Path, default=None, help="folder to write below (default: the system's temporary folder)")
    add("--json", type=Path, default=None, metavar="FILE", help="also write the figures here")
    args = parser.parse_args()

    import jax
    import jax.numpy as jnp
    import psutil

    from tonsai_jax.checkpoints import store
    from tonsai_jax.checkpoints.keep import KeepPolicy
    from tonsai_jax.checkpoints.store import Checkpoints
    from tonsai_jax.files import write_json
    from tonsai_jax.runtime.libraries import quiet_libraries
    from tonsai_jax.training.state import TrainState

    quiet_libraries()
    arrays, rows = 10, int(args.gigabytes * 1e9 / 4 / 3 / 10 / 1024)

    def random_tree(seed: int) -> dict[str, jax.Array]:
        keys = jax.random.split(jax.random.key(seed), arrays)
        return {f"layer_{i}": jax.random.normal(key, (rows, 1024)) for i, key in enumerate(keys)}

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState) -> TrainState:
        return jax.tree.map(lambda x: x + 1 if x.ndim == 0 else x * 0.999 + 1e-3, state)

    def timed_step(state: TrainState) -> tuple[TrainState, float]:
        start = time.perf_counter()
        state = jax.block_until_ready(step(state))
        return state, time.perf_counter() - start

    def without_checksums() -> AbstractContextManager[object]:
        return mock.patch.multiple(store, write_checksums=lambda folder: None, add_late_files=lambda folder: None)

    process = psutil.Process()
    state = TrainState(jnp.int32(0), random_tree(0), (random_tree(1), random_tree(2)))
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        checkpoints = Checkpoints(Path(folder), KeepPolicy(last=2))
        for number in range(2 * (args.saves + 1)):
            kind = "without checksums" if number % 2 else "with checksums"
            with without_checksums() if number % 2 else nullcontext():
                state, plain = timed_step(state)
                start = time.perf_counter()
                checkpoints.save(state, {"step": number})
                call = time.perf_counter() - start
                state, after = timed_step(state)
                checkpoints.wait()
                whole = time.perf_counter() - start
            figures.append(
                {
                    "kind": kind,
                    "held": call + max(0.0, after - plain),
                    "whole": whole,
                    "rss_gb": process.memory_info().rss / 1e9,
                    "threads": process.num_threads(),
                }
            )
            print(f"save {number} {kind}: {_as_text(figures[-1])}", flush=True)
        checkpoints.close()
    medians = {}
    for kind in ("with checksums", "without checksums"):
        counted = [row for row in figures[2:] if row["kind"] == kind]
        medians[kind] = {name: statistics.median(row[name] for row in counted) for name in counted[0] if name != "kind"}
        print(f"{args.gigabytes} GB state, median of {len(counted)} {kind}: {_as_text(medians[kind])}")
    if args.json:
        write_json(args.json, {"gigabytes": args.gigabytes, "median": medians, "saves": figures})


def _as_text(row: dict[str, Any]) -> str:
    return (
        f"holds the loop {row['held']:.3f} s, whole after {row['whole']:.2f} s, {row['rss_gb']:.3f} GB resident, "
        f"{row['threads']:.0f} threads"
    )


if __name__ == "__main__":
    run_command(main)
