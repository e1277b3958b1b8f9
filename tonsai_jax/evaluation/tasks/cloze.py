"""Cloze: the last word of a passage, which can be guessed from the whole passage but not from its last sentence (LAMBADA).

Accuracy is the share of words of which each token is the model's likeliest one. Perplexity is per word, not per token, so it can
be compared between tokenizers.
"""

import dataclasses
import math
from collections.abc import Callable

from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.likelihood.requests import encode_pairs
from tonsai_jax.evaluation.statistics import mean, share
from tonsai_jax.evaluation.task_scores import TaskScore
from tonsai_jax.evaluation.tasks.multiple_choice import items_that_fit
from tonsai_jax.evaluation.tasks.records import HubData, Record, RecordError, field, read_items
from tonsai_jax.evaluation.tasks.task import PYTHIA, TaskModel, TaskOptions


@dataclasses.dataclass(frozen=True)
class Cloze:
    """A task of (passage without its last word, the last word with the space before it); see `Task`."""

    name: str
    language: str
    read: Callable[[Record], tuple[str, str]]
    small_models: str
    hub: HubData | None = None
    metric: str = "accuracy"
    chance: float = 0.0  # one word of a whole language

    @property
    def data(self) -> str:
        return str(self.hub) if self.hub else f"DIR/{self.name}.jsonl"

    def score(self, model: TaskModel, options: TaskOptions) -> list[TaskScore]:
        if options.shots:
            raise UserError(f"{self.name}: takes no worked examples; use `tonsai tasks --shots 0`")
        pairs = read_items(f"{self.name}.jsonl", options.data_dir, self.hub, self.read, options.limit)
        items = [[request] for request in encode_pairs(model.tokenizer, pairs)]
        requests = [request for [request] in items_that_fit(self.name, items, model).values()]
        results = model.scorer.log_likelihoods(requests, name=self.name)
        accuracy = share([result.is_greedy for result in results])
        loss = mean([-result.nats for result in results])  # per word
        perplexity = _exp(loss.value)
        stderr = None if loss.stderr is None else perplexity * loss.stderr  # the delta method: d exp(x) = exp(x) dx
        low, high = (None if bound is None else _exp(bound) for bound in (loss.low, loss.high))
        return [
            TaskScore(self.name, "accuracy", *accuracy, n=len(results), chance=self.chance),
            TaskScore(self.name, "perplexity", perplexity, stderr, low, high, n=len(results), higher_is_better=False),
        ]


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))  # so that it does not overflow


def last_word(record: Record) -> tuple[str, str]:
    """A record with "text"; its last word is what follows its last space."""
    context, space, word = field(record, "text").rpartition(" ")
    if not context or not word:
        raise RecordError("has a text without a last word after a space")
    return context, space + word


def given_target(record: Record) -> tuple[str, str]:
    """A record with "context" and "target", joined as they are: Khmer has no spaces between words."""
    context, target = field(record, "context"), field(record, "target")
    if not context or not target:
        raise RecordError("has an empty context or target")
    return context, target


TASKS = (
    Cloze(
        "lambada",
        "en",
        last_word,
        f"above chance ({PYTHIA}: 0.33 and 0.52)",
        HubData("EleutherAI/lambada_openai", "default", "test"),
    ),
    Cloze("cloze_km", "km", given_target, "not known: it depends on the file"),
)
