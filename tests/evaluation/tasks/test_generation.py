"""Tests of tonsai_jax/evaluation/tasks/generation.py."""

import pytest

from tests.support.answering import Answering
from tests.support.tiny_model import config_with, random_params, tiny_tokenizer
from tonsai_jax.evaluation.tasks.generation import one_line_answers
from tonsai_jax.inference.generate import Generator
from tonsai_jax.inference.load import LanguageModel
from tonsai_jax.sampling import Sampling

CONFIG = config_with(context_length=128)
QUESTIONS = ["Question: school\nAnswer:", "Question: a story\nAnswer:", "Question: day\nAnswer:"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> LanguageModel:
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tiny")
    return LanguageModel("tiny", CONFIG, random_params(CONFIG), tokenizer)


def ask(model: LanguageModel, examples: list[str], questions: list[str], most: int = 8):
    generator = Answering(model, lambda prompt: f" {prompt.count('Answer')} {prompt[-9:-8]} ")
    answers, shots = one_line_answers(generator, examples, questions, [most] * len(questions), task="test")
    return generator, answers, shots


def test_answers_are_those_of_greedy_decoding_up_to_the_end_of_the_line(model) -> None:
    generator = Generator(model.model_config, model.params, model.tokenizer)
    answers, shots = one_line_answers(generator, [], QUESTIONS, [8] * 3, task="test")
    line = Sampling(temperature=0, stop=("\n",))
    texts = [generator.texts([text], max_new_tokens=8, sampling=line, seed=0)[0] for text in QUESTIONS]
    assert answers == [text.strip() for text in texts]
    assert (any(answers), shots) == (True, 0)


def test_the_examples_come_before_each_question_and_answers_keep_the_order(model) -> None:
    generator, answers, shots = ask(model, ["Answer one\n\n", "Answer two\n\n"], QUESTIONS)
    assert sorted(generator.prompts) == sorted(f"Answer one\n\nAnswer two\n\n{question}" for question in QUESTIONS)
    assert answers == ["3 l", "3 y", "3 y"]
    assert shots == 2


def test_all_prompts_lose_an_example_that_does_not_fit_before_one_of_them(model) -> None:
    example = "Answer " + "b" * 30 + "\n\n"
    generator, _, shots = ask(model, [example] * 3, [QUESTIONS[0], "q" * 40])
    assert shots == 2
    assert all(prompt.startswith(example * 2) for prompt in generator.prompts)


def test_a_question_longer_than_the_context_loses_its_beginning(model) -> None:
    generator, _, shots = ask(model, ["Answer\n"], ["q" * 200 + "end"], most=100)
    assert shots == 0
    [prompt] = generator.prompts
    assert prompt.endswith("qend")
    assert len(model.tokenizer.encode(prompt)) == 64
    assert generator.batches == [(1, 64)]  # an answer gets at most half of the context


def test_questions_of_about_the_same_length_share_a_batch(model) -> None:
    generator, _, _ = ask(model, [], ["q" * length for length in (3, 90) * 16])
    assert [count for count, _ in generator.batches] == [16, 16]
    lengths = [len(prompt) for prompt in generator.prompts]
    assert lengths == sorted(lengths)
