"""The whole train path through the real command: stopped, killed, resumed, on other devices, over stages."""

import contextlib
import gzip
import io
import itertools
import json
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.console import without_progress
from tests.support.made_once import MadeOnce
from tests.support.tiny_run import TinyRun, environment, train_in_this_process, wait_for_step
from tonsai_jax.checkpoints.store import Checkpoints
from tonsai_jax.errors import UserError
from tonsai_jax.hooks import Hooks
from tonsai_jax.inference.load import load_run
from tonsai_jax.training.state import TrainState


@pytest.fixture(scope="session")
def never_stopped(rows: Path, made_once: MadeOnce) -> TinyRun:
    folder = made_once("never-stopped", lambda folder: TinyRun(rows, folder / "run").train())
    return TinyRun(rows, folder / "run")


def assert_same_run(run: TinyRun, reference: TinyRun) -> None:
    assert run.losses() == reference.losses()
    ours, theirs = load_run(run.workdir).params, load_run(reference.workdir).params
    for name in ("token_embedding", "position_embedding"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    np.testing.assert_array_equal(ours["blocks"]["qkv"]["kernel"], theirs["blocks"]["qkv"]["kernel"])


def test_a_run_learns(never_stopped: TinyRun) -> None:
    losses = never_stopped.losses()
    assert list(losses) == list(range(1, 25))
    assert losses[24] < losses[1] - 1


@pytest.mark.full
def test_stopped_twice_by_sigterm_is_never_stopped_bit_for_bit(run: TinyRun, never_stopped: TinyRun) -> None:
    first, second = sorted(random.Random(0).sample(range(1, 20), 2))
    for step in (first, second):
        printed = run.interrupt(signal.SIGTERM, at_step=step)
        assert "SIGTERM asked to stop; run the same command again to continue" in printed, (first, second)
    run.train()
    assert_same_run(run, never_stopped)


@pytest.mark.full
def test_ctrl_c_saves_and_ends_well(run: TinyRun, never_stopped: TinyRun) -> None:
    printed = run.interrupt(signal.SIGINT, at_step=3)
    saved = max(run.saved_steps())
    assert f"saved at step {saved} of 24: Ctrl-C asked to stop" in printed
    assert 3 < saved < 24
    run.train()
    assert run.losses() == never_stopped.losses()


@pytest.mark.full
def test_a_second_ctrl_c_ends_it_also_while_it_compiles(run: TinyRun) -> None:
    with run.start(JAX_DISABLE_MOST_OPTIMIZATIONS="0") as process:
        assert process.stdout is not None
        while "the first one compiles" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        while "saving after this step" not in (line := process.stdout.readline()):
            assert line, "it ended, or never confirmed the first one"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
    assert "steps: 0 of 24 done" in run.train(steps_today=1)


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_run_whose_output_nobody_reads_any_more_saves_and_ends_well(run: TinyRun, number: signal.Signals) -> None:
    """Ctrl-C also ends the `tee` that its output goes to, and SIGHUP comes with the end of the terminal."""
    with run.start() as process:
        wait_for_step(process, 3)
        assert process.stdout is not None
        process.stdout.close()
        process.send_signal(number)
        if number != signal.SIGINT:
            process.send_signal(number)
        assert process.wait(timeout=120) == 0
    assert max(run.saved_steps()) < 24
    assert "done, " in run.train(steps_today=1)


@pytest.mark.full
def test_a_complete_run_in_epochs_is_not_trained_further_because_its_steps_became_shorter(run: TinyRun) -> None:
    run.overrides = ("steps=0", "epochs=0.1", "optimizer.warmup_steps=0")
    complete = re.search(r"complete: \d+ steps", run.train())
    assert complete
    printed = run.train("seq_len=16")
    assert complete[0] in printed
    assert "It was trained before the changes above" in printed


@pytest.mark.full
def test_a_killed_run_goes_on_from_its_last_checkpoint(run: TinyRun, never_stopped: TinyRun) -> None:
    run.interrupt(signal.SIGKILL, at_step=13)
    printed = run.train()
    assert "steps: 8 of 24 done" in printed or "steps: 0 of 24 done" in printed  # the save at 8 may not have been whole
    assert_same_run(run, never_stopped)


@pytest.mark.full
def test_other_devices_go_on_with_the_same_curve(run: TinyRun, never_stopped: TinyRun) -> None:
    run.train(steps_today=8, devices=1)
    run.train("mesh.fsdp=2", steps_today=8, devices=4)
    printed = run.train("mesh.fsdp=4", steps_today=8, devices=8)
    assert "mesh {'data': 2, 'fsdp': 4, 'expert': 1}" in printed
    assert "changed since step 16: mesh.fsdp: 2 -> 4" in printed
    for step, loss in never_stopped.losses().items():
        assert run.losses()[step] == pytest.approx(loss, abs=1e-4), step


@pytest.mark.full
def test_two_processes_are_one_run(run: TinyRun, never_stopped: TinyRun) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    processes = [
        run.start(devices=4, JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(number))
        for number in range(2)
    ]
    lines = wait_for_step(processes[0], 10)
    processes[1].send_signal(signal.SIGTERM)  # one host is told; both must end at the same step
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], lines + outputs[0] + outputs[1]
    assert "another host asked to stop" in outputs[0]
    assert "step" not in outputs[1], "only the first host speaks"
    run.train()
    for step, loss in never_stopped.losses().items():
        assert run.losses()[step] == pytest.approx(loss, abs=1e-4), step


