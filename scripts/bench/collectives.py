"""Compiles a training step for 8 H200s that need not be there, and tells what of their communication may overlap work.

Nothing is run on a device and no kernel is tuned: the figures are read from the compiled program. Needs CUDA's libraries
(several GB): pip install -e ".[cuda13]", best in an environment of its own.
"""

import argparse
import os
import time
from pathlib import Path

from tonsai_jax.errors import run_command

EXAMPLE = """example:
  python scripts/bench/collectives.py --layers 4 --json collectives.json
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=4, help="of the recipe's shape (default: 4)")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="also write the figures here")
    args = parser.parse_args()

    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "JAX_PLATFORMS": "cpu"}
    import jax
    from described_gpus import described_mesh, overlap, recipe_step

    from tonsai_jax.files import write_json

    combined = {f"xla_gpu_{kind}_combine_threshold_bytes": 2**28 for kind in ("all_gather", "reduce_scatter")}
    rows = []
    print("layers    level    combined  collectives  overlapped  GiB    compiled in")
    for scan in (True, False):
        for options in ({}, combined):
            for level in ("UNKNOWN", "O1"):
                jax.config.update("jax_optimization_level", level)
                lowered = recipe_step(described_mesh(8), args.layers, scan)
                began = time.perf_counter()
                compiled = lowered.compile(compiler_options=options)
                seconds = time.perf_counter() - began
                collectives, share = overlap(compiled.as_text())
                gib = compiled.memory_analysis().temp_size_in_bytes / 2**30
                rows.append(
                    {
                        "scanned": scan, "level": level, "combined": bool(options), "collectives": collectives,
                        "overlapped": share, "temp_gib": gib, "compile_seconds": seconds,
                    }
                )  # fmt: skip
                print(
                    f"{'scanned' if scan else 'unrolled':<9} {level:<8} {'yes' if options else 'no':<9} "
                    f"{collectives:<12} {share:<11.0%} {gib:<6.1f} {seconds:.0f} s",
                    flush=True,
                )
    if args.json:
        write_json(args.json, rows)


if __name__ == "__main__":
    run_command(main)
