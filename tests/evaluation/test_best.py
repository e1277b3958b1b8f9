"""The metric by which checkpoints are compared: found by its name, refused where no evaluation will have it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tonsai_jax.config import default_config, stages_of
from tonsai_jax.data.manifest import RowsManifest, SourceInfo, SplitInfo, dtype_for
from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.best import best_metric, score_of, scores_so_far

TEXT = SplitInfo(2, 17, 1, 40, ())
PACKED = SplitInfo(2, 17, 1, 40, (), slots=16)
NONE = SplitInfo(0, 0, 0, 0, ())
SOURCES = {
    "wiki": SourceInfo("wiki", 0.5, "km", {"train": TEXT, "validation": TEXT}),
    "news": SourceInfo("news", 0.5, "en", {"train": TEXT, "validation": NONE}),
    "chat": SourceInfo("chat", 0.0, "en", {"train": PACKED, "validation": PACKED}, kind="conversations"),
    "pairs": SourceInfo("pairs", 0.0, "km", {"train": PACKED, "validation": PACKED}, kind="pairs"),
}


def named(metric: str, objective: str = "next_token", **sources: SourceInfo) -> str:
    config = default_config()
    config.seq_len, config.checkpoint.best_metric, config.loss.objective = 8, metric, objective
    manifest = RowsManifest(Path("rows"), 8, dtype_for(300), 300, 0, "", sources or SOURCES)
    return best_metric(config, manifest, stages_of(config))


@pytest.mark.parametrize(
    ("metric", "objective", "name"),
    [
        ("", "next_token", "eval/bits_per_byte"),
        ("bits_per_byte", "next_token", "eval/bits_per_byte"),
        ("eval/bits_per_byte/km", "next_token", "eval/bits_per_byte/km"),
        ("perplexity/source/wiki", "next_token", "eval/perplexity/source/wiki"),
        ("", "dpo", "eval/loss"),
        ("accuracy", "ipo", "eval/accuracy"),
        ("margin/source/pairs", "dpo", "eval/margin/source/pairs"),
    ],
)
def test_a_metric_is_found_by_its_name_with_and_without_eval(metric: str, objective: str, name: str) -> None:
    assert named(metric, objective) == name


@pytest.mark.parametrize(
    ("metric", "objective", "message"),
    [
        ("bits_per_bite/km", "next_token", r"'bits_per_bite/km' is not known; did you mean 'bits_per_byte/km'\?"),
        (
            "bits_per_byte/en",
            "next_token",
            "is not known",
        ),  # nothing of that language is held out, and no stage reads the chat
        (
            "accuracy",
            "next_token",
            "known are: bits_per_byte, bits_per_byte/km, perplexity/km, bits_per_byte/source/wiki",
        ),
        ("bits_per_byte", "dpo", "known are: loss, margin, accuracy, loss/source/pairs"),
    ],
)
def test_a_metric_that_no_evaluation_will_have_is_refused(metric: str, objective: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^checkpoint.best_metric=.*{message}"):
        named(metric, objective)


def test_without_validation_text_there_is_no_metric_to_name() -> None:
    with pytest.raises(UserError, match="known are: none, without validation text"):
        named("bits_per_byte", news=SOURCES["news"])
    assert named("", news=SOURCES["news"]) == "eval/bits_per_byte"


def test_of_scores_the_lower_is_better(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"step": 10, "eval/bits_per_byte/km": 1.5, "eval/accuracy": 0.75, "eval/margin/source/pairs": -2.0},
        {"step": 10, "train/loss": 3.0},
        {"step": 20, "eval/bits_per_byte/km": None},
    ]
    assert score_of(rows[0], "eval/bits_per_byte/km") == 1.5
    assert score_of(rows[0], "eval/accuracy") == -0.75
    assert score_of(rows[0], "eval/margin/source/pairs") == 2.0
    assert score_of(rows[1], "eval/accuracy") is None
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert scores_so_far(tmp_path, "eval/bits_per_byte/km") == {10: 1.5}
