"""What every task has: a name, where its data is, and how a model is scored on it."""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tonsai_jax.evaluation.task_scores import TaskScore

if TYPE_CHECKING:
    from tonsai_jax.evaluation.likelihood.scorer import Scorer
    from tonsai_jax.inference.generate import Generator
    from tonsai_jax.inference.load import LanguageModel
    from tonsai_jax.tokenizer.loading import Tokenizer

# Published scores of models below a billion parameters: the files 160m_step123000.json and 410m_step143000.json in the folder
# evals/pythia-v1 of github.com/EleutherAI/pythia, zero-shot.
PYTHIA = "Pythia 160M and 410M"


@dataclasses.dataclass(frozen=True)
class TaskOptions:
    """How a task is run.

    Attributes:
      data_dir: a folder with downloaded files, NAME.jsonl.
      limit: the most items, the first ones; None for all.
      shots: worked examples before each item.
    """

    data_dir: Path | None = None
    limit: int | None = None
    shots: int = 0


class TaskModel:
    """A model with what tasks ask of it, each made when it is first used; it computes as `LanguageModel.for_scoring` says."""

    def __init__(self, model: "LanguageModel") -> None:
        self.model = model.for_scoring()

    @property
    def tokenizer(self) -> "Tokenizer":
        return self.model.tokenizer

    @cached_property
    def scorer(self) -> "Scorer":
        from tonsai_jax.evaluation.likelihood.scorer import Scorer  # imported here: a list of all tasks needs no JAX

        return Scorer(self.model)

    @cached_property
    def generator(self) -> "Generator":
        from tonsai_jax.inference.generate import Generator  # as above

        return Generator(self.model.model_config, self.model.params, self.model.tokenizer)


class Task(Protocol):
    """A task: `tonsai tasks NAME` runs it. Members are read-only.

    Attributes:
      name: "belebele_km".
      language: "km", "en", or both as "en-km".
      metric: of its first score.
      chance: that metric of a model that knows nothing; None where that has no meaning.
      data: where the records come from, in words.
      small_models: what to expect of a model below a billion parameters, with the source.
    """

    @property
    def name(self) -> str: ...
    @property
    def language(self) -> str: ...
    @property
    def metric(self) -> str: ...
    @property
    def chance(self) -> float | None: ...
    @property
    def data(self) -> str: ...
    @property
    def small_models(self) -> str: ...

    def score(self, model: TaskModel, options: TaskOptions) -> list[TaskScore]:
        """The scores, the main one first. Raises `UserError` where the data is not there or not what the task needs."""
        ...
