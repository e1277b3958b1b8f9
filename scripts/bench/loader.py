"""Measures the training loader on synthetic token rows: tokens per second, seconds to the first batch, memory."""

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tonsai_jax.data.loader import Loader
from tonsai_jax.data.manifest import RowsManifest, SourceInfo, SplitInfo, dtype_for, read_manifest
from tonsai_jax.data.order import DataOrder
from tonsai_jax.data.row_writer import RowWriter, write_manifest
from tonsai_jax.errors import run_command
from tonsai_jax.files import sha256_file, write_json
from tonsai_jax.stages import Stage

EXAMPLE = """example:
  python scripts/bench/loader.py --tokens 1000000 1000000000 --json loader.json

A billion tokens take 2 GB under --dir while the measurement runs. There are two sources with weights 0.6 and 0.4 and
rows of 8192 tokens, read from the page cache. Seconds do not include imports. A resume starts at batch 100,000. RSS is
the memory of the whole process, so measure each size in its own run to compare it."""

ROW_TOKENS, VOCAB_SIZE, RESUME_STEP = 8192, 50_000, 100_000


def make_rows(directory: Path, tokens: int) -> None:
    """Writes two sources with `tokens` // 2 random tokens each."""
    tokenizer = directory / "tokenizer" / "tokenizer.json"
    tokenizer.parent.mkdir(parents=True)
    tokenizer.write_text("{}")
    ids = np.random.default_rng(0).integers(VOCAB_SIZE, size=1 << 20)
    sources = {}
    for name, weight in (("khmer", 0.6), ("english", 0.4)):
        kwargs = {"row_tokens": ROW_TOKENS, "vocab_size": VOCAB_SIZE, "end_of_text_id": 0}
        with RowWriter(directory, name, "train", **kwargs) as writer:
            for start in range(0, tokens // 2, ids.size):
                writer.write(ids[: tokens // 2 - start])
            split = writer.finish(documents=1, text_bytes=0)
        sources[name] = SourceInfo(name, weight, name, {"train": split, "validation": SplitInfo(0, 0, 0, 0, ())})
    dtype, digest = dtype_for(VOCAB_SIZE), sha256_file(tokenizer)
    write_manifest(RowsManifest(directory, ROW_TOKENS, dtype, VOCAB_SIZE, 0, digest, sources))


def measure(directory: Path, seq_len: int, batch_size: int, batches: int) -> dict[str, float]:
    """Starts a run, reads `batches` batches of `batch_size` sequences, and resumes a run."""
    stages = [Stage(steps=10 * RESUME_STEP, seq_len=seq_len, global_batch_size=batch_size)]
    began = time.perf_counter()
    order = DataOrder(read_manifest(directory), seed=0, stages=stages)
    iterator = Loader(order).batches(0)
    next(iterator)
    first = time.perf_counter() - began
    began = time.perf_counter()
    for _ in range(batches):
        next(iterator)
    rate = batches * batch_size * seq_len / (time.perf_counter() - began)
    state = order.state(RESUME_STEP)
    began = time.perf_counter()
    next(Loader(DataOrder(read_manifest(directory), seed=0, stages=stages, state=state)).batches(RESUME_STEP))
    resume = time.perf_counter() - began
    memory = psutil.Process().memory_info().rss / 1e6
    return {"tokens_per_second": rate, "first_batch_s": first, "resume_s": resume, "rss_mb": memory}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[10**6, 10**9], help="tokens in each set (default: %(default)s)"
    )
    parser.add_argument(
        "--seq-len", type=int, nargs="+", default=[2048, 8192], help="sequence lengths (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=int, nargs="+", default=[8, 64], help="sequences in a batch (default: %(default)s)"
    )
    parser.add_argument(
        "--sequences", type=int, default=16_000, help="sequences read in a measurement (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="measurements of each case; prints medians (default: %(default)s)"
    )
    parser.add_argument("--dir", type=Path, help="where to write the rows (default: the system's temporary folder)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loader-", dir=args.dir) as folder:
        for tokens in args.tokens:
            make_rows(Path(folder) / str(tokens), tokens)
        runs: dict[tuple[int, int, int], list[dict[str, float]]] = {}
        for _ in range(args.rounds):
            for tokens, seq_len, batch_size in itertools.product(args.tokens, args.seq_len, args.batch_size):
                result = measure(Path(folder) / str(tokens), seq_len, batch_size, max(1, args.sequences // batch_size))
                runs.setdefault((tokens, seq_len, batch_size), []).append(result)
    table: list[dict[str, Any]] = []
    print("      tokens  seq_len  batch  M tokens/s  first batch s  resume s  RSS MB")
    for (tokens, seq_len, batch_size), results in runs.items():
        row = {key: statistics.median(result[key] for result in results) for key in results[0]}
        table.append({"tokens": tokens, "seq_len": seq_len, "batch_size": batch_size, **row})
        rate, memory = row["tokens_per_second"] / 1e6, row["rss_mb"]
        seconds = f"{row['first_batch_s']:13.3f}  {row['resume_s']:8.3f}"
        print(f"{tokens:12,d}  {seq_len:7d}  {batch_size:5d}  {rate:10.1f}  {seconds}  {memory:6.0f}")
    if args.json:
        write_json(args.json, table)


if __name__ == "__main__":
    run_command(main)
