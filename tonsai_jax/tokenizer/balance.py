"""Takes text of each language in a given share.

A tokenizer gives its ids to the text that it sees most, and there is always less Khmer than English.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator

from tonsai_jax.errors import UserError
from tonsai_jax.reporting.progress_bar import progress_bar
from tonsai_jax.text.languages import check_language
from tonsai_jax.text.scripts import script_share
from tonsai_jax.tokenizer.examples import Example


def balanced(
    read: Callable[[], Iterable[Example]],
    weights: dict[str, float],
    *,
    text_bytes: int | None = None,
    progress: bool = False,
) -> Iterator[Example]:
    """Takes as much text as possible with the languages in the shares of `weights`, by UTF-8 bytes.

    The scarcest language, compared with its weight, is used completely; the texts of the others are spread evenly over all
    that they have. Texts in none of the languages are left out.

    Args:
      read: gives the texts. It is called twice: to count the bytes, then to take the texts.
      weights: {language: weight}. A text belongs to the language that its label names, or else to the language whose script
        most of its letters are in.
      text_bytes: UTF-8 bytes of all texts, if they are known, for the time left.
      progress: show on stderr how much is counted.

    Raises `UserError` if a language with a weight above 0 has no text.
    """
    sizes: Counter[str] = Counter()
    with progress_bar("counting text", unit="B", total=text_bytes, wanted=progress) as bar:
        for text, label in read():
            size = len(text.encode())
            sizes[language_of(text, label, weights)] += size
            bar.update(size)
    for language, weight in weights.items():
        if weight and not sizes[language]:
            raise UserError(f"--language-weights: there is no text in {language!r} to train on; remove it, or add text")
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
    """Parses weights such as "km=0.5,en=0.5"; raises `UserError` for text of another form."""
    pairs = [word.strip().partition("=") for word in words.split(",")]
    try:
        weights = {language.strip(): float(number) for language, _, number in pairs}
    except ValueError:
        weights = {}
    finite = all(0 <= weight < math.inf for weight in weights.values())
    if not finite or not sum(weights.values()) or len(weights) < len(pairs):
        raise UserError(f"--language-weights {words!r}: not valid; write weights as km=0.5,en=0.5, each language once")
    for language in weights:
        check_language(language, "--language-weights")
    return weights


def language_of(text: str, label: str, languages: Collection[str]) -> str:
    """The label if it is one of `languages`; else the language whose script most of the text is in; "" if it is in none."""
    if label in languages:
        return label
    shares = {language: script_share(text, language) for language in languages}
    language = max(shares, key=lambda name: shares[name])
    return language if shares[language] else ""
