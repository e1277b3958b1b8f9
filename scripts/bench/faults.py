"""Breaks runs on purpose, hundreds of times, and checks that nothing is lost, silent, hung or left over.

  kills      one run is killed at random and at chosen moments until it is complete, and compared with one never disturbed
  flips      one bit is flipped in rows, checkpoints, manifests, tokenizer or export, and the next command must notice
  processes  two processes train together, and one is killed, stopped, late, stuck or different
  doubles    two commands write to one folder at the same time; one must be refused

On a CPU, with runs of seconds. Exit code 1 if a promise was broken.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]  # a plain checkout is enough

from tonsai_jax.errors import run_command  # noqa: E402  # after the path
from tonsai_jax.files import write_json  # noqa: E402
from tonsai_jax.reporting.tables import as_text  # noqa: E402

EXAMPLE = """examples:
  python scripts/bench/faults.py all --json faults.json
  python scripts/bench/faults.py kills --count 300 --seed 1
  python scripts/bench/faults.py flips --count 60 --only manifests tokenizer
"""
PARTS = ("kills", "flips", "processes", "doubles")
COUNTS = {"kills": 300, "flips": 60, "processes": 22, "doubles": 9}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("part", choices=[*PARTS, "all"])
    add(
        "--count",
        type=int,
        default=None,
        help="kills; flips of each kind; faults (default: 300; 60; 22, one of each kind; 9)",
    )
    add("--seed", type=int, default=1, help="of all that is drawn (default: 1)")
    add("--only", nargs="+", default=None, metavar="NAME", help="kinds of files to flip, or faults of two processes")
    add(
        "--dir",
        type=Path,
        default=None,
        help="folder to work in, kept (default: a temporary one, kept after a failure)",
    )
    add("--json", type=Path, default=None, metavar="FILE", help="also write the figures here")
    args = parser.parse_args()

    folder = args.dir or Path(tempfile.mkdtemp(prefix="faults-"))
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(folder / "programs")}
    from fault_campaign.campaign import run_part
    from fault_campaign.findings import as_table
    from fault_campaign.sessions import end_all

    import tonsai_jax.train  # noqa: F401  # after the environment, which JAX reads; sessions are forks of this process

    chosen = PARTS if args.part == "all" else (args.part,)
    parts = []
    try:
        for name in chosen:
            count = COUNTS[name] if args.count is None else args.count
            parts += run_part(name, folder, count, args.seed, args.only)
            print(as_text(as_table(parts)), flush=True)
    finally:
        end_all()
    if args.json:
        write_json(args.json, {part.part: part.figures() for part in parts})
    failures = [line for part in parts for line in part.failures]
    for line in failures:
        print(f"FAILED {line}")
    if failures:
        print(f"what the failed runs left is in {folder}")
        sys.exit(1)
    if args.dir is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    run_command(main)
