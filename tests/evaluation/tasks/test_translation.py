"""Tests of tonsai_jax/evaluation/tasks/translation.py."""

import math

import pytest

from tests.support.answering import Answering
from tests.support.scorecard_data import ENGLISH, KHMER
from tests.support.tiny_model import config_with, random_params, tiny_tokenizer
from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.downloaded import Parallel
from tonsai_jax.evaluation.tasks.chrf import chrf
from tonsai_jax.evaluation.tasks.translation import spread, translation_score
from tonsai_jax.inference.load import LanguageModel

CONFIG = config_with(context_length=1024)
PARALLEL = Parallel("made", {"km": KHMER, "en": ENGLISH})
TRANSLATIONS = dict(zip(KHMER, ENGLISH, strict=True)) | dict(zip(ENGLISH, KHMER, strict=True))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> LanguageModel:
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tiny")
    return LanguageModel("tiny", CONFIG, random_params(CONFIG), tokenizer)


def source_of(prompt: str) -> str:
    return prompt.splitlines()[-2].partition(": ")[2]


@pytest.mark.parametrize(("source", "target"), [("km", "en"), ("en", "km")])
def test_a_perfect_translator_gets_100_and_a_copy_is_at_chance(model, source: str, target: str) -> None:
    perfect = Answering(model, lambda prompt: f" {TRANSLATIONS[source_of(prompt)]}")
    score = translation_score(perfect, PARALLEL, source, target)
    assert (score.task, score.metric, score.value, score.n) == (f"made_{source}_{target}", "chrf++", 100.0, 17)
    assert not score.at_chance
    copied = translation_score(Answering(model, source_of), PARALLEL, source, target)
    assert copied.value == copied.chance == score.chance
    assert 0 < copied.value < 10
    assert copied.at_chance


def test_the_examples_are_three_short_sentences_with_their_translations_which_are_not_translated(model) -> None:
    generator = Answering(model, lambda _: "")
    score = translation_score(generator, PARALLEL, "en", "km")
    examples = {"\n\n".join(prompt.split("\n\n")[:3]) for prompt in generator.prompts}
    [shown] = examples
    sources, targets = (
        [line.removeprefix(f"{name}: ") for line in shown.splitlines() if line.startswith(name)]
        for name in ("English", "Khmer")
    )
    assert targets == [TRANSLATIONS[source] for source in sources]
    assert (len(sources), score.shots) == (3, 3)
    translated = [source_of(prompt) for prompt in generator.prompts]
    assert sorted([*translated, *sources]) == sorted(ENGLISH)
    assert sum(len(text) for text in sources) / 3 < sum(len(text) for text in ENGLISH) / 20


def test_a_limit_takes_sentences_from_the_whole_test_set(model) -> None:
    generator = Answering(model, source_of)
    score = translation_score(generator, PARALLEL, "en", "km", limit=4)
    translated = [source_of(prompt) for prompt in generator.prompts]
    assert (len(translated), score.n) == (4, 4)
    assert {ENGLISH[0], ENGLISH[-1]} <= set(translated)
    assert score.value == chrf(translated, [TRANSLATIONS[text] for text in translated]).value


@pytest.mark.parametrize(("source", "target"), [("km", "en"), ("en", "km")])
def test_a_translation_gets_tokens_by_its_source_and_by_what_its_language_needs(model, source, target) -> None:
    generator = Answering(model, source_of)
    translation_score(generator, PARALLEL, source, target)
    lengths = {name: list(map(len, map(model.tokenizer.encode, texts))) for name, texts in PARALLEL.texts.items()}
    ratio = sum(lengths[target]) / sum(lengths[source])
    assert max(tokens for _, tokens in generator.batches) == 16 + math.ceil(1.5 * ratio * max(lengths[source]))


def test_a_test_set_needs_a_sentence_besides_the_examples(model) -> None:
    three = Parallel("made", {name: texts[:3] for name, texts in PARALLEL.texts.items()})
    with pytest.raises(UserError, match="made_km_en: has only 3 sentences; 3 examples leave none to translate"):
        translation_score(Answering(model, source_of), three, "km", "en")


@pytest.mark.parametrize(
    ("count", "limit", "numbers"), [(5, None, [0, 1, 2, 3, 4]), (3, 9, [0, 1, 2]), (9, 3, [0, 4, 8])]
)
def test_a_spread_is_even(count: int, limit, numbers: list[int]) -> None:
    assert spread(count, limit) == numbers
