"""Two real trainers: one of them is killed, or its data never comes; the run goes on from there when it is started again."""

import os
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tiny_run import TinyRun, wait_for_step
from tests.support.two_processes import end_of, two_processes
from tests.training.test_damaged_rows import damage_a_row_of

pytestmark = pytest.mark.full
HERE = socket.gethostname()
ENDLESS = ("steps=100000", "optimizer.warmup_steps=4", "checkpoint.every=1000")


def train_with_stuck_data() -> None:
    """The trainer; in process 1 a window of about the twentieth step is never read."""
    import tonsai_jax.train
    from tonsai_jax.data.loader import Windows
    from tonsai_jax.errors import run_command

    read = Windows.__getitem__

    def stuck(windows: Windows, index: Any) -> Any:
        if not isinstance(index, slice) and index >= 20 * 16:
            time.sleep(1e6)
        return read(windows, index)

    if os.environ["JAX_PROCESS_ID"] == "1":
        Windows.__getitem__ = stuck  # type: ignore[method-assign]  # the fault
    run_command(tonsai_jax.train.main)


def test_stuck_data_of_one_process_ends_both(run: TinyRun) -> None:
    command = run.command(*ENDLESS, "hosts.hang_seconds=5", "hosts.peer_seconds=30")
    program = f"from {__name__} import train_with_stuck_data as train; train()"
    patched = [sys.executable, "-c", program, *command[command.index("tonsai_jax.train") + 1 :]]
    with two_processes([patched] * 2) as processes:
        for number, process in enumerate(processes):
            code, line = end_of(process, 200)
            assert code == 75
            assert f"error: process 1 ({HERE}) is late (at step " in line
            assert "reading data)" in line
            assert "\n" not in line
            (stacks,) = (run.workdir / "logs").glob(f"process-{number}-*.txt")
            assert "tonsai_jax/train.py" in stacks.read_text()


def train_without_a_look_at_the_files() -> None:
    """The trainer, for which a file of rows is damaged after it was looked at."""
    import tonsai_jax.opening
    import tonsai_jax.train
    from tonsai_jax.errors import run_command

    tonsai_jax.opening.check_shards = lambda *_: None
    run_command(tonsai_jax.train.main)


def test_a_damaged_row_of_one_process_ends_both_and_both_save_the_same_step(rows: Path, tmp_path: Path) -> None:
    shutil.copytree(rows, tmp_path / "rows")
    step, path, whole = damage_a_row_of(tmp_path / "rows")
    run = TinyRun(tmp_path / "rows", tmp_path / "run", ("checkpoint.every=1000",))
    command = run.command()
    program = f"from {__name__} import train_without_a_look_at_the_files as train; train()"
    patched = [sys.executable, "-c", program, *command[command.index("tonsai_jax.train") + 1 :]]
    with two_processes([patched] * 2) as processes:
        ends = [end_of(process, 100) for process in processes]
    assert run.saved_steps() == {step}
    line = f"error: {path}: damaged token rows (row "
    told = [printed for code, printed in ends if code == 1 and line in printed]
    assert told, ends
    assert f"the run is saved at step {step} and continues from there" in told[0]
    path.write_bytes(whole)
    run.train()
    good = TinyRun(rows, tmp_path / "good" / "run", ("checkpoint.every=1000",))
    good.train()
    np.testing.assert_allclose(list(run.losses().values()), list(good.losses().values()), rtol=1e-4)


def test_a_killed_trainer_ends_the_other_one_and_the_run_goes_on(run: TinyRun) -> None:
    command = run.command(*ENDLESS, "checkpoint.every=4", "hosts.peer_seconds=10")
    with two_processes([command] * 2) as processes:
        wait_for_step(processes[0], 9)
        processes[1].kill()
        code, line = end_of(processes[0], 100)
    assert code == 75
    assert f"process 1 ({HERE}) has not been heard of" in line
    assert "\n" not in line
    printed = run.train("steps=24")
    assert "weights: the checkpoint of this run at step " in printed
