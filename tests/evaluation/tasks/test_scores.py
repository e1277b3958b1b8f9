"""Items, a model and the scores; the model is replaced by one whose log-likelihoods are known."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tiny_model import tiny_tokenizer
from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.likelihood.requests import LogLikelihood, Request
from tonsai_jax.evaluation.tasks.cloze import Cloze, given_target
from tonsai_jax.evaluation.tasks.multiple_choice import MultipleChoice, Question, answers_to, scores_of
from tonsai_jax.evaluation.tasks.records import HubData, read_items
from tonsai_jax.evaluation.tasks.task import TaskModel, TaskOptions
from tonsai_jax.inference.load import LanguageModel
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.tokenizer.loading import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tiny")


class KnownScorer:
    """Gives the nats that it was made with, one after the other, and keeps the requests."""

    def __init__(self, nats: Sequence[float], greedy: Sequence[bool] = ()) -> None:
        self.nats, self.greedy = nats, greedy or [False] * len(nats)
        self.asked: list[Request] = []

    def log_likelihoods(self, requests: Sequence[Request], *, name: str) -> list[LogLikelihood]:
        self.asked = list(requests)
        counts = [len(request.continuation_ids) for request in requests]
        return [LogLikelihood(*each) for each in zip(self.nats, self.greedy, counts, strict=True)]


def model_with(scorer: KnownScorer, tokenizer: Tokenizer) -> TaskModel:
    model: Any = TaskModel(
        LanguageModel("none", ModelConfig(vocab_size=1), {}, tokenizer)
    )  # of which only the tokenizer is used
    model.scorer = scorer
    return model


def read_question(record: Any) -> Question:
    return Question(record["prompt"], tuple(record["choices"]), record["answer"])


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def test_each_metric_divides_the_log_likelihood_by_its_own_length(tokenizer: Tokenizer) -> None:
    """Choices of 1, 4 and 2 characters, of 1, 4 and 6 bytes."""
    question = Question("?", ("a", "abcd", "កខ"), 0)
    answers = answers_to("", [question], [], model_with(KnownScorer([-1.0, -2.0, -2.9]), tokenizer))
    assert {metric: answers[metric] for metric in ("accuracy", "accuracy_characters", "accuracy_bytes")} == {
        "accuracy": [0],  # -1
        "accuracy_characters": [1],  # -1, -0.5, -1.45
        "accuracy_bytes": [2],  # -1, -0.5, -0.483
    }
    tokens = [len(tokenizer.encode(f"? {choice}")) - len(tokenizer.encode("?")) for choice in question.choices]
    assert answers["accuracy_tokens"] == [int(np.argmax(np.array([-1.0, -2.0, -2.9]) / tokens))]


def test_scores_have_an_error_and_the_chance_of_their_own_items(tokenizer: Tokenizer) -> None:
    questions = [Question("?", ("a", "b"), 0), Question("?", ("a", "b", "c", "d"), 3)]
    scores = scores_of("made", questions, [], model_with(KnownScorer([-1, -2, -1, -2, -3, -4]), tokenizer))
    assert [score.metric for score in scores] == [
        "accuracy",
        "accuracy_bytes",
        "accuracy_characters",
        "accuracy_tokens",
    ]
    assert (scores[0].value, scores[0].n, scores[0].chance) == (0.5, 2, (1 / 2 + 1 / 4) / 2)
    assert scores[0].stderr == pytest.approx(0.5)  # sqrt(1/2) / sqrt(2)
    assert scores[0].at_chance


def test_worked_examples_stand_before_every_question(tokenizer: Tokenizer) -> None:
    scorer = KnownScorer([-1.0, -2.0])
    examples = [Question("What is wet?", ("rain", "sand"), 0)]
    scores = scores_of("made", [Question("What is dry?", ("rain", "sand"), 1)], examples, model_with(scorer, tokenizer))
    assert tokenizer.decode(list(scorer.asked[1].context_ids)[1:]) == "What is wet? rain\n\nWhat is dry?"
    assert tokenizer.decode(list(scorer.asked[1].continuation_ids)) == " sand"
    assert scores[0].shots == 1


def test_examples_are_the_same_ones_each_time_and_never_those_of_the_test(tmp_path: Path, tokenizer: Tokenizer) -> None:
    task = MultipleChoice("made", "en", read_question, 0.5, "")
    write(tmp_path / "made.jsonl", {"prompt": "q", "choices": ["a", "b"], "answer": 0})
    with pytest.raises(
        UserError, match="made: has no split for worked examples, and those of the test may not be used"
    ):
        task.score(model_with(KnownScorer([]), tokenizer), TaskOptions(tmp_path, None, 2))
    pool = [{"prompt": f"e{number}", "choices": ["a", "b"], "answer": 0} for number in range(9)]
    write(tmp_path / "made.examples.jsonl", *pool)
    asked = []
    for _ in range(2):
        scorer = KnownScorer([-1.0, -2.0])
        task.score(model_with(scorer, tokenizer), TaskOptions(tmp_path, None, 2))
        asked.append(tokenizer.decode(list(scorer.asked[0].context_ids)[1:]))
    assert asked[0] == asked[1]
    assert asked[0].count("e") == 2
    with pytest.raises(UserError, match="made: 10 worked examples are wanted, but there are 9 examples"):
        task.score(model_with(KnownScorer([]), tokenizer), TaskOptions(tmp_path, None, 10))


def test_where_all_questions_have_the_same_choices_chance_is_the_most_frequent_answer(tokenizer: Tokenizer) -> None:
    questions = [Question("?", ("a", "b", "c"), answer) for answer in (0, 0, 1, 0)]
    model = model_with(KnownScorer([-1] * 12), tokenizer)
    assert {score.chance for score in scores_of("made", questions, [], model, same_choices=True)} == {3 / 4}


def test_a_question_with_a_choice_longer_than_the_context_is_left_out(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    long = Question("?", ("a", "b c " * 600), 0)
    short = Question("?", ("a", "b"), 1)
    scorer = KnownScorer([-2.0, -1.0])
    scores = scores_of("made", [long, short], [], model_with(scorer, tokenizer))
    assert {(score.n, score.value) for score in scores} == {(1, 1.0)}
    message = "made: 1 of 2 items left out, with a text to score of more than the model's context of 1024 tokens"
    assert caplog.messages == [message]
    with pytest.raises(
        UserError, match="made: every item has a text to score of more than the model's context of 1024"
    ):
        scores_of("made", [long], [], model_with(scorer, tokenizer))


def test_a_missing_word_longer_than_the_context_is_left_out(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write(tmp_path / "made.jsonl", {"context": "a", "target": " b" * 1100}, {"context": "a", "target": " b"})
    model = model_with(KnownScorer([-1.0], [True]), tokenizer)
    scores = Cloze("made", "en", given_target, "").score(model, TaskOptions(tmp_path))
    assert [(score.n, score.value) for score in scores] == [(1, 1.0), (1, pytest.approx(np.e))]


def test_examples_are_drawn_from_the_first_thousand_records(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training split can have hundreds of thousands, which would all be downloaded."""
    from tonsai_jax.corpus.sources.hub import HubSplit

    read: list[int] = []

    def records(self: HubSplit) -> Any:
        for number in range(5000):
            read.append(number)
            yield f"row {number}", {"prompt": "e", "choices": ["a", "b"], "answer": 0}

    monkeypatch.setattr(HubSplit, "records", records)
    write(tmp_path / "made.jsonl", {"prompt": "q", "choices": ["a", "b"], "answer": 0})
    task = MultipleChoice("made", "en", read_question, 0.5, "", examples=HubData("org/made", None, "train"))
    task.score(model_with(KnownScorer([-1.0, -2.0]), tokenizer), TaskOptions(tmp_path, None, 5))
    assert len(read) == 1000


