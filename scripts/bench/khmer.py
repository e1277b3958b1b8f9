"""Measures text normalization on real Khmer: its speed, and how much of it the tokenizer of an export does by itself."""

import argparse
import gzip
import operator
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from tonsai_jax.errors import UserError, run_command
from tonsai_jax.huggingface.normalizer import tokenizer_normalizer
from tonsai_jax.text import khmer
from tonsai_jax.text.normalize import normalize
from tonsai_jax.tokenizer.loading import Tokenizer

EXAMPLE = """examples:
  python scripts/bench/khmer.py --corpus my_texts
  python scripts/bench/khmer.py --corpus my_texts --tokenizer-dir artifacts/bpe
The folder contains *.txt.gz files; each line is a document.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, help="folder (default: km in the folder that TONSAI_CORPUS names)")
    parser.add_argument("--megabytes", type=float, default=20, help="the text is repeated up to this (default: 20)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements; the median is printed (default: 5)")
    parser.add_argument(
        "--tokenizer-dir", metavar="DIR", help="compare ids: of raw lines with those of normalized lines"
    )
    args = parser.parse_args()
    if not args.corpus and "TONSAI_CORPUS" not in os.environ:
        raise UserError("no text given; use --corpus FOLDER, or set TONSAI_CORPUS")
    corpus = args.corpus or Path(os.environ["TONSAI_CORPUS"]) / "km"
    files = {
        path.name: gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
        for path in sorted(corpus.rglob("*.txt.gz"))
    }
    documents = [line for lines in files.values() for line in lines]
    megabytes = sum(len(document.encode("utf-8")) for document in documents) / 1e6
    if not megabytes:
        raise UserError(f"{corpus}: no text in *.txt.gz files in this folder")
    if args.tokenizer_dir:
        return compare_ids(args.tokenizer_dir, files)
    repeats = int(-(-args.megabytes // megabytes))
    print(f"{corpus}: {megabytes:.1f} MB in {len(documents):,} lines, {repeats} times")
    for name, clean in (("Khmer step", khmer.normalize_khmer), ("all steps", normalize)):
        rates = [repeats * megabytes / seconds(clean, documents, repeats) for _ in range(args.rounds)]
        print(f"  {name:<14}{statistics.median(rates):6.1f} MB/s  ({min(rates):.1f} to {max(rates):.1f})")


def compare_ids(folder: str, files: dict[str, list[str]]) -> None:
    """Prints for each file how many raw lines get the ids of the normalized line, and how many more tokens they have."""
    opened = Tokenizer.from_folder(folder)
    if opened.normalization is None:
        raise UserError(f"{folder}: the tokenizer does not know how its training text was normalized")
    exported = tokenizer_normalizer(opened.normalization)
    print(f"{'raw lines':<30}{'same ids':>20}{'tokens':>10}{'   exported: same ids':>24}{'tokens':>10}")
    for name, lines in files.items():
        lines = [line for line in lines if line.strip()]
        if not lines:
            continue
        expected = opened.encode_batch([normalize(line, opened.normalization) for line in lines])
        row = f"{name:<30}"
        for given in (lines, [exported.normalize_str(line) for line in lines]):
            found = opened.encode_batch(given)
            same = sum(map(operator.eq, found, expected))
            more = sum(map(len, found)) / sum(map(len, expected)) - 1
            row += f"{f'{same:,} of {len(lines):,}, {same / len(lines):.1%}':>24}{more:>+10.2%}"
        print(row)


def seconds(clean: Callable[[str], str], documents: list[str], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        for document in documents:
            clean(document)
    return time.perf_counter() - start


if __name__ == "__main__":
    run_command(main)
