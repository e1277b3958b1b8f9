"""Questions about the sample stories: every answer is in the story, and held-out stories are not in training."""

import hashlib
import json
from itertools import islice
from pathlib import Path

import pytest

from tests.support.made_once import MadeOnce
from tonsai_jax.chat.conversation import Conversation, checked
from tonsai_jax.chat.template import ChatTemplate
from tonsai_jax.data.manifest import read_manifest
from tonsai_jax.errors import UserError
from tonsai_jax.samples import quickstart
from tonsai_jax.samples.questions import (
    MOST_STEPS,
    QUESTIONS,
    conversations,
    is_held_out,
    parse_questions,
    questions_about,
    repetitions,
    subject,
)
from tonsai_jax.samples.stories import GRAMMARS, Story, draw_stories, stories
from tonsai_jax.text.normalize import normalize
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.training import train_tokenizer

GOLDEN = {
    "km": "f4bbdfd8ea271d6962927635415c713ffb518de2d10b140955b6b6cbc49e7b7e",
    "en": "1de03d3942a1f8b68c2c335d0f8182c494053537abf202dd26fc139e7340f6f9",
}
every_language = pytest.mark.parametrize("language", QUESTIONS)


@pytest.fixture(scope="module")
def asked() -> dict[str, list[Conversation]]:
    return {language: list(islice(conversations(language, seed=0), 500)) for language in QUESTIONS}


@pytest.fixture(scope="module")
def held_out() -> dict[str, list[Conversation]]:
    return {language: list(islice(conversations(language, seed=0, held_out=True), 60)) for language in QUESTIONS}


@pytest.fixture(scope="module")
def tokenizer_dir(made_once: MadeOnce) -> Path:
    """A tokenizer like that of the quickstart, of a quarter of its stories."""
    examples = [Example(story, language) for language in QUESTIONS for story in stories(language, 400, seed=0)]
    return made_once(
        "story_tokenizer", lambda folder: train_tokenizer(examples, vocab_size=quickstart.VOCAB_SIZE, output_dir=folder)
    )


def text_of(told: list[Conversation]) -> str:
    return "\n".join(message.content for conversation in told for message in conversation)


@every_language
def test_same_seed_asks_the_same_questions(language: str) -> None:
    told = [*islice(conversations(language, seed=7), 100), *islice(repetitions(language, seed=7), 20)]
    digest = hashlib.sha256(text_of(told).encode()).hexdigest()
    assert digest == GOLDEN[language], (
        f"the {language} questions changed; if that is on purpose, read some of them and put {digest} here"
    )
    assert told[:100] != list(islice(conversations(language, seed=8), 100))


@every_language
def test_every_question_about_every_plot_is_asked(language: str) -> None:
    assert QUESTIONS[language].QUESTIONS.keys() == GRAMMARS[language].PLOTS.keys()
    told = list(islice(draw_stories(language, seed=0), 300))
    for plot in GRAMMARS[language].PLOTS:
        asked = {each for story in told if story.plot == plot for each in questions_about(story, MOST_STEPS)}
        assert asked == set(parse_questions(language, plot))


@every_language
def test_the_words_of_an_answer_are_in_the_story_or_in_the_question(language: str) -> None:
    """Only the words in the slots: a pronoun or the word for a child belongs to a person who was named."""
    for story in islice(draw_stories(language, seed=5), 300):
        for steps in range(1, 9):
            told = story.text(steps).lower()
            for question in questions_about(story, steps):
                for name in ("hero", "friend", "thing", "color", "spot", "animal", "number", "snack", "where"):
                    if f"{{{name}}}" in question.answer:
                        assert story.words[name].lower() in told


def test_a_question_waits_for_its_answer() -> None:
    story = next(each for each in draw_stories("en", seed=0) if each.plot == "lost thing")
    who = "Who looked for the {thing} with {hero}?"
    asked = [steps for steps in range(10) if any(who in each.ways for each in questions_about(story, steps))]
    assert asked == [7, 8, 9]


@every_language
def test_held_out_stories_are_not_in_training(
    asked: dict[str, list[Conversation]], held_out: dict[str, list[Conversation]], language: str
) -> None:
    in_training = {conversation[0].content for conversation in asked[language]}
    assert not in_training & {conversation[0].content for conversation in held_out[language]}
    told = list(islice(draw_stories(language, seed=1), 3000))

    def combination(story: Story) -> tuple[str, ...]:
        return story.plot, story.words["hero"], story.words[subject(story)]

    split = [{combination(story) for story in told if is_held_out(story) == side} for side in (False, True)]
    assert not split[0] & split[1]
    assert 0.06 < len(split[1]) / (len(split[0]) + len(split[1])) < 0.14
    assert {plot for plot, _, _ in split[1]} == GRAMMARS[language].PLOTS.keys()
    for number in (1, 2):  # every hero and every subject of the held-out stories is known from others
        assert {(each[0], each[number]) for each in split[1]} <= {(each[0], each[number]) for each in split[0]}


@every_language
def test_conversations_are_well_formed_and_normalized(
    asked: dict[str, list[Conversation]], held_out: dict[str, list[Conversation]], language: str
) -> None:
    repeated = list(islice(repetitions(language, seed=0), 100))
    end = {"km": "។", "en": "."}[language]
    for conversation in (*asked[language], *held_out[language], *repeated):
        assert checked(conversation) == conversation
        for message in conversation:
            assert message.content == normalize(message.content).strip()
            assert "  " not in message.content
            assert not set("{}|=") & set(message.content)
    for conversation in (*asked[language], *held_out[language]):
        for question, answer in zip(conversation[::2], conversation[1::2], strict=True):
            assert question.content.endswith("?")
            assert answer.content.endswith(end)
            assert answer.content.count(end) == 1


def test_what_is_repeated_is_what_was_said() -> None:
    for conversation in islice(repetitions("en", seed=3), 50):
        assert conversation[0].content == f"Say: {conversation[1].content}"


@every_language
def test_every_conversation_fits_into_the_context(
    asked: dict[str, list[Conversation]], tokenizer_dir: Path, language: str
) -> None:
    template = ChatTemplate.of(Tokenizer.from_folder(tokenizer_dir))
    repeated = islice(repetitions(language, seed=0), 100)
    longest = max(len(template.encode(each).ids) for each in (*asked[language], *repeated))
    assert 150 < longest <= quickstart.ROW_TOKENS


def test_the_rows_hold_out_whole_stories_and_are_written_once(
    tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, count in (("NUM_CONVERSATIONS", 60), ("NUM_REPETITIONS", 20), ("NUM_HELD_OUT", 10)):
        monkeypatch.setattr(quickstart, name, count)
    rows_dir = tmp_path / "data" / "rows"
    quickstart.build_question_rows(rows_dir, tokenizer_dir)
    manifest = read_manifest(rows_dir)
    assert manifest.row_tokens == quickstart.ROW_TOKENS
    for source in manifest.sources.values():
        assert source.splits["train"].documents == 80
        assert source.splits["validation"].documents == 10
    written = (rows_dir / "manifest.json").read_bytes()
    quickstart.build_question_rows(rows_dir, tmp_path / "no tokenizer")
    assert (rows_dir / "manifest.json").read_bytes() == written

    (rows_dir / "manifest.json").write_text(json.dumps({"format": "something else"}))
    with pytest.raises(UserError, match=r"not empty and has no token rows; set --config\.data\.dir to a new folder"):
        quickstart.build_question_rows(rows_dir, tokenizer_dir)
