"""Tables of a report: the same cells for the terminal and for the page."""

import html
from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """Cells as people read them; the first `names` columns are words, the others numbers."""

    title: str
    note: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int


def as_text(table: Table) -> str:
    """A table for the terminal."""
    grid = [table.heads, *table.rows]
    widths = [max(len(row[column]) for row in grid) for column in range(len(table.heads))]
    lines = [
        "  ".join(
            f"{cell:{'<' if column < table.names else '>'}{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in grid
    ]
    return "\n".join([table.title, *(f"  {line.rstrip()}" for line in lines)])


def as_html(table: Table) -> str:
    """A table for a page of `web_page`, its title and note above it."""

    def row(tag: str, cells: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{'' if column < table.names else ' class=number'}>{html.escape(cell)}</{tag}>"
            for column, cell in enumerate(cells)
        )

    head = f"<tr>{row('th', table.heads)}</tr>"
    rows = "".join(f"<tr>{row('td', cells)}</tr>" for cells in table.rows)
    return (
        f'<h2>{html.escape(table.title)}</h2><p class="lead">{html.escape(table.note)}</p>'
        f'<div class="wide"><table>{head}{rows}</table></div>'
    )
