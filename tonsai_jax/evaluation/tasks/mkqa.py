"""MKQA (arXiv:2007.15207): questions with short answers, which the model writes.

Khmer puts no spaces between words, so F1 counts what an answer and the right one share in `text.ngrams.units`: orthographic
syllables of Khmer, words of other scripts. An exact match has the same units: case, punctuation and spaces do not count. Only
questions with a short answer are asked, as for "answerable" in the published figures; these count characters instead of units.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence

from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.statistics import mean, share
from tonsai_jax.evaluation.task_scores import TaskScore
from tonsai_jax.evaluation.tasks.records import Record, RecordError, field, read_items, texts
from tonsai_jax.evaluation.tasks.task import TaskModel, TaskOptions
from tonsai_jax.text.ngrams import units
from tonsai_jax.text.normalize import normalize

_URL = "https://github.com/apple/ml-mkqa/raw/main/dataset/mkqa.jsonl.gz"
_SPARE_TOKENS, _MOST_TOKENS = 8, 128  # of an answer


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question and all answers that are right."""

    question: str
    answers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Mkqa:
    """Questions in Khmer; see `Task`. Worked examples are the first questions, which are not scored."""

    name: str = "mkqa_km"
    language: str = "km"
    metric: str = "f1"
    chance: float = 0.0
    # On the Hub there is only a program that would download the same file, and `datasets` runs no such programs any more.
    data: str = "DIR/mkqa_km.jsonl"
    small_models: str = "near 0 (our expectation)"

    def score(self, model: TaskModel, options: TaskOptions) -> list[TaskScore]:
        # Imported here: a list of tasks needs no JAX.
        from tonsai_jax.evaluation.tasks.generation import one_line_answers

        file = f"{self.name}.jsonl"
        path = None if options.data_dir is None else options.data_dir / file
        if path is None or not path.exists():
            raise UserError(
                f"{path or file}: no such file; get it with `curl -L {_URL} | gunzip > {path or f'DIR/{file}'}`"
                + ("" if path else ", and name the folder with `tonsai tasks --data DIR`")
            )
        items = [item for item in read_items(file, options.data_dir, None, question_of, None) if item.answers]
        examples, items = items[: options.shots], items[options.shots :][: options.limit]
        if not items:
            raise UserError(f"{path}: has no question with a short answer besides the {options.shots} examples")
        tokens = model.tokenizer.encode_batch([item.answers[0] for item in items])
        most = min(_MOST_TOKENS, max(map(len, tokens)) + _SPARE_TOKENS)
        written, shots = one_line_answers(
            model.generator,
            [f"{_prompt(example)} {example.answers[0]}\n\n" for example in examples],
            [_prompt(item) for item in items],
            [most] * len(items),
            task=self.name,
        )
        pairs = list(zip(written, items, strict=True))
        f1 = [max(unit_f1(answer, right) for right in item.answers) for answer, item in pairs]
        exact = [units_of(answer) in [units_of(right) for right in item.answers] for answer, item in pairs]
        return [
            TaskScore(self.name, metric, *estimate, n=len(items), shots=shots, chance=self.chance)
            for metric, estimate in (("f1", mean(f1)), ("exact_match", share(exact)))
        ]


def question_of(record: Record) -> Asked:
    """A record of MKQA; without answers where the question has none, or only a long one."""
    question = field(field(record, "queries", dict), "km")
    answers: list[str] = []
    for answer in field(field(record, "answers", dict), "km", list):
        if not isinstance(answer, dict):
            raise RecordError(f"has the answer {answer!r}; it must have a text")
        # Both fields may be missing or null.
        answers += [field(answer, "text")] if answer.get("text") is not None else []
        answers += texts(answer, "aliases") if answer.get("aliases") is not None else []
    return Asked(question.strip(), tuple(dict.fromkeys(text for text in answers if units_of(text))))


def units_of(text: str) -> list[str]:
    """What of an answer is compared."""
    return units(normalize(text))


def unit_f1(answer: str, right: str) -> float:
    """The harmonic mean of precision and recall of units, each counted as often as both texts have it."""
    first, second = units_of(answer), units_of(right)
    shared = (Counter(first) & Counter(second)).total()
    return 2 * shared / (len(first) + len(second)) if shared else 0.0


def _prompt(item: Asked) -> str:
    return f"សំណួរ៖ {item.question}\nចម្លើយ៖"


TASKS: Sequence[Mkqa] = (Mkqa(),)
