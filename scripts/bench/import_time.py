"""Measures how long `import tonsai_jax.train` takes in a new process, and how much of the package it loads.

The seconds are `python -X importtime`'s for the whole import, third-party packages included.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from tonsai_jax.errors import run_command
from tonsai_jax.files import write_json
from tonsai_jax.reporting.tables import Table, as_text

EXAMPLE = """example:
  python scripts/bench/import_time.py --trees ../before . --times 9 --json import_time.json
"""
# Files with code in them: an empty __init__.py is none. Lines are all lines of these files.
PROGRAM = """
import json, sys, {module}
files = [module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "tonsai_jax"]
lines = [len(open(file, encoding="utf-8").read().splitlines()) for file in files]
print(json.dumps([sum(count > 0 for count in lines), sum(lines)]))
"""


def measure(tree: Path, module: str) -> tuple[float, int, int]:
    """Seconds of one import in the checkout `tree`, and the files and lines of the package that it loads."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", PROGRAM.format(module=module)],
        cwd=tree,
        env={"PYTHONPATH": str(tree.absolute()), "JAX_PLATFORMS": "cpu", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    total = next(line for line in done.stderr.splitlines() if line.endswith(f"| {module}"))
    files, lines = json.loads(done.stdout)
    return int(total.split("|")[1]) / 1e6, files, lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trees", type=Path, nargs="+", default=[Path()], help="checkouts to compare (default: this one)"
    )
    parser.add_argument("--module", default="tonsai_jax.train", help="what is imported (default: %(default)s)")
    parser.add_argument("--times", type=int, default=5, help="imports in each tree, interleaved; medians are shown")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    runs: dict[Path, list[tuple[float, int, int]]] = {tree: [] for tree in args.trees}
    for _ in range(args.times):
        for tree in args.trees:
            runs[tree].append(measure(tree, args.module))
    rows = []
    for tree, each in runs.items():
        seconds, files, lines = zip(*each, strict=True)
        rows.append({"tree": str(tree), "seconds": statistics.median(seconds), "files": files[0], "lines": lines[0]})
    cells = [[str(row["tree"]), f"{row['seconds']:.2f}", f"{row['files']}", f"{row['lines']:,}"] for row in rows]
    print(as_text(Table(f"import {args.module}", ["tree", "seconds", "files", "lines"], cells, "lrrr")))
    if args.json:
        write_json(args.json, rows)


if __name__ == "__main__":
    run_command(main)