def test_cloze_counts_greedy_words_and_its_perplexity_is_per_word(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write(tmp_path / "made.jsonl", *[{"context": "a b", "target": " c"}] * 4)
    scorer = KnownScorer([-1.0, -2.0, -1.0, -2.0], [True, False, False, False])
    task = Cloze("made", "en", given_target, "")
    accuracy, perplexity = task.score(model_with(scorer, tokenizer), TaskOptions(tmp_path))
    assert accuracy.value == 0.25
    assert perplexity.value == pytest.approx(np.exp(1.5))
    assert perplexity.low is not None
    assert perplexity.high is not None
    assert np.log(perplexity.high) - 1.5 == pytest.approx(1.5 - np.log(perplexity.low))
    assert not perplexity.higher_is_better
    with pytest.raises(UserError, match="made: takes no worked examples; use `tonsai tasks --shots 0`"):
        task.score(model_with(scorer, tokenizer), TaskOptions(tmp_path, None, 1))


def test_the_first_records_of_a_file_are_read_up_to_the_limit(tmp_path: Path) -> None:
    records = [{"prompt": str(number), "choices": ["a", "b"], "answer": 0} for number in range(5)]
    write(tmp_path / "made.jsonl", *records)
    items = read_items("made.jsonl", tmp_path, None, read_question, 2)
    assert [item.prompt for item in items] == ["0", "1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "made.jsonl: there are no records"),
        (b"\n\n", "made.jsonl: there are no records"),
        (b'{"a": 1\n', "made.jsonl, line 1: not valid JSON"),
        (b'\n["a"]\n', "made.jsonl, line 2: not a JSON object"),
        (b'{"prompt": "p", "choices": ["a", "b"], "answer": 7}\n', "made.jsonl, line 1: the record has answer 7"),
        (b'{"prompt": "\xff"}\n', "made.jsonl, after line 0: not UTF-8 text"),
    ],
)
def test_a_file_that_is_not_right_names_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "made.jsonl").write_bytes(content)
    with pytest.raises(UserError) as error:
        read_items("made.jsonl", tmp_path, None, read_question, None)
    assert f"{tmp_path}/{message}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_in_the_place_of_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "made.jsonl").mkdir()
    with pytest.raises(UserError, match=r"made\.jsonl: cannot be read \(Is a directory\); it must be a file"):
        read_items("made.jsonl", tmp_path, None, read_question, None)


def test_without_a_file_it_says_which_one_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"made\.jsonl: no such file; this task has no data on the Hub"):
        read_items("made.jsonl", tmp_path, None, read_question, None)


def test_without_a_network_it_says_what_to_download_to_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tonsai_jax.corpus.sources.hub import HubSplit

    def unreachable(self: HubSplit) -> Any:
        raise UserError("no network")
        yield

    monkeypatch.setattr(HubSplit, "records", unreachable)
    with pytest.raises(UserError) as error:
        read_items("made.jsonl", tmp_path, HubData("org/made", "km", "test"), read_question, None)
    assert str(error.value) == (
        f"org/made km, split test cannot be read from the Hub; download it, write its records as JSON lines to "
        f"{tmp_path}/made.jsonl and give `tonsai tasks --data {tmp_path}` (no network)"
    )
