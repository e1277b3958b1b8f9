"""The measured runs that a law is fitted to: size, text and score of every complete run below a folder."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from ml_collections import ConfigDict

from tonsai_jax.config import model_config, stages_of
from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.reporting.complete_file import COMPLETE_FILE, read_complete
from tonsai_jax.reporting.metrics_file import language_scores
from tonsai_jax.saved_config import from_json, to_json
from tonsai_jax.scaling.law import Text
from tonsai_jax.stages import SourceSize, tokens_by_source


@dataclass(frozen=True)
class MeasuredRun:
    """A complete run, or the mean of several that differ in the seed alone.

    Attributes:
      name: the folder.
      layer_parameters: see `layer_parameters`.
      texts: what it read, by language.
      bytes_per_token: of the training text, by language.
      vocab_size: ids of its tokenizer.
      optimizer: its name in the config.
      dropout: the larger of `model.dropout` and `model.attention_dropout`.
      bits_per_byte: of the held-out text after the last step, by language.
    """

    name: str
    layer_parameters: int
    texts: dict[str, Text]
    bytes_per_token: dict[str, float]
    vocab_size: int
    optimizer: str
    dropout: float
    bits_per_byte: dict[str, float]


def layer_parameters(model: ModelConfig) -> int:
    """Parameters of the layers that work for one token: without embeddings, positions and head."""
    tables = model.vocab_size * (1 if model.tie_embeddings else 2) + model.num_positions
    return model.num_active_parameters - tables * model.d_model


def read_runs(folder: Path) -> list[MeasuredRun]:
    """The complete runs in `folder` and in all folders below it; runs that differ in the seed alone become their mean.

    A run is left out, with a warning, if it began from another model or learned from teachers, has no score of held-out text or
    one of a language that it did not read, or lacks a file. Runs with dropout stay, with a warning.
    Raises `UserError` where there is no folder, or no run is left.
    """
    if not folder.is_dir():
        raise UserError(f"--measured {folder}: no such folder; give the folder of a run, or of an ablation")
    log = logging.getLogger("tonsai_jax")
    found: dict[str, list[MeasuredRun]] = {}
    for file in sorted(folder.rglob(COMPLETE_FILE)):
        try:
            config, manifest = from_json(read_json(file.parent / "config.json")), read_json(file.parent / "data.json")
            run = _read_run(file.parent, config, manifest)
        except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
            log.warning("%s: left out (%s)", file.parent, error)
            continue
        config.seed, config.wandb.name = 0, ""
        found.setdefault(json.dumps([to_json(config), manifest["sources"]], sort_keys=True), []).append(run)
    if not found:
        raise UserError(
            f"--measured {folder}: no complete run with a score of held-out text is in it; give the --workdir of tonsai train"
        )
    runs = [_mean(same) for same in found.values()]
    with_dropout = [run.name for run in runs if run.dropout]
    if with_dropout:
        log.warning(
            "--measured: dropout in %d of %d runs (the first: %s; runs that differ in the seed alone count once), and the law "
            "has no term for it. Plan with a config of the same dropout, or measure runs with --config.model.dropout=0",
            len(with_dropout),
            len(runs),
            with_dropout[0],
        )
    return runs


def _read_run(workdir: Path, config: ConfigDict, manifest: Mapping[str, Any]) -> MeasuredRun:
    record = read_complete(workdir)
    scores = language_scores(record["scores"]) if record else {}
    if config.init_from:
        raise UserError("it continued from another model, and the law is of runs from scratch")
    if config.distill.teachers:
        raise UserError("it learned from teachers, and the law is of runs that learn from the text alone")
    if not scores:
        raise UserError("it has no bits per byte of held-out text")
    trains = {name: source["splits"]["train"] for name, source in manifest["sources"].items()}
    sizes = {
        name: SourceSize(source["weight"], max(1, trains[name]["tokens"] - 1))
        for name, source in manifest["sources"].items()
    }
    tokens = tokens_by_source(stages_of(config, sizes), sizes)
    texts: dict[str, Text] = {}
    bytes_per_token: dict[str, float] = {}
    for language in sorted({source["language"] for source in manifest["sources"].values()}):
        names = [name for name in tokens if manifest["sources"][name]["language"] == language and tokens[name] > 0]
        if not names:
            if language in scores:
                raise UserError(f"it has a score of {language} and read no text in {language}")
            continue
        unique = sum(trains[name]["bytes"] for name in names)
        read = sum(tokens[name] * trains[name]["bytes"] / trains[name]["tokens"] for name in names)
        texts[language] = Text(unique, read)
        bytes_per_token[language] = unique / sum(trains[name]["tokens"] for name in names)
    model = model_config(config, manifest["vocab_size"])
    size, optimizer = layer_parameters(model), config.optimizer.name
    dropout = max(model.dropout, model.attention_dropout)
    return MeasuredRun(str(workdir), size, texts, bytes_per_token, manifest["vocab_size"], optimizer, dropout, scores)


def _mean(runs: Sequence[MeasuredRun]) -> MeasuredRun:
    languages = set.intersection(*(set(run.bits_per_byte) for run in runs))
    scores = {name: fmean(run.bits_per_byte[name] for run in runs) for name in sorted(languages)}
    return replace(runs[0], bits_per_byte=scores)
