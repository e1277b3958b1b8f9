"""One line on stderr that says how many tasks of a stage are done and how long the rest will take."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence


@contextlib.contextmanager
def progress_line(
    name: str | None, keys: Sequence[str], is_done: Callable[[str], bool], sizes: Mapping[str, int]
) -> Iterator[None]:
    """Shows the line until the block ends, if `name` is given and stderr is a terminal.

    Args:
      name: what the line calls the stage.
      keys: the tasks.
      is_done: whether a task has its result.
      sizes: bytes of text of each task; with them the line shows the rate and the time left. May be empty.
    """
    if name is None or not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()
    start = time.monotonic()

    def watch() -> None:
        while not ended.wait(0.5):
            done = [key for key in keys if is_done(key)]
            line = f"{name}: {len(done)} of {len(keys)} parts"
            if sizes and done:
                line += _rate(sum(map(sizes.__getitem__, done)), sum(map(sizes.__getitem__, keys)), start)
            print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _rate(size: int, total: int, start: float) -> str:
    rate = size / (time.monotonic() - start)
    left = int((total - size) / rate)
    return f", {size / 1e6:,.0f} of {total / 1e6:,.0f} MB, {rate / 1e6:.1f} MB/s, {left // 60}:{left % 60:02d} left"
