"""What a run says and writes as it goes: lines for people, rows for programs, and when it gives up."""

import json
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from tests.support.clock import Clock
from tonsai_jax.errors import UserError
from tonsai_jax.reporting.numbers import format_count, format_seconds
from tonsai_jax.stages import Stage
from tonsai_jax.training import logger as logger_module
from tonsai_jax.training.logger import SAVE_MARK, STOP_MARK, StepLogger
from tonsai_jax.training.metrics import MetricsWriter

STAGES = (Stage(steps=20, seq_len=100, global_batch_size=10), Stage(steps=10, seq_len=200, global_batch_size=10))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(logger_module, "time", clock)
    return clock


def writer(workdir: Path, start_step: int = 0, *, active: bool = True) -> MetricsWriter:
    return MetricsWriter(
        workdir, start_step=start_step, active=active, wandb_project="", wandb_name="", config={"steps": 30}
    )


@pytest.fixture
def out(tmp_path: Path) -> Iterator[MetricsWriter]:
    writing = writer(tmp_path)
    yield writing
    writing.close()


def logger(out: MetricsWriter, lines: list[str], **changes: Any) -> StepLogger:
    settings: dict[str, Any] = {
        "start_step": 0,
        "end_step": 30,
        "flops_per_token": lambda seq_len: 1e6,
        "peak_flops": 4e9,
        "log_every": 5,
        "max_skipped_steps": 3,
        "epochs": lambda done: {"km": done / 10, "en": 0.0},
        "damaged_rows": lambda: 0,
        "last_progress": out.last_progress,
    }
    return StepLogger(out, lines.append, STAGES, **(settings | changes))


def metrics(*, loss: float = 2.0, skipped: int = 0, stop: int = 0) -> dict[str, Any]:
    values = {"loss": loss, "grad_norm": 0.5, "learning_rate": 1e-3, "tokens": 1000, "skipped": skipped, "stop": stop}
    return {name: np.asarray(value) for name, value in values.items()}


def rows(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


# Lines


def test_a_line_tells_step_loss_speed_and_time_left(out: MetricsWriter, tmp_path: Path, clock: Clock) -> None:
    lines: list[str] = []
    said = logger(out, lines)
    for step in range(10):
        said.add(step, metrics(loss=3.0 - step / 10))
        clock.now += 0.5
    said.read()
    first, fifth, tenth = lines
    assert first.startswith("step      1/30  loss 3.0000  grad 0.50  lr 1.00e-03")
    assert "tokens/s" not in first  # it compiles: its time says nothing
    assert "step      5/30  loss 2.6000" in fifth
    # 1000 tokens and 1 GFLOP in half a second; 20 steps are left, half of them twice as long
    assert tenth.startswith("step     10/30  loss 2.1000")
    assert "  2.0k tokens/s  MFU 50.0%  15s left  " in tenth
    assert tenth.endswith(" GiB")
    assert [row["step"] for row in rows(tmp_path)] == [1, 5, 10]
    assert rows(tmp_path)[-1]["speed/tokens_per_second"] == pytest.approx(2000)
    assert rows(tmp_path)[-1]["speed/mfu"] == pytest.approx(0.5)
    assert rows(tmp_path)[-1]["train/loss"] == pytest.approx(2.1)
    assert rows(tmp_path)[-1]["memory/peak_gib"] > 0


def test_a_device_of_unknown_speed_has_flops_and_no_mfu(out: MetricsWriter, tmp_path: Path, clock: Clock) -> None:
    lines: list[str] = []
    said = logger(out, lines, peak_flops=None)
    for step in range(5):
        said.add(step, metrics())
        clock.now += 0.5
    said.read()
    assert "MFU" not in lines[-1]
    assert "0.002 TFLOP/s" in lines[-1]
    assert "speed/mfu" not in rows(tmp_path)[-1]


def test_time_spent_on_other_work_is_not_in_the_speed(out: MetricsWriter, tmp_path: Path, clock: Clock) -> None:
    said = logger(out, [])
    for step in range(5):
        said.add(step, metrics())
        clock.now += 0.5
        with said.paused():
            clock.now += 100
    said.read()
    # 4 steps after the first; the last one's half second is before its pause, like the others'
    assert rows(tmp_path)[-1]["speed/tokens_per_second"] == pytest.approx(2000)


def test_the_last_step_has_its_line_whatever_its_number(out: MetricsWriter, tmp_path: Path) -> None:
    said = logger(out, [], start_step=6, end_step=12)
    for step in range(6, 12):
        said.add(step, metrics())
    said.read()
    assert [row["step"] for row in rows(tmp_path)] == [7, 10, 12]


def test_a_step_is_read_when_the_next_one_is_under_way(out: MetricsWriter) -> None:
    lines: list[str] = []
    said = logger(out, lines, log_every=1)
    said.add(0, metrics(loss=5.0))
    assert lines == []
    said.add(1, metrics(loss=4.0))
    assert len(lines) == 1
    assert "loss 5.0000" in lines[0]
    said.read()
    said.read()
    assert len(lines) == 2
    assert "loss 4.0000" in lines[1]


def test_a_request_to_stop_is_seen_one_step_later_and_stays(out: MetricsWriter) -> None:
    said, seen = logger(out, []), []
    for step in range(4):
        said.add(step, metrics(stop=STOP_MARK if step == 1 else 0))
        seen.append(said.stop_requested)
    assert seen == [False, False, True, True]


def test_a_request_to_save_is_seen_one_step_later_with_its_step_and_does_not_stop(out: MetricsWriter) -> None:
    said, seen = logger(out, []), []
    for step in range(4):
        said.add(step, metrics(stop=SAVE_MARK if step == 1 else 0))
        seen.append(said.save_requested_in)
    assert seen == [-1, -1, 1, 1]
    assert not said.stop_requested


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (185, "3m 05s"), (7800, "2h 10m"), (86399, "23h 59m"), (4 * 86400 + 3 * 3600, "4d 03h")],
)
def test_seconds_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (853, "853"), (9400, "9.4k"), (124e6, "124M"), (1.5e9, "1.5B"), (250e9, "250B")],
)
def test_counts_for_people(count: float, text: str) -> None:
    assert format_count(count) == text


