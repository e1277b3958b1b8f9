"""Turns conversations into packed token rows, for training on the answers only (SFT), or pairs of answers for DPO."""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tonsai_jax.chat.preview import preview
from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.data.conversations import ChatSource, Packed, add_conversations, figures, write_conversations
from tonsai_jax.errors import UserError
from tonsai_jax.files import folder_to_replace, write_json
from tonsai_jax.huggingface.download import tokenizer_folder
from tonsai_jax.reporting.tables import Table, as_text
from tonsai_jax.tokenizer.loading import Tokenizer

EXAMPLES = """examples:
  tonsai prepare-sft --khmer khmer.jsonl --english alpaca.json --tokenizer-dir hf:ORG/NAME --output-dir data/chat
  tonsai prepare-sft --input chats.jsonl --tokenizer-dir runs/small/tokenizer --row-tokens 512 --preview 5 --output-dir data/chat
  tonsai prepare-sft --input hf:ORG/DATASET --name instructions --add-to data/tokens
  tonsai prepare-sft --pairs --input preferences.jsonl --tokenizer-dir runs/chat/tokenizer --output-dir data/pairs

A record of a .json, .jsonl, .csv, .tsv or .parquet file is a conversation in one of the usual forms: messages (role, content),
conversations (from, value), instruction with output, question with answer, prompt with response or completion. With --pairs a
record is a prompt with a chosen and a rejected answer, texts or lists of messages. docs/instruct.md and docs/preferences.md
describe all forms. The tokenizer must have a chat template, as ours and those of chat models do.
"""


def main(words: Sequence[str] | None = None) -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    for flag, about in (
        ("--khmer", "conversations in Khmer: files, folders, or hf:ORG/NAME"),
        ("--english", "conversations in English"),
        ("--input", "conversations in another language, or in several"),
    ):
        add(flag, nargs="+", metavar="FILE_OR_HF_ID", default=[], help=about)
    add(
        "--pairs",
        action="store_true",
        help="the records are preferences, a chosen and a rejected answer to the same prompt, for configs/sft/dpo.py",
    )
    add("--name", help="name of the source of --input (default: instructions)")
    add("--language", help="language tag of --input (default: mul, several languages)")
    add("--tokenizer-dir", metavar="DIR", help="tokenizer with a chat template: its folder, or hf:ORG/NAME")
    add(
        "--row-tokens",
        type=int,
        metavar="N",
        help="tokens in a row: the seq_len of training (default: 2048; with --add-to those of its rows)",
    )
    add("--val-ratio", type=float, default=0.02, metavar="X", help="share kept for validation (default: 0.02)")
    add("--seed", type=int, default=42, help="random seed that chooses the validation conversations (default: 42)")
    add(
        "--on-error",
        choices=["stop", "skip"],
        default="stop",
        help="a bad record ends the command (default), or is counted and left out",
    )
    add(
        "--preview", type=int, default=0, metavar="N", help="print N conversations of each source, with what is learned"
    )
    outputs = parser.add_mutually_exclusive_group(required=True)
    outputs.add_argument("--output-dir", type=folder_to_replace, metavar="DIR", help="folder to write")
    outputs.add_argument(
        "--add-to", metavar="DIR", help="folder of token rows that gets the conversations as a new source"
    )
    parser.add_json()
    args = parser.parse_args(words)

    sources = [
        ChatSource(name, language, tuple(places), kind="pairs" if args.pairs else "conversations")
        for name, language, places in (
            ("khmer", "km", args.khmer),
            ("english", "en", args.english),
            (
                "instructions" if args.name is None else args.name,
                "mul" if args.language is None else args.language,
                args.input,
            ),
        )
        if places
    ]
    if not sources:
        raise UserError("no conversations given; add --khmer, --english or --input with a file")
    if (args.add_to is None) == (args.tokenizer_dir is None):
        raise UserError(
            "give --tokenizer-dir, the tokenizer of the model" if args.add_to is None
            else "--add-to takes the tokenizer of those rows; leave out --tokenizer-dir"
        )  # fmt: skip
    for flag, value in (("--name", args.name), ("--language", args.language)):
        if value is not None and not args.input:
            raise UserError(f"{flag} is that of --input, which is not given; leave it out")
    if args.add_to is not None and args.row_tokens is not None:
        raise UserError("--add-to packs in rows of the length that the folder has; leave out --row-tokens")
    if args.preview < 0:
        raise UserError(f"--preview {args.preview} must be at least 0")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # exit, so that half-written files are removed
    settings = {"val_ratio": args.val_ratio, "seed": args.seed, "on_error": args.on_error, "num_examples": args.preview}
    if args.add_to is not None:
        folder = Path(args.add_to)
        packed = add_conversations(sources, folder, **settings)
    else:
        folder = args.output_dir
        packed = write_conversations(
            sources,
            tokenizer_folder(args.tokenizer_dir),
            folder,
            row_tokens=2048 if args.row_tokens is None else args.row_tokens,
            **settings,
        )
    _print(packed, folder)
    if args.json:
        write_json(args.json, {"splits": figures(packed), "counts": {each.source.name: each.counts for each in packed}})


def _print(packed: Sequence[Packed], folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder / "tokenizer")
    for each in packed:
        for sample in each.examples:
            for name, encoded in zip(("chosen: ", "rejected: ") if len(sample) == 2 else ("",), sample, strict=True):
                print(name + preview(encoded, tokenizer, colored=sys.stdout.isatty()), end="\n\n")
    rows = [
        [
            line["source"],
            line["split"],
            *(f"{line[name]:,}" for name in ("conversations", "rows", "tokens", "answer_bytes")),
            f"{line['filled']:.1%}",
        ]
        for line in figures(packed)
    ]
    heads = ["source", "split", packed[0].source.kind, "rows", "tokens", "bytes of answers", "filled"]
    print(as_text(Table("", heads, rows, "llrrrrr")))
    for each in packed:
        total = each.counts["conversations"]
        for kind, count in each.counts.items():
            if kind != "conversations" and count:
                print(f"note: {each.source.name}: {count:,} of {total:,} {_NOTES.get(kind, f'left out: {kind}')}")
    print(f"{folder}: packed rows, ready to train on; docs/instruct.md says how")


_NOTES = {
    "duplicates": "left out: the same tokens are already there",
    "shortened": "lost their last turns, because they are longer than a row",
    "too_long": "left out: longer than a row",
    "no_conversation": "left out: not a conversation, or not a pair",
    "refused_by_template": "left out: the chat template refuses them",
}
