"""A metrics.jsonl as rows, and the scores among them."""

from pathlib import Path

from tonsai_jax.reporting.metrics_file import higher_is_better, language_scores, metrics_rows, scores_of


def test_half_a_line_of_a_killed_run_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "tr')
    assert metrics_rows(path) == [{"step": 1}, {"step": 2}]
    assert metrics_rows(tmp_path / "none.jsonl") == []


def test_scores_are_those_of_languages_and_sources_that_were_finite() -> None:
    names = ("", "/km", "/en", "/source/wiki")
    row = {f"eval/bits_per_byte{name}": value for name, value in zip(names, (1.5, 1.0, None, 2.0), strict=True)}
    assert scores_of(row) == {"km": 1.0, "source/wiki": 2.0}
    assert language_scores(row) == {"km": 1.0}


def test_accuracy_and_margin_are_better_when_higher() -> None:
    assert higher_is_better("eval/margin")
    assert higher_is_better("accuracy/source/pairs")
    assert not higher_is_better("eval/bits_per_byte/km")
    assert not higher_is_better("eval/loss/source/margin")
