"""A run that was killed between a checkpoint and its evaluation makes up for it, and ends as one that was never killed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_run import TinyRun

KEYS = (
    *("steps=4", "model.context_length=256", "checkpoint.every=2", "checkpoint.keep_best=1", "eval.every=2"),
    *("eval.prompt_suite=True", "sample.every=2"),
)
OF_THE_CLOCK = ("time", "speed/", "memory/", "progress/hours")


@pytest.fixture(scope="module")
def killed(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyRun, list[dict[str, Any]]]:
    """A run that is whole after step 2, and all rows of the same run after its end."""
    folder = tmp_path_factory.mktemp("killed")
    run = TinyRun(rows, folder / "run", KEYS)
    run.train(steps_today=2)
    shutil.copytree(run.workdir, folder / "whole")
    whole = TinyRun(rows, folder / "whole", KEYS)
    whole.train()
    return run, measured(whole.workdir)


def measured(workdir: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{name: row[name] for name in row if not name.startswith(OF_THE_CLOCK)} for row in rows]


@pytest.mark.full
def test_what_was_cut_off_is_made_up(killed: tuple[TinyRun, list[dict[str, Any]]], tmp_path: Path) -> None:
    before, rows_of_whole = killed
    run = TinyRun(before.rows, tmp_path / "run", KEYS)
    shutil.copytree(before.workdir, run.workdir)
    metrics = run.workdir / "metrics.jsonl"
    lines = [line for line in metrics.read_text().splitlines(keepends=True) if '"eval/' not in line]
    metrics.write_text("".join(lines) + '{"step": 2, "eval/bits_p')  # killed in the middle of the row
    (run.workdir / "scores.json").unlink()
    shutil.rmtree(run.workdir / "samples")
    shutil.rmtree(run.workdir / "prompt_suite")

    run.train()
    assert measured(run.workdir) == rows_of_whole
    for folder, file in (("samples", "step-000002.jsonl"), ("prompt_suite", "step-000002.jsonl")):
        assert (run.workdir / folder / file).read_bytes() == (before.workdir / folder / file).read_bytes()
    assert list(json.loads((run.workdir / "scores.json").read_text())) == ["2", "4"]

    (run.workdir / "complete.json").unlink()  # killed at the very end
    assert "The run in" in run.train()
    assert (run.workdir / "complete.json").is_file()
    assert measured(run.workdir) == rows_of_whole


@pytest.mark.full
def test_a_score_that_was_cut_off_is_taken_from_its_row(
    killed: tuple[TinyRun, list[dict[str, Any]]], tmp_path: Path
) -> None:
    before, rows_of_whole = killed
    run = TinyRun(before.rows, tmp_path / "run", KEYS)
    shutil.copytree(before.workdir, run.workdir)
    scores = (run.workdir / "scores.json").read_text()
    (run.workdir / "scores.json").unlink()
    printed = run.train(steps_today=1)
    assert (run.workdir / "scores.json").read_text() == scores
    assert "prompt suite" not in printed
    assert measured(run.workdir) == [row for row in rows_of_whole if row["step"] <= 3]