def test_a_run_whose_hours_are_over_saves_and_the_next_process_goes_on(run: TinyRun) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        train_in_this_process([*run.command(), "--max_hours=1e-6"])
    [step] = run.saved_steps()
    assert f"saved at step {step} of 24: --max_hours=1e-06 asked to stop; run the same command" in printed.getvalue()
    assert step < 3
    assert f"steps: {step} of 24 done" in run.train(steps_today=1)


@pytest.mark.full
def test_steps_today_trains_that_many_and_saves(run: TinyRun, never_stopped: TinyRun) -> None:
    printed = run.train(steps_today=5)
    assert "saved at step 5 of 24: --steps_today=5 is done" in printed
    assert 5 in run.saved_steps()
    assert "<polyline" in (run.workdir / "report.html").read_text(encoding="utf-8")
    assert list(run.losses()) == [1, 2, 3, 4, 5]
    run.train(steps_today=100)
    assert run.losses() == never_stopped.losses()


@pytest.mark.full
def test_a_traced_run_is_the_same_run(run: TinyRun, never_stopped: TinyRun) -> None:
    printed = run.train("profile.steps=2", "profile.start=3", steps_today=2)
    assert "profile: nothing was traced, this run ended before step 4; lower profile.start" in printed
    printed = run.train("profile.steps=2", "profile.start=3", steps_today=6)
    assert f"--logdir {run.workdir / 'profile'}" in printed
    (trace,) = run.workdir.glob("profile/plugins/profile/*/*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = {event["args"]["step_num"] for event in events if event.get("name") == "train"}
    assert steps == {"5", "6"}, "counted from 0; the session began with step 2"
    assert run.losses() == {step: loss for step, loss in never_stopped.losses().items() if step <= 8}


@pytest.mark.full
def test_a_complete_run_says_so_and_changes_nothing(run: TinyRun) -> None:
    run.overrides = ("steps=4", "eval.every=4", "export=True")
    run.train()
    before = {path: path.stat().st_mtime_ns for path in run.workdir.rglob("*") if path.is_file()}
    printed = run.train()
    assert "complete: 4 steps" in printed
    assert "km: " in printed
    assert {path: path.stat().st_mtime_ns for path in run.workdir.rglob("*") if path.is_file()} == before

    printed = run.train("data.weights={'km': 1, 'en': 0}")
    assert "changed since step 4: data.weights: None -> {'km': 1, 'en': 0}" in printed
    assert "It was trained before the changes above; to train with them, give another" in printed

    printed = run.train("log_every=3")
    assert "changed since step 4: log_every: 1 -> 3" in printed
    assert "It was trained before" not in printed, "what a run prints is not what it learns"

    # Killed after the last checkpoint and before the export: the next call does what is left.
    (run.workdir / "complete.json").unlink()
    shutil.rmtree(run.workdir / "export")
    assert "complete: 4 steps" in run.train()
    assert (run.workdir / "export" / "model.safetensors").is_file()

    # Longer, later: more steps on the same run.
    run.overrides = ("steps=6",)
    assert "changed since step 4: steps: 4 -> 6" in run.train("optimizer.warmup_steps=4")
    assert max(run.losses()) == 6


@pytest.mark.full
def test_a_complete_run_says_that_its_rows_have_other_sources_now(rows: Path, tmp_path: Path) -> None:
    shutil.copytree(rows, tmp_path / "rows")
    run = TinyRun(tmp_path / "rows", tmp_path / "run", ("steps=4",))
    run.train()
    manifest = json.loads((tmp_path / "rows" / "manifest.json").read_text())
    del manifest["sources"]["en"], manifest["checksum"]
    (tmp_path / "rows" / "manifest.json").write_text(json.dumps(manifest))
    printed = run.train()
    assert "changed since step 4: sources: en, km -> km" in printed
    assert "It was trained before the changes above; to train with them, give another --workdir" in printed


@pytest.mark.full
def test_stages_change_length_batch_and_mix(rows: Path, tmp_path: Path) -> None:
    stages = (
        "stages=({'steps': 6}, {'steps': 6, 'seq_len': 64, 'global_batch_size': 8, 'weights': {'km': 1.0, 'en': 0.0}})"
    )
    whole = TinyRun(rows, tmp_path / "whole" / "run", (stages,))
    whole.train()
    parts = TinyRun(rows, tmp_path / "parts" / "run", (stages,))
    for _ in range(3):
        parts.train(steps_today=4)
    assert parts.losses() == whole.losses()
    assert len(whole.losses()) == 12


@pytest.mark.full
def test_a_changed_mix_goes_on_where_the_sources_were(run: TinyRun) -> None:
    run.train(steps_today=8)
    printed = run.train("data.weights={'km': 3, 'en': 1}", steps_today=2)
    assert "changed since step 8: data.weights: None -> {'km': 3, 'en': 1}" in printed
    before = "16 sequences of 32 tokens, en 50.0%, km 50.0%"
    assert f"batches from step 8 on: 16 sequences of 32 tokens, km 75.0%, en 25.0%; before: {before}" in printed
    progress = json.loads((run.workdir / "checkpoints" / "10" / "progress" / "metadata").read_text())
    segment = progress["data"]["segment"]
    assert segment["first_step"] == 8
    assert {name: position["windows"] for name, position in segment["positions"].items()} == {"km": 64, "en": 64}


@pytest.mark.full
def test_too_many_steps_that_are_not_finite_end_the_run(run: TinyRun) -> None:
    run.train(steps_today=8)
    done = run.run("optimizer.learning_rate=1e38", "optimizer.max_skipped_steps=3")
    assert done.returncode == 1
    [error] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "not finite for 3 steps in a row" in error
    assert "Traceback" not in done.stderr
    assert "the loss was not finite at step 11 of 24" in (run.workdir / "report.html").read_text(encoding="utf-8")
    run.train(steps_today=2)
    assert max(run.losses()) == 10


@pytest.mark.full
def test_a_failed_evaluation_does_not_end_the_run(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "rows"
    shutil.copytree(rows, broken)
    [shard] = (broken / "km").glob("validation-*")
    # After the start, which would refuse the file.
    monkeypatch.setattr("tonsai_jax.opening.check_shards", lambda *_: shard.write_bytes(b"not an array record"))
    printed = TinyRun(broken, tmp_path / "run", ("steps=4", "eval.every=2")).train()
    assert printed.count("the evaluation failed, training continues") == 2
    assert "complete: 4 steps" in printed


@pytest.mark.full
def test_evaluation_and_samples_are_written(run: TinyRun) -> None:
    keys = ("eval.every=2", "eval.prompt_suite=True", "sample.every=2", "checkpoint.every=2", "checkpoint.keep_best=1")
    run.overrides = ("steps=4", "model.context_length=256", *keys)
    printed = run.train()
    lines = [json.loads(line) for line in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if "eval/bits_per_byte" in line]
    assert [line["step"] for line in evaluations] == [2, 4]
    assert {"eval/bits_per_byte/km", "eval/bits_per_byte/source/en", "eval/perplexity/en"} <= evaluations[0].keys()
    sample = json.loads((run.workdir / "samples" / "step-000002.jsonl").read_text())
    assert (sample["prompt"], sample.keys()) == ("Once upon a time", {"prompt", "continuation"})
    assert printed.count("  prompt suite, km: script ") == 2
    suites = [line for line in lines if "eval/prompts/script_share/km" in line]
    assert [line["step"] for line in suites] == [2, 4]
    assert {path.name for path in (run.workdir / "prompt_suite").iterdir()} == {
        "step-000002.jsonl",
        "step-000004.jsonl",
    }
    assert set(json.loads((run.workdir / "scores.json").read_text())) == {"2", "4"}
    assert any((run.workdir / "tensorboard").iterdir())


@pytest.mark.full
def test_the_best_checkpoint_is_that_of_the_metric_asked_for(run: TinyRun) -> None:
    run.overrides = (
        "steps=6",
        "eval.every=2",
        "checkpoint.every=2",
        "checkpoint.keep_last=1",
        "checkpoint.keep_best=1",
    )
    with pytest.raises(UserError, match=r"checkpoint\.best_metric='bits_per_byte/fr' is not known"):
        run.train("checkpoint.best_metric=bits_per_byte/fr")
    assert not run.workdir.exists()
    run.train("checkpoint.best_metric=bits_per_byte/km", steps_today=4)
    lines = [json.loads(line) for line in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    scores = {str(line["step"]): line["eval/bits_per_byte/km"] for line in lines if "eval/bits_per_byte" in line}
    assert json.loads((run.workdir / "scores.json").read_text()) == scores
    assert load_run(run.workdir, "best").step == 4
    run.train("checkpoint.best_metric=perplexity/en")
    lines = [json.loads(line) for line in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    scores = {str(line["step"]): line["eval/perplexity/en"] for line in lines if "eval/bits_per_byte" in line}
    assert json.loads((run.workdir / "scores.json").read_text()) == scores
    assert list(scores) == ["2", "4", "6"]


@pytest.mark.full
def test_a_score_past_the_checkpoint_that_a_run_goes_on_from_is_dropped(run: TinyRun) -> None:
    run.overrides = ("steps=4", "eval.every=2", "checkpoint.every=2", "checkpoint.keep_best=1")
    run.train(steps_today=2)
    scores = json.loads((run.workdir / "scores.json").read_text())
    (run.workdir / "scores.json").write_text(json.dumps(scores | {"3": 0.0, "9": 0.0}))
    run.train()
    assert list(json.loads((run.workdir / "scores.json").read_text())) == ["2", "4"]


@pytest.mark.full
def test_a_checkpoint_is_saved_before_it_is_evaluated(run: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, int]] = []
    save, evaluate = Checkpoints.save, Hooks.evaluate

    def watched_save(self: Checkpoints, state: TrainState, metadata: Mapping[str, Any], **how: bool) -> None:
        done.append(("save", metadata["step"]))
        save(self, state, metadata, **how)

    def watched_evaluate(self: Hooks, step: int, params: Any) -> Any:
        done.append(("evaluate", step))
        return evaluate(self, step, params)

    monkeypatch.setattr(Checkpoints, "save", watched_save)
    monkeypatch.setattr(Hooks, "evaluate", watched_evaluate)
    run.train("steps=4", "eval.every=2", "checkpoint.every=2")
    assert done == [("save", 2), ("evaluate", 2), ("save", 4), ("evaluate", 4)]


@pytest.mark.full
def test_a_temporary_checkpoint_is_saved_when_its_minutes_have_passed(
    run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[tuple[int, bool]] = []
    save = Checkpoints.save

    def watched_save(self: Checkpoints, state: TrainState, metadata: Mapping[str, Any], *, is_temporary: bool) -> None:
        saved.append((metadata["step"], is_temporary))
        save(self, state, metadata, is_temporary=is_temporary)

    # An hour has passed since the last save, by a clock that jumps when step 3 begins.
    asked = itertools.count(1)
    monkeypatch.setattr(Checkpoints, "is_due", lambda self: not saved and next(asked) >= 3)
    monkeypatch.setattr(Checkpoints, "save", watched_save)
    run.train("steps=8", "checkpoint.every_minutes=60")
    assert saved == [(4, True), (8, False)]  # seen one step later, saved once
    assert run.saved_steps() == {8}


@pytest.mark.full
def test_a_run_keeps_what_its_report_needs(run: TinyRun) -> None:
    run.train("steps=4", steps_today=2)
    run.train("steps=4")
    rows = [json.loads(line) for line in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["progress/tokens"] for row in rows] == [512, 1024, 1536, 2048]
    assert [row["progress/flops"] / rows[0]["progress/flops"] for row in rows] == pytest.approx([1, 2, 3, 4])
    hours = [row["progress/hours"] for row in rows]
    assert 0 < hours[0] < hours[1] < hours[2] < hours[3]
    assert {"data/epochs/km", "data/epochs/en"} <= rows[0].keys()
    assert json.loads((run.workdir / "data.json").read_text()) == json.loads((run.rows / "manifest.json").read_text())
    assert [entry["start_step"] for entry in json.loads((run.workdir / "environment.json").read_text())] == [0, 2]


def test_the_quickstart_from_nothing_to_a_continuation_and_then_complete(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    settings = environment(1)
    if pytestconfig.getoption("--all"):
        settings |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": ""}  # once as a user's run compiles
    quickstart = Path(__file__).parents[2] / "configs" / "quickstart.py"
    every = ("checkpoint.every=3", "eval.every=3", "sample.every=3")
    fewer = ("steps=6", "optimizer.warmup_steps=2", "eval.tokens=8192", "sample.max_new_tokens=8", *every)
    command = [
        sys.executable,
        "-m",
        "tonsai_jax.train",
        f"--config={quickstart}",
        *(f"--config.{key}" for key in fewer),
    ]
    first, again = (
        subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, check=False)
        for _ in range(2)
    )
    assert (first.returncode, without_progress(first.stderr)) == (0, "")
    workdir = tmp_path / "runs" / "quickstart"
    for name in ("config.json", "metrics.jsonl", "complete.json", "tokenizer/tokenizer.json", "checkpoints/6"):
        assert (workdir / name).exists(), name
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= {
        path.name for path in (workdir / "export").iterdir()
    }
    assert (tmp_path / "data" / "quickstart" / "manifest.json").is_file()
    metrics = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics if "eval/bits_per_byte/km" in line] == [3, 6]
    first_sample, _ = (workdir / "samples" / "step-000003.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(first_sample)["prompt"].startswith("កាលពីព្រេងនាយ")
    for said in ("complete: 6 steps", "km: ", "en: ", "កាលពីព្រេងនាយ", "Once upon a time", "What next:"):
        assert said in first.stdout
        assert said in again.stdout
    assert (again.returncode, without_progress(again.stderr)) == (0, "")
    assert "step      1/6" in first.stdout
    assert "step      1/6" not in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_campaign_of_signals(run: TinyRun, never_stopped: TinyRun, seed: int) -> None:
    rng = random.Random(seed)
    for step in sorted(rng.sample(range(1, 20), 3)):
        run.interrupt(rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGKILL]), at_step=step)
    run.train()
    assert_same_run(run, never_stopped)
