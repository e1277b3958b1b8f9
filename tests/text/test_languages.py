"""Codes of languages: every code of BCP-47 is good, and a name or another form of a code is refused with the right one."""

import pytest

from tonsai_jax.errors import UserError
from tonsai_jax.text.languages import check_language


@pytest.mark.parametrize(
    "code", ["km", "en", "km-KH", "sr-Latn", "yue", "kxm", "cja", "brb", "tl", "fil", "und", "mul"]
)
def test_codes_are_good_of_small_languages_too(code: str) -> None:
    check_language(code, "source 'a'")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("khmer", "km"),
        ("English", "en"),
        ("central_khmer", "km"),
        ("ភាសាខ្មែរ", "km"),
        ("kmer", "km"),
        ("KM", "km"),
        ("khm", "km"),
        ("khm_Khmr", "km-Khmr"),
        ("en-us", "en-US"),
        ("kh", "km"),
    ],
)
def test_another_form_of_a_code_is_refused_with_the_code(given: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"^source 'a': language {given!r} is not .*; did you mean {meant!r}\\?$"):
        check_language(given, "source 'a'")


@pytest.mark.parametrize("given", ["xx", "zzz", "", "12", "a b"])
def test_an_unknown_code_is_refused(given: str) -> None:
    with pytest.raises(UserError, match="is not known; write a BCP-47 code such as km"):
        check_language(given, "source 'a'")
