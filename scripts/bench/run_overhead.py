"""What evaluation, samples and checkpoints cost of a run, from its metrics.jsonl.

    python -m tonsai_jax.train --config configs/small.py --workdir runs/small
    python scripts/bench/run_overhead.py --workdir runs/small

The time between two lines of a run is in `progress/hours`. The time of their steps is their tokens by
`speed/tokens_per_second`, which leaves all other work out. What is left is that work. A program that is compiled during a run
belongs to it too, so the first evaluation takes longer than the others.
"""

import argparse
import itertools
from pathlib import Path

from tonsai_jax.errors import UserError, run_command
from tonsai_jax.reporting.metrics_file import metrics_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a run")
    args = parser.parse_args()
    rows = metrics_rows(args.workdir / "metrics.jsonl")
    evaluated = {row["step"] for row in rows if any(name.startswith("eval/") for name in row)}
    train = [row for row in rows if "progress/hours" in row and "speed/tokens_per_second" in row]
    if len(train) < 2:
        raise UserError(
            f"{args.workdir}: its metrics.jsonl has fewer than two lines with a speed; train some more steps"
        )
    all_seconds = other_seconds = 0.0
    print(f"{'steps':>15} {'seconds':>9} {'not training':>13}")
    for before, after in itertools.pairwise(train):
        seconds = 3600 * (after["progress/hours"] - before["progress/hours"])
        tokens = after["progress/tokens"] - before["progress/tokens"]
        other = seconds - tokens / after["speed/tokens_per_second"]
        all_seconds, other_seconds = all_seconds + seconds, other_seconds + other
        note = " evaluated" if evaluated & set(range(before["step"], after["step"])) else ""
        print(f"{before['step']:>7,}-{after['step']:<7,} {seconds:9.2f} {other:13.2f}{note}")
    print(
        f"all of them: {all_seconds:.1f} s, {other_seconds:.1f} s of it not training ({other_seconds / all_seconds:.2%})"
    )


if __name__ == "__main__":
    run_command(main)