# Progress


def test_a_row_has_the_progress_of_the_whole_run(out: MetricsWriter, tmp_path: Path, clock: Clock) -> None:
    said = logger(out, [], log_every=25)
    clock.now += 3600  # to compile
    for step in range(25):
        said.add(step, metrics())
        with said.paused():
            clock.now += 180  # to evaluate
    said.read()
    first, last = rows(tmp_path)
    assert (first["progress/tokens"], first["progress/flops"], first["progress/hours"]) == (1000, 1e9, 1.0)
    assert last["progress/tokens"] == 20 * 1000 + 5 * 2000
    assert last["progress/flops"] == pytest.approx(30e9)
    assert last["progress/hours"] == pytest.approx(1 + 24 * 180 / 3600)
    assert last["data/epochs/km"] == 2.5
    assert "data/epochs/en" not in last, "it is not read yet"


def test_a_resumed_run_counts_on_from_the_last_row_that_stays(tmp_path: Path, clock: Clock) -> None:
    before = writer(tmp_path)
    for step in (5, 10, 15):
        before.write(step, {"progress/tokens": 100 * step, "progress/flops": 7.0 * step, "progress/hours": step})
    before.write(15, {"eval/bits_per_byte": 1.0})
    before.close()
    out = writer(tmp_path, start_step=12)
    said = logger(out, [], start_step=12, log_every=1)
    clock.now += 1800
    said.add(12, metrics())
    said.read()
    out.close()
    last = rows(tmp_path)[-1]
    assert last["step"] == 13
    assert last["progress/tokens"] == 1000 + 3 * 1000, "what was read with other batches counts as what it was"
    assert last["progress/flops"] == 70 + 3e9
    assert last["progress/hours"] == 10.5


def test_a_run_of_an_earlier_version_has_its_tokens_from_its_steps(tmp_path: Path) -> None:
    before = writer(tmp_path)
    before.write(5, {"train/loss": 1.0})
    before.close()
    out = writer(tmp_path, start_step=5)
    said = logger(out, [], start_step=5)
    said.add(5, metrics())
    said.read()
    out.close()
    assert rows(tmp_path)[-1]["progress/tokens"] == 6000


def test_a_resumed_run_does_not_hold_the_rows_of_the_run_before(tmp_path: Path) -> None:
    path, last = tmp_path / "metrics.jsonl", 8_000
    row = {f"train/metric_{number}": 0.123456789 * number for number in range(8)}
    with path.open("w", encoding="utf-8") as file:
        for step in range(1, last + 2):
            file.write(json.dumps({"step": step, "progress/tokens": 7 * step, **row}) + "\n")
        file.write('{"step": 8002, "train/ខ្មែ')
    before = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(before)[:-1])  # in the middle of a character, as a killed run can leave it
    tracemalloc.start()
    out = writer(tmp_path, start_step=last)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    out.close()
    assert path.read_bytes() == b"".join(before[:last])
    assert (out.last_progress["step"], out.last_progress["progress/tokens"]) == (last, 7 * last)
    assert peak < path.stat().st_size / 2


