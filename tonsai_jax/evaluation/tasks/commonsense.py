"""Everyday knowledge in English: HellaSwag (arXiv:1905.07830), ARC-easy (arXiv:1803.05457), PIQA (arXiv:1911.11641).

The prompts are those of lm-eval's tasks of these names, so that scores can be compared with published ones.
"""

import re

from tonsai_jax.evaluation.tasks.multiple_choice import MultipleChoice, Question
from tonsai_jax.evaluation.tasks.records import HubData, Record, RecordError, field, texts
from tonsai_jax.evaluation.tasks.task import PYTHIA

_TAG = re.compile(r"\[.*?\]")  # of WikiHow, where half of HellaSwag comes from


def hellaswag(record: Record) -> Question:
    """Which of four endings follows a description of what somebody does."""
    activity, first, second = (field(record, name) for name in ("activity_label", "ctx_a", "ctx_b"))
    endings = texts(record, "endings")
    label = str(field(record, "label", (str, int)))
    if not label.isdecimal():
        raise RecordError(f"has label {label!r}; the records of the test split have none, use those of validation")
    prompt = f"{activity}: {first} {second.capitalize()}"
    return Question(_without_tags(prompt), tuple(map(_without_tags, endings)), int(label))


def _without_tags(text: str) -> str:
    return _TAG.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def arc(record: Record) -> Question:
    """A question of a science exam in school, with three to five answers."""
    choices, key = field(record, "choices", dict), field(record, "answerKey")
    answers, labels = texts(choices, "text"), texts(choices, "label")
    if len(labels) != len(answers):
        raise RecordError(f"has {len(answers)} choices with {len(labels)} labels; each needs one")
    if key not in labels:
        raise RecordError(f"has answerKey {key!r}, which is not the label of a choice ({', '.join(labels)})")
    return Question(f"Question: {field(record, 'question')}\nAnswer:", tuple(answers), labels.index(key))


def piqa(record: Record) -> Question:
    """Which of two ways reaches a goal."""
    choices = (field(record, "sol1"), field(record, "sol2"))
    return Question(f"Question: {field(record, 'goal')}\nAnswer:", choices, field(record, "label", int))


TASKS = (
    MultipleChoice(
        "hellaswag",
        "en",
        hellaswag,
        0.25,
        "a few points above chance (our expectation)",
        HubData("Rowan/hellaswag", None, "validation"),
        examples=HubData("Rowan/hellaswag", None, "train"),
        main="accuracy_characters",
    ),
    MultipleChoice(
        "arc_easy",
        "en",
        arc,
        0.25,
        f"above chance ({PYTHIA}: 0.43 and 0.52)",
        HubData("allenai/ai2_arc", "ARC-Easy", "test"),
        examples=HubData("allenai/ai2_arc", "ARC-Easy", "train"),
    ),
    MultipleChoice(
        "piqa",
        "en",
        piqa,
        0.5,
        f"above chance ({PYTHIA}: 0.62 and 0.67)",
        HubData("baber/piqa", None, "validation"),
        examples=HubData("baber/piqa", None, "train"),
    ),
)
