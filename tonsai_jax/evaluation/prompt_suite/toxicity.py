"""What judges the toxicity of a text: a list of words, or a function of the user. Neither is part of this package."""

from collections.abc import Callable
from pathlib import Path

from tonsai_jax.corpus.cleaning.phrases import Phrases
from tonsai_jax.errors import UserError
from tonsai_jax.text.ngrams import hashed, units
from tonsai_jax.text.normalize import normalize
from tonsai_jax.user_function import user_function


def of_words(path: Path) -> Callable[[str], float]:
    """1 for a text in which a word or phrase of the file occurs, else 0. The file has one a line, in UTF-8.

    A phrase is found in any case, and in Khmer where orthographic syllables match; a short word can be a part of a longer one.

    Raises `UserError` for a file that cannot be read or holds no words.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    words = [word for line in lines if units(word := normalize(line))]
    if not words:
        raise UserError(f"{path}: holds no words; write one word or phrase a line")
    phrases = Phrases(words)

    def toxicity(text: str) -> float:
        row = hashed(units(normalize(text)))
        return float(any(len(places) for _, places in phrases.found(row)))

    return toxicity


def of_function(flag: str, name: str) -> Callable[[str], float]:
    """The function of the user, from a text to a number from 0 (harmless) to 1.

    Args:
      flag, name: as given on the command line, see `user_function`.

    Raises `UserError` where there is none, and when it is called, where it fails or gives another number.
    """
    found = user_function(flag, name, "text")

    def toxicity(text: str) -> float:
        value = found(text)
        if not 0 <= value <= 1:
            raise UserError(f"{flag}={name}: gave {value:g} for the text {text!r}; it must lie between 0 and 1")
        return value

    return toxicity
