"""One kind of table for all reports: printed on a terminal here, shown on a page by `macros.html`."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """A table of strings that are already formatted for people.

    Attributes:
      title: the line above the table; empty for none.
      heads: a name for each column; empty for a table without a header.
      rows: one string per column.
      align: one letter per column, "l" for words and "r" for numbers.
      note: explains the columns; a page shows it, a terminal does not.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str
    note: str = ""


def as_text(table: Table) -> str:
    """The table for a terminal. Columns are aligned by the width of the text on the screen: a Khmer mark may have none."""
    from tabulate import tabulate  # imported here because training imports this module and seldom prints a table

    sides = ["right" if letter == "r" else "left" for letter in table.align]
    grid = tabulate(table.rows, table.heads, tablefmt="plain", disable_numparse=True, colalign=sides)
    lines = [f"  {line}".rstrip() for line in grid.splitlines()]
    return "\n".join([table.title, *lines] if table.title else lines)


def tables_as_text(tables: Iterable[Table]) -> str:
    """Several tables for a terminal, with an empty line between them."""
    return "\n\n".join(map(as_text, tables))
