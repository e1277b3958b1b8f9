"""Progress bars on the terminal."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

SECONDS_BETWEEN_UPDATES = 0.5


def progress_bar(name: str, *, unit: str, total: float | None = None, wanted: bool = True) -> "tqdm":
    """A tqdm bar on stderr, to be used in a `with` block: `update(count)` adds, `set_postfix_str` shows more figures.

    The bar is removed at the end of the block. It shows nothing where stderr is not a terminal, or if not `wanted`.

    Args:
      name: what is being done.
      unit: what is counted: "B" for bytes, or a word that starts with a space.
      total: how much there is to do; with it the bar shows the time left.
    """
    from tqdm import tqdm  # imported here because most commands show no bar

    return tqdm(
        desc=name,
        total=total,
        unit=unit,
        unit_scale=True,
        file=sys.stderr,
        disable=None if wanted else True,  # None: disabled where stderr is not a terminal
        leave=False,
        dynamic_ncols=True,
        mininterval=SECONDS_BETWEEN_UPDATES,
    )
