"""Tests of tonsai_jax/evaluation/task_scores.py."""

import dataclasses
from pathlib import Path

import pytest

from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.task_scores import TaskScore, read_scores, scores_file, write_scores

FULL = TaskScore("piqa", "accuracy", 0.6, 0.01, 0.58, 0.62, n=1838)
OTHER = TaskScore("arc_easy", "accuracy", 0.4, 0.01, 0.38, 0.42, n=2376)


def test_scores_of_other_tasks_metrics_and_shots_stay(tmp_path: Path) -> None:
    others = [OTHER, dataclasses.replace(FULL, metric="accuracy_bytes"), dataclasses.replace(FULL, shots=5)]
    write_scores(tmp_path, "tasks", 500, [FULL, *others])
    again = dataclasses.replace(FULL, value=0.7)
    path = write_scores(tmp_path, "tasks", 500, [again])
    assert read_scores(path) == (500, [again, *others])


def test_a_score_of_fewer_items_does_not_replace_one_of_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_scores(tmp_path, "tasks", 500, [FULL])
    path = write_scores(tmp_path, "tasks", 500, [dataclasses.replace(FULL, value=1.0, n=1), OTHER])
    assert read_scores(path) == (500, [FULL, OTHER])
    assert caplog.messages == [f"{path}: keeps earlier scores, which are of more items: piqa (of 1,838 items, now 1)"]


def test_a_file_of_something_else_is_not_written_over(tmp_path: Path) -> None:
    path = scores_file(tmp_path, "tasks", 500)
    path.parent.mkdir()
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match=r"not the scores of an evaluation .*; delete it and evaluate again"):
        write_scores(tmp_path, "tasks", 500, [FULL])
    assert path.read_text(encoding="utf-8") == "[]"
