"""Translation between Khmer and English from a few examples, scored by chrF++."""

import math
from collections.abc import Sequence

import numpy as np

from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.downloaded import Parallel
from tonsai_jax.evaluation.task_scores import TaskScore
from tonsai_jax.evaluation.tasks.chrf import chrf
from tonsai_jax.evaluation.tasks.generation import one_line_answers
from tonsai_jax.inference.generate import Generator
from tonsai_jax.tokenizer.loading import Tokenizer

SHOTS = 3
DIRECTIONS = (("km", "en"), ("en", "km"))
_NAMES = {"km": "Khmer", "en": "English"}
# A translation may have this much more tokens than its source makes likely.
_ROOM, _SPARE_TOKENS = 1.5, 16


def spread(count: int, limit: int | None) -> list[int]:
    """`limit` numbers below `count`, evenly spread; all of them without a limit, or where there are no more."""
    if limit is None or count <= limit:
        return list(range(count))
    return np.linspace(0, count - 1, limit).astype(int).tolist()


def translation_score(
    generator: Generator,
    parallel: Parallel,
    source: str,
    target: str,
    *,
    limit: int | None = None,
    shots: int = SHOTS,
) -> TaskScore:
    """chrF++ of the model's translations of a test set, with the chrF++ of a copy of the source as chance.

    The examples in the prompt are sentences of the test set that are shorter than most; they are not translated.

    Args:
      source, target: "km" and "en", or the other way round.
      limit: sentences to translate, evenly spread over the test set; None for all.
      shots: examples in a prompt; fewer where they do not fit into the model's context.

    Raises `UserError` for a test set that has no sentence left besides the examples.
    """
    name = f"{parallel.name}_{source}_{target}"
    sources, references = parallel.texts[source], parallel.texts[target]
    if len(sources) <= shots:
        raise UserError(f"{name}: has only {len(sources)} sentences; {shots} examples leave none to translate")
    # At the lower quartile: a long example costs time in every prompt, and the shortest sentences are headlines.
    by_length = sorted(range(len(sources)), key=lambda number: len(sources[number] + references[number]))
    examples = by_length[len(by_length) // 4 :][:shots]
    others = sorted(set(range(len(sources))) - set(examples))
    chosen = [others[place] for place in spread(len(others), limit)]

    def prompt(number: int) -> str:
        return f"{_NAMES[source]}: {sources[number]}\n{_NAMES[target]}:"

    outputs, used = one_line_answers(
        generator,
        [f"{prompt(number)} {references[number]}\n\n" for number in examples],
        [prompt(number) for number in chosen],
        _most_tokens(generator.tokenizer, sources, references, chosen),
        task=name,
    )
    expected = [references[number] for number in chosen]
    score = chrf(outputs, expected)
    copied = chrf([sources[number] for number in chosen], expected)
    return TaskScore(
        task=name,
        metric="chrf++",
        n=len(chosen),
        shots=used,
        chance=copied.value,
        **score._asdict(),
    )


def _most_tokens(
    tokenizer: Tokenizer, sources: Sequence[str], references: Sequence[str], chosen: Sequence[int]
) -> list[int]:
    """How many tokens a translation may have, by the length of its source; the ratio is that of all sentences together."""
    source_ids, target_ids = (tokenizer.encode_batch(list(texts)) for texts in (sources, references))
    ratio = sum(map(len, target_ids)) / sum(map(len, source_ids))
    return [_SPARE_TOKENS + math.ceil(_ROOM * ratio * len(source_ids[number])) for number in chosen]
