"""Ablations: mistakes found before anything runs, figures computed by hand, and two variants run by the command."""

import fcntl
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.made_once import MadeOnce
from tests.support.tiny_run import CONFIG, TinyRun, environment
from tonsai_jax.ablation.ablate import ablate
from tonsai_jax.ablation.plan import Ablation, load_ablation, plan_runs
from tonsai_jax.ablation.report import mean_curve
from tonsai_jax.ablation.results import Point, final_loss, read_curve
from tonsai_jax.ablation.statistics import paired_difference, spread
from tonsai_jax.data.manifest import read_manifest
from tonsai_jax.errors import UserError
from tonsai_jax.stages import Stage

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs" / "ablations").glob("*.py"))
QUICKSTART = str(ROOT / "configs" / "quickstart.py")


def plan(tmp_path: Path, variants: Mapping[str, Any], *flags: str, seeds: int = 1, **others: Any) -> list[Any]:
    ablation = Ablation(base=QUICKSTART, variants=variants, **others)
    return plan_runs(tmp_path / "ablation.py", ablation, tmp_path / "runs", num_seeds=seeds, flags=flags)


# The plan


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_our_ablations_can_run_and_state_hardware_and_time(file: Path, tmp_path: Path) -> None:
    ablation, about = load_ablation(file)
    assert len(plan_runs(file, ablation, tmp_path, num_seeds=2)) == 2 * len(ablation.variants)
    text = file.read_text(encoding="utf-8")
    assert f"tonsai ablate --config configs/ablations/{file.name} --workdir runs/ablations/{file.stem}" in text
    assert re.search(r"Hardware: .+\nTime: .+", text)
    assert about.endswith(".")


def test_all_variants_of_a_seed_come_before_the_next_seed(tmp_path: Path) -> None:
    runs = plan(tmp_path, {"a": {}, "b": {"steps": 500}}, "--config.seed=7", seeds=2)
    assert [(run.variant, run.seed) for run in runs] == [("a", 7), ("b", 7), ("a", 8), ("b", 8)]
    assert runs[3].workdir == tmp_path / "runs" / "b" / "seed-8"
    assert (runs[3].config.seed, runs[3].total_steps) == (8, 500)


def test_a_variant_overrides_a_flag_which_overrides_the_shared_keys_and_the_base(tmp_path: Path) -> None:
    shared = {"steps": 10, "optimizer.warmup_steps": 1, "seq_len": 64, "log_every": 3}
    [_, run] = plan(
        tmp_path, {"a": {}, "b": {"log_every": 5, "data.weights": {"km": 1.0}}}, "--config.seq_len=32", overrides=shared
    )
    config = run.config
    assert (config.steps, config.seq_len, config.log_every) == (10, 32, 5)
    assert config.data.weights == {"km": 1.0}
    assert config.global_batch_size == 8  # of the quickstart


