"""Reports as single HTML files: they need no network and no script, and follow the reader's light or dark setting."""

from pathlib import Path
from typing import Any

from tonsai_jax.files import atomic_write


def write_page(path: Path, template: Path, *, title: str, lead: str, **values: Any) -> None:
    """Renders a Jinja template and writes the page, whole or not at all.

    Args:
      path: the HTML file to write.
      template: a file that extends `base.html`; it can import `macros.html` and include `plot.css`.
      title: the name of the page and its first heading.
      lead: a sentence under the heading.
      values: what the template shows. Strings are escaped; `markupsafe.Markup` is inserted as HTML.
    """
    from jinja2 import (  # imported here: slow, and needed once per command
        Environment,
        FileSystemLoader,
        StrictUndefined,
    )

    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template.name).render(title=title, lead=lead, **values)
    with atomic_write(path) as partial:
        partial.write_text(page + "\n", encoding="utf-8", errors="replace")  # half of a surrogate pair becomes "?"
