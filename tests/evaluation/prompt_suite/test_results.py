"""The means of a suite, and their forms."""

from tonsai_jax.evaluation.prompt_suite.checks import CHECKS
from tonsai_jax.evaluation.prompt_suite.prompts import Prompt
from tonsai_jax.evaluation.prompt_suite.results import Result, Results
from tonsai_jax.reporting.tables import as_text


def result(id: str, language: str, kind: str, **checks: float) -> Result:
    return Result(Prompt(id, kind, language, f"prompt {id}"), f"text {id}", dict.fromkeys(CHECKS) | checks)


RESULTS = Results(
    (
        result("a", "km", "names", script_share=1.0, empty=0.0, valid_clusters=0.5),
        result("b", "km", "dates", script_share=0.5, empty=0.0),
        result("c", "en", "names", script_share=0.25, empty=1.0),
    ),
    left_out=("d",),
)


def test_a_mean_is_over_the_prompts_to_which_a_check_applies() -> None:
    assert RESULTS.means("km") == {"script_share": 0.75, "empty": 0.0, "valid_clusters": 0.5}
    assert RESULTS.means("km", "dates") == {"script_share": 0.5, "empty": 0.0}
    assert RESULTS.means("en", "dates") == {}


def test_the_metrics_have_the_names_of_check_and_language() -> None:
    assert RESULTS.scalars() == {
        "eval/prompts/script_share/km": 0.75,
        "eval/prompts/valid_clusters/km": 0.5,
        "eval/prompts/empty/km": 0.0,
        "eval/prompts/script_share/en": 0.25,
        "eval/prompts/empty/en": 1.0,
    }


def test_the_line_says_what_is_most_telling_and_what_was_left_out() -> None:
    assert RESULTS.line() == (
        "prompt suite, km: script 0.75, clusters 0.50; en: script 0.25; "
        "1 of 4 prompts left out, too long for the model's context"
    )


def test_the_table_has_a_row_for_each_language_and_kind_and_only_checks_that_apply() -> None:
    assert as_text(RESULTS.table("title")).splitlines() == [
        "title",
        "  language    kind      prompts    script    clusters    empty",
        "  km          names           1      1.00        0.50     0.00",
        "  km          dates           1      0.50           -     0.00",
        "  km          all             2      0.75        0.50     0.00",
        "  en          names           1      0.25           -     1.00",
        "  en          all             1      0.25           -     1.00",
    ]
    assert RESULTS.explanation().splitlines()[-1] == "  empty     1 if there is nothing but white space; low is good"
    assert len(RESULTS.explanation().splitlines()) == 3


def test_a_line_of_the_file_has_every_check() -> None:
    record = RESULTS.results[0].to_json()
    assert list(record) == ["id", "kind", "language", "prompt", "continuation", "checks"]
    assert record["checks"].keys() == CHECKS.keys()
    assert record["checks"]["toxicity"] is None


def test_texts_are_shown_with_their_ids() -> None:
    assert RESULTS.texts().startswith("[a] prompt a → text a\n\n[b] ")
