"""Conversations about the sample stories: a user tells the beginning of a story and asks about it, and the assistant answers.

Every answer is exact, since a story knows the words in its slots, and most of them can only be found in the story. The base
model has not learned to look words up, so other conversations ask for nothing else: the assistant repeats words at random.

A tenth of the combinations of a hero with what the plot is about is held out: the other conversations have none of their stories.
"""

import random
import string
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import ModuleType

from tonsai_jax.chat.conversation import Conversation, Message
from tonsai_jax.samples import questions_english, questions_khmer
from tonsai_jax.samples.stories import GRAMMARS, Story, draw_stories

QUESTIONS: dict[str, ModuleType] = {"km": questions_khmer, "en": questions_english}
MOST_STEPS = 7  # of a story that is asked about; most have fewer
MOST_QUESTIONS = 6  # in a conversation
MOST_CHARACTERS = 620  # of a conversation that goes on, so that it fits into 256 tokens
REPEATED_WORDS = (2, 8)
HELD_OUT = 10  # one in this many combinations

# Slots of people. What comes with them, such as a pronoun, is known where the person is.
_PEOPLE = ("hero", "friend", "helper")


@dataclass(frozen=True)
class Question:
    """A question that has one answer; all texts have slots.

    Attributes:
      step: the number of the step that tells the answer; 0 is the introduction.
      ways: to ask it.
      answer: a sentence.
    """

    step: int
    ways: tuple[str, ...]
    answer: str


def conversations(language: str, *, seed: int, held_out: bool = False) -> Iterator[Conversation]:
    """Generates conversations about stories without end. The same seed gives the same ones.

    Args:
      language: "km" or "en".
      held_out: whether they are about the held-out stories, or about all others.
    """
    rng = random.Random(f"conversations {language} {seed}")
    for story in draw_stories(language, seed=rng.getrandbits(32)):
        steps = min(rng.randint(1, MOST_STEPS), rng.randint(1, MOST_STEPS))
        if held_out:
            if is_held_out(story) and subject(story) in _told(story, steps):
                yield _conversation(story, steps, rng)
        elif not is_held_out(story):
            yield _conversation(story, steps, rng)


def repetitions(language: str, *, seed: int) -> Iterator[Conversation]:
    """Generates conversations without end in which the assistant repeats words of the stories, drawn at random."""
    rng = random.Random(f"repetitions {language} {seed}")
    grammar = GRAMMARS[language]
    slots = [grammar.SLOTS, *(slots for slots, _ in grammar.PLOTS.values())]
    options = (option for each in slots for options in each.values() for option in options)
    words = sorted({option.split("|")[0] for option in options})
    while True:
        repeated = " ".join(rng.sample(words, rng.randint(*REPEATED_WORDS)))
        request = QUESTIONS[language].REPETITION.format(words=repeated)
        yield (Message("user", request), Message("assistant", repeated))


def is_held_out(story: Story) -> bool:
    """Whether the story has a held-out combination of its hero with what its plot is about."""
    combination = f"{story.plot} {story.words['hero']} {story.words[subject(story)]}"
    return zlib.crc32(combination.encode()) % HELD_OUT == 0


def subject(story: Story) -> str:
    """What the plot is about: the first slot that only this plot has, such as the thing that is lost."""
    grammar = GRAMMARS[story.language]
    return next(names.split("|")[0] for names in grammar.PLOTS[story.plot][0] if names not in grammar.SLOTS)


def questions_about(story: Story, steps: int) -> list[Question]:
    """The questions that the story has answered when its step number `steps` is told."""
    grammar = GRAMMARS[story.language]
    groups = [names.split("|") for names in grammar.SLOTS | grammar.PLOTS[story.plot][0]]
    person = {name: names[0] for names in groups if names[0] in _PEOPLE for name in names}
    told = _told(story, steps)
    return [
        question
        for question in parse_questions(story.language, story.plot)
        if question.step <= steps
        and {person.get(name, name) for text in (*question.ways, question.answer) for name in _slots(text)} <= told
    ]


@cache
def parse_questions(language: str, plot: str) -> tuple[Question, ...]:
    """Parses the questions about the introduction and about a plot; `questions_english` describes their form."""
    data = QUESTIONS[language]
    questions = []
    for paragraph in (data.INTRODUCTION + "\n" + data.QUESTIONS[plot]).strip().split("\n\n"):
        first, *others = [line.strip() for line in paragraph.strip().splitlines()]
        step, way = first.split(" ", 1)
        ways = (way, *(line.removeprefix("| ") for line in others[:-1]))
        questions.append(Question(int(step), ways, others[-1].removeprefix("= ")))
    return tuple(questions)


def _conversation(story: Story, steps: int, rng: random.Random) -> Conversation:
    questions = questions_about(story, steps)
    rng.shuffle(questions)
    messages: list[Message] = []
    for question in questions[: rng.randint(1, MOST_QUESTIONS)]:
        if sum(len(message.content) for message in messages) > MOST_CHARACTERS:
            break
        asked = story.fill(rng.choice(question.ways))
        messages.append(Message("user", asked if messages else f"{story.text(steps)} {asked}"))
        messages.append(Message("assistant", story.fill(question.answer)))
    return tuple(messages)


def _told(story: Story, steps: int) -> set[str]:
    """The slots in the story as far as its step number `steps`."""
    return {name for way in story.ways[: steps + 1] for name in _slots(way)}


@cache
def _slots(template: str) -> frozenset[str]:
    return frozenset(name for _, name, _, _ in string.Formatter().parse(template) if name)
