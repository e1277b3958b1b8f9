"""Belebele: a question about a passage, with four answers (arXiv:2308.16884). The model answers with a letter."""

from tonsai_jax.evaluation.tasks.multiple_choice import MultipleChoice, Question
from tonsai_jax.evaluation.tasks.records import HubData, Record, RecordError, field

LETTERS = ("A", "B", "C", "D")
# Pythia 160M and 410M are at chance in MMLU, which is asked in this way too (0.25 in most of its subjects; source in task.py).
_AT_CHANCE = "at chance (our expectation: the answer is a letter)"


def belebele(record: Record) -> Question:
    """The prompt of lm-eval's belebele_khm_Khmr and its relatives: in English letters for every language."""
    answers = [field(record, f"mc_answer{number}") for number in (1, 2, 3, 4)]
    lines = [f"P: {field(record, 'flores_passage')}", f"Q: {field(record, 'question').strip()}"]
    lines += [f"{letter}: {answer}" for letter, answer in zip(LETTERS, answers, strict=True)]
    right = str(field(record, "correct_answer_num", (str, int)))
    if right not in ("1", "2", "3", "4"):
        raise RecordError(f"has correct_answer_num {right!r}; it must be 1, 2, 3 or 4")
    return Question("\n".join([*lines, "Answer:"]), LETTERS, int(right) - 1)


def sea_helm(record: Record) -> Question:
    """A record of SEA-HELM: "prompts" with one entry, and "label", a letter; the words of the prompt are Khmer."""
    prompts = field(record, "prompts", list)
    if len(prompts) != 1 or not isinstance(prompts[0], dict):
        raise RecordError(f"has {len(prompts)} prompts; one with fields is needed")
    text, question, *answers = (
        field(prompts[0], name) for name in ("text", "question", *(f"choice{n}" for n in "1234"))
    )
    lines = [f"កថាខណ្ឌ៖\n```\n{text}\n```", f"សំណួរ៖ {question}"]
    lines += [f"{letter}: {answer}" for letter, answer in zip(LETTERS, answers, strict=True)]
    label = field(record, "label").strip().upper()
    if label not in LETTERS:
        raise RecordError(f"has label {label!r}; it must be A, B, C or D")
    return Question("\n".join([*lines, "ចម្លើយ៖"]), LETTERS, LETTERS.index(label))


TASKS = (
    *(
        MultipleChoice(name, language, belebele, 0.25, _AT_CHANCE, HubData("facebook/belebele", subset, "test"))
        for name, language, subset in (("belebele_km", "km", "khm_Khmr"), ("belebele_en", "en", "eng_Latn"))
    ),
    MultipleChoice(
        "sea_helm_belebele_km",
        "km",
        sea_helm,
        0.25,
        _AT_CHANCE,
        HubData("aisingapore/NLU-Belebele-MCQA", "km", "eval"),
        examples=HubData("aisingapore/NLU-Belebele-MCQA", "km", "examples"),
    ),
)
