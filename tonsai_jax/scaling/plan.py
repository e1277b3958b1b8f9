"""From the wishes of a user to a plan: reads the rows, asks for the speed, searches, and joins all that is to be said."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from tonsai_jax.cli import parse_flags
from tonsai_jax.config import ROWS_DIR, model_config
from tonsai_jax.data.manifest import RowsManifest, read_manifest
from tonsai_jax.errors import UserError
from tonsai_jax.runtime.hardware import gpu_named
from tonsai_jax.runtime.memory import host_memory_limit
from tonsai_jax.saved_config import copy_of
from tonsai_jax.scaling.continued import choose_start
from tonsai_jax.scaling.fit import ScalingFit, adapted, can_fit, fit_runs, load_fit
from tonsai_jax.scaling.proposal import Planner, Task, with_width
from tonsai_jax.scaling.report import as_text, check_table, figures_of, fit_table, notes, proposal_table, train_command
from tonsai_jax.scaling.runs import read_runs
from tonsai_jax.scaling.speed import MEASURED_WIDTHS, SpeedOf, cpu_speed, gpu_speed, measured_flops

# small.py:30mb has no dropout, as the fitted runs.
CPU_CONFIG, GPU_CONFIG = "configs/small.py:30mb", "configs/khmer.py"
TRAINING_SHARE = 0.9  # of a budget; the rest is for starting, compiling, evaluating, saving and samples
SOURCES = {"km": "khmer", "en": "english"}  # names that `tonsai data` gives


@dataclass(frozen=True)
class Corpus:
    """The text to train on.

    Attributes:
      tokens, bytes_per_token: by language; each text is counted once.
      source_tokens: {language: {source: tokens}}.
    """

    tokens: dict[str, float]
    bytes_per_token: dict[str, float]
    source_tokens: dict[str, dict[str, float]]
    vocab_size: int
    data_dir: str

    def weights(self, shares: Mapping[str, float]) -> dict[str, float]:
        """Weights of the sources for shares of the languages: sources of one language are read equally often."""
        return {
            source: share * tokens / self.tokens[language]
            for language, share in shares.items()
            for source, tokens in self.source_tokens[language].items()
        }


def fit_for(measured: Path | None) -> tuple[ScalingFit, str]:
    """The fit to plan with, and what the measured runs did: "fit" them, set its "level", or "" where there are none."""
    if measured is None:
        return load_fit(), ""
    runs = read_runs(measured)
    if can_fit(runs):
        return fit_runs(runs), "fit"
    return adapted(load_fit(), runs), "level"


def make_plan(
    fit: ScalingFit,
    measured: str,
    *,
    tokens: Mapping[str, float] | None,
    data_dir: str | None,
    vocab_size: int | None,
    importance: Mapping[str, float] | None,
    gpu: str | None,
    gpu_hours: float | None,
    num_gpus: int,
    cpu_minutes: float | None,
    flops: float | None,
    config_file: str | None,
    workdir: str,
) -> tuple[str, dict[str, Any]]:
    """The plan as text and as figures for JSON; the arguments are the flags of `tonsai plan`.

    Raises `UserError` for a language without a law, and for a budget or a text that is too small for any run.
    """
    file = config_file or (GPU_CONFIG if gpu else CPU_CONFIG)
    base, _, _ = parse_flags([sys.argv[0], f"--config={file}"], "")
    _check_base(file, base, fit)
    task_config = copy_of(base)
    corpus = _corpus(fit, tokens, data_dir, vocab_size)
    seconds = TRAINING_SHARE * (60 * cpu_minutes if cpu_minutes else 3600 * (gpu_hours or 0) / num_gpus)
    task = Task(
        task_config,
        corpus.tokens,
        corpus.bytes_per_token,
        corpus.vocab_size,
        _importance(importance, corpus),
        seconds,
        num_gpus,
    )
    speed_of, memory = _machine(task_config, corpus.vocab_size, gpu, num_gpus, flops)
    planner = Planner(task, fit, speed_of)
    proposal = planner.best()
    alternatives = planner.alternatives(proposal)
    model = model_config(proposal.config, corpus.vocab_size)
    flops_per_second = proposal.tokens_per_second * model.flops_per_token(proposal.config.seq_len)
    start = choose_start(corpus.tokens, flops_per_second, seconds, memory)
    command = train_command(file, base, proposal, corpus.weights(proposal.shares), corpus.data_dir, workdir)
    said = notes(fit, proposal, seconds, measured=measured)
    figures = {
        "proposal": figures_of(proposal),
        "alternatives": {name: figures_of(other) for name, other in alternatives.items()},
        "start": {"model": start.model and start.model.name, "reasons": start.reasons},
        "fit": {"about": fit.about, "measured": measured, "runs": fit.num_runs, "left_out": fit.left_out},
        "notes": said,
        "command": command,
    }
    text = as_text(
        [proposal_table(proposal, alternatives), fit_table(fit), check_table(fit)],
        {"From scratch or continued": start.reasons, "Note": said, "Train it": [command]},
    )
    return text, figures


def _check_base(file: str, base: ConfigDict, fit: ScalingFit) -> None:
    """Raises `UserError` for a config whose runs the fit cannot predict."""
    keys = {"stages": base.stages, "init_from": base.init_from, "distill.teachers": base.distill.teachers}
    for key, value in keys.items():
        if value:
            raise UserError(
                f"--config {file}: sets {key}, and a plan is for a run from scratch with one mix; name another config"
            )
    if base.loss.objective != "next_token":
        raise UserError(
            f"--config {file}: loss.objective={base.loss.objective}, and a plan is for text; name another config"
        )
    if base.optimizer.name != fit.optimizer:
        raise UserError(
            f"--config {file}: optimizer.name={base.optimizer.name}, and the law is of runs with {fit.optimizer}; "
            f"name a config with {fit.optimizer}, or give runs with {base.optimizer.name} as --measured"
        )


def _machine(
    base: ConfigDict, vocab_size: int, gpu: str | None, num_gpus: int, flops: float | None
) -> tuple[SpeedOf, float]:
    """The speed of runs on the machine, and the bytes of memory of one device."""
    if gpu:
        named = gpu_named(gpu)
        return gpu_speed(named, num_gpus, vocab_size), named.memory_bytes
    of_width = (
        measured_flops([with_width(base, width) for width in MEASURED_WIDTHS], vocab_size) if flops is None else None
    )
    return cpu_speed(of_width or (lambda _: flops or 0.0), vocab_size), host_memory_limit()


def _corpus(
    fit: ScalingFit, tokens: Mapping[str, float] | None, data_dir: str | None, vocab_size: int | None
) -> Corpus:
    if data_dir is None:
        tokens = dict(tokens or {})
        known = {name: each.bytes_per_token for name, each in fit.by_language.items()}
        return Corpus(
            tokens,
            {name: known.get(name, 1.0) for name in tokens},  # a language without a law is refused by the planner
            {name: {SOURCES.get(name, name): number} for name, number in tokens.items()},
            vocab_size or fit.vocab_size,
            ROWS_DIR,
        )
    return _corpus_of(read_manifest(data_dir), data_dir)


def _corpus_of(manifest: RowsManifest, data_dir: str) -> Corpus:
    sources: dict[str, dict[str, float]] = {}
    num_bytes: dict[str, int] = {}
    for name, source in sorted(manifest.sources.items()):
        split = source.splits["train"]
        if source.is_packed or not split.tokens:
            raise UserError(f"--data-dir {data_dir}: source {name!r} has no training text; a plan is for rows of text")
        sources.setdefault(source.language, {})[name] = float(split.tokens)
        num_bytes[source.language] = num_bytes.get(source.language, 0) + split.bytes
    tokens = {language: sum(each.values()) for language, each in sources.items()}
    bytes_per_token = {language: num_bytes[language] / tokens[language] for language in tokens}
    return Corpus(tokens, bytes_per_token, sources, manifest.vocab_size, data_dir)


def _importance(importance: Mapping[str, float] | None, corpus: Corpus) -> dict[str, float]:
    """The weights of the languages, which sum to 1; all the same where none are given."""
    if importance is None:
        return dict.fromkeys(corpus.tokens, 1 / len(corpus.tokens))
    if importance.keys() != corpus.tokens.keys():
        raise UserError(
            f"--importance names {', '.join(importance)}, and the text is in {', '.join(corpus.tokens)}; name the same languages"
        )
    return {name: value / sum(importance.values()) for name, value in importance.items()}
