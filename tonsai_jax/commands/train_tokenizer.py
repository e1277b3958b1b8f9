"""Train a tokenizer for Khmer and other languages, on prepared documents or on raw text files.

The kinds: byte-level BPE and Unigram handle Khmer well; gpt2 is what most projects train, a baseline to compare with.
"""

import time
from collections.abc import Iterator, Sequence

from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.files import folder_to_replace, write_json
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.reporting.tables import Table, as_text
from tonsai_jax.text.normalize import DEFAULT
from tonsai_jax.tokenizer.balance import balanced, language_weights
from tonsai_jax.tokenizer.examples import (
    Example,
    dataset_bytes,
    dataset_examples,
    dataset_language_weights,
    dataset_normalization,
    file_bytes,
    file_examples,
)
from tonsai_jax.tokenizer.special_tokens import SPECIAL_TOKENS, read_special_tokens
from tonsai_jax.tokenizer.training import DEFAULT_PATTERN, train_tokenizer

EXAMPLES = """examples:
  tonsai train-tokenizer --dataset-dir data/mixture_tokenizer --dataset-split train \\
      --text-column text --max-examples 1000000 --vocab-size 50000 --output-dir artifacts/tokenizer
  tonsai train-tokenizer --input data/khmer.txt data/english.txt --vocab-size 8000 \\
      --output-dir artifacts/tokenizer
"""


def main(words: Sequence[str] | None = None) -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    parser.add_texts(required=True)
    add("--dataset-split", default="train", help="split of --dataset-dir (default: train)")
    add("--text-column", default="text", metavar="NAME", help="column that holds the text (default: text)")
    add(
        "--max-examples",
        type=int,
        metavar="N",
        help="use N texts, shared among the sources by their weights (default: all)",
    )
    add(
        "--on-error",
        choices=["stop", "skip"],
        default="stop",
        help="what to do with unreadable text in --input (default: stop)",
    )
    add(
        "--language-weights",
        metavar="km=0.5,en=0.5",
        help="share of each language in the training bytes; none: all the text as it is (default: the weights of --dataset-dir; "
        "none for --input)",
    )
    add_tokenizer_flags(parser)
    add(
        "--input-sentence-size", type=int, default=0, metavar="N", help="train Unigram on N random lines (default: all)"
    )
    add("--special-tokens", metavar="FILE", help="YAML list; they get the ids from 0 (default: see docs/tokenizer.md)")
    add("--output-dir", type=folder_to_replace, required=True, metavar="DIR", help="folder for the tokenizer")
    parser.add_json()
    args = parser.parse_args(words)

    start, name, count = time.monotonic(), args.text_column, args.max_examples
    faults, normalization = Faults(args.on_error), DEFAULT
    as_it_is = args.language_weights == "none"
    weights = language_weights(args.language_weights) if args.language_weights and not as_it_is else {}
    if args.dataset_dir:
        normalization = dataset_normalization(args.dataset_dir)
        of_dataset = dataset_language_weights(args.dataset_dir)
        if not weights and not as_it_is and not count and len(of_dataset) > 1:
            weights = of_dataset

    def examples() -> Iterator[Example]:
        faults.counts.clear()  # `balanced` reads the texts twice
        if args.dataset_dir:
            return dataset_examples(args.dataset_dir, split=args.dataset_split, text_column=name, max_examples=count)
        return file_examples(args.input, text_column=name, faults=faults, max_examples=count)

    tokens = read_special_tokens(args.special_tokens) if args.special_tokens else SPECIAL_TOKENS
    known = None
    if not count:
        known = dataset_bytes(args.dataset_dir) if args.dataset_dir else file_bytes(args.input)
    report = train_tokenizer(
        balanced(examples, weights, text_bytes=known, progress=True) if weights else examples(),
        vocab_size=args.vocab_size,
        output_dir=args.output_dir,
        model_type=args.model_type,
        special_tokens=tokens,
        sentences=args.input_sentence_size,
        pattern=args.pattern,
        normalization=normalization,
        text_bytes=None if weights else known,
        progress=True,
    )
    rows = [
        [label, f"{line['examples']:,}", f"{line['bytes'] / 1e6:,.2f}", f"{line['bytes_per_token']:.2f}"]
        for label, line in report["fertility"].items()
    ]
    print(as_text(Table("", ["text", "examples", "MB", "bytes/token"], rows, "lrrr")))
    for kind, number in faults.counts.items():
        print(f"note: left out {count_of(number, 'text')}: {kind}")
    size, seconds = report["vocab_size"], time.monotonic() - start
    if size < args.vocab_size:
        print(f"note: this text gives only {size:,} of {args.vocab_size:,} token ids; more text gives more")
    print(f"{args.output_dir}: {size:,} token ids, trained in {seconds:.1f} s; see report.html in it")
    if args.json:
        write_json(args.json, report)


def add_tokenizer_flags(parser: CommandParser, *, required: bool = True) -> None:
    """Adds the flags that say which tokenizer is trained; `tonsai data` has them too, where none need be trained."""
    add = parser.add_argument
    add(
        "--vocab-size",
        type=int,
        required=required,
        metavar="N",
        help="number of token ids wanted; 8000 for a first try",
    )
    add("--model-type", default="bpe", metavar="NAME", help="kind of tokenizer: bpe, unigram or gpt2 (default: bpe)")
    add(
        "--pattern",
        default=DEFAULT_PATTERN,
        metavar="NAME",
        help="digits in a token of BPE: grouped-digits, up to three, or single-digits, with exactly the same ids in llama.cpp "
        f"(default: {DEFAULT_PATTERN})",
    )
