"""Records as they are on the Hub become items with the prompts of lm-eval; a record that is not right says why."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tonsai_jax.evaluation.tasks.belebele import belebele, sea_helm
from tonsai_jax.evaluation.tasks.cloze import given_target, last_word
from tonsai_jax.evaluation.tasks.commonsense import arc, hellaswag, piqa
from tonsai_jax.evaluation.tasks.multiple_choice import MultipleChoice, Question
from tonsai_jax.evaluation.tasks.nli import nli
from tonsai_jax.evaluation.tasks.records import RecordError
from tonsai_jax.evaluation.tasks.registry import TASKS

BELEBELE = {
    "flores_passage": "The lake is deep.",
    "question": " What is deep? ",
    "mc_answer1": "a hill",
    "mc_answer2": "the lake",
    "mc_answer3": "a tree",
    "mc_answer4": "the sky",
    "correct_answer_num": "2",
}
SEA_HELM = {
    "prompts": [
        {"text": "បឹងជ្រៅ។", "question": "អ្វីជ្រៅ?", "choice1": "ភ្នំ", "choice2": "បឹង", "choice3": "ដើមឈើ", "choice4": "មេឃ"}
    ],
    "label": "B",
}
HELLASWAG = {
    "activity_label": "Cooking",
    "ctx_a": "A man cuts [step] bread [title] Soup.",
    "ctx_b": "he",
    "endings": ["eats [substeps] it.", "flies.", "sings.", "swims."],
    "label": "0",
}
ARC = {
    "question": "What is wet?",
    "choices": {"text": ["fire", "rain", "sand"], "label": ["A", "B", "C"]},
    "answerKey": "B",
}
PIQA = {"goal": "open a jar", "sol1": "turn the lid", "sol2": "turn the jar over", "label": 0}
XNLI = {"premise": "It rains", "hypothesis": "it is wet.", "label": 0}


def test_belebele_asks_for_a_letter() -> None:
    prompt = "P: The lake is deep.\nQ: What is deep?\nA: a hill\nB: the lake\nC: a tree\nD: the sky\nAnswer:"
    question = belebele(BELEBELE)
    assert question == Question(prompt, ("A", "B", "C", "D"), 1)
    assert question.text(1) == prompt + " B"


def test_sea_helm_asks_in_khmer() -> None:
    question = sea_helm(SEA_HELM)
    assert question.prompt.endswith("B: បឹង\nC: ដើមឈើ\nD: មេឃ\nចម្លើយ៖")
    assert question.answer == 1


def test_hellaswag_loses_the_marks_of_its_source() -> None:
    question = hellaswag(HELLASWAG)
    assert question.prompt == "Cooking: A man cuts bread. Soup. He"
    assert question.choices[0] == "eats it."


def test_arc_and_piqa_ask_a_question() -> None:
    assert arc(ARC) == Question("Question: What is wet?\nAnswer:", ("fire", "rain", "sand"), 1)
    assert piqa(PIQA) == Question("Question: open a jar\nAnswer:", ("turn the lid", "turn the jar over"), 0)


def test_inference_compares_whole_texts() -> None:
    question = nli((" yes ", " also ", " no "))(XNLI)
    assert question.prompt == ""
    assert question.text(2) == question.continuation(2) == " It rains no it is wet.", "with a space, as in lm-eval"


def test_the_last_word_keeps_the_space_before_it() -> None:
    assert last_word({"text": "She ran to the door"}) == ("She ran to the", " door")
    assert given_target({"context": "កាលពី", "target": "ព្រេងនាយ"}) == ("កាលពី", "ព្រេងនាយ")


@pytest.mark.parametrize(
    ("read", "record", "message"),
    [
        (belebele, {"question": "?"}, "has no field 'mc_answer1'; its fields are 'question'"),
        (belebele, BELEBELE | {"correct_answer_num": "5"}, "has correct_answer_num '5'; it must be 1, 2, 3 or 4"),
        (belebele, BELEBELE | {"question": 3}, "field 'question' is 3, which is of the wrong type"),
        (sea_helm, SEA_HELM | {"label": "E"}, "has label 'E'; it must be A, B, C or D"),
        (sea_helm, SEA_HELM | {"prompts": []}, "has 0 prompts; one with fields is needed"),
        (hellaswag, HELLASWAG | {"label": ""}, "the records of the test split have none, use those of validation"),
        (hellaswag, HELLASWAG | {"label": "4"}, "has answer 4, which is not one of its 4 choices"),
        (hellaswag, HELLASWAG | {"label": "²"}, "has label '²'"),
        (hellaswag, HELLASWAG | {"endings": ["a", 2]}, "field 'endings' has 2; each of its values must be a text"),
        (hellaswag, HELLASWAG | {"endings": "abcd"}, "field 'endings' is 'abcd', which is of the wrong type"),
        (
            arc,
            ARC | {"choices": {"text": [1, 2, 3], "label": ["A", "B", "C"]}},
            "field 'text' has 1; each of its values must be a text",
        ),
        (
            arc,
            ARC | {"choices": {"text": ["fire"], "label": ["A", "B"]}},
            "has 1 choices with 2 labels; each needs one",
        ),
        (arc, ARC | {"answerKey": "D"}, "has answerKey 'D', which is not the label of a choice (A, B, C)"),
        (piqa, PIQA | {"label": -1}, "has answer -1, which is not one of its 2 choices"),
        (piqa, PIQA | {"sol1": ""}, "has the choices ['', 'turn the jar over']; at least two are needed"),
        (last_word, {"text": "Word"}, "has a text without a last word after a space"),
        (given_target, {"context": "a", "target": ""}, "has an empty context or target"),
    ],
)
def test_a_record_that_is_not_right_says_why(
    read: Callable[[dict[str, Any]], object], record: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecordError) as error:
        read(record)
    assert message in str(error.value)


def test_names_of_tasks_say_their_language_and_chance_fits_their_choices() -> None:
    assert len(TASKS) == len(set(TASKS))
    samples = {"belebele_km": BELEBELE, "hellaswag": HELLASWAG, "piqa": PIQA, "xnli_en": XNLI}
    for name, record in samples.items():
        task = TASKS[name]
        assert isinstance(task, MultipleChoice)
        assert len(task.read(json.loads(json.dumps(record))).choices) == round(1 / task.chance)
