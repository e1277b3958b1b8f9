"""The Khmer scorecard: what a model can do in Khmer and in English, from downloaded files alone.

Three kinds of scores: bits per byte of sentences (NTREX-128, FLORES+), translation both ways (the same sentences), and topics of
sentences (SIB-200).
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.documents.scorer import score_documents
from tonsai_jax.evaluation.downloaded import CODES, Parallel, read_flores, read_ntrex, read_sib200
from tonsai_jax.evaluation.statistics import ratio
from tonsai_jax.evaluation.task_scores import TaskScore
from tonsai_jax.evaluation.tasks.multiple_choice import Question, scores_of
from tonsai_jax.evaluation.tasks.records import RecordError
from tonsai_jax.evaluation.tasks.sib200 import TOPICS, topic
from tonsai_jax.evaluation.tasks.task import TaskModel
from tonsai_jax.evaluation.tasks.translation import DIRECTIONS, spread, translation_score
from tonsai_jax.inference.load import LanguageModel
from tonsai_jax.tokenizer.loading import Tokenizer

# Sentences of each task. Translation takes most of the time: its prompts hold examples, and it writes token by token.
MEASURED, TRANSLATED, CLASSIFIED = 256, 64, 204


def scorecard(
    model: LanguageModel, folder: Path, *, limit: int | None = None, failed: Callable[[str], None]
) -> Iterator[TaskScore]:
    """All scores of a model for which there is data, each when it is known, those of the same test set one after the other.

    Args:
      folder: the downloaded test sets, see `evaluation.downloaded`.
      limit: sentences of each task, evenly spread; 0 for all, None for `MEASURED`, `TRANSLATED`, `CLASSIFIED`.
      failed: called with the message of each test set that is missing or damaged.
    """
    measured, translated, classified = (
        (default if limit is None else limit) or None for default in (MEASURED, TRANSLATED, CLASSIFIED)
    )
    tasks = TaskModel(model)
    parts = [
        *(partial(_parallel_scores, tasks, read, folder, measured, translated) for read in (read_ntrex, read_flores)),
        *(partial(_topic_score, tasks, folder, language, classified) for language in CODES),
    ]
    for part in parts:
        try:
            yield from part()
        except UserError as error:
            failed(str(error))


def _parallel_scores(
    tasks: TaskModel,
    read: Callable[[Path], Parallel],
    folder: Path,
    measured: int | None,
    translated: int | None,
) -> Iterator[TaskScore]:
    parallel = read(folder)
    for language, texts in parallel.texts.items():
        chosen = [texts[number] for number in spread(len(texts), measured)]
        scores = score_documents(tasks.model, chosen)
        bits = ratio([score.nats / math.log(2) for score in scores], [score.bytes for score in scores])
        yield TaskScore(f"{parallel.name}_{language}", "bits_per_byte", *bits, n=len(chosen), higher_is_better=False)
    for source, target in DIRECTIONS:
        yield translation_score(tasks.generator, parallel, source, target, limit=translated)


def _topic_score(tasks: TaskModel, folder: Path, language: str, limit: int | None) -> Iterator[TaskScore]:
    """Accuracy in SIB-200."""
    train, test = (_questions(folder, language, split) for split in ("train", "test"))
    questions = [test[number] for number in spread(len(test), limit)]
    examples = _examples(train)
    if not _fits(tasks.model, examples, questions):
        examples = []
    accuracy, *_ = scores_of(f"sib200_{language}", questions, examples, tasks, same_choices=True)
    yield accuracy


def _questions(folder: Path, language: str, split: str) -> list[Question]:
    try:
        return list(map(topic(language), read_sib200(folder, language, split)))
    except RecordError as error:
        raise UserError(f"{folder}: a record of {CODES[language]}/{split}.tsv {error}; download it again") from None


def _examples(questions: list[Question]) -> list[Question]:
    """One of each topic, shorter than most: a long example costs time."""
    examples = []
    for answer in range(len(TOPICS)):
        of_topic = sorted(
            (question for question in questions if question.answer == answer), key=lambda question: len(question.prompt)
        )
        examples += of_topic[len(of_topic) // 4 :][:1]
    return examples


def _fits(model: LanguageModel, examples: list[Question], questions: list[Question]) -> bool:
    """Whether the model's context holds all examples and the longest question; else none are given: some would mislead."""

    def tokens(question: Question) -> int:
        return max(len(tokenizer.encode(question.text(choice))) for choice in range(len(question.choices)))

    tokenizer: Tokenizer = model.tokenizer
    lead = "".join(f"{example.text(example.answer)}\n\n" for example in examples)
    return 1 + len(tokenizer.encode(lead)) + max(map(tokens, questions)) <= model.model_config.context_length
