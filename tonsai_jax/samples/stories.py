"""The sample corpus of the quickstart: simple children's stories, told by a grammar written for this project.

A grammar is plain data (`stories_english`, `stories_khmer`). A plot is its slots and its steps: every slot is
drawn once per story, so the same name, animal and place come back in every sentence, and every step is then
told in one of several ways. The stories are simple enough for a model of a million parameters to learn.
"""

import random
import re
from collections.abc import Iterator
from types import ModuleType

from tonsai_jax.errors import UserError
from tonsai_jax.samples import stories_english, stories_khmer

GRAMMARS: dict[str, ModuleType] = {"km": stories_khmer, "en": stories_english}

# How many stories make the quickstart's corpus: about 1.35 MB of Khmer and 1.2 MB of English.
STORY_COUNTS = {"km": 1000, "en": 2000}

# Openings for the quickstart's last continuation: whole sentences that many plots begin with.
PROMPTS = {
    "km": "កាលពីព្រេងនាយ មានក្មេងស្រីម្នាក់ឈ្មោះបុប្ផា។",
    "en": "Once upon a time, there was a girl named Lina.",
}


def stories(language: str, count: int, *, seed: int) -> Iterator[str]:
    """Tells `count` stories, one a string of one line; the same seed tells the same stories.

    Raises `UserError` when no grammar tells stories in `language`.
    """
    if language not in GRAMMARS:
        raise UserError(f"no stories in {language!r}; the languages are {', '.join(GRAMMARS)}")
    grammar = GRAMMARS[language]
    rng = random.Random(f"{language} {seed}")
    plots = [(grammar.SLOTS | slots, parse_steps(steps)) for slots, steps in grammar.PLOTS.values()]
    for _ in range(count):
        slots, steps = rng.choice(plots)
        words = _draw(slots, rng)
        told = [rng.choice(ways).format_map(words) for ways in [grammar.INTRODUCTIONS, *steps]]
        story = " ".join(sentence for sentence in told if sentence)
        yield _polish_english(story) if language == "en" else story


def parse_steps(text: str) -> list[list[str]]:
    """Reads a plot's steps, each the list of ways to tell it; a line that begins with "|" is one way more."""
    steps: list[list[str]] = []
    for line in text.strip().splitlines():
        way = line.strip()
        if way.startswith("|"):
            steps[-1].append(way[1:].strip())
        else:
            steps.append([way])
    return steps


def _draw(slots: dict[str, list[str]], rng: random.Random) -> dict[str, str]:
    """Fills every slot: "hero|he" takes an option such as "Lina|she"; no two slots take the same option."""
    words: dict[str, str] = {}
    drawn: set[str] = set()
    for names, options in slots.items():
        option = rng.choice([option for option in options if option not in drawn])
        drawn.add(option)
        words.update(zip(names.split("|"), option.split("|"), strict=True))
    return words


def _polish_english(story: str) -> str:
    """Writes "an" before a vowel and capitals at the start of sentences: templates cannot know where."""
    story = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", story)
    return re.sub(r'(^|[.!?] |\." )([a-z])', lambda match: match[1] + match[2].upper(), story)
