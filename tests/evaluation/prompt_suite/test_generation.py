"""A model continues a suite: which prompts it gets, when it ended by itself, the same texts for the same seed."""

import pytest

from tests.support.tiny_chat import CONFIG, PARAMS, WrittenAnswers, chat_tokenizer
from tests.support.tiny_model import ENGLISH, KHMER
from tonsai_jax.chat.conversation import Message
from tonsai_jax.chat.template import ChatTemplate
from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.prompt_suite.generation import run_suite
from tonsai_jax.evaluation.prompt_suite.prompts import Prompt
from tonsai_jax.inference.generate import Generator
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.special_tokens import END_OF_TURN

SUITE = [Prompt("khmer", "continuation", "km", KHMER[:12]), Prompt("english", "continuation", "en", ENGLISH[:12])]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return chat_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def generator(tokenizer) -> Generator:
    return Generator(CONFIG, PARAMS, tokenizer)


def test_every_prompt_gets_a_text_and_the_same_seed_gives_it_again(generator):
    first = run_suite(generator, SUITE, chat=False, max_new_tokens=6)
    assert [each.prompt for each in first.results] == SUITE
    assert first == run_suite(generator, SUITE, chat=False, max_new_tokens=6)
    assert first != run_suite(generator, SUITE, chat=False, max_new_tokens=6, seed=1)


def test_a_prompt_can_have_a_limit_of_its_own_and_the_order_stays(generator):
    suite = [Prompt("long", "k", "en", ENGLISH[:12], max_new_tokens=12), SUITE[0]]
    long, short = run_suite(generator, suite, chat=False, max_new_tokens=6).results
    assert (long.prompt.id, short.prompt.id) == ("long", "khmer")
    assert (long,) == run_suite(generator, suite[:1], chat=False, max_new_tokens=6).results
    assert (short,) == run_suite(generator, suite[1:], chat=False, max_new_tokens=6).results


def test_a_model_that_ends_early_is_told_from_one_that_the_limit_cut(tokenizer, generator, monkeypatch):
    ids = tokenizer.encode("No.")
    suite = [Prompt("a", "k", "en", "Well")]
    WrittenAnswers(monkeypatch, [*ids, tokenizer.end_of_text_id])
    [ended] = run_suite(generator, suite, chat=False, max_new_tokens=20).results
    assert (ended.continuation.strip(), ended.checks["premature_stop"]) == ("No.", 1.0)
    WrittenAnswers(monkeypatch, ids)
    [cut] = run_suite(generator, suite, chat=False, max_new_tokens=len(ids)).results
    assert (cut.continuation.strip(), cut.checks["premature_stop"]) == ("No.", 0.0)


def test_a_prompt_that_does_not_fit_with_its_continuation_is_left_out(generator):
    suite = [*SUITE, Prompt("long", "k", "km", KHMER * 8)]
    results = run_suite(generator, suite, chat=False, max_new_tokens=4)
    assert results.left_out == ("long",)
    assert [each.prompt.id for each in results.results] == ["khmer", "english"]
    assert run_suite(generator, SUITE, chat=False, max_new_tokens=128).results == ()


def test_a_chat_model_gets_the_prompt_as_a_message_and_its_answer_stands_alone(tokenizer, generator, monkeypatch):
    suite = [Prompt("a", "k", "km", "ភ")]
    mark = tokenizer.encode("ា")
    answers = WrittenAnswers(monkeypatch, [*tokenizer.encode(" "), *mark, tokenizer.special_tokens[END_OF_TURN]])
    [answer] = run_suite(generator, suite, chat=True, max_new_tokens=20).results
    assert answers.prompts == [ChatTemplate.of(tokenizer).prompt([Message("user", "ភ")])]
    assert answer.continuation == "ា"
    assert answer.checks["valid_clusters"] == 0.0, "the mark does not belong to the message"
    [continuation] = run_suite(generator, suite, chat=False, max_new_tokens=20).results
    assert continuation.continuation == " ា"


def test_a_template_that_refuses_a_prompt_is_one_line(tokenizer, generator, monkeypatch):
    monkeypatch.setitem(tokenizer.__dict__, "chat_template", "{{ raise_exception('no') }}")
    with pytest.raises(UserError, match="the model's chat template refuses the prompts: no"):
        run_suite(generator, SUITE, chat=True)


def test_languages_that_a_prompt_allows_are_not_confusion(tokenizer, generator, monkeypatch):
    suite = [Prompt("a", "k", "km", "ក"), Prompt("b", "k", "km", "ក", also=("en",))]
    monkeypatch.setattr("tonsai_jax.inference.generate.BATCH_SIZE", 1)
    WrittenAnswers(monkeypatch, tokenizer.encode(" walk to school"))
    strict, mixed = run_suite(generator, suite, chat=False, max_new_tokens=30).results
    assert (strict.checks["language_confusion"], strict.checks["script_share"]) == (1.0, 0.0)
    assert (mixed.checks["language_confusion"], mixed.checks["script_share"]) == (0.0, 1.0)
