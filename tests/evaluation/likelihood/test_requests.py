"""Texts to ids of a context and its continuation."""

import pytest

from tests.support.tiny_model import ENGLISH, KHMER, tiny_tokenizer
from tonsai_jax.evaluation.likelihood.requests import encode_pairs
from tonsai_jax.tokenizer.loading import Tokenizer


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
