"""Languages in the shares that they shall have: a tokenizer learns what it sees, and of Khmer there is always less."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator

from tonsai_jax.errors import UserError
from tonsai_jax.text.scripts import script_share
from tonsai_jax.tokenizer.examples import Example


def balanced(read: Callable[[], Iterable[Example]], weights: dict[str, float]) -> Iterator[Example]:
    """Takes of each language as many bytes as `weights` say, and as much as the scarcest allows, evenly from all of its text.

    `read` is called twice: to see how much there is, then to take from it. The language of a text is its label, or else the
    one of `weights` in whose script most of its letters are. What is in none of them is left out.
    Raises `UserError` where there is no text in one of the languages.
    """
    sizes: Counter[str] = Counter()
    for text, label in read():
        sizes[language_of(text, label, weights)] += len(text.encode())
    for language, weight in weights.items():
        if weight and not sizes[language]:
            raise UserError(f"--language-weights: there is no text in {language!r} to train on; leave it out")
    unit = min(sizes[language] / weight for language, weight in weights.items() if weight)
    wanted = {language: unit * weight / max(sizes[language], 1) for language, weight in weights.items()}
    offered: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for example in read():
        language = language_of(example.text, example.label, weights)
        if language not in weights:
            continue
        size = len(example.text.encode())
        offered[language] += size
        if offered[language] * wanted[language] >= taken[language] + size / 2:
            taken[language] += size
            yield example


def language_weights(words: str) -> dict[str, float]:
    """The weights in "km=0.5,en=0.5"; raises `UserError` for anything else."""
    pairs = [word.strip().partition("=") for word in words.split(",")]
    try:
        weights = {language: float(number) for language, _, number in pairs}
    except ValueError:
        weights = {}
    finite = all(0 <= weight < math.inf for weight in weights.values())
    if not finite or not sum(weights.values()) or len(weights) < len(pairs):
        raise UserError(f"--language-weights {words!r}: write it as km=0.5,en=0.5, each language once")
    return weights


def language_of(text: str, label: str, languages: Collection[str]) -> str:
    """The label where it is one of `languages`, else the one in whose script most of the text is; "" where it is in none."""
    if label in languages:
        return label
    shares = {language: script_share(text, language) for language in languages}
    language = max(shares, key=lambda name: shares[name])
    return language if shares[language] else ""
