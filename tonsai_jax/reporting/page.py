"""A report as one HTML page: nothing to install, no network, light and dark as the reader's screen is."""

import html
from collections.abc import Sequence
from pathlib import Path

from tonsai_jax.files import atomic_write

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --faint: #66758a; --line: #d9dfe7; --page: #fbfcfd; --card: #fff;
  --kept: #1f7a5c; --dropped: #c9793b; --bar: #e9edf2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9f0; --faint: #93a1b5; --line: #2c3642; --page: #12171d;
  --card: #1a2129; --kept: #4cb58f; --dropped: #d9935b; --bar: #28313c; } }
body { font: 16px/1.55 "Noto Sans Khmer", "Khmer OS", system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem } h2 { margin: 2.5rem 0 .5rem; font-size: 1.25rem }
h3 { font-size: .95rem; margin: 1.25rem 0 .4rem; color: var(--faint); font-weight: 600 }
p.lead { color: var(--faint); margin: 0 0 1.5rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem }
.wide { overflow-x: auto }
th { text-align: left; color: var(--faint); font-weight: 600 } td, th { padding: .35rem .7rem .35rem 0;
  border-bottom: 1px solid var(--line); vertical-align: top } td.number, th.number { text-align: right }
section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .25rem 1.25rem 1.25rem;
  margin-top: 1.5rem } section h2 { margin-top: 1rem }
details { margin-top: .8rem } summary { cursor: pointer; color: var(--faint) }
"""


def write_page(path: Path, *, title: str, style: str, body: Sequence[str]) -> None:
    """Writes the page, whole or not at all; `style` is CSS beside that of all reports, `body` HTML."""
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}{style}</style></head><body>{''.join(body)}</body></html>\n"
    )
    with atomic_write(path) as partial:
        partial.write_text(page, encoding="utf-8")
