"""Codes of languages, as people give them in sources files and on the command line: BCP-47, such as km, en or sr-Latn.

A wrong code would not stop anything: no rule would apply to the text. Therefore each code is checked against the registry of
IANA, which the package langcodes holds. https://www.rfc-editor.org/info/bcp47
"""

import difflib
from collections.abc import Mapping
from typing import TypeVar

import langcodes

from tonsai_jax.errors import UserError

Value = TypeVar("Value")

# English names, and other words that people write for a language. Only for the suggestion in the message.
_NAMES = {
    "afrikaans": "af", "albanian": "sq", "amharic": "am", "arabic": "ar", "armenian": "hy", "bengali": "bn", "bulgarian": "bg",
    "burmese": "my", "cambodian": "km", "catalan": "ca", "cebuano": "ceb", "central khmer": "km", "cham": "cja",
    "chinese": "zh", "croatian": "hr", "czech": "cs", "danish": "da", "dutch": "nl", "english": "en", "estonian": "et",
    "farsi": "fa", "filipino": "fil", "finnish": "fi", "french": "fr", "georgian": "ka", "german": "de", "greek": "el",
    "gujarati": "gu", "hausa": "ha", "hebrew": "he", "hindi": "hi", "hungarian": "hu", "indonesian": "id", "italian": "it",
    "japanese": "ja", "javanese": "jv", "kannada": "kn", "kazakh": "kk", "khmer": "km", "korean": "ko",
    "lao": "lo", "latvian": "lv", "lithuanian": "lt", "malay": "ms", "malayalam": "ml", "mandarin": "zh", "marathi": "mr",
    "mongolian": "mn", "myanmar": "my", "nepali": "ne", "northern khmer": "kxm", "norwegian": "no",
    "persian": "fa", "polish": "pl", "portuguese": "pt", "punjabi": "pa", "romanian": "ro", "russian": "ru", "sanskrit": "sa",
    "serbian": "sr", "shan": "shn", "sinhala": "si", "slovak": "sk", "slovenian": "sl", "somali": "so", "spanish": "es",
    "swahili": "sw", "swedish": "sv", "tagalog": "tl", "tamil": "ta", "telugu": "te", "thai": "th", "tibetan": "bo",
    "turkish": "tr", "ukrainian": "uk", "urdu": "ur", "uzbek": "uz", "vietnamese": "vi", "yoruba": "yo", "zulu": "zu",
    "kh": "km", "ខ្មែរ": "km", "ភាសាខ្មែរ": "km",
}  # fmt: skip


def check_language(language: str, where: str) -> None:
    """Checks that a BCP-47 code exists and is written in its usual form: km, and not KM, khm or khmer.

    Codes of languages without a script or a rule in this package are as good as any. Raises `UserError`, which begins with
    `where`, the place where the code was given, and says what to write instead.
    """
    meant = _meant(language)
    if meant == language:
        return
    if meant is None:
        raise UserError(
            f"{where}: language {language!r} is not known; write a BCP-47 code such as km, en or sr-Latn "
            "(https://www.iana.org/assignments/language-subtag-registry)"
        )
    raise UserError(f"{where}: language {language!r} is not written as a BCP-47 code; did you mean {meant!r}?")


def nearest(values: Mapping[str, Value], language: str) -> Value | None:
    """The value for a language: for sr-Latn-RS that of sr-Latn-RS, else of sr-Latn, else of sr; None if there is none.

    The lookup of RFC 4647, section 3.4.
    """
    while language and language not in values:
        language = language.rpartition("-")[0]
    return values.get(language)


def _meant(language: str) -> str | None:
    """The code for a language; the same text if it is one, None if nothing is near."""
    word = " ".join(language.replace("_", " ").casefold().split())
    if word in _NAMES:
        return _NAMES[word]
    tag = language.strip().replace("_", "-")
    if not tag or not langcodes.tag_is_valid(tag):
        near = difflib.get_close_matches(word, _NAMES, n=1, cutoff=0.75)
        return _NAMES[near[0]] if near else None
    parsed = langcodes.Language.get(tag, normalize=False)
    usual = langcodes.Language.get(tag)
    # Of the two codes of a language, BCP-47 takes the shorter one (khm is km). Other preferences, such as fil for tl, change
    # from release to release of the registry, so these codes stay.
    if len(usual.language or "") < len(parsed.language or ""):
        return usual.to_tag()
    return parsed.to_tag()
