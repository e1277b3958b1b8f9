"""The report as a browser shows it: no request leaves, nothing is cut off on a phone, the axis is chosen without a script."""

from pathlib import Path

import pytest

from tests.report.workdirs import make_run
from tests.support.browser import Page, needs_chromium
from tonsai_jax.report.write import write_report

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_report(folder / "report.html", [make_run(folder / "a_run_with_a_rather_long_name", experts=8)])
    return folder / "report.html"


@pytest.mark.parametrize(("width", "dark"), [(360, False), (1280, True)])
def test_the_page_fits_asks_for_nothing_and_has_no_errors(page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    with Page(page, tmp_path, width=width, dark=dark) as shown:
        assert shown.evaluate("document.documentElement.scrollWidth") == width
        cut_off = "[...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
        assert shown.evaluate(cut_off) == 0
        assert [address for address in shown.requests if not address.startswith("data:")] == [page.as_uri()]
        assert shown.complaints == []
        background = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(18, 23, 29)" if dark else "rgb(251, 252, 253)")
        assert shown.evaluate("[...document.fonts].map(font => font.family + ' ' + font.status)") in (
            ["Khmer of this page loaded"],
            ['"Khmer of this page" loaded'],
        )


def test_the_axis_is_chosen_without_a_script(page: Path, tmp_path: Path) -> None:
    with Page(page, tmp_path, width=360, script=False) as shown:
        shown_axes = "[...document.querySelectorAll('.by')].filter(e => e.offsetHeight).map(e => e.className)"
        assert shown.evaluate(shown_axes) == ["by by-steps"]
        shown.click("label[for=axis-tokens]")
        assert shown.evaluate(shown_axes) == ["by by-tokens"]
