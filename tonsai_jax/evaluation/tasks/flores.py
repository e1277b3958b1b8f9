"""FLORES+ (arXiv:2207.04672): translation between Khmer and English, scored by chrF++."""

import dataclasses
from typing import TYPE_CHECKING

from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.task_scores import TaskScore
from tonsai_jax.evaluation.tasks.records import HubData, Record, field, read_items
from tonsai_jax.evaluation.tasks.task import TaskModel, TaskOptions

if TYPE_CHECKING:
    from tonsai_jax.evaluation.downloaded import Parallel

_HUB = "openlanguagedata/flores_plus"


@dataclasses.dataclass(frozen=True)
class Translation:
    """A direction of translation; see `Task`. Worked examples are sentences of the test set, which are not scored."""

    name: str
    source: str
    target: str
    metric: str = "chrf++"
    chance: float | None = None  # the score of a copy of the source, which depends on the sentences
    data: str = f"{_HUB}, split devtest"
    small_models: str = "not above a copy of the source (our expectation)"

    @property
    def language(self) -> str:
        return f"{self.source}-{self.target}"

    def score(self, model: TaskModel, options: TaskOptions) -> list[TaskScore]:
        # Imported here: a list of tasks needs no JAX.
        from tonsai_jax.evaluation.tasks.translation import translation_score

        limit = None if options.limit is None else options.limit + options.shots
        parallel = _sentences(options, limit)
        return [translation_score(model.generator, parallel, self.source, self.target, shots=options.shots)]


def _sentences(options: TaskOptions, limit: int | None) -> "Parallel":
    """The first sentences, from the files of FLORES+ in the folder of downloads, or from the Hub."""
    from tonsai_jax.evaluation.downloaded import CODES, Parallel, has_flores, read_flores

    if options.data_dir is not None and has_flores(options.data_dir):
        texts = read_flores(options.data_dir).texts
    else:
        texts = {
            language: read_items(
                f"flores_{language}.jsonl", options.data_dir, HubData(_HUB, code, "devtest"), _text, limit
            )
            for language, code in CODES.items()
        }
    if len(texts["km"]) != len(texts["en"]):
        raise UserError(
            f"FLORES+ has {len(texts['km']):,} sentences in Khmer and {len(texts['en']):,} in English; give both files of one "
            "version"
        )
    return Parallel("flores", {language: sentences[:limit] for language, sentences in texts.items()})


def _text(record: Record) -> str:
    return str(field(record, "text")).strip()


TASKS = (Translation("flores_km_en", "km", "en"), Translation("flores_en_km", "en", "km"))
