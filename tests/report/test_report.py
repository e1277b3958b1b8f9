"""The report of a run: what stands on the page, what is noted when something is missing, and several runs next to each other."""

import json
import os
import re
import shutil
import socket
from html import unescape
from pathlib import Path

import pytest

from tests.report.workdirs import STEPS, make_run, metrics_rows, write_rows
from tests.support.console import tonsai
from tonsai_jax.evaluation.task_scores import TaskScore, write_scores
from tonsai_jax.files import write_json
from tonsai_jax.report import curves, scores, summary
from tonsai_jax.report.run import read_run
from tonsai_jax.report.samples import spread
from tonsai_jax.report.scores import published
from tonsai_jax.report.summary import cards, device_hours, hours_of_starts, status_of
from tonsai_jax.report.write import write_report


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "complete", experts=4)


@pytest.fixture
def run(complete: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(complete, tmp_path / "run"))


def page_of(*workdirs: Path, **options) -> str:
    path = workdirs[0].parent / "page.html"
    write_report(path, workdirs, **options)
    return path.read_text(encoding="utf-8")


def words(page: str) -> str:
    """What a reader sees, in one line."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)))


def test_the_page_needs_no_network_and_no_script(complete: Path) -> None:
    page = page_of(complete)
    assert "<script" not in page
    assert not re.findall(r"(?:src|@import|<link)[^>]*https?:", page)
    assert all("url(data:" in found for found in re.findall(r"url\([^)]{0,20}", page))


def test_every_section_is_there(complete: Path) -> None:
    page = page_of(complete, price=2.0)
    heads = [unescape(re.sub("<[^>]*>", "", head)) for head in re.findall(r"<h2>(.*?)</h2>", page)]
    assert heads == [
        "Learning", "Tasks", "Samples", "Prompt suite", "Experts", "Optimization", "Speed and memory", "Data", "Configuration",
        "Environment",
    ]  # fmt: skip


def test_the_summary_has_the_scores_their_change_and_the_cost(complete: Path) -> None:
    found = {card.name: card for card in cards(read_run(complete, "run"), 2.0)}
    assert found["status"].figure == "complete"
    assert found["bits per byte, km"][1:] == ("1.2000", "-40.0% since step 0", "good")
    assert found["tokens read"].figure == "40.0k"
    assert found["time"].figure == "4.0 h"
    assert found["best checkpoint"][1:3] == ("step 40", "bits per byte 1.2000")
    # 2 hours on 8 devices, then 2 hours on 4
    assert found["cost"][1:3] == ("48.00", "24.00 device-hours at 2 each")
    assert "cost" not in {card.name for card in cards(read_run(complete, "run"), None)}


def test_the_axis_is_chosen_among_those_that_the_run_has_counted(run: Path) -> None:
    assert re.findall(r'id="axis-(\w+)"', page_of(run)) == ["steps", "tokens", "hours", "flops"]
    rows = [{name: value for name, value in row.items() if "progress/" not in name} for row in metrics_rows()]
    write_rows(run, rows)
    page = page_of(run)
    assert 'id="axis-' not in page
    assert 'class="by by-steps only"' in page


def test_samples_stand_side_by_side_with_their_language(complete: Path) -> None:
    page = page_of(complete)
    assert page.count('<p lang="km">កម្ពុជា') == 5
    assert "&lt;b&gt;upon&lt;/b&gt;" in page
    assert "@font-face" in page  # there is Khmer on it
    assert re.findall(r"<div><b>(step \d+)</b>", page)[:5] == [f"step {step}" for step in (0, 10, 20, 30, 40)]


def test_a_page_without_khmer_carries_no_font(run: Path) -> None:
    shutil.rmtree(run / "samples")
    shutil.rmtree(run / "prompt_suite")
    config = json.loads((run / "config.json").read_text())
    config["sample"]["prompts"] = ["Once"]
    write_json(run / "config.json", config)
    assert "@font-face" not in page_of(run)


def test_the_samples_of_the_end_of_a_run_are_among_the_others(run: Path) -> None:
    shutil.rmtree(run / "samples")
    write_json(run / "complete.json", {"step": STEPS, "samples": [{"prompt": "Once", "continuation": "at the end"}]})
    assert "Once step 40 at the end" in words(page_of(run))


def test_steps_are_spread_from_the_first_to_the_last() -> None:
    assert spread([1, 2, 3]) == [1, 2, 3]
    assert spread(list(range(0, 101))) == [0, 25, 50, 75, 100]


def test_tasks_stand_next_to_chance_and_to_published_scores(complete: Path) -> None:
    text = words(page_of(complete))
    assert "hellaswag accuracy_characters; higher is better; dashed: chance, 25.0 %" in text
    assert "30.0 % ± 2.0 %" in text
    assert "GPT-2 124M published 31.1 %" in text
    assert "Llama 3 8B published, 5-shot: not the same prompt, FLORES-200" in text


def test_the_first_metric_of_a_task_is_shown_and_its_others_are_folded(run: Path) -> None:
    scores = [TaskScore("piqa", metric, 0.5, None, None, None, 9) for metric in ("accuracy_bytes", "accuracy")]
    write_scores(run, "tasks", STEPS, scores)
    page = page_of(run)
    shown, folded = page.split("Other metrics of these tasks")
    assert "piqa <small>accuracy_bytes;" in shown
    assert "piqa <small>accuracy;" in folded


def test_scores_of_a_task_with_different_shots_keep_their_own_chance(run: Path) -> None:
    """The scorecard gives examples and compares with the most frequent topic, `tonsai tasks` does neither."""
    shutil.rmtree(run / "evaluations")
    of_card = TaskScore("arc_easy", "accuracy", 0.3, 0.02, 0.26, 0.34, 204, shots=7, chance=0.28)
    write_scores(run, "scorecard", STEPS, [of_card])
    write_scores(run, "tasks", STEPS, [TaskScore("arc_easy", "accuracy", 0.3, 0.02, 0.26, 0.34, 204, chance=0.125)])
    page = page_of(run)
    text = words(page)
    assert "arc_easy accuracy; higher is better; dashed: chance of each row" in text
    assert "step 40 scorecard, 7-shot, n = 204, chance 28.0 %, at chance 30.0 % ± 4.0 %" in text
    assert "step 40 tasks, 0-shot, n = 204, chance 12.5 % 30.0 % ± 4.0 %" in text
    assert "Pythia 160M published, 0-shot 43.5 %" in text
    assert re.findall(r'class="mark" style="left:([\d.]+)%"', page) == ["28.00", "12.50"]


@pytest.mark.parametrize(
    ("metric", "figure"),
    [
        ("chrf++", "0.800"),
        ("accuracy", "80.0 %"),
        ("accuracy_bytes", "80.0 %"),
        ("f1", "80.0 %"),
        ("exact_match", "80.0 %"),
    ],
)
def test_shares_are_in_percent_and_a_low_score_of_another_metric_is_not(run: Path, metric: str, figure: str) -> None:
    write_scores(run, "tasks", STEPS, [TaskScore("task", metric, 0.8, None, None, None, 9)])
    assert f"n = 9 {figure} " in words(page_of(run))


@pytest.mark.parametrize(
    ("metric", "objective", "scores", "text"),
    [
        ("accuracy/source/pairs", "dpo", {"20": -0.9, "40": -0.7}, "accuracy, source, pairs 0.9000"),
        ("eval/margin", "dpo", {"20": 0.25, "40": 0.5}, "margin -0.2500"),  # a run that prefers the other answer
        ("margin", "dpo", {"20": -0.25, "40": 0.5}, "margin 0.2500"),
        ("bits_per_byte/km", "next_token", {"20": 1.5, "40": 1.6}, "bits per byte, km 1.5000"),
        ("", "dpo", {"20": 0.5, "40": 0.6}, "loss of pairs 0.5000"),
        ("", "next_token", {"20": 1.5, "40": 1.6}, "bits per byte 1.5000"),
    ],
)
def test_the_best_checkpoint_has_its_metric_with_its_sign(
    run: Path, metric: str, objective: str, scores: dict[str, float], text: str
) -> None:
    write_json(run / "scores.json", scores)
    record = read_run(run, "run")
    record.config["checkpoint"]["best_metric"], record.config["loss"]["objective"] = metric, objective
    found = {card.name: card for card in cards(record, None)}
    assert found["best checkpoint"][1:3] == ("step 20", text)


def test_a_score_of_a_step_that_was_lost_is_not_the_best(run: Path) -> None:
    """The run went on from an older checkpoint, and has not come that far again."""
    write_json(run / "scores.json", {"20": 1.5, "40": 1.6, "50": 1.0})
    assert read_run(run, "run").best == (20, 1.5)
    (run / "metrics.jsonl").unlink()  # then nobody knows
    assert read_run(run, "run").best == (50, 1.0)


def test_every_published_score_names_its_source_and_quotes_it() -> None:
    for each in published():
        assert each.keys() - {"remark"} == {"model", "task", "metric", "value", "shots", "source", "url", "quote"}
        assert each["url"].startswith("https://github.com/")
        figure = f"{each['value']:.2f}" if each["metric"] == "chrf++" else f"{each['value']:.4f}"
        in_percent = f"{100 * each['value']:.2f}"
        assert figure[:6] in each["quote"] or in_percent in each["quote"] or round_trip(each), each


def round_trip(each) -> bool:
    numbers = [float(number) for number in re.findall(r"\d\.\d+", each["quote"])]
    return any(round(number, 4) == each["value"] for number in numbers)


def test_the_configuration_begins_with_what_differs_from_the_defaults(complete: Path) -> None:
    page = page_of(complete)
    assert "steps 40 1000" in words(page)
    assert "<td>optimizer.beta1</td><td>0.9</td></tr>" in page  # among all keys
    assert "optimizer.beta1 0.9 0.9" not in words(page)


def test_the_configuration_of_another_run_is_compared(complete: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", experts=4, seed=7)
    page = page_of(complete, against=other)
    assert "seed 0 7" in words(page)
    assert "What differs between the runs" in page


def test_data_and_environment_are_tables(complete: Path) -> None:
    text = words(page_of(complete))
    assert "stories_km km CC0-1.0 75.0% 700 5.0M 21.0 5.0M 2.00" in text
    assert "2026-01-02 08:30 20 2.0 h 4 × NVIDIA H100 jax 0.12.0 Python 3.12.3, Linux d1b0dff01234" in text


def test_a_command_that_started_the_trainer_twice_is_shown_once(complete: Path) -> None:
    assert page_of(complete).count("<pre>train --config quickstart.py</pre>") == 1


def test_experts_are_a_map_with_a_row_each(complete: Path) -> None:
    assert 'viewBox="0 0 40 4"' in page_of(complete)


# What is missing or broken


def test_what_cannot_be_read_is_noted_and_the_rest_stands(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "tr')
    (run / "environment.json").write_text("{")
    (run / "data.json").write_text("[]")
    (run / "evaluations" / "empty-step-000040.json").write_text("")
    (run / "evaluations" / "other-step-000040.json").write_text('{"step": 1}')
    (run / "samples" / "step-000040.jsonl").write_text("")
    (run / "samples" / "step-000030.jsonl").write_text('{"prompt": "a"}\n{"prompt": "a", "continuation": "b"}\n')
    notes = write_report(run / "report.html", [run])
    lines = len(metrics_rows()) + 1
    assert notes[0] == f"metrics.jsonl line {lines}: not a row of metrics, left out"
    assert notes[1] == "data.json: not the file that a run writes, left out"
    assert notes[4].startswith("environment.json: not valid JSON, left out (")
    assert notes[2:4] == [
        "samples/step-000030.jsonl: 1 broken line, left out",
        "samples/step-000040.jsonl: empty, left out",
    ]
    assert notes[5] == "evaluations/empty-step-000040.json: empty, left out; evaluate again to write it"
    assert notes[6].startswith("evaluations/other-step-000040.json: left out (not the scores of an evaluation (")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert all(note in unescape(page) for note in notes)
    assert "<polyline" in page


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("complete.json", {"step": "40"}, "complete.json: not the file that a run writes, left out"),
        ("data.json", {"sources": [1]}, "data.json: not the file that a run writes, left out"),
        ("data.json", {"sources": {"a": {}, "b": 3}}, "data.json: source 'a' left out (KeyError: 'weight')"),
        ("environment.json", [3, {"devices": "two", "versions": []}], None),
        (
            "evaluations/tasks-step-000040.json",
            {"step": 1, "scores": [3]},
            "evaluations/tasks-step-000040.json: left out",
        ),
        ("scores.json", {"a": 1, "2": "x", "3": None, "4": 1.7e308}, None),
        ("config.json", {"model": 3}, "config.json: left out"),
    ],
)
def test_json_of_something_else_is_left_out(run: Path, name: str, content: object, note: str | None) -> None:
    (run / name).write_text(json.dumps(content))
    notes = write_report(run / "report.html", [run])
    assert [each.startswith(note) for each in notes[:1]] == [True] if note else not notes


HUGE, LONGER = "9" * 400, "9" * 5001  # no float holds the first; Python does not read the second


@pytest.mark.parametrize(
    "line",
    [
        f'{{"step": 41, "train/loss": {HUGE}}}',
        f'{{"step": {HUGE}, "train/loss": 1.0}}',
        f'{{"step": 41, "train/loss": {LONGER}}}',
        "[" * 100_000,
    ],
    ids=["huge value", "huge step", "longer value", "nested"],
)
def test_a_line_of_metrics_that_no_program_can_hold_costs_only_itself(run: Path, line: str) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    lines = len(metrics_rows()) + 1
    assert write_report(run / "report.html", [run]) == [f"metrics.jsonl line {lines}: not a row of metrics, left out"]
    assert read_run(run, "run").metrics.last_step == STEPS


def test_values_at_the_ends_of_floats_and_nearly_equal_ones_are_no_reason_for_a_note(run: Path) -> None:
    ends = [
        {"step": step, "a": value, "train/grad_norm": 1e-320} for step, value in ((38, 1e308), (39, -1e308), (40, 2.0))
    ]
    equal = [{"step": 39, "b": 1.0}, {"step": 40, "b": 1.0 + 2**-52}, {"step": 40, "c": 5e-324}]
    write_rows(run, [*metrics_rows(), *ends, *equal])
    assert write_report(run / "report.html", [run]) == []
    assert read_run(run, "run").metrics["a"].values.tolist() == [2.0]


@pytest.mark.parametrize("value", [HUGE, LONGER, "1e999", "[" * 100_000], ids=["huge", "longer", "infinite", "nested"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("evaluations/tasks-step-000040.json", '{"step": 40, "scores": [{"task": "a", "metric": "f1", "value": %s, '
         '"stderr": null, "low": null, "high": null, "n": 9}]}'),
        ("data.json", '{"sources": {"a": {"weight": 1, "language": "km", "splits": {"train": {"documents": %s, "tokens": 1, '
         '"bytes": 1}}}}}'),
        ("data.json", '{"sources": {"a": {"weight": %s}}}'),
        ("scores.json", '{"20": %s}'),
        ("environment.json", '[{"devices": %s}]'),
        ("complete.json", '{"step": 40, "samples": %s}'),
        ("config.json", '{"seed": %s}'),
        ("samples/step-000040.jsonl", '{"prompt": "a", "continuation": %s}'),
    ],
)  # fmt: skip
def test_json_that_no_program_can_hold_is_one_note_at_most(run: Path, name: str, content: str, value: str) -> None:
    (run / name).write_text(content % value)
    notes = write_report(run / "report.html", [run], price=2.0)
    assert len(notes) <= 1
    assert all(note.startswith(name) for note in notes)
    assert "bits per byte, km" in words((run / "report.html").read_text(encoding="utf-8"))


def test_a_folder_in_the_place_of_a_file_is_a_note(run: Path) -> None:
    for name in ("samples/step-000009.jsonl", "prompt_suite/step-000009.jsonl", "evaluations/a-step-000009.json"):
        (run / name).mkdir()
    notes = write_report(run / "report.html", [run])
    assert notes[:2] == [f"{name}/step-000009.jsonl: left out (Is a directory)" for name in ("samples", "prompt_suite")]
    assert len(notes) == 3
    assert notes[2].startswith("evaluations/a-step-000009.json: left out (")


def test_half_of_a_surrogate_pair_is_a_question_mark(run: Path) -> None:
    (run / "samples" / "step-000040.jsonl").write_text('{"prompt": "Once", "continuation": "a\\ud83d b"}\n')
    assert "step 40 a? b" in words(page_of(run))


def test_a_separator_of_lines_within_a_sample_does_not_end_it(run: Path) -> None:
    (run / "samples" / "step-000040.jsonl").write_text(
        '{"prompt": "Once", "continuation": "a\u2028b"}\n', encoding="utf-8"
    )
    assert write_report(run / "report.html", [run]) == []


def test_a_section_that_cannot_be_made_is_a_note(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    for module, name in ((curves, "learning"), (summary, "cards"), (scores, "task_charts")):
        monkeypatch.setattr(module, name, fails)
    notes = write_report(run / "report.html", [run])
    assert notes == [
        f"{name}: left out (ZeroDivisionError: division by zero)" for name in ("summary", "tasks", "learning")
    ]
    assert "<h2>Environment</h2>" in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("kept", ["metrics.jsonl", "config.json"])
def test_a_run_that_left_one_file_has_a_report(run: Path, kept: str) -> None:
    for path in run.iterdir():
        if path.name != kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = page_of(run)
    assert ("<polyline" in page) == (kept == "metrics.jsonl")
    assert ("What differs from the defaults" in page) == (kept == "config.json")


def test_a_config_of_another_version_is_shown(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    del config["optimizer"]["beta2"]
    write_json(run / "config.json", config | {"of_the_future": 1})
    assert "What differs from the defaults" in page_of(run)


def test_the_status_says_how_far_a_run_came_and_how_it_ended(run: Path) -> None:
    def status() -> tuple[str, str]:
        card = status_of(read_run(run, "run"))
        return card.figure, card.remark

    (run / "complete.json").unlink()
    write_rows(run, [row for row in metrics_rows() if row["step"] <= 25])
    assert status() == ("stopped", f"at step 25 of {STEPS}; no checkpoint in this folder")
    (run / "checkpoints" / "25").mkdir(parents=True)
    assert status() == ("stopped", f"at step 25 of {STEPS}; the same command continues it")
    write_rows(run, [row for row in metrics_rows() if row["step"] <= 29])
    assert status() == ("failed", f"ended at step 29 of {STEPS}; the last checkpoint is of step 25")
    write_json(run / "trainer.lock", {"host": socket.gethostname(), "pid": os.getppid()})
    assert status() == ("running", f"step 29 of {STEPS}")
    write_json(run / "trainer.lock", {"host": socket.gethostname(), "pid": os.getpid()})  # the trainer that writes it
    assert status()[0] == "failed"
    write_rows(run, [*metrics_rows()[:5], {"step": 9, "train/loss": None}])
    assert status() == ("failed", f"the loss was not finite at step 9 of {STEPS}")
    write_rows(run, [])
    assert status()[0] == "not started"


def test_a_complete_run_that_was_made_longer_is_complete_no_more(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    write_json(run / "config.json", config | {"steps": 2 * STEPS})
    write_json(run / "trainer.lock", {"host": socket.gethostname(), "pid": os.getppid()})
    assert status_of(read_run(run, "run"))[1:3] == ("running", f"step {STEPS} of {2 * STEPS}")
    (run / "config.json").unlink()  # then its length is not known
    assert status_of(read_run(run, "run")).figure == "complete"
    write_rows(run, [*metrics_rows(), {"step": STEPS + 1, "train/loss": 1.0}])
    assert status_of(read_run(run, "run")).figure == "running"


def test_hours_or_devices_that_are_not_known_give_no_cost(run: Path) -> None:
    (run / "environment.json").write_text("[{}]")
    assert device_hours(read_run(run, "run")) is None
    assert "Environment" in words(page_of(run))


def test_steps_that_were_taken_again_count_for_the_start_that_took_them_last(run: Path) -> None:
    starts = [{"start_step": step, "devices": devices} for step, devices in ((0, 8), (20, 4), (10, 2))]
    write_json(run / "environment.json", starts)
    assert hours_of_starts(read_run(run, "run")) == [1.0, 0.0, 3.0]
    assert device_hours(read_run(run, "run")) == 8 * 1 + 2 * 3


def test_texts_of_lost_steps_are_not_shown(run: Path) -> None:
    """A run that went on from step 10 and has logged step 15: of its own texts those up to the next log can be there."""
    (run / "complete.json").unlink()
    write_rows(run, [row for row in metrics_rows() if row["step"] <= 15])
    config = json.loads((run / "config.json").read_text())
    write_json(run / "config.json", config | {"log_every": 5})
    record = read_run(run, "run")
    assert (list(record.samples), list(record.suite)) == ([0, 10, 20], [0, 10, 20])


def test_a_run_before_its_first_step_has_a_report(run: Path) -> None:
    """A run that continues from another model is evaluated at once; of a new one there is only the configuration."""
    for name in ("samples", "prompt_suite", "evaluations"):
        shutil.rmtree(run / name)
    for name in ("complete.json", "scores.json"):
        (run / name).unlink()
    write_json(run / "trainer.lock", {"host": socket.gethostname(), "pid": os.getppid()})
    write_rows(run, metrics_rows()[:1])
    assert write_report(run / "report.html", [run], price=2.0) == []
    text = words((run / "report.html").read_text(encoding="utf-8"))
    assert f"status running step 0 of {STEPS} bits per byte, km 2.0000 one evaluation so far" in text
    (run / "metrics.jsonl").unlink()
    assert write_report(run / "report.html", [run]) == ["metrics.jsonl: no such file, so there are no curves"]
    assert f"status running step 0 of {STEPS}" in words((run / "report.html").read_text(encoding="utf-8"))


# Several runs, and the command


def test_several_runs_are_compared(complete: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", seed=3)
    page = page_of(complete, other)
    text = words(page)
    assert "2 runs compared" in text
    assert "complete, step 40" in text
    assert "other, step 40" in text
    assert "seed 0 3" in text
    assert f"steps {STEPS} {STEPS}" not in text  # it does not differ
    assert page.count("<title>other</title>") > page.count("<title>km</title>") == 0
    assert "bits per byte, km" in text
    assert text.count("n = 500") == 2


def test_the_command_writes_the_page_and_prints_the_notes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "data.json").write_text("[]")
    code, out, err = tonsai("report", "--workdir", str(run), "--price", "2.5")
    assert (code, err) == (0, "")
    assert (
        out
        == f"data.json: not the file that a run writes, left out\nwritten to {run}/report.html; open it in a browser\n"
    )
    for folder in ("a", "b"):
        shutil.copytree(run, tmp_path / folder / "run")
    monkeypatch.chdir(tmp_path)
    assert tonsai("report", "--workdir", "a/run", "b/run")[1].endswith("written to report.html; open it in a browser\n")
    assert "b/run" in words(Path("report.html").read_text(encoding="utf-8"))  # told apart by their paths


def test_a_folder_that_is_no_run_is_refused_in_one_line(tmp_path: Path) -> None:
    message = "no metrics.jsonl and no config.json, so this is not the workdir of a run; check the path"
    assert tonsai("report", "--workdir", str(tmp_path)) == (1, "", f"error: {tmp_path}: {message}\n")
    assert tonsai("report", "--workdir", "x", "--price", "-1")[2].startswith("error: --price -1: the price of an hour")
