"""Languages in given shares, by bytes, spread evenly over all of the text."""

import itertools

import pytest

from tonsai_jax.errors import UserError
from tonsai_jax.tokenizer.balance import balanced, language_weights
from tonsai_jax.tokenizer.examples import Example

KHMER = [Example(f"ភាសាខ្មែរ {number}", "texts/a.txt") for number in range(100)]
ENGLISH = [Example(f"an English line, number {number}", "texts/b.txt") for number in range(1000)]


def sizes(examples: list[Example]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for text, label in examples:
        counted[label] = counted.get(label, 0) + len(text.encode())
    return counted


@pytest.mark.parametrize("khmer", [0.5, 0.8, 0.2])
def test_each_language_gets_bytes_in_proportion_to_its_weight(khmer: float) -> None:
    taken = list(balanced(lambda: [*KHMER, *ENGLISH], {"km": khmer, "en": 1 - khmer}))
    counted = sizes(taken)
    assert counted["texts/a.txt"] / sum(counted.values()) == pytest.approx(khmer, abs=0.02)
    scarce = KHMER if khmer > 0.1 and counted["texts/a.txt"] == sizes(KHMER)["texts/a.txt"] else ENGLISH
    assert [example for example in taken if example.label == scarce[0].label] == scarce, "the scarcest is taken whole"


def test_the_texts_taken_are_spread_evenly_over_all_of_them() -> None:
    taken = [
        int(text.split()[-1])
        for text, label in balanced(lambda: [*KHMER, *ENGLISH], {"km": 1, "en": 1})
        if label[-5] == "b"
    ]
    gaps = [later - earlier for earlier, later in itertools.pairwise(taken)]
    assert taken[0] < 20
    assert taken[-1] > 980
    assert max(gaps) <= 2 * min(gaps) + 2


def test_a_label_that_names_a_language_wins_and_other_languages_are_left_out() -> None:
    taken = balanced(
        lambda: [Example("bonjour", "fr"), Example("hello", "en"), Example("123", "?")], {"en": 1, "fr": 1}
    )
    assert [label for _, label in taken][:2] == ["fr", "en"]
    assert list(
        balanced(
            lambda: [Example("привет", "?"), Example("hello you over there", "?"), Example("ខ្មែរ", "?")],
            {"en": 1, "km": 1},
        )
    ) == [
        Example("hello you over there", "?"),
        Example("ខ្មែរ", "?"),
    ]


def test_a_language_without_text_is_named() -> None:
    with pytest.raises(UserError, match="no text in 'km'"):
        list(balanced(lambda: ENGLISH, {"km": 1, "en": 1}))


@pytest.mark.parametrize(
    "words", ["km", "km=", "km=x", "", "km=-1,en=2", "km=0,en=0", "km=nan", "km=inf,en=1", "km=0.5,km=0.5"]
)
def test_weights_that_are_not_valid_are_refused(words: str) -> None:
    with pytest.raises(UserError, match="write weights as km="):
        language_weights(words)
    assert language_weights("km=0.5, en=0.5") == {"km": 0.5, "en": 0.5}


def test_a_weight_of_a_language_is_given_by_its_code() -> None:
    with pytest.raises(UserError, match=r"--language-weights: language 'khmer' is not .*; did you mean 'km'"):
        language_weights("khmer=0.5,en=0.5")
