"""Whether a run grows: threads and memory of a real trainer at every save.

    python scripts/bench/long_run.py                       # 2,000 steps, 100 saves, about five minutes on two CPU cores

Trains the quickstart's model made small, with short sequences, in a process of its own, and looks at that process whenever a
checkpoint gets its final name.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tonsai_jax.errors import UserError, run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="steps of the run")
    parser.add_argument("--saves", type=int, default=100, help="checkpoints in it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples = watched_run(Path(folder), args.steps, args.steps // args.saves)
    if len(samples) < args.saves // 2:
        raise UserError(f"only {len(samples)} saves were seen; is the disk full, or the machine too busy?")
    print(f"{'save':>6} {'threads':>8} {'host memory, MB':>16}")
    for number, threads, memory in samples:
        if number in (1, 2, 5) or number % 10 == 0 or number == samples[-1][0]:
            print(f"{number:>6} {threads:>8} {memory / 1e6:>16.0f}")


def watched_run(folder: Path, steps: int, every: int) -> list[tuple[int, int, int]]:
    """Trains; returns (number of the save, threads, bytes of resident memory) of those saves that were seen."""
    config = {
        "steps": steps,
        "seq_len": 64,
        "global_batch_size": 4,
        "data.dir": folder / "rows",
        "model.num_layers": 2,
        "model.d_model": 64,
        "model.d_ff": 128,
        "model.num_heads": 2,
        "checkpoint.every": every,
        "eval.every": 0,
        "sample.every": 0,
        "log_every": 100,
    }
    words = [f"--config.{key}={value}" for key, value in config.items()]
    command = [
        sys.executable,
        "-m",
        "tonsai_jax.train",
        "--config=configs/quickstart.py",
        f"--workdir={folder / 'run'}",
    ]
    samples, seen = [], {0}
    with (folder / "log.txt").open("w") as log, subprocess.Popen([*command, *words], stdout=log, stderr=log) as process:
        trainer = psutil.Process(process.pid)
        while process.poll() is None:
            names = [path.name for path in (folder / "run" / "checkpoints").glob("*")]
            newest = max((int(name) for name in names if name.isdigit()), default=0)
            if newest not in seen:
                seen.add(newest)
                samples.append((newest // every, trainer.num_threads(), trainer.memory_info().rss))
            time.sleep(0.02)
    if process.returncode:
        raise UserError(f"the run failed: {(folder / 'log.txt').read_text()[-500:]}")
    return samples


if __name__ == "__main__":
    run_command(main)
