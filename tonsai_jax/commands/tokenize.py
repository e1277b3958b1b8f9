"""Turns prepared documents into token ids for training and validation."""

import signal
import sys
import time
from collections.abc import Sequence

from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.data.flat_files import FILE_FORMATS
from tonsai_jax.data.tokenize import figures, tokenize_dataset, tokenize_to_flat_files
from tonsai_jax.files import folder_to_replace, write_json
from tonsai_jax.huggingface.download import tokenizer_folder
from tonsai_jax.reporting.tables import Table, as_text

EXAMPLE = """example:
  tonsai tokenize --dataset-dir data/mixture_train --tokenizer-dir artifacts/tokenizer \\
      --val-ratio 0.01 --seed 42 --output-dir data/tokens
"""


def main(words: Sequence[str] | None = None) -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLE)
    add = parser.add_argument
    add("--dataset-dir", required=True, metavar="DIR", help="documents from tonsai prepare")
    add(
        "--tokenizer-dir",
        required=True,
        metavar="DIR",
        help="tokenizer from tonsai train-tokenizer, or that of an open model: its folder, or hf:ORG/NAME",
    )
    add(
        "--val-ratio",
        type=float,
        default=0.01,
        help="share of the documents that is kept for validation (default: 0.01)",
    )
    add("--seed", type=int, default=42, help="random seed that chooses the validation documents (default: 42)")
    add(
        "--row-tokens",
        type=int,
        default=8192,
        help="tokens in a row, a multiple of every seq_len in training (default: 8192)",
    )
    add(
        "--format",
        choices=["arrayrecord", *FILE_FORMATS],
        default="arrayrecord",
        help="arrayrecord (default): token rows to train on; the others: flat files for other trainers (docs/formats.md)",
    )
    add("--output-dir", type=folder_to_replace, required=True, metavar="DIR", help="folder to write")
    parser.add_json()
    args = parser.parse_args(words)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # exit, so that half-written files are removed
    start = time.monotonic()
    folders = (args.dataset_dir, tokenizer_folder(args.tokenizer_dir), args.output_dir)
    settings = {"val_ratio": args.val_ratio, "seed": args.seed}
    if args.format == "arrayrecord":
        sources = tokenize_dataset(*folders, **settings, row_tokens=args.row_tokens).sources
    else:
        sources = tokenize_to_flat_files(*folders, **settings, file_format=args.format)
    seconds = time.monotonic() - start
    lines = figures(sources)
    rows = [
        [
            line["source"],
            line["split"],
            *(f"{line[name]:,}" for name in ("documents", "rows", "tokens")),
            f"{line['bytes_per_token']:.2f}",
        ]
        for line in lines
    ]
    heads = ["source", "split", "documents", "rows", "tokens", "bytes/token"]
    print(as_text(Table("", heads, rows, "llrrrr")))
    for line in lines:
        if args.format == "arrayrecord" and line["split"] == "train" and line["tokens"] <= args.row_tokens:
            print(f"note: {line['source']} is smaller than one row of {args.row_tokens:,} tokens, so the row is padded")
        if args.val_ratio and line["split"] == "validation" and not line["documents"]:
            print(
                f"note: {line['source']} is one document, so no text of it is left for validation and a run has no score for it; "
                "a .txt file that is prepared with `--document paragraph` has more"
            )
    megabytes = sum(line["bytes"] for line in lines) / 1e6
    print(f"{args.output_dir}: {megabytes:,.1f} MB in {seconds:.1f} s, {megabytes / seconds:.1f} MB/s")
    if args.json:
        write_json(args.json, {"splits": lines, "seconds": seconds, "megabytes": megabytes})
