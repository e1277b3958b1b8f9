"""Tests of tonsai_jax/evaluation/tasks/flores.py."""

from pathlib import Path

import pytest

from tests.support.answering import Answering
from tests.support.scorecard_data import ENGLISH, KHMER, write_flores
from tests.support.tiny_model import config_with, random_params, tiny_tokenizer
from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.tasks.flores import TASKS
from tonsai_jax.evaluation.tasks.task import TaskModel, TaskOptions
from tonsai_jax.inference.load import LanguageModel

CONFIG = config_with(context_length=512)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> TaskModel:
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tiny")
    return TaskModel(LanguageModel("tiny", CONFIG, random_params(CONFIG), tokenizer))


def test_the_first_sentences_of_downloaded_files_are_translated(model, tmp_path: Path) -> None:
    write_flores(tmp_path)
    model.generator = generator = Answering(model.model, lambda _: " ឆ្មាទៅផ្សារ។")
    _, to_khmer = TASKS
    [score] = to_khmer.score(model, TaskOptions(tmp_path, limit=4, shots=1))
    assert (score.task, score.metric, score.n, score.shots) == ("flores_en_km", "chrf++", 4, 1)
    asked = {prompt.splitlines()[-2] for prompt in generator.prompts}
    assert asked < {f"English: {text}" for text in ENGLISH[:5]}
    assert score.value > 20  # the words for cat and to go are in all of them


def test_local_records_are_read_by_the_name_of_the_task_set(model, tmp_path: Path) -> None:
    for language, texts in (("km", KHMER), ("en", ENGLISH)):
        lines = [f'{{"text": "{text}"}}' for text in texts]
        (tmp_path / f"flores_{language}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    model.generator = Answering(model.model, lambda _: "The cow goes")
    [score] = TASKS[0].score(model, TaskOptions(tmp_path))
    assert (score.task, score.n, score.shots) == ("flores_km_en", 20, 0)
    assert not score.at_chance


def test_files_of_different_length_do_not_belong_together(model, tmp_path: Path) -> None:
    for language, count in (("km", 3), ("en", 2)):
        (tmp_path / f"flores_{language}.jsonl").write_text('{"text": "a"}\n' * count)
    with pytest.raises(UserError, match=r"FLORES\+ has 3 sentences in Khmer and 2 in English; give both files"):
        TASKS[0].score(model, TaskOptions(tmp_path))
