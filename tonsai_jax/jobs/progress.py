"""The progress bar of a stage: how many of its tasks are done, and how long the others will take."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from tonsai_jax.reporting.progress_bar import SECONDS_BETWEEN_UPDATES, progress_bar


@contextlib.contextmanager
def stage_progress(
    name: str | None, keys: Sequence[str], is_done: Callable[[str], bool], sizes: Mapping[str, int]
) -> Iterator[None]:
    """Shows the bar until the block ends, if `name` is given and stderr is a terminal.

    Args:
      name: what the bar calls the stage.
      keys: the tasks.
      is_done: whether a task has its result.
      sizes: bytes of text of each task; with them the bar counts bytes, else tasks. May be empty.
    """
    unit, amounts = ("B", [sizes[key] for key in keys]) if sizes else (" parts", [1] * len(keys))
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(SECONDS_BETWEEN_UPDATES):
            done = [is_done(key) for key in keys]
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
