"""Measures the speed of Khmer normalization and of all text normalization: MB/s in one process on real text."""

import argparse
import gzip
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from tonsai_jax.errors import UserError, run_command
from tonsai_jax.text import khmer
from tonsai_jax.text.normalize import normalize

EXAMPLE = """example:
  python scripts/bench/khmer.py --corpus my_texts
The folder contains *.txt.gz files; each line is a document.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, help="folder (default: km in the folder that TONSAI_CORPUS names)")
    parser.add_argument("--megabytes", type=float, default=20, help="the text is repeated up to this (default: 20)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements; the median is printed (default: 5)")
    args = parser.parse_args()
    if not args.corpus and "TONSAI_CORPUS" not in os.environ:
        raise UserError("no text given; use --corpus FOLDER, or set TONSAI_CORPUS")
    corpus = args.corpus or Path(os.environ["TONSAI_CORPUS"]) / "km"
    documents = [
        line
        for path in sorted(corpus.rglob("*.txt.gz"))
        for line in gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    ]
    megabytes = sum(len(document.encode("utf-8")) for document in documents) / 1e6
    if not megabytes:
        raise UserError(f"{corpus}: no text in *.txt.gz files in this folder")
    repeats = int(-(-args.megabytes // megabytes))
    print(f"{corpus}: {megabytes:.1f} MB in {len(documents):,} lines, {repeats} times")
    for name, clean in (("Khmer step", khmer.normalize_khmer), ("all steps", normalize)):
        rates = [repeats * megabytes / seconds(clean, documents, repeats) for _ in range(args.rounds)]
        print(f"  {name:<14}{statistics.median(rates):6.1f} MB/s  ({min(rates):.1f} to {max(rates):.1f})")


def seconds(clean: Callable[[str], str], documents: list[str], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        for document in documents:
            clean(document)
    return time.perf_counter() - start


if __name__ == "__main__":
    run_command(main)
