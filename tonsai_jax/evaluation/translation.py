"""Translation between Khmer and English from a few examples, scored by chrF++."""

import math
from collections.abc import Sequence

import numpy as np

from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.chrf import chrf
from tonsai_jax.evaluation.downloaded import Parallel
from tonsai_jax.evaluation.generation import one_line_answers
from tonsai_jax.evaluation.task_scores import TaskScore
from tonsai_jax.inference.generate import Generator
from tonsai_jax.inference.load import LanguageModel

SHOTS = 3
DIRECTIONS = (("km", "en"), ("en", "km"))
_NAMES = {"km": "Khmer", "en": "English"}
# A translation may have this much more tokens than its source makes likely.
_ROOM, _SPARE_TOKENS = 1.5, 16


def spread(count: int, limit: int) -> list[int]:
    """`limit` numbers below `count`, evenly spread; all of them for a limit of 0 or where there are no more."""
    if not limit or count <= limit:
        return list(range(count))
    return np.linspace(0, count - 1, limit).astype(int).tolist()


def translation_score(
    model: LanguageModel, generator: Generator, parallel: Parallel, source: str, target: str, *, limit: int = 0
) -> TaskScore:
    """chrF++ of the model's translations of a test set, with the chrF++ of a copy of the source as chance.

    The examples in the prompt are three sentences of the test set that are shorter than most; they are not translated.

    Args:
      source, target: "km" and "en", or the other way round.
      limit: sentences to translate, evenly spread over the test set; 0 for all.

    Raises `UserError` for a test set of three sentences or fewer.
    """
    sources, references = parallel.texts[source], parallel.texts[target]
    if len(sources) <= SHOTS:
        raise UserError(f"{parallel.name}: has {len(sources)} sentences; translation needs at least {SHOTS + 1}")
    # At the lower quartile: a long example costs time in every prompt, and the shortest sentences are headlines.
    by_length = sorted(range(len(sources)), key=lambda number: len(sources[number] + references[number]))
    shots = by_length[len(by_length) // 4 :][:SHOTS]
    others = sorted(set(range(len(sources))) - set(shots))
    chosen = [others[place] for place in spread(len(others), limit)]

    def prompt(number: int) -> str:
        return f"{_NAMES[source]}: {sources[number]}\n{_NAMES[target]}:"

    outputs, used = one_line_answers(
        model,
        generator,
        [f"{prompt(number)} {references[number]}\n\n" for number in shots],
        [prompt(number) for number in chosen],
        _most_tokens(model, sources, references, chosen),
        task=f"translating {parallel.name}, {source} to {target}",
    )
    expected = [references[number] for number in chosen]
    score = chrf(outputs, expected)
    copied = chrf([sources[number] for number in chosen], expected)
    return TaskScore(
        task=f"{parallel.name}_{source}_{target}",
        metric="chrf++",
        n=len(chosen),
        shots=used,
        chance=copied.value,
        **score._asdict(),
    )


def _most_tokens(
    model: LanguageModel, sources: Sequence[str], references: Sequence[str], chosen: Sequence[int]
) -> list[int]:
    """How many tokens a translation may have, by the length of its source; the ratio is that of all sentences together."""
    source_ids, target_ids = (model.tokenizer.encode_batch(list(texts)) for texts in (sources, references))
    ratio = sum(map(len, target_ids)) / sum(map(len, source_ids))
    return [_SPARE_TOKENS + math.ceil(_ROOM * ratio * len(source_ids[number])) for number in chosen]
