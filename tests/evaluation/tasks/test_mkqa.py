"""Tests of tonsai_jax/evaluation/tasks/mkqa.py."""

import json
from pathlib import Path

import pytest

from tests.support.answering import Answering
from tests.support.tiny_model import config_with, random_params, tiny_tokenizer
from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.tasks.mkqa import Mkqa, question_of, unit_f1
from tonsai_jax.evaluation.tasks.records import RecordError
from tonsai_jax.evaluation.tasks.task import TaskModel, TaskOptions
from tonsai_jax.inference.load import LanguageModel

CONFIG = config_with(context_length=512)


def record(question: str, *answers: str | None, aliases: tuple[str, ...] = ()) -> dict:
    """With the fields of the published file."""
    texts = [{"type": "entity", "text": text, "aliases": list(aliases)} for text in answers]
    return {"query": "", "queries": {"km": question, "en": ""}, "answers": {"km": texts, "en": []}, "example_id": 1}


RECORDS = [
    record("តើនេះជាអ្វី", "ឆ្មា"),
    record("តើទៅណា", None),  # no short answer
    record("តើឆ្នាំណា", "2017", "2017-05-18", aliases=("18 ឧសភា 2017",)),
    record("តើអ្នកណា", "គ្រូបង្រៀន"),
    record("តើនៅឯណា", "Phnom Penh"),
]


def scores(tmp_path: Path, answer, **options) -> tuple[dict[str, float], Answering]:
    (tmp_path / "data").mkdir(exist_ok=True)
    lines = [json.dumps(each) for each in RECORDS]
    (tmp_path / "data" / "mkqa_km.jsonl").write_text("\n".join(lines), encoding="utf-8")
    model = TaskModel(LanguageModel("tiny", CONFIG, random_params(CONFIG), tiny_tokenizer(tmp_path / "tokenizer")))
    generator = Answering(model.model, answer)
    model.generator = generator  # takes the place of the cached one
    found = Mkqa().score(model, TaskOptions(tmp_path / "data", **options))
    assert {(score.n, score.chance) for score in found} == {(len(generator.prompts), 0.0)}
    return {score.metric: score.value for score in found}, generator


def test_every_answer_and_alias_is_right_without_its_case_spaces_and_punctuation(tmp_path: Path) -> None:
    right = {"នេះ": "ឆ្មា។", "ឆ្នាំ": "18 ឧសភា, 2017", "អ្នក": "គ្រូ បង្រៀន", "នៅ": "phnom penh."}
    found, _ = scores(tmp_path, lambda prompt: next(text for word, text in right.items() if word in prompt))
    assert found == {"f1": 1.0, "exact_match": 1.0}


def test_a_part_of_an_answer_counts_in_f1_only(tmp_path: Path) -> None:
    found, _ = scores(tmp_path, lambda prompt: "Penh" if "នៅ" in prompt else "")
    assert found == {"f1": pytest.approx(2 / 3 / 4), "exact_match": 0.0}


def test_the_first_questions_are_worked_examples_which_are_not_asked(tmp_path: Path) -> None:
    _, generator = scores(tmp_path, lambda _: "", shots=2, limit=1)
    [prompt] = generator.prompts
    assert prompt == ("សំណួរ៖ តើនេះជាអ្វី\nចម្លើយ៖ ឆ្មា\n\nសំណួរ៖ តើឆ្នាំណា\nចម្លើយ៖ 2017\n\nសំណួរ៖ តើអ្នកណា\nចម្លើយ៖")


@pytest.mark.parametrize(
    ("answer", "right", "f1"),
    [
        ("សាលារៀន", "សាលា", 2 * 2 / (4 + 2)),  # សា លា រៀ ន against សា លា
        ("ឆ្មា", "ឆ្កែ", 0.0),
        ("cat cat", "cat dog", 0.5),
        ("", "cat", 0.0),
    ],
)
def test_f1_counts_orthographic_syllables_and_words(answer: str, right: str, f1: float) -> None:
    assert unit_f1(answer, right) == pytest.approx(f1)


def test_a_question_without_a_short_answer_has_none() -> None:
    assert question_of(record("តើទៅណា", None)).answers == ()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"text": 5}, "field 'text' is 5, which is of the wrong type"),
        ({"text": "a", "aliases": "abc"}, "field 'aliases' is 'abc', which is of the wrong type"),
        ({"text": "a", "aliases": ["b", 3]}, "field 'aliases' has 3; each of its values must be a text"),
    ],
)
def test_an_answer_of_the_wrong_type_is_refused(answer: dict, message: str) -> None:
    with pytest.raises(RecordError) as error:
        question_of({"queries": {"km": "?"}, "answers": {"km": [answer]}})
    assert str(error.value) == message


def test_a_missing_file_is_one_line_with_the_command_that_gets_it(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"mkqa_km.jsonl: no such file; get it with `curl -L https://.* \| gunzip > .*`$"
    ):
        Mkqa().score(None, TaskOptions(tmp_path))  # type: ignore[arg-type]  # no model is needed to see it
