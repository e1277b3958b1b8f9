"""Multiple choice: the answer is the choice that the model finds likeliest after the prompt.

Nothing is generated, so that a model which does not follow instructions can be measured. A long choice is less likely than a
short one for its length alone; that is why there are four accuracies, by the log-likelihood of a choice divided by: nothing, its
UTF-8 bytes, its characters (`acc_norm` in lm-eval), its tokens.
"""

import dataclasses
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.likelihood.requests import Request, encode_pairs
from tonsai_jax.evaluation.statistics import share
from tonsai_jax.evaluation.task_scores import TaskScore
from tonsai_jax.evaluation.tasks.records import HubData, Record, RecordError, read_items
from tonsai_jax.evaluation.tasks.task import TaskModel, TaskOptions
from tonsai_jax.reporting.numbers import count_of

EXAMPLE_POOL = 1000  # the first records, from which examples are drawn: a training split can have hundreds of thousands
_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Question:
    """An item.

    Attributes:
      prompt: what comes before each choice; empty where a choice is a whole text.
      choices: the texts to compare, at least two. A space comes before each, also after an empty prompt, as in lm-eval.
      answer: the index of the right choice.
    """

    prompt: str
    choices: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        if len(self.choices) < 2 or not all(self.choices):
            raise RecordError(f"has the choices {list(self.choices)!r}; at least two are needed, and none may be empty")
        if not 0 <= self.answer < len(self.choices):
            raise RecordError(f"has answer {self.answer}, which is not one of its {len(self.choices)} choices")

    def text(self, choice: int) -> str:
        """The prompt with a choice."""
        return self.prompt + self.continuation(choice)

    def continuation(self, choice: int) -> str:
        return " " + self.choices[choice]


@dataclasses.dataclass(frozen=True)
class MultipleChoice:
    """A task of questions; see `Task`.

    Attributes:
      read: one record to a question.
      hub: the records on the Hub; None where there are only local files, DIR/NAME.jsonl.
      examples: the split from which worked examples may be drawn; None where the dataset has no other split than the test's.
      main: the metric that comes first, the one by which the task is usually reported.
      same_choices: see `scores_of`.
    """

    name: str
    language: str
    read: Callable[[Record], Question]
    chance: float
    small_models: str
    hub: HubData | None = None
    examples: HubData | None = None
    main: str = "accuracy"
    same_choices: bool = False

    @property
    def metric(self) -> str:
        return self.main

    @property
    def data(self) -> str:
        return str(self.hub) if self.hub else f"DIR/{self.name}.jsonl"

    def score(self, model: TaskModel, options: TaskOptions) -> list[TaskScore]:
        questions = read_items(f"{self.name}.jsonl", options.data_dir, self.hub, self.read, options.limit)
        return scores_of(
            self.name, questions, self._examples(options), model, main=self.main, same_choices=self.same_choices
        )

    def _examples(self, options: TaskOptions) -> list[Question]:
        """The same for every question, so that their ids are computed once."""
        file = f"{self.name}.examples.jsonl"
        is_local = options.data_dir is not None and (options.data_dir / file).exists()
        if not options.shots:
            return []
        if self.examples is None and not is_local:
            raise UserError(
                f"{self.name}: has no split for worked examples, and those of the test may not be used; "
                f"use `tonsai tasks --shots 0`, or put some into {(options.data_dir or 'DIR')}/{file}"
            )
        pool = read_items(file, options.data_dir, self.examples, self.read, EXAMPLE_POOL)
        if len(pool) < options.shots:
            there = count_of(len(pool), "example")
            raise UserError(f"{self.name}: {options.shots} worked examples are wanted, but there are {there}")
        return random.Random(f"{self.name} examples").sample(pool, options.shots)


def scores_of(
    task: str,
    questions: Sequence[Question],
    examples: Sequence[Question],
    model: TaskModel,
    *,
    main: str = "accuracy",
    same_choices: bool = False,
) -> list[TaskScore]:
    """The four accuracies of a model on questions, `main` first; the first arguments are those of `answers_to`.

    Args:
      same_choices: whether all questions have the same choices, as topics do. Then chance is the share of the most frequent
        answer, since a model may answer the same every time; else it is the mean of 1 / choices.

    Raises `UserError` where a choice of each question is longer than the model's context.
    """
    answers = answers_to(task, questions, examples, model)
    asked = [question for question, answer in zip(questions, answers[main], strict=True) if answer is not None]
    if same_choices:
        [(_, most)] = Counter(question.answer for question in asked).most_common(1)
        chance = most / len(asked)
    else:
        chance = float(np.mean([1 / len(question.choices) for question in asked]))
    scores = []
    for metric in [main, *(metric for metric in answers if metric != main)]:
        given = [answer for answer in answers[metric] if answer is not None]
        right = [answer == question.answer for answer, question in zip(given, asked, strict=True)]
        scores.append(TaskScore(task, metric, *share(right), n=len(asked), shots=len(examples), chance=chance))
    return scores


def answers_to(
    task: str, questions: Sequence[Question], examples: Sequence[Question], model: TaskModel
) -> dict[str, list[int | None]]:
    """For each of the four metrics the choice that the model takes for each question.

    None stands for a question with a choice that is longer than the model's context; the log says how many there are.

    Args:
      task: the name of the progress that is shown.
      examples: worked examples, put before every question with a blank line between them, as lm-eval does.

    Raises `UserError` where there is no other question.
    """
    lead = "".join(f"{example.text(example.answer)}\n\n" for example in examples)
    pairs = [
        (lead + question.prompt, question.continuation(choice))
        for question in questions
        for choice in range(len(question.choices))
    ]
    encoded = iter(encode_pairs(model.tokenizer, pairs))
    fitting = items_that_fit(task, [[next(encoded) for _ in question.choices] for question in questions], model)
    requests = [request for number in fitting for request in fitting[number]]
    results = iter(model.scorer.log_likelihoods(requests, name=task))
    answers: dict[str, list[int | None]] = {}
    for number, question in enumerate(questions):
        scores = [next(results) for _ in question.choices] if number in fitting else []
        nats = np.array([score.nats for score in scores])
        lengths = {
            "accuracy": [1 for _ in scores],
            "accuracy_bytes": [len(choice.encode()) for choice in question.choices],
            "accuracy_characters": [len(choice) for choice in question.choices],
            "accuracy_tokens": [score.tokens for score in scores],
        }
        for metric, length in lengths.items():
            answers.setdefault(metric, []).append(int(np.argmax(nats / np.array(length))) if scores else None)
    return answers


def items_that_fit(task: str, items: Sequence[Sequence[Request]], model: TaskModel) -> dict[int, Sequence[Request]]:
    """The requests of each item of which every continuation fits into the model's context, by the item's number.

    The log says how many do not fit. Raises `UserError` where none does.
    """
    context = model.model.model_config.context_length
    fitting = {
        number: requests
        for number, requests in enumerate(items)
        if all(len(request.continuation_ids) <= context for request in requests)
    }
    if not fitting:
        raise UserError(f"{task}: every item has a text to score of more than the model's context of {context} tokens")
    if left_out := len(items) - len(fitting):
        _logger.warning(
            f"{task}: {left_out:,} of {count_of(len(items), 'item')} left out, with a text to score of more than the model's "
            f"context of {context} tokens"
        )
    return fitting
