"""Measures how fast prepared documents become token rows, and how much memory that takes.

    TONSAI_CORPUS=corpus python scripts/bench/token_rows.py --megabytes 100 --times 4

The text is the same as in scripts/bench/corpus.py, and the tokenizers are trained on a part of it. Each line is one
run of scripts/tokenize_dataset.py on all cores, from the start of Python to the files on disk.
"""

import argparse
import os
import tempfile
from pathlib import Path

from corpus import FILES, measured, write_text  # in this folder

from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.tokenizer.examples import dataset_examples
from tonsai_jax.tokenizer.training import MODEL_TYPES, train_tokenizer

TOKENIZE = Path(__file__).parents[1] / "tokenize_dataset.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100, help="size of the text (default: %(default)s)")
    parser.add_argument(
        "--times", type=int, default=4, help="measure again with this many times the text (default: %(default)s)"
    )
    parser.add_argument("--vocab-size", type=int, default=16_000, help="(default: %(default)s)")
    args = parser.parse_args()
    corpus = os.environ.get("TONSAI_CORPUS")
    if not corpus:
        parser.error("TONSAI_CORPUS is not set; set it to a folder with km/*.txt.gz and en/*.txt.gz")
    cores = os.cpu_count() or 1
    print(f"{'tokenizer':10}  {'MB':>6}  {'seconds':>7}  {'MB/s':>5}  {'MB/s/core':>9}  {'GB of memory':>12}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for times in (1, args.times):
            megabytes = write_text(Path(corpus), folder, args.megabytes * times)
            sources = [Source(name=tag, language=tag, path=f"{folder}/{tag}[0-{FILES}].jsonl") for tag in ("km", "en")]
            prepare(sources, folder / "documents", progress=False)
            for kind in MODEL_TYPES:
                if not (folder / kind).exists():
                    examples = dataset_examples(folder / "documents", max_examples=5_000)
                    train_tokenizer(
                        examples, vocab_size=args.vocab_size, output_dir=folder / kind, model_type=kind, progress=False
                    )
                places = ("--dataset-dir", folder / "documents", "--tokenizer-dir", folder / kind)
                seconds, memory = measured([TOKENIZE, *places, "--output-dir", folder / "rows"])
                rate = megabytes / seconds
                print(
                    f"{kind:10}  {megabytes:6.0f}  {seconds:7.1f}  {rate:5.1f}  {rate / cores:9.1f}  {memory:12.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
