"""Measure how well a tokenizer does on text, by language, and compare it with other tokenizers.

It prints tables and writes a page that shows texts token by token.
"""

from pathlib import Path

from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.files import folder_to_write, write_json
from tonsai_jax.reporting.tables import tables_as_text
from tonsai_jax.tokenizer.evaluation import evaluate_tokenizers, labelled
from tonsai_jax.tokenizer.examples import dataset_examples
from tonsai_jax.tokenizer.report import tables

EXAMPLES = """examples:
  tonsai tokenizer-report --tokenizer-dir artifacts/tokenizer --dataset-dir data/held_out
  tonsai tokenizer-report --tokenizer-dir artifacts/bpe --compare artifacts/unigram downloads/gpt2 \\
      --input km.txt en.txt --parallel sentences.km.txt sentences.en.txt

It writes evaluation.json and evaluation.html. Use text that the tokenizer was not trained on: on its training text every
tokenizer looks better than it is.
"""


def main() -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("--tokenizer-dir", required=True, metavar="DIR", help="the tokenizer: a folder, or a tokenizer.json")
    add("--compare", nargs="+", default=[], metavar="DIR", help="other tokenizers to measure on the same text")
    inputs = parser.add_mutually_exclusive_group(required=True)
    inputs.add_argument("--dataset-dir", metavar="DIR", help="documents written by tonsai prepare")
    inputs.add_argument("--input", nargs="+", metavar="FILE", help="text files (also .gz and .zst), one text per line")
    add(
        "--languages",
        default="km,en",
        help="languages of --input; each line is assigned to one of them by its script (default: km,en)",
    )
    add("--parallel", nargs=2, metavar="FILE", help="the same sentences in two languages, one sentence per line")
    add("--n", type=int, default=10, help="number of random documents to show (default: 10)")
    add("--seed", type=int, default=42, help="selects these documents (default: 42)")
    add(
        "--output-dir",
        type=folder_to_write,
        metavar="DIR",
        help="folder for the two files (default: the tokenizer's folder)",
    )
    parser.add_json()
    args = parser.parse_args()

    tokenizer = Path(args.tokenizer_dir)
    output_dir = args.output_dir or folder_to_write(str(tokenizer.parent if tokenizer.is_file() else tokenizer))
    evaluation = evaluate_tokenizers(
        [args.tokenizer_dir, *args.compare],
        dataset_examples(args.dataset_dir) if args.dataset_dir else labelled(args.input, args.languages.split(",")),
        output_dir,
        parallel=tuple(args.parallel) if args.parallel else None,
        n=args.n,
        seed=args.seed,
    )
    print(tables_as_text(tables(evaluation["tokenizers"])))
    print(f"\n{output_dir / 'evaluation.html'}: the same figures, and texts token by token")
    if args.json:
        write_json(args.json, evaluation)
