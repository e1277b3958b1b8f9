"""Texts to ids of a context and its continuation."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from tests.support.tiny_model import ENGLISH, KHMER, config_with, random_params, tiny_tokenizer
from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.likelihood.requests import encode_pairs
from tonsai_jax.evaluation.likelihood.scorer import Scorer
from tonsai_jax.inference.load import LanguageModel
from tonsai_jax.samples.stories import draw_stories
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.special_tokens import END_OF_TEXT
from tonsai_jax.tokenizer.training import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tiny")


def test_pairs_are_split_where_the_ids_of_the_context_end(tokenizer: Tokenizer) -> None:
    pairs = [("The children", " walk"), ("The children ", "walk"), (KHMER, ENGLISH), ("", KHMER)]
    requests = encode_pairs(tokenizer, pairs)
    for (context, continuation), request in zip(pairs, requests, strict=True):
        assert request.context_ids == [tokenizer.end_of_text_id, *tokenizer.encode(context.rstrip())]
        whole = [*request.context_ids[1:], *request.continuation_ids]
        assert tokenizer.decode(whole) == context + continuation
    assert requests[0] == requests[1], "white space at the end of the context belongs to the continuation"


def test_without_the_leading_end_of_text_only_an_empty_context_has_it(tokenizer: Tokenizer) -> None:
    plain, empty = encode_pairs(tokenizer, [("a", "b"), ("", "b")], leading_end_of_text=False)
    assert plain.context_ids == tokenizer.encode("a")
    assert empty.context_ids == [tokenizer.end_of_text_id]


def test_pairs_are_normalized_like_the_training_text(tokenizer: Tokenizer) -> None:
    with_zero_width = encode_pairs(tokenizer, [("សាលា\u200b", "រៀន")])
    assert with_zero_width == encode_pairs(tokenizer, [(tokenizer.normalize_prompt("សាលា\u200b"), "រៀន")])


@pytest.fixture(scope="module")
def of_stories(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, list[str]]:
    """A tokenizer of Khmer stories with merges across words, and other Khmer stories."""
    folder: Path = tmp_path_factory.mktemp("tokenizer") / "km"
    texts = [story.text() for story in islice(draw_stories("km", seed=1), 500)]
    examples = [Example(text, "km") for text in texts[:300]]
    train_tokenizer(examples, vocab_size=1000, special_tokens=[END_OF_TEXT], output_dir=folder)
    return Tokenizer.from_folder(folder), texts[300:]


def test_a_continuation_without_a_space_before_it_is_scored_whole(of_stories: tuple[Tokenizer, list[str]]) -> None:
    """In Khmer, ids hold characters of both sides. A model with random parameters knows no word."""
    tokenizer, texts = of_stories
    random = np.random.default_rng(0)
    pairs = []
    for text in texts:
        end = int(random.integers(20, len(text) - 20))
        pairs.append((text[:end], text[end : end + 6]))
    requests, parts = encode_pairs(tokenizer, pairs), 0
    for (context, target), request in zip(pairs, requests, strict=True):
        scored = tokenizer.decode(list(request.continuation_ids))
        assert scored.endswith(tokenizer.normalize_prompt(target))
        assert tokenizer.decode([*request.context_ids[1:], *request.continuation_ids]) == context + target
        parts += scored != target
    assert parts > 20, "ids that hold characters of both sides are common"
    config = config_with(vocab_size=tokenizer.vocab_size, context_length=512)
    scores = Scorer(LanguageModel("random", config, random_params(config), tokenizer)).log_likelihoods(requests)
    assert np.mean([score.is_greedy for score in scores]) < 0.03
    assert all(score.nats < 0 for score in scores)


def test_the_split_of_lm_eval_differs_only_where_an_id_holds_characters_of_both(
    of_stories: tuple[Tokenizer, list[str]],
) -> None:
    tokenizer, texts = of_stories
    clean = [(text[:30], " " + text[30:40]) for text in texts[:20]]
    assert encode_pairs(tokenizer, clean) == encode_pairs(tokenizer, clean, as_lm_eval=True)


def test_a_continuation_without_a_token_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"the text '\\u200b' adds no token after 'សាលា', so it cannot be scored$"):
        encode_pairs(tokenizer, [("សាលា", "\u200b")])
