"""Damage in the small files of a run is a line, and the run goes on."""

import json
import logging
import random
import shutil
from pathlib import Path

import pytest

from tests.support.flips import with_a_flipped_bit
from tests.support.made_once import MadeOnce
from tests.support.tiny_run import TinyRun
from tonsai_jax.checkpoints.store import Checkpoints
from tonsai_jax.reporting.complete_file import read_complete
from tonsai_jax.reporting.metrics_file import metrics_rows, row_of

KEYS = ("steps=4", "eval.every=2", "checkpoint.every=2", "checkpoint.keep_best=1", "checkpoint.keep_last=2")
GARBAGE = bytes(range(256))
WRONG = [b"", b"{", b"[]", b"null", b'{"step": "4"}', b'{"step": 4, "scores": [1]}', GARBAGE]


@pytest.fixture(scope="module")
def complete(rows: Path, made_once: MadeOnce) -> Path:
    """The workdir of a complete run; copy it before you touch it."""
    return made_once("complete run", lambda folder: TinyRun(rows, folder / "run", KEYS).train() and None) / "run"


@pytest.fixture
def damaged(complete: Path, rows: Path, tmp_path: Path) -> TinyRun:
    run = TinyRun(rows, tmp_path / "run", KEYS)
    shutil.copytree(complete, run.workdir)
    return run


@pytest.mark.full
def test_a_run_goes_on_with_all_its_small_files_damaged(
    damaged: TinyRun, complete: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("complete.json", "scores.json", "config.json", "data.json", "environment.json"):
        (damaged.workdir / name).write_bytes(GARBAGE)
    metrics = damaged.workdir / "metrics.jsonl"
    first, *rest = metrics.read_bytes().splitlines(keepends=True)
    broken = [b'{"train/loss": 1.0}\n', b'{"step": 3, "train/loss": "low"}\n', b"[" * 10_000 + b"\n", GARBAGE + b"\n"]
    metrics.write_bytes(first + b"".join(broken) + b"".join(rest))
    with caplog.at_level(logging.WARNING, "tonsai_jax"):
        assert "The run in" in damaged.train()
    lines = [record.getMessage() for record in caplog.records]
    # The garbage holds a line break of its own.
    assert f"{metrics}: {len(broken) + 1} damaged lines are left out" in lines
    for name in ("complete.json", "scores.json"):
        assert sum(line.startswith(f"{damaged.workdir / name}: damaged") for line in lines) == 1, lines
    assert metrics_rows(metrics) == metrics_rows(complete / "metrics.jsonl")
    for name in ("complete.json", "scores.json", "config.json", "data.json"):
        assert (damaged.workdir / name).read_bytes() == (complete / name).read_bytes(), name
    assert len(json.loads((damaged.workdir / "environment.json").read_text())) == 1


@pytest.mark.parametrize("content", WRONG)
def test_a_complete_file_of_another_kind_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "complete.json").write_bytes(content)
    assert read_complete(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"[]", b'{"two": 1.0}', b'{"2": null}', GARBAGE])
def test_scores_of_another_kind_count_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scores.json").write_bytes(content)
    assert Checkpoints(tmp_path, read_only=True).latest_step() is None


@pytest.mark.full
def test_a_flipped_bit_never_ends_the_reading_of_these_files(complete: Path, tmp_path: Path) -> None:
    chance = random.Random(0)
    for name in ("complete.json", "metrics.jsonl"):
        content = (complete / name).read_bytes()
        for _ in range(200):
            (tmp_path / name).write_bytes(with_a_flipped_bit(content, chance))
            read_complete(tmp_path)
            for row in metrics_rows(tmp_path / "metrics.jsonl"):
                assert row == row_of(json.dumps(row).encode())
