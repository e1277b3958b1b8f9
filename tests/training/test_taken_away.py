"""Sessions on a machine that is taken away without a word, as a free GPU of Colab is: nothing is lost, nothing is read twice."""

import json
import random
import re
import signal
import time
from pathlib import Path

import pytest

from tests.support.tiny_run import TinyRun
from tonsai_jax.config import stages_of
from tonsai_jax.data.manifest import read_manifest
from tonsai_jax.data.order import DataOrder
from tonsai_jax.saved_config import from_json

STEPS = 40
SETTINGS = (f"steps={STEPS}", "checkpoint.every=1", "optimizer.learning_rate=1e-3", "sample.prompts=()")


def kill_a_session(run: TinyRun, devices: int, moment: random.Random) -> str:
    """Starts the run, and kills it at some moment after its start or after some of its steps; returns what it printed."""
    lines, steps = "", moment.choice((0, 3, 5, 7))
    with run.start(devices=devices) as process:
        try:
            assert process.stdout is not None
            while process.poll() is None and len(re.findall(r"^step +\d+/", lines, re.MULTILINE)) < steps:
                lines += process.stdout.readline()
            time.sleep(moment.uniform(0, 4) if steps == 0 else moment.uniform(0, 0.2))
        finally:
            process.kill()
        lines += process.stdout.read()
    assert process.returncode == -signal.SIGKILL, lines
    return lines


@pytest.mark.parametrize(
    "sessions", [pytest.param(3, marks=pytest.mark.full), pytest.param(12, marks=pytest.mark.slow)]
)
def test_killed_sessions_on_alternating_device_counts_lose_no_row(rows: Path, tmp_path: Path, sessions: int) -> None:
    never_killed, run = TinyRun(rows, tmp_path / "never", SETTINGS), TinyRun(rows, tmp_path / "run", SETTINGS)
    never_killed.train()
    moment = random.Random(15)
    starts = []
    for session in range(sessions):
        printed = kill_a_session(run, (1, 2, 4)[session % 3], moment)
        assert "Traceback" not in printed, printed
        assert not re.search(r"^error:", printed, re.MULTILINE), printed
        starts += [int(step) for step in re.findall(r"^steps: (\d+) of", printed, re.MULTILINE)]
    printed = run.train(devices=4)
    starts += [int(step) for step in re.findall(r"^steps: (\d+) of", printed, re.MULTILINE)]
    assert starts == sorted(starts)
    assert 0 < starts[-1] < STEPS, "the sessions that were killed did a part of the run"

    losses = run.losses()  # each step once, or it raises
    assert list(losses) == list(range(1, STEPS + 1))
    assert losses == pytest.approx(never_killed.losses(), abs=1e-5)

    # The loss of a step says which windows it read: those of the run never killed. Each of them is read once.
    config = from_json(json.loads((run.workdir / "config.json").read_text()))
    manifest = read_manifest(rows)
    order = DataOrder(manifest, seed=config.seed, stages=stages_of(config, manifest.train_sizes()))
    (segment,) = order.segments
    windows = [order.window(segment, number) for number in range(STEPS * config.global_batch_size)]
    assert len(set(windows)) == len(windows)
