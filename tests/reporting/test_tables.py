"""Tables: columns aligned for the terminal, the same cells on a page, text of others never part of the page."""

from pathlib import Path

import pytest
from markupsafe import Markup

from tonsai_jax.reporting.numbers import format_known
from tonsai_jax.reporting.page import write_page
from tonsai_jax.reporting.tables import Table, as_text, tables_as_text

TEMPLATE = """{% extends "base.html" %}{% from "macros.html" import table %}
{% block style %}h1 { color: red }{% endblock %}
{% block body %}{{ table(figures) }}{{ inserted }}{% endblock %}"""


def test_words_are_left_aligned_and_numbers_right_aligned() -> None:
    table = Table("Title", ["name", "count"], [["a", "1,000"], ["longer", "7"]], "lr", note="not for the terminal")
    name, first, second = as_text(table).splitlines()[1:]
    assert as_text(table).startswith("Title\n")
    assert (name.split(), first.split(), second.split()) == (["name", "count"], ["a", "1,000"], ["longer", "7"])
    assert name.index("name") == first.index("a") == second.index("longer") == 2
    assert len(name) == len(first) == len(second)
    assert "terminal" not in as_text(table)


def test_marks_above_and_below_a_khmer_letter_take_no_room_in_a_column() -> None:
    lines = as_text(Table("", ["word", "n"], [["កូន", "1"], ["ភូមិមី", "2"], ["abcdef", "3"]], "lr")).splitlines()
    shown = [line.rindex(digit) for line, digit in zip(lines[1:], "123", strict=True)]
    marks = [sum(char in "ូិី" for char in line) for line in lines[1:]]
    assert marks == [1, 3, 0]
    assert len({place - count for place, count in zip(shown, marks, strict=True)}) == 1


def test_cells_that_look_like_numbers_stay_as_they_are_written() -> None:
    assert as_text(Table("", [], [["1e3", "0.50"]], "lr")) == "  1e3  0.50"


def test_a_table_without_a_title_a_header_or_rows() -> None:
    assert as_text(Table("", [], [["cost", "7"], ["hours", "35.3"]], "lr")) == "  cost      7\n  hours  35.3"
    assert as_text(Table("", ["a", "b"], [], "lr")).split() == ["a", "b"]
    assert tables_as_text([Table("one", [], [["x"]], "l"), Table("two", [], [["y"]], "l")]) == "one\n  x\n\ntwo\n  y"


def page_with(tmp_path: Path, **values: object) -> str:
    (tmp_path / "report.html").write_text(TEMPLATE, encoding="utf-8")
    write_page(tmp_path / "out" / "page.html", tmp_path / "report.html", title="<T>", lead="a & b", **values)
    return (tmp_path / "out" / "page.html").read_text(encoding="utf-8")


def test_a_page_shows_a_table_and_escapes_everything_but_markup(tmp_path: Path) -> None:
    table = Table("<b>", ["word", "n"], [["<script>", "1"]], "lr", note="note & note")
    page = page_with(tmp_path, figures=table, inserted=Markup("<svg></svg>"))
    assert "<title>&lt;T&gt;</title>" in page
    assert "<h1>&lt;T&gt;</h1>" in page
    assert '<p class="lead">a &amp; b</p>' in page
    assert '<h2>&lt;b&gt;</h2>\n<p class="lead">note &amp; note</p>' in page
    assert "<tr><th>word</th><th class=number>n</th></tr>" in page
    assert "<tr><td>&lt;script&gt;</td><td class=number>1</td></tr>" in page
    assert "<svg></svg>" in page
    assert "h1 { color: red }" in page
    assert "<script" not in page


def test_a_value_that_a_template_lacks_is_an_error_and_leaves_no_page(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="'inserted' is undefined"):
        page_with(tmp_path, figures=Table("", [], [["x"]], "l"))
    assert not list(tmp_path.glob("out/*"))


def test_a_value_that_is_not_known_is_a_dash() -> None:
    assert (format_known(None, ".2f"), format_known(0.0, ".2f"), format_known(1234, ",")) == ("-", "0.00", "1,234")