def test_each_run_has_its_own_name_in_weights_and_biases(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    runs = plan(tmp_path, {"a": {}, "b": {"steps": 90}}, "--config.wandb.project=tonsai", seeds=2)
    assert len({run.config.wandb.name for run in runs}) == 4


@pytest.mark.parametrize(
    ("variants", "flags", "told"),
    [
        ({"a": {}, "b": {"optimizer.learning_rat": 1e-3}}, [], "variant 'b'.*did you mean learning_rate"),
        ({"a": {}, "b": {"optimizer.learning_rate": "high"}}, [], "variant 'b'.*learning_rate"),
        ({"a": {}, "b": {"optimizer.schedule": "cosin"}}, [], "variant 'b'.*did you mean 'cosine'"),
        ({"a": {}, "b": {"model.num_heads": 3}}, [], "variant 'b'.*not divisible"),
        ({"a": {}, "b": {"seed": 3}}, [], "--seeds N for more"),
        ({"a": {}, "b": 3}, [], "must be a dict"),
        ({"a": {}, "b/c": {"steps": 9}}, [], "'b/c' cannot be the name of a folder"),
        ({"a": {}, "b": {"steps": 700}}, [], "'a' and 'b' are the same run"),
        ({"a": {}, "b": {"steps": 90}}, ["--config.steps=80"], "sets steps, which a flag also sets"),
        ({"a": {}}, ["--step=8"], "'--step=8' is not a flag"),
        ({}, [], "has no variants"),
    ],
)
def test_a_mistake_in_any_variant_is_found_before_anything_runs(
    tmp_path: Path, variants: dict[str, Any], flags: list[str], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        plan(tmp_path, variants, *flags)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def get_ablation(:", r"ablation.py, line 1: "),
        ("x = 1", "has no function get_ablation"),
        ("def get_ablation():\n    return {}", "returns dict"),
        ("def get_ablation():\n    return 1 / 0", "line 2: ZeroDivisionError"),
        (
            "from tonsai_jax.ablation.plan import Ablation\ndef get_ablation():\n    return Ablation(base='', variants=({},))",
            "variants is a tuple; it must be a dict",
        ),
    ],
)
def test_a_file_that_is_not_an_ablation_is_refused_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "ablation.py"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=told):
        load_ablation(file)


# The figures


def test_mean_and_sample_standard_deviation() -> None:
    assert spread([]) is None
    assert spread([2.0]) == (2.0, None)
    assert spread([1.0, 2.0, 6.0]) == (3.0, pytest.approx(math.sqrt((4 + 1 + 9) / 2)))


def test_a_difference_is_paired_by_seed() -> None:
    """Differences 0.1, 0.2, 0.3: mean 0.2, s = 0.1, t(2 degrees of freedom, 97.5 %) = 4.3027 from a printed table."""
    baseline = {0: 3.0, 1: 9.0, 2: 6.0, 3: 1.0}
    found = paired_difference({0: 3.1, 1: 9.2, 2: 6.3}, baseline)
    assert found is not None
    assert found.mean == pytest.approx(0.2)
    assert found.margin == pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4)
    assert found.beyond_chance is False
    closer = paired_difference({0: 3.19, 1: 9.2, 2: 6.21}, baseline)
    assert closer is not None
    assert closer.beyond_chance is True


def test_one_seed_gives_no_confidence_interval() -> None:
    found = paired_difference({0: 3.1}, {0: 3.0, 1: 3.2})
    assert found is not None
    assert (found.margin, found.beyond_chance) == (None, None)
    assert paired_difference({5: 3.1}, {0: 3.0}) is None


def test_a_length_in_epochs_is_that_of_the_token_rows(rows: Path, tmp_path: Path) -> None:
    (run,) = plan(tmp_path, {"base": {"data.dir": str(rows), "steps": 0, "epochs": 2.0, "optimizer.warmup_steps": 0}})
    tokens = sum(size.tokens for size in read_manifest(rows).train_sizes().values())
    assert run.total_steps == math.ceil(2 * tokens / (8 * 256))


def test_seconds_count_steps_only_and_untimed_steps_use_the_next_speed() -> None:
    stages = (Stage(steps=100, seq_len=10, global_batch_size=10),)
    rows: list[dict[str, Any]] = [
        {"step": 1, "train/loss": 5.0},  # compiles
        {"step": 10, "train/loss": 4.0, "speed/tokens_per_second": 100.0},
        {"step": 13, "train/loss": 3.0},  # another process went on from step 12
        {"step": 20, "train/loss": None, "speed/tokens_per_second": 50.0},
        {"step": 21, "train/loss": 2.0},  # nothing follows
    ]
    curve = read_curve(rows, stages)
    assert [point.seconds for point in curve] == pytest.approx([1, 10, 16, 30, 32])
    assert [point.tokens for point in curve] == [100, 1000, 1300, 2000, 2100]
    assert [point.loss for point in curve] == [5.0, 4.0, 3.0, None, 2.0]
    assert read_curve(rows[:1], stages)[0].seconds == 0


