"""A progress bar for the tasks of a stage, which end in other processes."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from tonsai_jax.reporting.progress_bar import SECONDS_BETWEEN_UPDATES, progress_bar


@contextlib.contextmanager
def progress_line(
    name: str | None, keys: Sequence[str], is_done: Callable[[str], bool], sizes: Mapping[str, int]
) -> Iterator[None]:
    """Shows a bar until the block ends, if `name` is given and stderr is a terminal.

    Args:
      name: what the bar calls the stage.
      keys: the tasks.
      is_done: whether a task has its result.
      sizes: bytes of text of each task; with them the bar shows the rate and the time left. May be empty.
    """
    unit, amounts = ("B", [sizes[key] for key in keys]) if sizes else (" parts", [1] * len(keys))
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(SECONDS_BETWEEN_UPDATES):
            done = list(map(is_done, keys))
            bar.set_postfix_str(f"{sum(done)} of {len(keys)} parts", refresh=False)
            bar.update(sum(itertools.compress(amounts, done)) - bar.n)

    with progress_bar(name or "", unit=unit, total=sum(amounts), wanted=name is not None) as bar:
        if bar.disable:
            yield
            return
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
