"""Tests of tonsai_jax/evaluation/scorecard.py and of its command."""

import contextlib
import json
import math
import socket
from pathlib import Path

import pytest

from tests.support.console import tonsai, without_progress
from tests.support.scorecard_data import ENGLISH, KHMER, write_all, write_ntrex, write_sib200
from tests.support.tiny_model import config_with, random_params, tiny_tokenizer
from tonsai_jax.commands import scorecard as command
from tonsai_jax.config import default_config
from tonsai_jax.evaluation.documents.scorer import score_documents
from tonsai_jax.evaluation.scorecard import scorecard
from tonsai_jax.evaluation.task_scores import TaskScore, read_scores
from tonsai_jax.inference.load import LanguageModel, Run

CONFIG = config_with(context_length=1024, dtype="bfloat16", attention="cudnn")
TASKS = [
    *(("ntrex_km", "bits_per_byte", 8, 0), ("ntrex_en", "bits_per_byte", 8, 0)),
    *(("ntrex_km_en", "chrf++", 8, 3), ("ntrex_en_km", "chrf++", 8, 3)),
    *(("flores_km", "bits_per_byte", 8, 0), ("flores_en", "bits_per_byte", 8, 0)),
    *(("flores_km_en", "chrf++", 8, 3), ("flores_en_km", "chrf++", 8, 3)),
    *(("sib200_km", "accuracy", 8, 7), ("sib200_en", "accuracy", 8, 7)),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> LanguageModel:
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tiny")
    return LanguageModel("tiny", CONFIG, random_params(CONFIG), tokenizer)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_all(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def scores(model, data) -> list[TaskScore]:
    return list(scorecard(model, data, limit=8, failed=pytest.fail))


@pytest.fixture
def run(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """What the command opens."""
    opened = Run("runs/tiny", CONFIG, model.params, model.tokenizer, tmp_path / "run", default_config(), step=500)
    monkeypatch.setattr(command, "open_model", lambda args: opened)
    return opened


def test_every_task_has_its_items_its_examples_and_an_interval(scores) -> None:
    assert [(score.task, score.metric, score.n, score.shots) for score in scores] == TASKS
    for score in scores:
        assert score.low <= score.value <= score.high


def test_a_second_time_needs_no_network_and_gives_the_same(scores, model, data, monkeypatch) -> None:
    def refuse(*_):
        raise AssertionError("the network was asked for something")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert list(scorecard(model, data, limit=8, failed=pytest.fail)) == scores


def test_bits_per_byte_are_those_of_sentences_from_the_whole_test_set(scores, model) -> None:
    score = scores[0]
    plain = LanguageModel("tiny", config_with(context_length=1024), model.params, model.tokenizer)
    chosen = [KHMER[number] for number in (0, 2, 5, 8, 10, 13, 16, 19)]
    sums = score_documents(plain, chosen)
    total = sum(each.nats for each in sums) / math.log(2) / sum(len(text.encode()) for text in chosen)
    assert score.value == pytest.approx(total)
    assert not score.higher_is_better


def test_chance_in_topics_is_the_most_frequent_one_of_the_sentences(model, tmp_path: Path) -> None:
    write_sib200(tmp_path)
    missing: list[str] = []
    khmer, english = scorecard(model, tmp_path, limit=0, failed=missing.append)
    assert (khmer.n, english.n) == (20, 20)
    assert khmer.chance == english.chance == 3 / 20  # 20 sentences, seven topics in turn
    assert khmer.value in [count / 20 for count in range(21)]


def test_examples_are_left_out_where_the_context_cannot_hold_them(model, data) -> None:
    short = LanguageModel("tiny", config_with(context_length=64), model.params, model.tokenizer)
    scores = list(scorecard(short, data, limit=2, failed=pytest.fail))
    assert {score.shots for score in scores} == {0}


def test_a_damaged_and_a_missing_test_set_are_one_line_each_and_the_others_go_on(model, tmp_path: Path) -> None:
    write_ntrex(tmp_path / "NTREX-128")
    write_sib200(tmp_path / "sib200")
    path = tmp_path / "NTREX-128" / "newstest2019-src.eng.txt"
    path.write_text("\n".join(ENGLISH[1:]), encoding="utf-8")
    (tmp_path / "sib200" / "khm_Khmr" / "train.tsv").unlink()
    failed: list[str] = []
    scores = list(scorecard(model, tmp_path, limit=8, failed=failed.append))
    assert [score.task for score in scores] == ["sib200_en"]
    assert len(failed) == 3
    assert f"has 20 sentences and {path} has 19" in failed[0]
    assert "there is no devtest/khm_Khmr.parquet or " in failed[1]
    assert "there is no khm_Khmr/train.tsv in it" in failed[2]


def test_an_unknown_topic_in_a_table_names_the_file(model, tmp_path: Path) -> None:
    write_sib200(tmp_path)
    for path in tmp_path.rglob("test.tsv"):
        path.write_text(path.read_text(encoding="utf-8").replace("sports", "chess"), encoding="utf-8")
    failed: list[str] = []
    assert not list(scorecard(model, tmp_path, limit=1, failed=failed.append))
    *_, khmer, english = failed
    assert khmer.startswith(f"{tmp_path}: a record of khm_Khmr/test.tsv has category 'chess'; it must be one of")
    assert "eng_Latn/test.tsv" in english


def test_the_command_prints_one_table_and_keeps_the_scores_with_the_run(scores, run, data, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    words = ("scorecard", "--workdir", "runs/tiny", "--data", str(data), "--limit", "8", "--json", str(file))
    code, out, err = tonsai(*words)
    assert (code, without_progress(err)) == (0, "")
    title, head, *lines = out.splitlines()
    assert title == "runs/tiny, step 500: the Khmer scorecard"
    assert head.split() == ["task", "metric", "value", "95", "%", "interval", "chance", "n", "shots"]
    assert [line.split()[0] for line in lines] == [name for name, *_ in TASKS]
    first, chrf = scores[0], scores[2]
    assert lines[0].split()[2:6] == [f"{first.value:.3f}", f"{first.low:.3f}", "to", f"{first.high:.3f}"]
    assert lines[2].split()[6:9] == [f"{chrf.chance:.1f}", "8", "3"]
    assert [line.endswith("at chance") for line in lines] == [score.at_chance for score in scores]
    assert read_scores(run.workdir / "evaluations" / "scorecard-step-000500.json") == (500, scores)
    kept = json.loads(file.read_text(encoding="utf-8"))
    assert (kept["model"], kept["step"], kept["failed"]) == ("runs/tiny", 500, [])
    assert [TaskScore(**each) for each in kept["scores"]] == scores


def test_scores_that_are_done_are_kept_when_the_command_is_stopped(
    scores, run, data, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_, **__):
        yield from scores[:2]
        raise KeyboardInterrupt

    monkeypatch.setattr("tonsai_jax.evaluation.scorecard.scorecard", stopped)
    with contextlib.suppress(KeyboardInterrupt):
        tonsai("scorecard", "--workdir", "runs/tiny", "--data", str(data))
    assert read_scores(run.workdir / "evaluations" / "scorecard-step-000500.json") == (500, scores[:2])


def test_without_any_test_set_there_is_no_table_and_nothing_is_kept(run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, out, err = tonsai("scorecard", "--workdir", "runs/tiny", "--data", str(tmp_path / "empty"))
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 4
    assert all(line.startswith(f"error: {tmp_path / 'empty'}: there is no ") for line in err.splitlines())
    assert not run.workdir.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "nowhere"), "--data nowhere: no such folder; docs/scorecard.md says what to download into it"),
        (("--data", ".", "--limit", "-1"), "--limit must be at least 0 (it is -1)"),
    ],
)
def test_a_mistake_in_the_flags_is_one_line(words: tuple[str, ...], message: str) -> None:
    assert tonsai("scorecard", "--workdir", "runs/tiny", *words) == (1, "", f"error: {message}\n")
