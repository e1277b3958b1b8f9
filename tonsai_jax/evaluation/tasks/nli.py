"""Natural language inference as XNLI has it (arXiv:1809.05053): does a sentence follow from another one, or contradict it?

Both sentences become one text with a word between them that says yes, also or no; the likeliest text is the answer. XNLI has no
Khmer: `nli_km` reads a local file with XNLI's fields.
"""

from collections.abc import Callable

from tonsai_jax.evaluation.tasks.multiple_choice import MultipleChoice, Question
from tonsai_jax.evaluation.tasks.records import HubData, Record, field

_SMALL = "near chance (our expectation)"
_ENGLISH = (", right? Yes, ", ", right? Also, ", ", right? No, ")  # as lm-eval's xnli_en
_KHMER = (" មែនទេ? មែន ", " មែនទេ? ម្យ៉ាងទៀត ", " មែនទេ? មិនមែនទេ ")  # ours, of the same meaning


def nli(between: tuple[str, str, str]) -> Callable[[Record], Question]:
    """Reads a record with "premise", "hypothesis" and "label": 0 entailment, 1 neutral, 2 contradiction."""

    def read(record: Record) -> Question:
        premise, hypothesis = field(record, "premise"), field(record, "hypothesis")
        texts = tuple(premise + words + hypothesis for words in between)
        return Question("", texts, field(record, "label", int))

    return read


TASKS = (
    MultipleChoice(
        "xnli_en",
        "en",
        nli(_ENGLISH),
        1 / 3,
        _SMALL,
        HubData("facebook/xnli", "en", "validation"),
        examples=HubData("facebook/xnli", "en", "train"),
    ),
    MultipleChoice("nli_km", "km", nli(_KHMER), 1 / 3, _SMALL),
)
