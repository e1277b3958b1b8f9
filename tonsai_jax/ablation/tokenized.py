"""The token rows of each tokenizer that an ablation names: trains the tokenizer on the documents, and encodes them with it."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tonsai_jax.ablation.plan import PlannedRun, has_begun, rows_folder
from tonsai_jax.ablation.processes import Processes
from tonsai_jax.config import stages_of
from tonsai_jax.corpus.documents import read_documents_manifest
from tonsai_jax.errors import UserError, did_you_mean
from tonsai_jax.files import sha256_file
from tonsai_jax.jobs.cache import content_key
from tonsai_jax.jobs.steps import Steps

LOG = "data.log"
_SET_HERE = ("--dataset-dir", "--input", "--output-dir", "--json")


def check_documents(
    file: Path, tokenizers: Mapping[str, Sequence[str]], documents: Path | None, runs: Sequence[PlannedRun]
) -> None:
    """Raises `UserError` where the tokenizers of an ablation cannot be trained on the documents.

    Args:
      file: the file of the ablation.
      tokenizers: {name: flags of `tonsai train-tokenizer`}.
      documents: folder of prepared documents; None if it was not given.
      runs: the planned runs; those with weights must name sources of the documents.
    """
    if not tokenizers:
        if documents:
            raise UserError(f"--documents {documents}: {file} has no tokenizers to train on them; leave the flag out")
        return
    if documents is None:
        raise UserError(
            f"{file}: trains tokenizers; add --documents DIR, the folder that `tonsai prepare --output-dir DIR` writes"
        )
    for name, flags in tokenizers.items():
        wrong = [flag for flag in flags if flag.partition("=")[0] in _SET_HERE]
        if wrong:
            raise UserError(f"{file}: tokenizer {name!r}: {wrong[0]} is set by tonsai ablate; remove it")
    sources = read_documents_manifest(documents)["sources"]
    for run in runs:
        for source in {name for stage in stages_of(run.config) for name in stage.weights} - sources.keys():
            raise UserError(
                f"{documents}: has no source {source!r}, of the weights of variant {run.variant!r}"
                f"{did_you_mean(source, sources)}"
            )


def make_rows(
    tokenizers: Mapping[str, Sequence[str]],
    documents: Path,
    workdir: Path,
    *,
    val_ratio: float,
    runs: Sequence[PlannedRun],
    processes: Processes,
    say: Callable[[str], None],
) -> None:
    """Writes WORKDIR/data/NAME/tokenizer and .../tokens for each tokenizer; what is finished and has not changed is kept.

    Args:
      tokenizers: {name: flags of `tonsai train-tokenizer`}.
      documents: folder of prepared documents.
      workdir: folder of the ablation.
      val_ratio: share of the documents that is kept for validation.
      runs: the planned runs, none of which may have been trained on other rows.
      processes: run the commands; after a signal this returns before all is written.
      say: prints a line.

    Raises `UserError` for a command that fails, and where the rows of a run that has begun are gone or no longer the same.
    """
    documents_hash = sha256_file(documents / "manifest.json")
    for name, flags in tokenizers.items():
        tokens = rows_folder(workdir, name)
        tokenizer = tokens.with_name("tokenizer")
        dataset = ("--dataset-dir", str(documents))
        train = ("train-tokenizer", *dataset, *flags, "--output-dir", str(tokenizer))
        encode = ("tokenize", *dataset, "--tokenizer-dir", str(tokenizer), "--val-ratio", str(val_ratio))
        made_of = (documents_hash, *flags)
        steps = Steps(tokens.with_name("steps.json"))
        for folder, words, key in (
            (tokenizer, train, content_key("tokenizer", *made_of)),
            (tokens, (*encode, "--output-dir", str(tokens)), content_key("tokens", *made_of, val_ratio)),
        ):
            if steps.is_finished(folder, key):
                continue
            _check_unused(tokens, runs)
            log = folder.with_name(LOG)
            say(f"tokenizer {name}: {words[0]}, see {log}")
            failure = processes.run((sys.executable, "-m", "tonsai_jax", *words), log)
            if processes.stopped:
                return
            if failure:
                raise UserError(f"tokenizer {name!r}: {failure}")
            steps.finish(folder, key)


def _check_unused(tokens: Path, runs: Sequence[PlannedRun]) -> None:
    for run in runs:
        if Path(run.config.data.dir) == tokens and has_begun(run):
            raise UserError(
                f"{run.workdir}: was trained on other token rows than {tokens}, because the documents, the tokenizer's flags or "
                "--val-ratio have changed or the rows were removed; use another --workdir, or remove this folder"
            )
