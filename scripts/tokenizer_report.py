"""How well a tokenizer does on text, by language, beside other tokenizers: a table, and a page with texts cut into tokens."""

import argparse
from pathlib import Path

from tonsai_jax.errors import run_command
from tonsai_jax.files import write_json
from tonsai_jax.reporting.tables import as_text
from tonsai_jax.tokenizer.evaluation import evaluate_tokenizers, labelled
from tonsai_jax.tokenizer.examples import dataset_examples
from tonsai_jax.tokenizer.report_tables import tables

EXAMPLES = """examples:
  python scripts/tokenizer_report.py --tokenizer-dir artifacts/tokenizer --dataset-dir data/held_out
  python scripts/tokenizer_report.py --tokenizer-dir artifacts/bpe --compare artifacts/unigram downloads/gpt2 \\
      --input km.txt en.txt --parallel sentences.km.txt sentences.en.txt

It writes evaluation.json and evaluation.html. Text that the tokenizer was not trained on tells most.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--tokenizer-dir", required=True, metavar="DIR", help="the tokenizer: a folder, or a tokenizer.json")
    add("--compare", nargs="+", default=[], metavar="DIR", help="others to measure beside it, of Hugging Face too")
    inputs = parser.add_mutually_exclusive_group(required=True)
    inputs.add_argument("--dataset-dir", metavar="DIR", help="documents written by scripts/prepare_dataset.py")
    inputs.add_argument("--input", nargs="+", metavar="FILE", help="text files (.gz, .zst too), an example a line")
    add(
        "--languages",
        default="km,en",
        help="what the lines of --input may be, each told by its script (default: km,en)",
    )
    add("--parallel", nargs=2, metavar="FILE", help="the same sentences in two languages, a sentence a line")
    add("--n", type=int, default=10, help="documents to show, chosen at random (default: 10)")
    add("--seed", type=int, default=42, help="chooses them (default: 42)")
    add("--output-dir", metavar="DIR", help="where the files go (default: the tokenizer's folder)")
    add("--json", type=Path, metavar="FILE", help="write the figures here too")
    args = parser.parse_args()

    tokenizer = Path(args.tokenizer_dir)
    output_dir = Path(args.output_dir or (tokenizer.parent if tokenizer.is_file() else tokenizer))
    evaluation = evaluate_tokenizers(
        [args.tokenizer_dir, *args.compare],
        dataset_examples(args.dataset_dir) if args.dataset_dir else labelled(args.input, args.languages.split(",")),
        output_dir,
        parallel=tuple(args.parallel) if args.parallel else None,
        n=args.n,
        seed=args.seed,
    )
    print("\n\n".join(map(as_text, tables(evaluation["tokenizers"]))))
    print(f"\n{output_dir / 'evaluation.html'}: the same, with texts token by token")
    if args.json:
        write_json(args.json, evaluation)


if __name__ == "__main__":
    run_command(main)
