"""From sources to token rows in one command: runs prepare, train-tokenizer and tokenize, one after the other.

A finished step is not repeated unless its input or its settings have changed; then it and what depends on it run again.
"""

import argparse
import itertools
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from tonsai_jax.commands import prepare, tokenize, train_tokenizer
from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.config import ROWS_DIR
from tonsai_jax.corpus.pipeline import content_hash
from tonsai_jax.corpus.recipe import Recipe
from tonsai_jax.corpus.sources.lines import Boundary
from tonsai_jax.data.manifest import FORMAT as ROWS_FORMAT
from tonsai_jax.data.tokenize import check_val_ratio
from tonsai_jax.errors import UserError
from tonsai_jax.files import check_replaceable, folder_to_write
from tonsai_jax.jobs.cache import content_key
from tonsai_jax.jobs.executor import Executor
from tonsai_jax.jobs.steps import Steps
from tonsai_jax.tokenizer.special_tokens import SPECIAL_TOKENS
from tonsai_jax.tokenizer.training import FORMAT as TOKENIZER_FORMAT
from tonsai_jax.tokenizer.training import check_vocabulary

EXAMPLES = """examples:
  tonsai data --khmer khmer.txt --english english.txt --vocab-size 8000
  tonsai data sources.yaml --vocab-size 32000 --output-dir data/mine

It writes DIR/documents, DIR/tokenizer and DIR/tokens, and prints the commands that it runs. Each of them has more flags than
this command, and can be run alone. To repeat a step although nothing has changed, remove its folder.
"""
PREPARE_FLAGS: dict[str, dict[str, Any]] = {
    "khmer": {"help": "Khmer: a file, folder, 'glob' or Hugging Face id"},
    "english": {"help": "English: the same"},
    "khmer-weight": {"type": float, "help": "share of Khmer in training (default: 0.6)"},
    "english-weight": {"type": float, "help": "share of English in training (default: 0.4)"},
    "document": {
        "choices": get_args(Boundary),
        "help": "what a document of a .txt file is (default: line, or as the YAML says; in hard-wrapped files paragraph)",
    },
    "max-samples": {"type": int, "help": "read at most this many documents per source, for a quick try"},
    "on-error": {
        "choices": ["stop", "skip"],
        "help": "at input that cannot be read (default: stop, or as the YAML says)",
    },
    "workers": {"type": int, "help": "tasks that run at the same time (default: one per core)"},
}


def main() -> None:
    args = _parse_args()
    documents, tokenizer, tokens = (args.output_dir / name for name in ("documents", "tokenizer", "tokens"))
    prepare_words = _prepare_words(args, documents)
    recipe = prepare.recipe_of(prepare.parse_args(prepare_words))
    # What the later steps would refuse: now, and not after the first one.
    check_vocabulary(args.vocab_size, args.model_type, SPECIAL_TOKENS)
    check_val_ratio(args.val_ratio)
    check_replaceable(tokenizer, manifest="report.json", format=TOKENIZER_FORMAT)
    check_replaceable(tokens, manifest="manifest.json", format=ROWS_FORMAT)
    steps = Steps(args.output_dir / "steps.json")

    left_out = None
    key = content_key("documents", recipe.sources, replace(recipe.settings, executor=Executor()), _hashes(recipe))
    if not _is_finished(steps, documents, key):
        try:
            _run("prepare", prepare_words, prepare.main)
            steps.finish(documents, key)
        except prepare.SourcesLeftOutError as error:  # the next run tries those sources again
            left_out = error
    documents_hash = content_hash(documents / "manifest.json")

    key = content_key("tokenizer", documents_hash, args.vocab_size, args.model_type)
    if not _is_finished(steps, tokenizer, key):
        words = ["--dataset-dir", documents, "--vocab-size", args.vocab_size, "--model-type", args.model_type]
        _run("train-tokenizer", [*words, "--output-dir", tokenizer], train_tokenizer.main)
        steps.finish(tokenizer, key)

    key = content_key("tokens", documents_hash, content_hash(tokenizer / "tokenizer.json"), args.val_ratio)
    if not _is_finished(steps, tokens, key):
        words = ["--dataset-dir", documents, "--tokenizer-dir", tokenizer, "--val-ratio", args.val_ratio]
        _run("tokenize", [*words, "--output-dir", tokens], tokenize.main)
        steps.finish(tokens, key)

    where = "" if tokens == Path(ROWS_DIR) else f" --config.data.dir={shlex.quote(str(tokens))}"
    print(f"\n{tokens}: token rows, ready to train on. Next, with this or another config of configs/:")
    print(f"  tonsai train --config configs/small.py --workdir runs/mine{where}")
    if left_out is not None:
        raise left_out


def _parse_args() -> argparse.Namespace:
    parser = CommandParser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("sources", nargs="?", metavar="SOURCES.yaml", help="the sources (docs/data.md); or give --khmer and --english")
    for name, option in PREPARE_FLAGS.items():
        add(f"--{name}", metavar=None if "choices" in option else "X", **option)
    add("--vocab-size", type=int, required=True, metavar="N", help="number of token ids; 8000 for a first try")
    add("--model-type", default="bpe", metavar="bpe|unigram", help="kind of tokenizer (default: bpe)")
    add("--val-ratio", type=float, default=0.01, metavar="X", help="share kept for validation (default: 0.01)")
    add("--output-dir", type=folder_to_write, default=Path("data"), metavar="DIR", help="folder of all (default: data)")
    args = parser.parse_args()
    if bool(args.sources) == bool(args.khmer or args.english):
        raise UserError("give either SOURCES.yaml, or --khmer and/or --english")
    if args.sources and not args.sources.endswith((".yaml", ".yml")):
        raise UserError(
            f"{args.sources}: not a sources file (.yaml); give a file of text as --khmer FILE or --english FILE"
        )
    return args


def _prepare_words(args: argparse.Namespace, documents: Path) -> list[str]:
    given = {name: getattr(args, name.replace("-", "_")) for name in PREPARE_FLAGS} | {"config": args.sources}
    words = [(f"--{name}", str(value)) for name, value in given.items() if value is not None]
    return [*itertools.chain(*words), "--output-dir", str(documents)]


def _run(name: str, words: Sequence[object], run: Callable[[Sequence[str]], None]) -> None:
    """Runs a command, and prints it as a person would type it."""
    typed = [str(word) for word in words]
    print(f"\n$ tonsai {name} {shlex.join(typed)}", flush=True)
    run(typed)


def _is_finished(steps: Steps, folder: Path, key: str) -> bool:
    if not steps.is_finished(folder, key):
        return False
    print(f"{folder}: kept; neither its input nor its settings have changed")
    return True


def _hashes(recipe: Recipe) -> dict[str, str]:
    """{path: hash} of every file that the documents depend on."""
    settings = recipe.settings
    files: list[Path | str] = [*settings.quality.files(), *settings.decontaminate.paths()]
    for source in recipe.sources:
        try:
            files += source.files()
        except UserError:
            if settings.on_error == "stop":
                raise
    return {str(file): content_hash(file) for file in files}
