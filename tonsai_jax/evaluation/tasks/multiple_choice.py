"""Multiple choice: the answer is the choice that the model finds likeliest after the prompt.

Nothing is generated, so that a model which does not follow instructions can be measured. A long choice is less likely than a
short one for its length alone; that is why there are four accuracies, by the log-likelihood of a choice divided by: nothing, its
UTF-8 bytes, its characters (`acc_norm` in lm-eval), its tokens.
"""

import dataclasses
import random
from collections.abc import Callable, Sequence

import numpy as np

from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.likelihood.requests import encode_pairs
from tonsai_jax.evaluation.statistics import mean
from tonsai_jax.evaluation.task_scores import TaskScore
from tonsai_jax.evaluation.tasks.records import HubData, Record, RecordError, read_items
from tonsai_jax.evaluation.tasks.task import TaskModel, TaskOptions
from tonsai_jax.reporting.numbers import count_of


@dataclasses.dataclass(frozen=True)
class Question:
    """An item.

    Attributes:
      prompt: what comes before each choice; empty where a choice is a whole text.
      choices: the texts to compare, at least two. A space comes between the prompt and a choice.
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
        return (" " if self.prompt else "") + self.choices[choice]


@dataclasses.dataclass(frozen=True)
class MultipleChoice:
    """A task of questions; see `Task`.

    Attributes:
      read: one record to a question.
      hub: the records on the Hub; None where there are only local files, DIR/NAME.jsonl.
      examples: the split from which worked examples may be drawn; None where the dataset has no other split than the test's.
      main: the metric that comes first, the one by which the task is usually reported.
    """

    name: str
    language: str
    read: Callable[[Record], Question]
    chance: float
    small_models: str
    hub: HubData | None = None
    examples: HubData | None = None
    main: str = "accuracy"

    @property
    def metric(self) -> str:
        return self.main

    @property
    def data(self) -> str:
        return str(self.hub) if self.hub else f"DIR/{self.name}.jsonl"

    def score(self, model: TaskModel, options: TaskOptions) -> list[TaskScore]:
        questions = read_items(f"{self.name}.jsonl", options.data_dir, self.hub, self.read, options.limit)
        return scores_of(self.name, questions, self._examples(options), model, main=self.main)

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
        pool = read_items(file, options.data_dir, self.examples, self.read, None)
        if len(pool) < options.shots:
            there = count_of(len(pool), "example")
            raise UserError(f"{self.name}: {options.shots} worked examples are wanted, but there are {there}")
        return random.Random(f"{self.name} examples").sample(pool, options.shots)


def scores_of(
    task: str, questions: Sequence[Question], examples: Sequence[Question], model: TaskModel, *, main: str = "accuracy"
) -> list[TaskScore]:
    """The four accuracies of a model on questions, `main` first; the arguments are those of `answers_to`."""
    answers = answers_to(task, questions, examples, model)
    chance = float(np.mean([1 / len(question.choices) for question in questions]))
    scores = []
    for metric in [main, *(metric for metric in answers if metric != main)]:
        right = [answer == question.answer for answer, question in zip(answers[metric], questions, strict=True)]
        scores.append(TaskScore(task, metric, *mean(right), n=len(questions), shots=len(examples), chance=chance))
    return scores


def answers_to(
    task: str, questions: Sequence[Question], examples: Sequence[Question], model: TaskModel
) -> dict[str, list[int]]:
    """For each of the four metrics the choice that the model takes for each question.

    Args:
      task: the name of the progress that is shown.
      examples: worked examples, put before every question with a blank line between them, as lm-eval does.
    """
    lead = "".join(f"{example.text(example.answer)}\n\n" for example in examples)
    pairs = [
        (lead + question.prompt, question.continuation(choice))
        for question in questions
        for choice in range(len(question.choices))
    ]
    results = iter(model.scorer.log_likelihoods(encode_pairs(model.tokenizer, pairs), name=task))
    answers: dict[str, list[int]] = {}
    for question in questions:
        scores = [next(results) for _ in question.choices]
        nats = np.array([score.nats for score in scores])
        lengths = {
            "accuracy": np.ones(len(scores)),
            "accuracy_bytes": np.array([len(choice.encode()) for choice in question.choices]),
            "accuracy_characters": np.array([len(choice) for choice in question.choices]),
            "accuracy_tokens": np.array([max(1, score.tokens) for score in scores]),
        }
        for metric, length in lengths.items():
            answers.setdefault(metric, []).append(int(np.argmax(nats / length)))
    return answers
