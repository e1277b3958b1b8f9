"""Runs that an earlier version of this program wrote are resumed, with the batches and losses that they would have had."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tonsai_jax.training.run import changes_training

# Token rows, a run of two stages that was stopped after 2 of its 6 steps, and the losses of all 6 in one go; written by
# version 0.1 of November 2026, whose key for the micro-batch was `device_batch_size`.
# Its config file names neither the family nor the optimizer, whose defaults are others today.
ARCHIVE = Path(__file__).with_name("run_of_version_0_1.tar.xz")


@pytest.mark.full
def test_a_run_of_version_0_1_resumes_with_its_own_losses(tmp_path: Path) -> None:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    command = [sys.executable, "-m", "tonsai_jax.train", "--config=config.py", "--workdir=run"]
    done = subprocess.run(
        [*command, "--config.data.dir=rows", "--config.micro_batch_size=4"],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "steps: 2 of 6 done, 4 to do" in done.stdout
    changed = [line for line in done.stdout.splitlines() if "changed since" in line]
    assert changed == [
        "changed since step 2: model.remat: none -> auto"
    ]  # a new default; the renamed key is the same key
    [kept] = [line for line in done.stdout.splitlines() if line.startswith("config: ")]
    assert kept.startswith(
        "config: this run began with defaults of an earlier version, and keeps them: model.norm=layernorm, "
    )
    assert kept.endswith("optimizer.name=adamw, optimizer.embedding_rate=1.0")
    assert "It was trained before the changes" not in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = {str(row["step"]): row["train/loss"] for row in rows if "train/loss" in row}
    expected = json.loads((tmp_path / "losses.json").read_text())
    assert list(losses) == list(expected)
    # Another JAX may add in another order.
    np.testing.assert_allclose(list(losses.values()), list(expected.values()), rtol=1e-5)


@pytest.mark.parametrize("key", ["model.remat", "model.scan_layers", "model.attention"])
def test_how_a_model_is_computed_is_no_change_of_what_it_learns(key):
    assert not changes_training(f"{key}: none -> auto")
    assert changes_training("model.num_layers: 2 -> 3")