def test_the_final_loss_is_the_mean_of_the_last_tenth() -> None:
    curve = [Point(step, 0, 0.0, float(step)) for step in range(10, 101, 2)]
    assert final_loss(curve, 100) == pytest.approx((92 + 94 + 96 + 98 + 100) / 5)
    assert final_loss([Point(100, 0, 0.0, None)], 100) is None


def test_the_mean_curve_has_the_steps_that_all_seeds_have() -> None:
    first = [Point(step, 10 * step, 1.0 * step, 1.0) for step in (1, 2, 3)]
    second = [Point(step, 10 * step, 3.0 * step, 2.0) for step in (1, 3)]
    assert mean_curve([first, second], lambda point: point.seconds) == [(2.0, 1.5), (6.0, 1.5)]
    assert mean_curve([], lambda point: point.seconds) == []


# The command

VARIANTS = '"baseline": {}, "slow": {"optimizer.learning_rate": 1e-3}'


def write_ablation(folder: Path, rows: Path, variants: str) -> Path:
    (folder / "tiny_config.py").write_text(CONFIG.format(rows=str(rows)), encoding="utf-8")
    file = folder / "learning_rates.py"
    file.write_text(
        '"""Two learning rates."""\n'
        "from tonsai_jax.ablation.plan import Ablation\n\n"
        "def get_ablation():\n"
        '    shared = {"eval.every": 24, "eval.tokens": 4096, "sample.prompts": ()}\n'
        f'    return Ablation(base="tiny_config.py", overrides=shared, variants={{{variants}}})\n',
        encoding="utf-8",
    )
    return file


def start(file: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "ablate.py", "--config", file, "--workdir", file.parent / "runs", *words],
        env=environment(1),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def stop_and_finish(folder: Path, rows: Path) -> None:
    """Two variants, two seeds; stopped in the second run, then started again. Writes the two outputs."""
    folder.mkdir(exist_ok=True)
    file = write_ablation(folder, rows, VARIANTS)
    process = start(file, "--seeds=2")
    metrics = folder / "runs" / "slow" / "seed-0" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.is_file() and metrics.read_text(encoding="utf-8").count("\n") >= 2):
        assert process.poll() is None, finish(process)
        if time.monotonic() > deadline:
            break  # it is asked to stop all the same, and the tests tell what is missing
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    code, before, err = finish(process)
    assert (code, err) == (0, ""), before
    code, after, err = finish(start(file, "--seeds=2", f"--json={folder / 'figures.json'}"))
    assert (code, err) == (0, ""), after
    (folder / "before.txt").write_text(before, encoding="utf-8")
    (folder / "after.txt").write_text(after, encoding="utf-8")


@pytest.fixture
def finished(rows: Path, made_once: MadeOnce, tmp_path: Path) -> Path:
    """A copy of the folder that `stop_and_finish` makes."""
    return Path(
        shutil.copytree(made_once("ablation", lambda folder: stop_and_finish(folder, rows)), tmp_path / "ablation")
    )


@pytest.mark.full
def test_the_same_command_resumes_and_skips_complete_runs(rows: Path, finished: Path) -> None:
    before, after = ((finished / name).read_text(encoding="utf-8") for name in ("before.txt", "after.txt"))
    assert "SIGTERM: saving the run in training, then this ends\n" in before
    assert "[2/4] slow, seed 0: stopped after" in before
    assert "[3/4]" not in before
    assert "[1/4] baseline, seed 0: complete\n" in after
    assert "[2/4] slow, seed 0: training" in after
    run = finished / "runs" / "slow" / "seed-0"
    log = (run / "train.log").read_text(encoding="utf-8")
    saved = re.search(r"saved at step (\d+) of 24: SIGTERM asked to stop", log)
    assert saved is not None
    assert f"steps: {saved[1]} of 24 done" in log
    assert list(TinyRun(rows, run).losses()) == list(range(1, 25))


