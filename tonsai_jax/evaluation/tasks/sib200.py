"""SIB-200: which of seven topics a sentence has (arXiv:2309.07445). Prompts and topics are in the language of the sentence."""

from collections.abc import Callable

from tonsai_jax.evaluation.tasks.multiple_choice import MultipleChoice, Question
from tonsai_jax.evaluation.tasks.records import HubData, Record, RecordError, field

TOPICS = ("science/technology", "travel", "politics", "sports", "health", "entertainment", "geography")
_KHMER = ("វិទ្យាសាស្ត្រ និងបច្ចេកវិទ្យា", "ទេសចរណ៍", "នយោបាយ", "កីឡា", "សុខភាព", "កម្សាន្ត", "ភូមិសាស្ត្រ")
_ASKED = {"en": ("Text: {}\nTopic:", TOPICS), "km": ("អត្ថបទ៖ {}\nប្រធានបទ៖", _KHMER)}
_SMALL = "near chance without examples (our expectation)"
_MOST_FREQUENT = 0.25  # the share of science/technology in the 204 sentences of the test split


def topic(language: str) -> Callable[[Record], Question]:
    """Reads a record with "text" and "category"."""
    prompt, choices = _ASKED[language]

    def read(record: Record) -> Question:
        category = field(record, "category")
        if category not in TOPICS:
            raise RecordError(f"has category {category!r}; it must be one of {', '.join(TOPICS)}")
        return Question(prompt.format(field(record, "text")), choices, TOPICS.index(category))

    return read


TASKS = tuple(
    MultipleChoice(
        f"sib200_{language}",
        language,
        topic(language),
        _MOST_FREQUENT,
        _SMALL,
        HubData("Davlan/sib200", code, "test"),
        examples=HubData("Davlan/sib200", code, "train"),
        same_choices=True,
    )
    for language, code in (("km", "khm_Khmr"), ("en", "eng_Latn"))
)
