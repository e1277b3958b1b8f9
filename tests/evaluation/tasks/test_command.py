"""`tonsai tasks`: a table, the scores of the run, and one line for each task that cannot be run."""

import contextlib
import json
from pathlib import Path

import pytest

from tests.support.console import tonsai, without_progress
from tests.support.made_once import MadeOnce
from tests.support.tiny_run import TinyRun
from tonsai_jax.evaluation.task_scores import read_scores
from tonsai_jax.evaluation.tasks.registry import TASKS

PIQA = [
    {"goal": f"walk {number} miles", "sol1": "on foot", "sol2": "by eating stones", "label": 0} for number in range(8)
]


@pytest.fixture
def workdir(made_once: MadeOnce, rows: Path) -> Path:
    return made_once("tasks-run", lambda folder: TinyRun(rows, folder / "run").train("steps=8")) / "run"


def write(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")


def test_the_list_names_every_task_with_its_chance_and_its_data() -> None:
    code, out, err = tonsai("tasks", "--list")
    assert (code, err) == (0, "")
    for name, task in TASKS.items():
        line = next(line for line in out.splitlines() if line.split()[0] == name)
        assert task.data in line
        assert task.small_models in line


def test_a_task_that_cannot_be_run_is_one_line_and_the_others_go_on(tmp_path: Path, workdir: Path) -> None:
    write(tmp_path / "piqa.jsonl", PIQA)
    write(tmp_path / "arc_easy.jsonl", [])
    write(tmp_path / "cloze_km.jsonl", [{"context": "កាលពី", "target": "ព្រេងនាយ"}, {"context": "a"}])
    names = ["arc_easy", "piqa", "cloze_km"]
    json_file = tmp_path / "scores.json"
    code, out, err = tonsai(
        "tasks", "--workdir", str(workdir), *names, "--data", str(tmp_path), "--limit", "6", "--json", str(json_file)
    )
    assert code == 1
    assert without_progress(err) == (
        f"error: arc_easy: {tmp_path}/arc_easy.jsonl: there are no records; download it again, or leave the task out\n"
        f"error: cloze_km: {tmp_path}/cloze_km.jsonl, line 2: the record has no field 'target'; its fields are 'context'\n"
    )
    assert f"{workdir}, step 8: scores with their 95 % interval" in out
    assert [line.split()[:2] for line in out.splitlines()[2:]] == [
        ["piqa", "accuracy"],
        ["piqa", "accuracy_bytes"],
        ["piqa", "accuracy_characters"],
        ["piqa", "accuracy_tokens"],
    ]
    step, scores = read_scores(workdir / "evaluations" / "tasks-step-000008.json")
    assert (step, {score.n for score in scores if score.task == "piqa"}) == (8, {6})
    written = json.loads(json_file.read_text(encoding="utf-8"))
    assert sorted(written["failed"]) == ["arc_easy", "cloze_km"]
    assert [score["value"] for score in written["scores"]] == [score.value for score in scores if score.task == "piqa"]

    write(tmp_path / "cloze_km.jsonl", [{"context": "កាលពី", "target": "ព្រេងនាយ"}])
    code, _, _ = tonsai("tasks", "--workdir", str(workdir), "cloze_km", "--data", str(tmp_path))
    assert code == 0
    _, both = read_scores(workdir / "evaluations" / "tasks-step-000008.json")
    assert [score.task for score in both] == ["piqa"] * 4 + ["cloze_km"] * 2, "what was scored before is kept"


def test_tasks_that_are_done_are_kept_when_a_later_one_is_stopped(
    tmp_path: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "piqa.jsonl", PIQA)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(TASKS["cloze_km"]), "score", stopped)
    words = ["tasks", "--workdir", str(workdir), "piqa", "cloze_km", "--data", str(tmp_path)]
    json_file = tmp_path / "scores.json"
    with contextlib.suppress(KeyboardInterrupt):
        tonsai(*words, "--json", str(json_file))
    _, kept = read_scores(workdir / "evaluations" / "tasks-step-000008.json")
    assert [(score.task, score.n) for score in kept if score.task == "piqa"] == [("piqa", 8)] * 4
    assert len(json.loads(json_file.read_text(encoding="utf-8"))["scores"]) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["belebele"], "TASK='belebele' is not known; did you mean"),
        (["piqa", "--limit", "0"], "--limit at least 1 (it is 0)"),
        (["piqa", "--shots", "-1"], "--shots must be at least 0 (it is -1)"),
        (["piqa", "--data", "no/such/folder"], "--data no/such/folder: no such folder"),
        ([], "the following arguments are required: TASK"),
    ],
)
def test_a_mistake_in_the_flags_is_one_line(words: list[str], message: str) -> None:
    code, _, err = tonsai("tasks", "--workdir", "run", *words)
    assert code == 1
    assert message in err
    assert err.count("\n") == 1