# Skipped steps


def test_too_many_skipped_steps_on_end_end_the_run(out: MetricsWriter) -> None:
    said = logger(out, [])
    for step, skipped in enumerate((1, 1, 0, 1, 1)):  # never three in a row
        said.add(step, metrics(loss=float("nan") if skipped else 2.0, skipped=skipped))
    said.add(5, metrics(loss=float("nan"), skipped=1))
    with pytest.raises(UserError, match=r"step 6: loss or gradient was not finite for 3 steps in a row.*learning_rate"):
        said.read()


def test_skipped_steps_are_counted_in_lines_and_rows(out: MetricsWriter, tmp_path: Path) -> None:
    lines: list[str] = []
    said = logger(out, lines, log_every=1)
    for step, skipped in enumerate((0, 1, 0)):
        said.add(step, metrics(loss=float("inf") if skipped else 2.0, skipped=skipped))
    said.read()
    assert "skipped" not in lines[0]
    assert lines[1].endswith("1 skipped")
    assert lines[2].endswith("1 skipped")
    assert [row["train/skipped_steps"] for row in rows(tmp_path)] == [0, 1, 1]
    assert [row["train/loss"] for row in rows(tmp_path)] == [2.0, None, 2.0]


def test_a_save_asked_for_in_steps_that_are_given_up_is_forgotten(out: MetricsWriter) -> None:
    said = logger(out, [])
    said.add(7, metrics(stop=SAVE_MARK))
    said.read()
    assert said.save_requested_in == 7
    said.go_back(4, mock.Mock(), lambda done: {})
    assert said.save_requested_in == -1


# Files


def test_what_was_written_past_the_checkpoint_is_dropped(tmp_path: Path) -> None:
    before = writer(tmp_path)
    for step in (1, 5, 10, 15):
        before.write(step, {"train/loss": float(step)})
    before.close()
    after = writer(tmp_path, start_step=10)
    after.write(11, {"train/loss": 0.5})
    after.close()
    assert [row["step"] for row in rows(tmp_path)] == [1, 5, 10, 11]


def test_a_last_line_that_a_killed_run_wrote_half_is_dropped(tmp_path: Path) -> None:
    before = writer(tmp_path)
    before.write(1, {"train/loss": 1.0})
    before.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "train/lo')
    after = writer(tmp_path, start_step=2)
    after.write(3, {"train/loss": 3.0})
    after.close()
    assert [row["step"] for row in rows(tmp_path)] == [1, 3]


def test_values_that_are_not_finite_are_null(out: MetricsWriter, tmp_path: Path) -> None:
    out.write(1, {"nan": float("nan"), "inf": float("-inf"), "one": 1.0})
    assert {name: rows(tmp_path)[0][name] for name in ("nan", "inf", "one")} == {"nan": None, "inf": None, "one": 1.0}


def test_tensorboard_gets_the_scalars_and_the_text_at_once(out: MetricsWriter, tmp_path: Path) -> None:
    out.write(1, {"train/loss": 1.0})
    out.write_samples(1, [("កាលពីព្រេងនាយ", "មាន")])
    (events,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    assert b"train/loss" in events.read_bytes()
    assert "កាលពីព្រេងនាយ → មាន".encode() in events.read_bytes()


@pytest.mark.parametrize("kind", ["metrics.jsonl", "tensorboard"])
def test_a_full_disk_is_an_error_and_never_a_wait(tmp_path: Path, kind: str) -> None:
    """In a process of its own whose files may not pass 20 kB, and where the other of the two kinds stays short."""
    code = f"""
import json, resource
from pathlib import Path
from tonsai_jax.errors import run_command
from tonsai_jax.training.metrics import MetricsWriter

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
out = MetricsWriter(Path({str(tmp_path)!r}), start_step=0, active=True, wandb_project="", wandb_name="", config={{}})

def main():
    for step in range(2000):
        if {kind!r} == "tensorboard":
            out.write_samples(step, [("word " * 5, "word " * 5)])
        else:
            out.write(step, {{}})

run_command(main)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    assert re.fullmatch(r"error: .*metrics\.jsonl: the disk is full; free some space .*\n", done.stderr)


def test_other_hosts_write_nothing(tmp_path: Path) -> None:
    quiet = writer(tmp_path / "run", active=False)
    quiet.write(1, {"train/loss": 1.0})
    quiet.write_samples(1, [("prompt", "text")])
    quiet.close()
    assert list(tmp_path.iterdir()) == []
