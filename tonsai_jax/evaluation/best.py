"""The metric by which checkpoints are compared: `checkpoint.best_metric`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from tonsai_jax.data.manifest import RowsManifest
from tonsai_jax.errors import unknown_name
from tonsai_jax.evaluation.bits_per_byte import Evaluation, Score, conversations_for_others, scored_sources
from tonsai_jax.evaluation.preferences import PairEvaluation, PairScore
from tonsai_jax.reporting.metrics_file import higher_is_better, metrics_rows
from tonsai_jax.stages import Stage


def best_metric(config: ConfigDict, manifest: RowsManifest, stages: Sequence[Stage]) -> str:
    """The full name of the metric that `checkpoint.best_metric` names: for "bits_per_byte/km" it is "eval/bits_per_byte/km".

    Empty names the mean bits per byte of the languages, or the loss on held-out pairs.

    Raises `UserError` for a metric that no evaluation of the run will have.
    """
    evaluation: Evaluation | PairEvaluation
    if config.loss.objective != "next_token":
        pairs = [name for name, source in manifest.sources.items() if source.kind == "pairs"]
        default, evaluation = "loss", PairEvaluation({name: PairScore(1, 0, 0, 0) for name in pairs})
    else:
        sources = set(scored_sources(manifest, {stage.seq_len for stage in stages}))
        sources -= conversations_for_others(manifest, stages)
        languages = {manifest.sources[name].language for name in sources}
        default = "bits_per_byte"
        evaluation = Evaluation(dict.fromkeys(sorted(sources), Score()), dict.fromkeys(sorted(languages), Score()))
    key = config.checkpoint.best_metric.removeprefix("eval/")
    if not key:
        return f"eval/{default}"
    known = [name.removeprefix("eval/") for name in evaluation.scalars()] if evaluation.sources else []
    if key not in known:
        raise unknown_name(
            "checkpoint.best_metric", config.checkpoint.best_metric, known or ["none, without validation text"]
        )
    return f"eval/{key}"


def score_of(metrics: Mapping[str, Any], name: str) -> float | None:
    """The metric as a score, of which lower is better: accuracy and margin get a minus sign. None where it is not there."""
    if (value := metrics.get(name)) is None:
        return None
    return -value if higher_is_better(name) else value


def scores_so_far(workdir: Path, name: str) -> dict[int, float]:
    """The scores of all evaluations that a run has written, by step."""
    rows = metrics_rows(workdir / "metrics.jsonl")
    return {row["step"]: score for row in rows if (score := score_of(row, name)) is not None}
