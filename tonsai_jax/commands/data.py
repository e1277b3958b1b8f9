"""From sources to token rows in one command: runs prepare, train-tokenizer and tokenize, one after the other.

With --tokenizer-dir it trains no tokenizer but takes that one, such as the tokenizer of the model that a run continues from.

A finished step is not repeated unless its input or its settings have changed; then it and what depends on it run again.
"""

import argparse
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tonsai_jax.commands import prepare, tokenize, train_tokenizer
from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.config import ROWS_DIR
from tonsai_jax.corpus.pipeline import content_hash, content_hashes
from tonsai_jax.corpus.recipe import Recipe
from tonsai_jax.data.manifest import FORMAT as ROWS_FORMAT
from tonsai_jax.data.manifest import read_manifest
from tonsai_jax.data.tokenize import check_val_ratio
from tonsai_jax.errors import UserError
from tonsai_jax.files import check_replaceable, folder_to_write
from tonsai_jax.huggingface.download import HUB, tokenizer_folder
from tonsai_jax.jobs.cache import content_key
from tonsai_jax.jobs.executor import Executor
from tonsai_jax.jobs.steps import Steps
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.special_tokens import SPECIAL_TOKENS
from tonsai_jax.tokenizer.training import DEFAULT_PATTERN, check_pattern, check_vocabulary
from tonsai_jax.tokenizer.training import FORMAT as TOKENIZER_FORMAT

EXAMPLES = """examples:
  tonsai data --khmer khmer.txt --english english.txt --vocab-size 8000
  tonsai data sources.yaml --vocab-size 32000 --output-dir data/mine
  tonsai data --khmer khmer.txt --english english.txt --tokenizer-dir hf:HuggingFaceTB/SmolLM2-135M

It writes DIR/documents, DIR/tokenizer and DIR/tokens, and prints the commands that it runs. Each of them has more flags than
this command, and can be run alone. To repeat a step although nothing has changed, remove its folder.
"""
# The variants of configs/small.py and the bytes of training text up to which each is meant, as its docstring says.
CONFIGS = {"configs/small.py": 4e6, "configs/small.py:10mb": 10e6, "configs/small.py:30mb": math.inf}


def main() -> None:
    args, source_words = _parse_args()
    documents, tokenizer, tokens = (args.output_dir / name for name in ("documents", "tokenizer", "tokens"))
    prepare_words = [*source_words, "--output-dir", str(documents)]
    recipe = prepare.recipe_of(prepare.parse_args(prepare_words))
    separator: list[int] = []  # of an open model's tokenizer, which tokenizer.json alone does not say
    # What the later steps would refuse: now, and not after the first one.
    if args.tokenizer_dir:
        tokenizer = Path(tokenizer_folder(args.tokenizer_dir))
        given = Tokenizer.from_folder(tokenizer)
        separator = [] if given.is_ours else [given.end_of_text_id]
    else:
        check_pattern(args.pattern, args.model_type)
        check_vocabulary(args.vocab_size, args.model_type, SPECIAL_TOKENS)
        check_replaceable(tokenizer, manifest="report.json", format=TOKENIZER_FORMAT)
    check_val_ratio(args.val_ratio)
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

    if not args.tokenizer_dir:
        # The default is not part of the key: a folder that was made without this flag is kept.
        pattern = [] if args.pattern == DEFAULT_PATTERN else ["--pattern", args.pattern]
        key = content_key("tokenizer", documents_hash, args.vocab_size, args.model_type, *pattern)
        if not _is_finished(steps, tokenizer, key):
            words = ["--dataset-dir", documents, "--vocab-size", args.vocab_size, "--model-type", args.model_type]
            _run("train-tokenizer", [*words, *pattern, "--output-dir", tokenizer], train_tokenizer.main)
            steps.finish(tokenizer, key)

    key = content_key("tokens", documents_hash, content_hash(tokenizer / "tokenizer.json"), args.val_ratio, *separator)
    if not _is_finished(steps, tokens, key):
        words = ["--dataset-dir", documents, "--tokenizer-dir", tokenizer, "--val-ratio", args.val_ratio]
        _run("tokenize", [*words, "--output-dir", tokens], tokenize.main)
        steps.finish(tokens, key)

    size = sum(source.splits["train"].bytes for source in read_manifest(tokens).sources.values())
    config = next(name for name, most in CONFIGS.items() if size <= most)
    where = "" if tokens == Path(ROWS_DIR) else f" --config.data.dir={shlex.quote(str(tokens))}"
    print(f"\n{tokens}: token rows, ready to train on. Next, with this or another config of configs/:")
    if args.tokenizer_dir and _is_model(args.tokenizer_dir):
        config = f"configs/continue_from_hf.py --config.init_from={shlex.quote(args.tokenizer_dir)}"
    print(f"  tonsai train --config {config} --workdir runs/mine{where}")
    if left_out is not None:
        raise left_out


def _parse_args() -> tuple[argparse.Namespace, list[str]]:
    """The flags of this command, and the words that tell `tonsai prepare` which sources to read."""
    parser = CommandParser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("sources", nargs="?", metavar="SOURCES.yaml", help="the sources (docs/data.md); or give --khmer and --english")
    source_flags = prepare.add_source_flags(parser)
    train_tokenizer.add_tokenizer_flags(parser, required=False)
    defaults = {name: parser.get_default(name) for name in ("model_type", "pattern")}
    parser.set_defaults(**dict.fromkeys(defaults))  # None shows that a flag was not given
    add("--tokenizer-dir", metavar="DIR", help="take this tokenizer: its folder, that of a model, or hf:ORG/NAME")
    add("--val-ratio", type=float, default=0.01, metavar="X", help="share kept for validation (default: 0.01)")
    add("--output-dir", type=folder_to_write, default=Path("data"), metavar="DIR", help="folder of all (default: data)")
    args = parser.parse_args()
    if bool(args.sources) == bool(args.khmer or args.english):
        raise UserError("give either SOURCES.yaml, or --khmer and/or --english")
    if (args.vocab_size is None) == (args.tokenizer_dir is None):
        raise UserError(
            "give either --vocab-size N, to train a tokenizer (8000 for a first try), or --tokenizer-dir DIR"
        )
    for name, default in defaults.items():
        if args.tokenizer_dir and getattr(args, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} has no effect with --tokenizer-dir, which trains no tokenizer; leave it out")
        if getattr(args, name) is None:
            setattr(args, name, default)
    if args.sources and not args.sources.endswith((".yaml", ".yml")):
        raise UserError(
            f"{args.sources}: not a sources file (.yaml); give a file of text as --khmer FILE or --english FILE"
        )
    given = [(flag.option_strings[0], getattr(args, flag.dest), flag.default) for flag in source_flags]
    words = [word for name, value, default in given if value != default for word in (name, str(value))]
    return args, [*words, "--config", args.sources] if args.sources else words


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


def _is_model(where: str) -> bool:
    """Whether --tokenizer-dir names a model, with weights to continue from."""
    folder = Path(where)
    return where.startswith(HUB) or ((folder / "config.json").is_file() and any(folder.glob("*.safetensors")))


def _hashes(recipe: Recipe) -> dict[str, str]:
    """{path: hash} of every file that the documents depend on, without the sources that `prepare` will leave out."""
    settings = recipe.settings
    hashes = content_hashes([*settings.quality.files(), *settings.decontaminate.paths()], progress=True)
    for source in recipe.sources:
        try:
            hashes |= content_hashes(source.files(), progress=True)
        except UserError:
            if settings.on_error == "stop":
                raise
    return hashes
