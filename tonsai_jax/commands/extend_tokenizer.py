"""Add tokens of one more language to the tokenizer of a model; no id of it changes.

Give the extended tokenizer to tonsai new-vocabulary, which makes the model fit it.
"""

from pathlib import Path

from tonsai_jax.adapt.extend import extend_tokenizer
from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.files import folder_to_replace, write_json
from tonsai_jax.huggingface.download import tokenizer_folder
from tonsai_jax.reporting.tables import Table, as_text
from tonsai_jax.text.languages import check_language
from tonsai_jax.tokenizer.examples import dataset_examples, file_examples

EXAMPLES = """examples:
  tonsai extend-tokenizer --tokenizer-dir models/smollm2 --dataset-dir data/mixture --new-tokens 8000 \\
      --output-dir artifacts/smollm2_khmer
  tonsai extend-tokenizer --tokenizer-dir models/smollm2 --input khmer.txt english.txt --new-tokens 8000 \\
      --output-dir artifacts/smollm2_khmer
"""


def main() -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add(
        "--tokenizer-dir",
        required=True,
        metavar="DIR",
        help="folder of the tokenizer, or its model: a folder, or hf:ORG/NAME",
    )
    parser.add_texts(required=True)
    add("--max-examples", type=int, metavar="N", help="use N texts (default: all)")
    add("--new-tokens", type=int, required=True, metavar="N", help="number of tokens to add; 8000 for a first try")
    add(
        "--language",
        default="km",
        metavar="CODE",
        help="language of the new tokens: each has a letter or sign of its script (default: km)",
    )
    add("--output-dir", type=folder_to_replace, required=True, metavar="DIR", help="folder for the tokenizer")
    parser.add_json()
    args = parser.parse_args()

    check_language(args.language, "--language")
    if args.dataset_dir:
        examples = dataset_examples(args.dataset_dir, max_examples=args.max_examples)
    else:
        examples = file_examples(args.input, faults=Faults("stop"), max_examples=args.max_examples)
    report = extend_tokenizer(
        tokenizer_folder(args.tokenizer_dir),
        examples,
        new_tokens=args.new_tokens,
        language=args.language,
        output_dir=args.output_dir,
        progress=True,
    )
    rows = [
        [
            Path(label).name,
            f"{figures['bytes'] / 1e6:,.2f}",
            f"{figures['bytes_per_token_before']:.2f}",
            f"{figures['bytes_per_token']:.2f}",
            f"{figures['same_ids']:.1%}",
        ]
        for label, figures in report["texts"].items()
    ]
    print(as_text(Table("", ["text", "MB", "bytes/token before", "now", "texts with the same ids"], rows, "lrrrr")))
    if report["whole_words"]:
        print(f"note: this tokenizer cut marks from letters; words in the script of {args.language!r} are whole now")
    if report["new_tokens"] < args.new_tokens:
        print(
            f"note: this text gives only {report['new_tokens']:,} of {args.new_tokens:,} new tokens; more text gives more"
        )
    print(
        f"{args.output_dir}: {report['new_tokens']:,} new tokens, with the ids from {report['old_size']:,} to "
        f"{report['vocab_size'] - 1:,}\nnext: tonsai new-vocabulary --model MODEL --tokenizer-dir {args.output_dir}"
    )
    if args.json:
        write_json(args.json, report)