@pytest.mark.full
def test_the_seed_changes_weights_and_data_and_the_variants_share_them(finished: Path) -> None:
    first = {}
    for run in ("baseline/seed-0", "baseline/seed-1", "slow/seed-0"):
        metrics = finished / "runs" / run / "metrics.jsonl"
        first[run] = json.loads(metrics.read_text(encoding="utf-8").splitlines()[0])["train/loss"]
    assert first["baseline/seed-0"] == first["slow/seed-0"]  # before the first update they are the same model
    assert first["baseline/seed-0"] != first["baseline/seed-1"]


@pytest.mark.full
def test_figures_table_and_page_agree(finished: Path) -> None:
    printed = (finished / "after.txt").read_text(encoding="utf-8")
    results = json.loads((finished / "runs" / "results.json").read_text(encoding="utf-8"))
    assert results == json.loads((finished / "figures.json").read_text(encoding="utf-8"))
    assert (results["baseline"], results["seeds"], list(results["variants"])) == (
        "baseline",
        [0, 1],
        ["baseline", "slow"],
    )
    of_run = {(run["variant"], run["seed"]): run for run in results["runs"]}
    assert all(run["complete"] and not run["failure"] and run["steps"] == 24 for run in of_run.values())
    slow = results["variants"]["slow"]
    assert slow["loss"]["mean"] == pytest.approx((of_run["slow", 0]["loss"] + of_run["slow", 1]["loss"]) / 2)
    assert slow["loss_difference"]["mean"] > 0.1  # a fifth of the learning rate learns less
    assert slow["tokens"]["mean"] == 24 * 32 * 16
    assert slow["seconds"]["mean"] > 0
    page = (finished / "runs" / "report.html").read_text(encoding="utf-8")
    for text in (f"{slow['loss']['mean']:.4f}", f"{slow['bits_per_byte']['km']['mean']:.4f}", "2 of 2"):
        assert text in printed
        assert text in page
    assert page.count("<polyline") == 3 * (2 * 2 + 2)  # against steps, tokens, seconds: a line a run and one a variant
    assert all(label in page for label in ("Loss against steps", "Loss against tokens", "Loss against seconds"))
    assert "Two learning rates." in page
    assert "optimizer.learning_rate=0.001" in page
    assert not re.search(r"<script|https?://|\bnan\b", page)


@pytest.mark.full
def test_a_failed_variant_is_named_and_a_variant_can_be_added_later(rows: Path, finished: Path) -> None:
    variants = f'"lost": {{"data.dir": "no/rows"}}, {VARIANTS}'
    code, printed, err = finish(start(write_ablation(finished, rows, variants)))
    assert code == 1
    assert err.startswith("error: 1 of 3 runs failed: lost, seed 0; ")
    assert re.search(r"\[1/3\] lost, seed 0: failed after \w+: .*no/rows", printed)
    assert "[2/3] baseline, seed 0: complete\n" in printed
    assert re.search(r"\n  lost +0 of 1 +- +baseline", printed)
    assert "no/rows" in (finished / "runs" / "report.html").read_text(encoding="utf-8")


@pytest.mark.full
def test_a_variant_that_has_changed_since_it_was_trained_is_refused(rows: Path, finished: Path) -> None:
    file = write_ablation(finished, rows, VARIANTS.replace("1e-3", "2e-3"))
    told = r"slow/seed-0: was trained with other values \(optimizer.learning_rate: 0.001 -> 0.002\)"
    with pytest.raises(UserError, match=told):
        ablate(file, finished / "runs", num_seeds=1)


def test_two_ablations_never_train_in_one_folder(tmp_path: Path) -> None:
    file = write_ablation(tmp_path, tmp_path / "no-rows", '"baseline": {}')
    (tmp_path / "runs").mkdir()
    with (tmp_path / "runs" / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another ablation, or a run that it left behind, is training here"):
            ablate(file, tmp_path / "runs", num_seeds=1)
