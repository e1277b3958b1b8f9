"""Prepares raw text (local files or Hugging Face datasets): writes clean documents for tokenizer and training."""

import argparse
import math
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.corpus.output import REPORT
from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.recipe import Recipe, load_recipe
from tonsai_jax.corpus.report import figures, table
from tonsai_jax.corpus.sources.lines import Boundary
from tonsai_jax.corpus.sources.source import source_at
from tonsai_jax.errors import UserError
from tonsai_jax.files import folder_to_replace, write_json
from tonsai_jax.jobs.executor import Executor

EXAMPLES = """examples:
  tonsai prepare --config configs/data/shakespeare.yaml --output-dir data/shakespeare
  tonsai prepare --khmer 'km/*.txt' --english roneneldan/TinyStories --output-dir data/mix

In a text file (.txt), each line is a document; --document sets it to a paragraph or the file. In a file with
hard-wrapped lines, such as a book with lines of 72 characters, each paragraph is a document. Weights are written
to the manifest and applied in training. An earlier dataset in the output folder is replaced when the new one is
complete.
"""


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags in `words`, or those of the command line."""
    parser = CommandParser(description=__doc__, epilog=EXAMPLES)
    option = parser.add_argument
    option("--config", type=Path, help="YAML file that lists the sources")
    add_source_flags(parser)
    option("--output-dir", type=folder_to_replace, required=True, help="folder for the documents and their manifest")
    option("--keep-dropped", action="store_true", help="also write dropped documents, with the rule, to dropped/")
    option(
        "--executor",
        choices=["local", "ray", "slurm"],
        help="where the tasks run (default: local, or as the YAML says)",
    )
    option("--tokens", type=float, metavar="N", help="tokens of a planned run; the report shows its epochs")
    parser.add_json()
    return parser.parse_args(words)


def add_source_flags(parser: CommandParser) -> list[argparse.Action]:
    """Adds the flags that say which text is read and how, and returns them; `tonsai data` has them too."""
    option = parser.add_argument
    return [
        option("--khmer", metavar="PATH_OR_HF_ID", help="Khmer: a file, folder, 'glob' or Hugging Face id"),
        option("--english", metavar="PATH_OR_HF_ID", help="English: the same"),
        option("--khmer-weight", type=float, default=0.6, metavar="X", help="share in training (default: %(default)s)"),
        option(
            "--english-weight", type=float, default=0.4, metavar="X", help="share in training (default: %(default)s)"
        ),
        option(
            "--document",
            choices=get_args(Boundary),
            help="what a document of a .txt file is (default: line, or as the YAML says; in hard-wrapped files paragraph)",
        ),
        option(
            "--max-samples", type=int, metavar="N", help="read at most this many documents per source, for a quick try"
        ),
        option(
            "--on-error",
            choices=["stop", "skip"],
            help="at input that cannot be read (default: stop, or as the YAML says)",
        ),
        option(
            "--workers",
            type=int,
            metavar="N",
            help="tasks that run at the same time (default: one per core; on a cluster no limit)",
        ),
    ]


class SourcesLeftOutError(UserError):
    """The documents are written, but without the sources that failed."""


def main(words: Sequence[str] | None = None) -> None:
    args = parse_args(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that partly written files are removed
    if args.tokens is not None and not 0 < args.tokens < math.inf:
        raise UserError(f"--tokens {args.tokens:g}: must be above 0; give the number of tokens of the planned run")
    recipe = recipe_of(args)
    manifest = prepare(recipe.sources, args.output_dir, recipe.settings, planned_tokens=args.tokens)
    print(table(manifest))
    print(f"written to {args.output_dir}; look at {args.output_dir / REPORT}")
    if args.json:
        write_json(args.json, figures(manifest))
    if manifest.get("failed"):
        raise SourcesLeftOutError(
            "left out: " + "; ".join(f"{name} ({why})" for name, why in manifest["failed"].items())
        )


def recipe_of(args: argparse.Namespace) -> Recipe:
    """What the flags ask for; raises `UserError` for a source that cannot be found and for a mistake in the sources file."""
    if bool(args.config) == bool(args.khmer or args.english):
        raise UserError("give either --config FILE, or --khmer and/or --english")
    if args.config:
        recipe = load_recipe(args.config)
    else:
        khmer, english = args.khmer, args.english
        sources = [source_at(khmer, name="khmer", language="km", weight=args.khmer_weight)] if khmer else []
        if english:
            sources.append(source_at(english, name="english", language="en", weight=args.english_weight))
        recipe = Recipe(sources)
    if args.document:
        if not any(source.path for source in recipe.sources):
            raise UserError("--document is for text files, but no source has a `path`; take it out")
        texts = [replace(source, document=args.document) if source.path else source for source in recipe.sources]
        recipe = replace(recipe, sources=texts)
    if args.max_samples is not None:
        recipe = replace(recipe, sources=[replace(source, max_samples=args.max_samples) for source in recipe.sources])
    settings = recipe.settings
    if args.executor or args.workers is not None:
        given = settings.executor
        kind, workers = args.executor or given.kind, given.workers if args.workers is None else args.workers
        settings = replace(settings, executor=Executor(kind, workers, given.options if kind == given.kind else {}))
    if args.on_error:
        settings = replace(settings, on_error=args.on_error)
    if args.keep_dropped:
        settings = replace(settings, keep_dropped=True)
    return replace(recipe, settings=settings)
